"""How a supervisor begins and ends, on servers that come and go."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from tests.support.stack import Stack
from tests.support.waiting import eventually, took

from holdfast.errors import LinkDown, SupervisorUnavailable
from holdfast.processes.ports import pick_port


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack whose supervisor and servers come and go; at first, none of them runs."""
    with Stack(servers=True) as made:
        yield made


def test_it_starts_with_everything_down_and_heals(stack: Stack) -> None:
    """With no server running it starts, is alive and not ready, and answers at once that links are down;
    when the servers appear it becomes ready by itself, within 10 s.
    """
    stack.servers.kill()
    supervisor = stack.supervisor(until="livez")
    began = time.monotonic()
    with pytest.raises(LinkDown) as postgres:
        stack.run(stack.client.query("numbers.squares", {}))
    with pytest.raises(LinkDown) as mongo:
        stack.run(stack.client.query("readings.by_place", {}))
    with pytest.raises(LinkDown):
        stack.run(stack.client.entry("gwcache:anything"))
    assert took(began) < 1
    assert postgres.value.details["retry_in"] >= 0
    assert mongo.value.details["retry_in"] >= 0
    answer = stack.admin("readyz")
    assert answer.status_code == 503
    assert all(name in answer.text for name in ("postgres", "mongo", "redis"))
    assert {state["state"] for state in stack.status()["reports"]} == {"unknown"}
    stack.servers.start()
    eventually("it to be ready", stack.ready, within=10)
    assert stack.run(stack.client.query("numbers.squares", {"upto": 1}))
    assert stack.status()["pid"] == supervisor.pid


@pytest.fixture
def started(stack: Stack) -> Stack:
    """The same stack, with servers and a supervisor that is ready."""
    stack.mend()
    return stack


def test_a_second_one_on_the_socket_says_so_in_a_line(started: Stack) -> None:
    """A second supervisor on the same socket ends at once with status 2 and one line, which names the pid of
    the first; the first one goes on.
    """
    pid = started.run(started.client.ping())
    line = started.start("supervisor", name="second", SUPERVISOR_PORT=str(pick_port())).refusal()
    assert line.startswith("SUPERVISOR_SOCKET: ")
    assert f"pid {pid}" in line
    assert started.run(started.client.ping()) == pid


def test_who_finds_the_admin_port_taken_says_so_in_a_line(started: Stack) -> None:
    """A supervisor whose admin port is taken ends at once with status 2 and one line, which names
    SUPERVISOR_PORT; it leaves no socket behind.
    """
    other = started.folder / "other.sock"
    line = started.start("supervisor", name="taken", SUPERVISOR_SOCKET=str(other)).refusal()
    assert line.startswith("SUPERVISOR_PORT: ")
    assert str(started.port()) in line
    assert not other.exists()
    assert started.ready()


def test_a_killed_supervisor_starts_again(started: Stack) -> None:
    """After kill -9 a new supervisor takes over the socket file that was left, the same client goes on with
    it, and Postgres is soon rid of the old one's connections and queries.
    """
    client = started.client
    calls = [started.background.start(client.query("slow.sleep", {"ms": 25_000})) for _ in range(3)]
    eventually("the queries to run", lambda: started.servers.sleeping() == 3)
    began = time.monotonic()
    started.supervisor().kill()
    for call in calls:
        with pytest.raises(SupervisorUnavailable):
            call.result(2)
    assert took(began) < 2
    assert started.socket.exists()
    eventually("Postgres to notice", lambda: started.servers.connections() == 0, within=10)
    started.supervisor()
    rows = started.run(client.query("numbers.squares", {"upto": 1}))
    assert rows == [{"n": 1, "square": 1, "word": ""}]


def test_sigterm_finishes_what_is_under_way(started: Stack) -> None:
    """On SIGTERM the calls under way are answered, then the process ends with 0 and its socket is gone."""
    supervisor = started.supervisor()
    call = started.background.start(started.client.query("slow.sleep", {"ms": 1200}))
    eventually("the query to run", lambda: started.servers.sleeping() == 1)
    supervisor.signal(signal.SIGTERM)
    assert call.result(5) == [{"waited": "", "n": 1200, "tag": ""}]
    assert supervisor.wait() == 0
    assert not started.socket.exists()
    with pytest.raises(SupervisorUnavailable):
        started.run(started.client.ping())
