"""A real supervisor process: its socket, its admin port, its bounds, and how it begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.conftest import eventually, free_port
from tests.integration.processes import Background, Platform, Process, Servers, took

from holdfast.embedded import Mongo, Postgres, Valkey
from holdfast.errors import (
    DeadlineExceeded,
    InvalidParams,
    LinkDown,
    PoolExhausted,
    ProtocolError,
    QueryFailed,
    ResultTooLarge,
    SupervisorUnavailable,
    UnknownQuery,
)
from holdfast.rpc import frames as wire
from holdfast.rpc.client import Client

DATABASE = "sample_supervisor"
POOL = 5


async def _fill(postgres: Postgres, mongo: Mongo) -> None:
    await postgres.create_database(DATABASE)
    connection = await postgres.connect(DATABASE)
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS ledger (account text PRIMARY KEY, amount integer NOT NULL);"
            "CREATE SEQUENCE IF NOT EXISTS ledger_sequence;"
            "INSERT INTO ledger VALUES ('north', 10), ('south', 20) ON CONFLICT DO NOTHING"
        )
    finally:
        await connection.close()
    async with mongo.client() as client:
        collection = client["holdfast"]["sample_readings"]
        await collection.delete_many({})
        await collection.insert_many([{"place": "a", "value": 1.0}, {"place": "a", "value": 2.0}])


@pytest.fixture(scope="module")
def platform(postgres: Postgres, mongo: Mongo, valkey: Valkey) -> Iterator[Platform]:
    """A supervisor on the session's servers, with a small pool."""
    asyncio.run(_fill(postgres, mongo))
    settings = {**postgres.env(), "POSTGRES_DB": DATABASE, **mongo.env(), **valkey.env()}
    with Platform(**settings, PG_POOL_MAX=str(POOL), PG_CONN_TIMEOUT="1500") as made:
        made.supervisor()
        yield made


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    """The loop that the clients live in."""
    with Background() as running:
        yield running


@pytest.fixture
def client(platform: Platform, background: Background) -> Iterator[Client]:
    """A client of the supervisor's socket."""
    made = platform.client()
    yield made
    background.run(made.aclose())


def _query(client: Client, name: str, deadline: float = 35.0, **params: Any) -> Any:
    return client.call("query", name=name, params=params, deadline=deadline)


async def _scalar(postgres: Postgres, query: str) -> Any:
    connection = await postgres.connect(DATABASE)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def _sleeping(postgres: Postgres) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep'"
    return int(asyncio.run(_scalar(postgres, query)))


def _connections(postgres: Postgres) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-supervisor'"
    return int(asyncio.run(_scalar(postgres, query)))


# What a caller may rely on.


def test_a_named_query_gives_its_columns_and_rows(client: Client, background: Background) -> None:
    """A query is called by name with plain values, on Postgres and on MongoDB, and gives columns and rows."""
    found = background.run(_query(client, "numbers.squares", upto=3, word="ok"))
    assert found == {
        "columns": ["n", "square", "word"],
        "rows": [[1, 1, "ok"], [2, 4, "ok"], [3, 9, "ok"]],
    }
    assert background.run(_query(client, "readings.by_place")) == {
        "columns": ["place", "mean"],
        "rows": [["a", 1.5]],
    }


def test_unknown_names_and_wrong_parameters_are_typed_errors(client: Client, background: Background) -> None:
    """An unknown query or operation and a wrong parameter each fail as what they are, and name it."""
    with pytest.raises(UnknownQuery) as unknown:
        background.run(_query(client, "numbers.cubes"))
    assert "numbers.squares" in unknown.value.details["known"]
    for params, name in (
        ({"upto": 0}, "upto"),
        ({"upto": "many"}, "upto"),
        ({"upto": None}, "upto"),
        ({"limit": 3}, "limit"),
        ({"word": "a\x00b"}, "word"),
    ):
        with pytest.raises(InvalidParams) as invalid:
            background.run(client.call("query", name="numbers.squares", params=params))
        assert [problem["name"] for problem in invalid.value.details["errors"]] == [name]
    for op, args in (
        ("shutdown", {}),
        ("_query", {"name": "numbers.squares", "params": {}}),
        ("query", {"name": "numbers.squares"}),
        ("query", {"name": "numbers.squares", "params": {}, "sql": "SELECT 1"}),
        ("query", {"name": "numbers.squares", "params": {"upto": {"$gt": 1}}}),
        ("query", {"name": 7, "params": {}}),
        ("acquire", {"key": "celery:anything", "seconds": 1}),
    ):
        with pytest.raises(ProtocolError):
            background.run(client.call(op, **args))


def test_sql_is_only_ever_a_value(client: Client, background: Background, postgres: Postgres) -> None:
    """SQL sent as a name is an unknown query, and sent as a parameter it comes back as the text it is."""
    sql = "x'; DROP TABLE ledger; --"
    assert background.run(_query(client, "numbers.squares", upto=1, word=sql))["rows"] == [[1, 1, sql]]
    for name in (sql, "SELECT 1", "numbers.squares; SELECT 1", "numbers", ""):
        with pytest.raises(UnknownQuery):
            background.run(_query(client, name))
    assert asyncio.run(_scalar(postgres, "SELECT count(*) FROM ledger")) == 2


@pytest.mark.parametrize("how", ["insert", "sequence", "allow-then-insert"])
def test_queries_cannot_write_to_postgres(
    client: Client, background: Background, postgres: Postgres, how: str
) -> None:
    """A query function that tries to write to Postgres fails for good, and changes nothing."""
    with pytest.raises(QueryFailed) as refused:
        background.run(_query(client, "writing.attempt", how=how))
    assert not refused.value.retryable
    assert asyncio.run(_scalar(postgres, "SELECT count(*) FROM ledger")) == 2
    assert asyncio.run(_scalar(postgres, "SELECT is_called FROM ledger_sequence")) is False


@pytest.mark.parametrize("stage", ["$out", "$merge"])
def test_queries_cannot_write_to_mongodb(
    client: Client, background: Background, mongo: Mongo, stage: str
) -> None:
    """A pipeline that tries to write fails for good, and changes nothing."""
    with pytest.raises(QueryFailed, match="may not write") as refused:
        background.run(_query(client, "export.exported", stage=stage))
    assert not refused.value.retryable
    assert asyncio.run(_intruders(mongo)) == 0


async def _intruders(mongo: Mongo) -> int:
    async with mongo.client() as client:
        return await client["holdfast"]["sample_intruders"].count_documents({})


def test_what_a_database_refuses_is_told_without_its_inside(client: Client, background: Background) -> None:
    """A failing query is a typed error that shows its SQLSTATE, but neither its SQL nor an address."""
    with pytest.raises(QueryFailed) as failed:
        background.run(_query(client, "failing.divided"))
    assert failed.value.details["sqlstate"] == "22012"
    assert "SELECT" not in str(failed.value)
    assert "127.0.0.1" not in str(failed.value)
    with pytest.raises(QueryFailed, match="must return a SQLAlchemy Select"):
        background.run(_query(client, "odd.raw"))


def test_a_result_beyond_a_frame_fails_alone(client: Client, background: Background) -> None:
    """A result larger than a frame is refused as too large, and the connection goes on."""
    assert len(background.run(_query(client, "big.filled", rows=20))["rows"]) == 20
    with pytest.raises(ResultTooLarge):
        background.run(_query(client, "big.filled", rows=40))
    assert background.run(client.call("ping"))


def test_calls_on_one_connection_interleave(client: Client, background: Background) -> None:
    """Quick calls overtake a slow one that was sent before them on the same connection."""
    slow = background.start(_query(client, "slow.sleep", ms=1000))
    eventually("the slow call to be sent", lambda: client.in_flight == 1, every=0.005)

    async def quick() -> list[Any]:
        calls = [_query(client, "numbers.squares", upto=n, word=str(n)) for n in range(1, 41)]
        return await asyncio.gather(*calls)

    answers = background.run(quick())
    assert not slow.done()
    for n, answer in enumerate(answers, 1):
        assert answer["rows"][-1] == [n, n * n, str(n)]
    assert slow.result(5)["rows"] == [["", 1000, ""]]


def test_a_cancelled_call_ends_its_query(client: Client, background: Background, postgres: Postgres) -> None:
    """A call that is cancelled ends its query in Postgres, and its connection serves the next call."""
    call = background.start(_query(client, "slow.sleep", ms=30_000))
    eventually("the query to run", lambda: _sleeping(postgres) == 1)
    call.cancel()
    eventually("the query to end", lambda: _sleeping(postgres) == 0, within=3)
    assert background.run(_query(client, "numbers.squares", upto=1))["rows"] == [[1, 1, ""]]


def test_a_call_ends_by_its_deadline(client: Client, background: Background, postgres: Postgres) -> None:
    """A call past its deadline fails then, and its query is ended too."""
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded) as late:
        background.run(_query(client, "slow.sleep", deadline=0.3, ms=30_000))
    assert took(began) < 1.5
    assert late.value.retryable
    eventually("the query to end", lambda: _sleeping(postgres) == 0, within=3)


def test_a_lost_client_ends_its_queries(
    platform: Platform, background: Background, postgres: Postgres
) -> None:
    """When a client goes away, what it asked for is ended."""
    lost = platform.client()
    calls = [background.start(_query(lost, "slow.sleep", ms=30_000)) for _ in range(2)]
    eventually("the queries to run", lambda: _sleeping(postgres) == 2)
    background.run(lost.aclose())
    for call in calls:
        with pytest.raises(SupervisorUnavailable):
            call.result(5)
    eventually("the queries to end", lambda: _sleeping(postgres) == 0, within=3)


# The socket.


def test_the_socket_is_for_its_owner_alone(platform: Platform) -> None:
    """The socket has mode 0600, in a folder of mode 0700."""
    assert stat.S_IMODE(platform.socket.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(platform.socket.stat().st_mode)
    assert stat.S_IMODE(platform.socket.parent.stat().st_mode) == 0o700


CALL = wire.encode(wire.Call(1, "ping", 1000, {}))


@pytest.mark.parametrize(
    "sent",
    [
        (wire.MAX_FRAME + 1).to_bytes(4, "big"),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00\x00\x00\x04\xc1\xc1\xc1\xc1",
        b"\x00\x00\x00\x00",
        wire.encode(wire.Reply(1, None)),
        (7).to_bytes(4, "big") + b"\x94\x00\x01\xa4ping"[:7],
        CALL + b"\xff\xff\xff\xff",
    ],
    ids=["oversized", "http", "no-msgpack", "empty", "a-reply", "cut-inside", "after-a-call"],
)
def test_a_broken_frame_closes_its_connection_alone(
    platform: Platform, client: Client, background: Background, sent: bytes
) -> None:
    """A frame that is not of the protocol closes the connection it came on, and no other notices."""
    slow = background.start(_query(client, "slow.sleep", ms=300))
    eventually("the slow call to be sent", lambda: client.in_flight == 1, every=0.005)
    assert _until_closed(platform.socket, sent)
    assert slow.result(5)["rows"]


def _until_closed(path: Path, sent: bytes) -> bool:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(3)
        raw.connect(str(path))
        raw.sendall(sent)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while raw.recv(65536):
                pass
    return True


def test_broken_peers_leave_memory_flat(platform: Platform) -> None:
    """Peers that announce the largest frame and send none of it cost the supervisor no memory."""
    pid = platform.status()["pid"]
    before = psutil.Process(pid).memory_info().rss
    peers = []
    for _ in range(40):
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(str(platform.socket))
        raw.sendall(wire.MAX_FRAME.to_bytes(4, "big") + b"x" * 100)
        peers.append(raw)
    eventually("the peers to be there", lambda: platform.metric("holdfast_socket_clients") >= 40)
    grown = psutil.Process(pid).memory_info().rss - before
    for raw in peers:
        raw.close()
    assert grown < wire.MAX_FRAME, f"{grown / 2**20:.0f} MiB more"
    eventually("the peers to be gone", lambda: platform.metric("holdfast_socket_clients") < 40)


# Its bounds.


def test_postgres_never_sees_more_than_the_pool(
    platform: Platform, background: Background, postgres: Postgres
) -> None:
    """100 queries at once, from four clients, all succeed over PG_POOL_MAX connections or fewer."""
    clients = [platform.client() for _ in range(4)]
    calls = [background.start(_query(clients[n % 4], "slow.sleep", ms=20, tag=str(n))) for n in range(100)]
    highest = 0
    while not all(call.done() for call in calls):
        highest = max(highest, _connections(postgres))
    for n, call in enumerate(calls):
        assert call.result(1)["rows"] == [["", 20, str(n)]]
    for client in clients:
        background.run(client.aclose())
    assert 2 <= highest <= POOL


def test_an_exhausted_pool_is_told_in_time(
    platform: Platform, client: Client, background: Background
) -> None:
    """While slow queries hold every connection, others fail as PoolExhausted after PG_CONN_TIMEOUT
    and the supervisor stays ready.
    """
    slow = [background.start(_query(client, "slow.sleep", ms=2500)) for _ in range(POOL - 1)]
    eventually("a full pool", lambda: _pool(platform)["in_use"] == POOL - 1)
    began = time.monotonic()
    with pytest.raises(PoolExhausted):
        background.run(_query(client, "numbers.squares"))
    assert 1.4 < took(began) < 2.3
    assert httpx.get(f"http://127.0.0.1:{platform.port}/readyz").status_code == 200
    for call in slow:
        call.result(10)
    assert _pool(platform) == {"size": _pool(platform)["size"], "in_use": 0, "max": POOL}


def _pool(platform: Platform) -> dict[str, int]:
    pool: dict[str, int] = platform.status()["links"]["postgres"]["pool"]
    return pool


# The admin port.


def test_status_is_as_documented(platform: Platform) -> None:
    """/status tells each link's state, times, last error and pool, and each warm variant's age and state."""
    began = time.time()
    status = platform.status()
    assert psutil.pid_exists(status["pid"])
    assert status["started_at"] <= began
    assert set(status["links"]) == {"postgres", "mongo", "redis"}
    for link in status["links"].values():
        assert set(link) == {"state", "since", "last_error", "next_retry_at", "pool"}
        assert link["state"] == "up"
        assert status["started_at"] - 1 <= link["since"] <= time.time()
        assert link["next_retry_at"] is None
        assert set(link["pool"]) == {"size", "in_use", "max"}
        assert 0 <= link["pool"]["in_use"] <= link["pool"]["size"] <= link["pool"]["max"]
    warm = [state for state in status["reports"] if state["report"] == "numbers"]
    assert [state["params"]["upto"] for state in warm] == [1, 2, 3, 5, 8, 13, 21, 34]
    assert all(set(state) == {"report", "params", "age_s", "state"} for state in status["reports"])
    assert {state["state"] for state in warm} == {"missing"}


def test_metrics_have_their_names(platform: Platform, client: Client, background: Background) -> None:
    """/metrics counts links, pools, calls by operation and error, and the seconds of each query."""
    calls = platform.metric("holdfast_calls_total", op="query", error="unknown_query")
    timed = platform.metric("holdfast_query_seconds_count", query="numbers.squares")
    background.run(_query(client, "numbers.squares"))
    with pytest.raises(UnknownQuery):
        background.run(_query(client, "none.at-all"))
    assert platform.metric("holdfast_calls_total", op="query", error="unknown_query") == calls + 1
    assert platform.metric("holdfast_query_seconds_count", query="numbers.squares") == timed + 1
    for link in ("postgres", "mongo", "redis"):
        assert platform.metric("holdfast_link_up", link=link) == 1
        assert platform.metric("holdfast_link_changes_total", link=link, state="up") >= 1
        assert platform.metric("holdfast_pool_connections", link=link, state="max") > 1
    assert platform.metric("holdfast_pool_connections", link="postgres", state="max") == POOL


def test_the_admin_port_is_on_loopback(platform: Platform) -> None:
    """The admin port listens on 127.0.0.1 alone."""
    process = psutil.Process(platform.status()["pid"])
    listening = [c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert [(a.ip, a.port) for a in listening] == [("127.0.0.1", platform.port)]


# How it begins and ends.


def test_who_cannot_start_says_so_in_a_line(
    platform: Platform, client: Client, background: Background
) -> None:
    """A second supervisor on the same socket, and one whose admin port is taken, end at once with status 2
    and one line: it names the pid of the first, or SUPERVISOR_PORT. The first one goes on.
    """
    pid = background.run(client.call("ping"))["pid"]
    other = platform.home / "other.sock"
    second = platform.start("supervisor", name="second", SUPERVISOR_PORT=str(free_port()))
    taken = platform.start("supervisor", name="taken", SUPERVISOR_SOCKET=str(other))
    line = platform.refused(second)
    assert line.startswith("SUPERVISOR_SOCKET: ")
    assert f"pid {pid}" in line
    line = platform.refused(taken)
    assert line.startswith("SUPERVISOR_PORT: ")
    assert str(platform.port) in line
    assert not other.exists()
    assert background.run(client.call("ping"))["pid"] == pid


@pytest.fixture(scope="module")
def alone() -> Iterator[Alone]:
    """A supervisor with servers of its own; at first, none of them runs."""
    with Platform() as platform:
        made = Alone(platform)
        yield made
        made.servers.kill()


class Alone:
    """A platform whose supervisor and servers come and go."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.servers = Servers(platform.home)
        self.servers.prepare()
        platform.settings.update(self.servers.env())
        self.process: Process | None = None

    def started(self) -> Process:
        """The supervisor: the one that runs, or a new one, ready."""
        self.servers.start()
        if self.process is None or not self.process.running:
            self.process = self.platform.supervisor()
        return self.process

    def sleeping(self) -> int:
        """How many slow queries run in its Postgres."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        return int(asyncio.run(self._scalar(query)))

    def connections(self) -> int:
        """How many connections a supervisor has to its Postgres."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-supervisor'"
        return int(asyncio.run(self._scalar(query)))

    async def _scalar(self, query: str) -> Any:
        connection = await self.servers.postgres.connect()
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()


def test_it_starts_with_everything_down_and_heals(alone: Alone, background: Background) -> None:
    """With no server running it starts, is alive and not ready, and answers at once that links are down;
    when the servers appear it becomes ready by itself, within 10 s.
    """
    platform, servers = alone.platform, alone.servers
    servers.kill()
    alone.process = platform.start("supervisor")
    platform.answers(alone.process, platform.port, "livez")
    client = platform.client()
    began = time.monotonic()
    for name in ("numbers.squares", "readings.by_place"):
        with pytest.raises(LinkDown) as down:
            background.run(_query(client, name))
        assert down.value.details["retry_in"] >= 0
    with pytest.raises(LinkDown):
        background.run(client.call("entry", key="gwcache:anything"))
    assert took(began) < 1
    answer = httpx.get(f"http://127.0.0.1:{platform.port}/readyz")
    assert answer.status_code == 503
    assert all(name in answer.text for name in ("postgres", "mongo", "redis"))
    assert {state["state"] for state in platform.status()["reports"]} == {"unknown"}
    servers.start()
    eventually("it to be ready", lambda: _ready(platform), within=10)
    assert background.run(_query(client, "numbers.squares", upto=1))["rows"]
    assert platform.status()["pid"] == alone.process.pid
    background.run(client.aclose())


def _ready(platform: Platform) -> bool:
    return httpx.get(f"http://127.0.0.1:{platform.port}/readyz").status_code == 200


def test_a_killed_supervisor_starts_again(alone: Alone, background: Background) -> None:
    """After kill -9 a new supervisor takes over the socket file that was left, the same client goes on with
    it, and Postgres is soon rid of the old one's connections and queries.
    """
    process = alone.started()
    client = alone.platform.client()
    calls = [background.start(_query(client, "slow.sleep", ms=25_000)) for _ in range(3)]
    eventually("the queries to run", lambda: alone.sleeping() == 3)
    began = time.monotonic()
    process.kill()
    for call in calls:
        with pytest.raises(SupervisorUnavailable):
            call.result(2)
    assert took(began) < 2
    assert alone.platform.socket.exists()
    eventually("Postgres to notice", lambda: alone.connections() == 0, within=10)
    alone.started()
    assert background.run(_query(client, "numbers.squares", upto=1))["rows"] == [[1, 1, ""]]
    background.run(client.aclose())


def test_sigterm_finishes_what_is_under_way(alone: Alone, background: Background) -> None:
    """On SIGTERM the calls under way are answered, then the process ends with 0 and its socket is gone."""
    process = alone.started()
    client = alone.platform.client()
    call = background.start(_query(client, "slow.sleep", ms=1200))
    eventually("the query to run", lambda: alone.sleeping() == 1)
    process.signal(signal.SIGTERM)
    assert call.result(5)["rows"] == [["", 1200, ""]]
    assert process.wait() == 0
    assert not alone.platform.socket.exists()
    with pytest.raises(SupervisorUnavailable):
        background.run(client.call("ping"))
