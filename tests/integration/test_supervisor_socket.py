"""The supervisor's socket and its admin port: who may use them, and what they show."""

from __future__ import annotations

import contextlib
import socket
import stat
import time
from pathlib import Path

import psutil
import pytest
from tests.integration.conftest import POOL
from tests.support.process import listening
from tests.support.sample_reports import UPTO
from tests.support.stack import Stack
from tests.support.waiting import eventually

from holdfast.errors import UnknownQuery
from holdfast.rpc import frames
from holdfast.rpc.client import Client

# The socket.


def test_the_socket_is_for_its_owner_alone(supervised: Stack) -> None:
    """The socket has mode 0600, in a folder of mode 0700."""
    assert stat.S_IMODE(supervised.socket.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(supervised.socket.stat().st_mode)
    assert stat.S_IMODE(supervised.socket.parent.stat().st_mode) == 0o700


CALL = frames.encode(frames.Call(1, "ping", 1000, {}))


@pytest.mark.parametrize(
    "sent",
    [
        (frames.MAX_FRAME + 1).to_bytes(4, "big"),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00\x00\x00\x04\xc1\xc1\xc1\xc1",
        b"\x00\x00\x00\x00",
        frames.encode(frames.Reply(1, None)),
        (7).to_bytes(4, "big") + b"\x94\x00\x01\xa4ping"[:7],
        CALL + b"\xff\xff\xff\xff",
    ],
    ids=["oversized", "http", "no-msgpack", "empty", "a-reply", "cut-inside", "after-a-call"],
)
def test_a_broken_frame_closes_its_connection_alone(supervised: Stack, client: Client, sent: bytes) -> None:
    """A frame that is not of the protocol closes the connection it came on, and no other notices."""
    slow = supervised.background.start(client.query("slow.sleep", {"ms": 300}))
    eventually("the slow call to be sent", lambda: client.pool().in_use == 1, every=0.005)
    _send_until_closed(supervised.socket, sent)
    assert slow.result(5)


def _send_until_closed(path: Path, sent: bytes) -> None:
    """Send it, and return once the peer has closed the connection; a TimeoutError after 5 s."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(5)
        raw.connect(str(path))
        raw.sendall(sent)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while raw.recv(65536):
                pass


def test_broken_peers_leave_memory_flat(supervised: Stack) -> None:
    """Peers that announce the largest frame and send none of it cost the supervisor no memory."""
    process = psutil.Process(supervised.status()["pid"])
    before = process.memory_info().rss
    with contextlib.ExitStack() as peers:
        for _ in range(40):
            raw = peers.enter_context(socket.socket(socket.AF_UNIX))
            raw.connect(str(supervised.socket))
            raw.sendall(frames.MAX_FRAME.to_bytes(4, "big") + b"x" * 100)
        eventually("the peers to be there", lambda: supervised.metric("holdfast_socket_clients") >= 40)
        grown = process.memory_info().rss - before
    assert grown < frames.MAX_FRAME, f"{grown / 2**20:.0f} MiB more"
    eventually("the peers to be gone", lambda: supervised.metric("holdfast_socket_clients") < 40)


# The admin port.

LINKS = ("postgres", "mongo", "redis")


def test_status_is_as_documented(supervised: Stack) -> None:
    """/status has the pid, the start, each link, and the age and state of each warm variant."""
    now = time.time()
    status = supervised.status()
    assert psutil.pid_exists(status["pid"])
    assert status["started_at"] <= now
    assert set(status["links"]) == set(LINKS)
    warm = [state for state in status["reports"] if state["report"] == "numbers"]
    assert [state["params"]["upto"] for state in warm] == list(UPTO)
    assert all(set(state) == {"report", "params", "age_s", "state"} for state in status["reports"])
    assert {state["state"] for state in warm} == {"missing"}


@pytest.mark.parametrize("name", LINKS)
def test_status_of_a_link_is_as_documented(supervised: Stack, name: str) -> None:
    """/status has each link's state, times, last error and pool."""
    status = supervised.status()
    link = status["links"][name]
    assert set(link) == {"state", "since", "last_error", "next_retry_at", "pool"}
    assert link["state"] == "up"
    assert status["started_at"] - 1 <= link["since"] <= time.time()
    assert link["next_retry_at"] is None
    assert set(link["pool"]) == {"size", "in_use", "max"}
    assert 0 <= link["pool"]["in_use"] <= link["pool"]["size"] <= link["pool"]["max"]


def test_metrics_count_calls_and_time_queries(supervised: Stack, client: Client) -> None:
    """/metrics counts calls by operation and error, and the seconds of each query."""
    calls = supervised.metric("holdfast_calls_total", op="query", error="unknown_query")
    timed = supervised.metric("holdfast_query_seconds_count", query="numbers.squares")
    supervised.run(client.query("numbers.squares", {}))
    with pytest.raises(UnknownQuery):
        supervised.run(client.query("none.at-all", {}))
    assert supervised.metric("holdfast_calls_total", op="query", error="unknown_query") == calls + 1
    assert supervised.metric("holdfast_query_seconds_count", query="numbers.squares") == timed + 1


@pytest.mark.parametrize("name", LINKS)
def test_metrics_show_each_link(supervised: Stack, name: str) -> None:
    """/metrics has each link's state, its changes, and the connections of its pool."""
    assert supervised.metric("holdfast_link_up", link=name) == 1
    assert supervised.metric("holdfast_link_changes_total", link=name, state="up") >= 1
    assert supervised.metric("holdfast_pool_connections", link=name, state="max") > 1


def test_metrics_show_the_bound_of_the_pool(supervised: Stack) -> None:
    """The largest size of the Postgres pool is PG_POOL_MAX."""
    assert supervised.metric("holdfast_pool_connections", link="postgres", state="max") == POOL


def test_the_admin_port_is_on_loopback(supervised: Stack) -> None:
    """The admin port listens on 127.0.0.1 alone."""
    process = psutil.Process(supervised.status()["pid"])
    assert listening(process) == {("127.0.0.1", supervised.port())}
