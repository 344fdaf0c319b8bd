"""A real supervisor process: what may be asked of it, how a query ends, and how many run at a time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.integration.conftest import POOL
from tests.support.stack import Stack
from tests.support.waiting import eventually, took

from holdfast.errors import (
    DeadlineExceeded,
    InvalidParams,
    PoolExhausted,
    ProtocolError,
    QueryFailed,
    ResultTooLarge,
    SupervisorUnavailable,
    UnknownQuery,
)
from holdfast.rpc.client import Client

ONE = [{"n": 1, "square": 1, "word": ""}]
"""What numbers.squares says of upto=1."""


# What a caller may rely on.


def test_a_named_query_on_postgres_gives_its_rows(supervised: Stack, client: Client) -> None:
    """A query on Postgres is called by name with plain values, and gives its rows, columns in their order."""
    rows = supervised.run(client.query("numbers.squares", {"upto": 3, "word": "ok"}))
    assert [list(row.items()) for row in rows] == [
        [("n", 1), ("square", 1), ("word", "ok")],
        [("n", 2), ("square", 4), ("word", "ok")],
        [("n", 3), ("square", 9), ("word", "ok")],
    ]


def test_a_named_query_on_mongodb_gives_its_rows(supervised: Stack, client: Client) -> None:
    """A query on MongoDB is called in the same way."""
    assert supervised.run(client.query("readings.by_place", {})) == [{"place": "a", "mean": 1.5}]


def test_an_unknown_query_names_those_there_are(supervised: Stack, client: Client) -> None:
    """An unknown query fails as one, and says which queries are known."""
    with pytest.raises(UnknownQuery) as unknown:
        supervised.run(client.query("numbers.cubes", {}))
    assert "numbers.squares" in unknown.value.details["known"]


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"upto": 0}, "upto"),
        ({"upto": "many"}, "upto"),
        ({"upto": None}, "upto"),
        ({"limit": 3}, "limit"),
        ({"word": "a\x00b"}, "word"),
    ],
    ids=["too-low", "no-number", "null", "unknown", "nul"],
)
def test_a_wrong_parameter_is_named(
    supervised: Stack, client: Client, params: dict[str, Any], name: str
) -> None:
    """A parameter that is unknown or not of its type fails the query, and the error names it."""
    with pytest.raises(InvalidParams) as invalid:
        supervised.run(client.query("numbers.squares", params))
    assert [problem["name"] for problem in invalid.value.details["errors"]] == [name]


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("shutdown", {}),
        ("_query", {"name": "numbers.squares", "params": {}}),
        ("query", {"name": "numbers.squares"}),
        ("query", {"name": "numbers.squares", "params": {}, "sql": "SELECT 1"}),
        ("query", {"name": "numbers.squares", "params": {"upto": {"$gt": 1}}}),
        ("query", {"name": 7, "params": {}}),
        ("acquire", {"key": "celery:anything", "seconds": 1}),
    ],
    ids=["unknown", "private", "too-few", "too-many", "nested", "of-another-type", "foreign-key"],
)
def test_a_malformed_call_is_refused(supervised: Stack, client: Client, op: str, args: Any) -> None:
    """An operation that there is not, and arguments that it does not have, are errors of the protocol."""
    with pytest.raises(ProtocolError):
        supervised.run(client.call(op, deadline=5, **args))


SQL = "x'; DROP TABLE ledger; --"


def test_sql_as_a_parameter_is_only_a_value(supervised: Stack, client: Client) -> None:
    """SQL sent as a parameter comes back as the text it is, and does nothing."""
    rows = supervised.run(client.query("numbers.squares", {"upto": 1, "word": SQL}))
    assert rows == [{"n": 1, "square": 1, "word": SQL}]
    assert supervised.servers.scalar("SELECT count(*) FROM ledger") == 2


@pytest.mark.parametrize("name", [SQL, "SELECT 1", "numbers.squares; SELECT 1", "numbers", ""])
def test_sql_as_a_name_is_an_unknown_query(supervised: Stack, client: Client, name: str) -> None:
    """SQL sent as a name is an unknown query, and does nothing."""
    with pytest.raises(UnknownQuery):
        supervised.run(client.query(name, {}))
    assert supervised.servers.scalar("SELECT count(*) FROM ledger") == 2


@pytest.mark.parametrize("how", ["insert", "sequence", "allow-then-insert"])
def test_queries_cannot_write_to_postgres(supervised: Stack, client: Client, how: str) -> None:
    """A query function that tries to write to Postgres fails for good, and changes nothing."""
    with pytest.raises(QueryFailed) as refused:
        supervised.run(client.query("writing.attempt", {"how": how}))
    assert not refused.value.retryable
    assert supervised.servers.scalar("SELECT count(*) FROM ledger") == 2
    assert supervised.servers.scalar("SELECT is_called FROM ledger_sequence") is False


@pytest.mark.parametrize("stage", ["$out", "$merge"])
def test_queries_cannot_write_to_mongodb(supervised: Stack, client: Client, stage: str) -> None:
    """A pipeline that tries to write fails for good, and changes nothing."""
    with pytest.raises(QueryFailed, match="may not write") as refused:
        supervised.run(client.query("export.exported", {"stage": stage}))
    assert not refused.value.retryable
    intruders = supervised.servers.on_mongo(lambda d: d["sample_intruders"].count_documents({}))
    assert intruders == 0


def test_what_a_database_refuses_is_reported_without_its_inside(supervised: Stack, client: Client) -> None:
    """A failing query is a typed error that shows its SQLSTATE, but neither its SQL nor an address."""
    with pytest.raises(QueryFailed) as failed:
        supervised.run(client.query("failing.divided", {}))
    assert failed.value.details["sqlstate"] == "22012"
    assert "SELECT" not in str(failed.value)
    assert "127.0.0.1" not in str(failed.value)


def test_a_bare_string_is_no_query(supervised: Stack, client: Client) -> None:
    """A query function that returns a string fails: only a SQLAlchemy Select or `text` is run."""
    with pytest.raises(QueryFailed, match="must return a SQLAlchemy Select"):
        supervised.run(client.query("odd.raw", {}))


def test_a_result_beyond_a_frame_fails_alone(supervised: Stack, client: Client) -> None:
    """A result larger than a frame is refused as too large, and the connection goes on."""
    assert len(supervised.run(client.query("big.filled", {"rows": 20}))) == 20
    with pytest.raises(ResultTooLarge):
        supervised.run(client.query("big.filled", {"rows": 40}))
    assert supervised.run(client.ping())


# How a query ends.


def test_a_cancelled_call_ends_its_query(supervised: Stack, client: Client) -> None:
    """A call that is cancelled ends its query in Postgres, and its connection serves the next call."""
    call = supervised.background.start(client.query("slow.sleep", {"ms": 30_000}))
    eventually("the query to run", lambda: supervised.servers.sleeping() == 1)
    call.cancel()
    eventually("the query to end", lambda: supervised.servers.sleeping() == 0, within=3)
    assert supervised.run(client.query("numbers.squares", {"upto": 1})) == ONE


def test_a_call_ends_by_its_deadline(supervised: Stack, client: Client) -> None:
    """A call past its deadline fails then, long before its query would end, and its query is ended too."""
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded) as late:
        supervised.run(client.query("slow.sleep", {"ms": 30_000}, deadline=0.3))
    assert 0.3 <= took(began) < 5
    assert late.value.retryable
    eventually("the query to end", lambda: supervised.servers.sleeping() == 0, within=3)


def test_a_lost_client_ends_its_queries(supervised: Stack) -> None:
    """When a client goes away, what it asked for is ended."""
    lost = supervised.connect()
    calls = [supervised.background.start(lost.query("slow.sleep", {"ms": 30_000})) for _ in range(2)]
    eventually("the queries to run", lambda: supervised.servers.sleeping() == 2)
    supervised.run(lost.aclose())
    for call in calls:
        with pytest.raises(SupervisorUnavailable):
            call.result(5)
    eventually("the queries to end", lambda: supervised.servers.sleeping() == 0, within=3)


# How many run at a time.


def test_calls_on_one_connection_interleave(supervised: Stack, client: Client) -> None:
    """Quick calls overtake a slow one that was sent before them on the same connection."""
    slow = supervised.background.start(client.query("slow.sleep", {"ms": 2000}))
    eventually("the slow call to be sent", lambda: client.pool().in_use == 1, every=0.005)

    async def quick() -> list[Any]:
        calls = [client.query("numbers.squares", {"upto": n, "word": str(n)}) for n in range(1, 41)]
        return list(await asyncio.gather(*calls))

    answers = supervised.run(quick())
    assert not slow.done()
    last = [rows[-1] for rows in answers]
    assert last == [{"n": n, "square": n * n, "word": str(n)} for n in range(1, 41)]
    assert slow.result(5) == [{"waited": "", "n": 2000, "tag": ""}]


def test_postgres_never_sees_more_than_the_pool(supervised: Stack) -> None:
    """100 queries at once, from four clients, all succeed over PG_POOL_MAX connections or fewer."""
    clients = [supervised.connect() for _ in range(4)]
    calls = [
        supervised.background.start(clients[n % 4].query("slow.sleep", {"ms": 20, "tag": str(n)}))
        for n in range(100)
    ]
    highest = 0
    while not all(call.done() for call in calls):
        highest = max(highest, supervised.servers.connections())
    answers = [call.result(1) for call in calls]
    assert answers == [[{"waited": "", "n": 20, "tag": str(n)}] for n in range(100)]
    assert 2 <= highest <= POOL


def test_an_exhausted_pool_is_reported_in_time(supervised: Stack, client: Client) -> None:
    """While slow queries hold every connection, others fail as PoolExhausted after PG_CONN_TIMEOUT
    and the supervisor stays ready.
    """
    slow = [supervised.background.start(client.query("slow.sleep", {"ms": 30_000})) for _ in range(POOL - 1)]
    eventually("a full pool", lambda: _pool(supervised)["in_use"] == POOL - 1)
    began = time.monotonic()
    with pytest.raises(PoolExhausted):
        supervised.run(client.query("numbers.squares", {}))
    assert 1.4 < took(began) < 10
    assert supervised.ready()
    assert not any(call.done() for call in slow)
    for call in slow:
        call.cancel()
    eventually("an idle pool", lambda: _pool(supervised)["in_use"] == 0)
    assert _pool(supervised)["max"] == POOL
    assert supervised.run(client.query("numbers.squares", {"upto": 1})) == ONE


def _pool(supervised: Stack) -> dict[str, int]:
    pool: dict[str, int] = supervised.status()["links"]["postgres"]["pool"]
    return pool
