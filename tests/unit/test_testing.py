"""`holdfast.testing`: what authors compute in tests of their own, and the backend in memory under it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any

import pytest
from pydantic import Field

from holdfast.cache.entry import Entry, Times, Unusable, enclose
from holdfast.cache.run import Run
from holdfast.errors import (
    ComputeFailed,
    InvalidParams,
    LeaseHeld,
    LeaseLost,
    LinkDown,
    QueryFailed,
    UnknownQuery,
)
from holdfast.reports import Data, Params, Report, Row
from holdfast.reports.canonical import Scalar
from holdfast.testing import MemoryBackend, compute


class MonthParams(Params):
    """One parameter."""

    month: Annotated[int, Field(ge=1, le=12)] = 1


delays = Report("delays", params=MonthParams)


@delays.postgres
def by_destination(p: MonthParams) -> None:
    """A query; it is not built here."""


@delays.postgres
def names(p: MonthParams) -> None:
    """Another query; it is not built here."""


@delays.compute
def worst_first(p: MonthParams, data: Data) -> list[Row]:
    """The rows with their names, the largest delay first."""
    named = {row["dest"]: row["name"] for row in data[names]}
    rows = sorted(data[by_destination], key=lambda row: -row["delay"])
    return [{"month": p.month, "name": named[row["dest"]], **row} for row in rows]


DELAYS: list[Row] = [{"dest": "ATL", "delay": 7.5}, {"dest": "BOS", "delay": 9}]
NAMES: list[Row] = [{"dest": "ATL", "name": "Atlanta"}, {"dest": "BOS", "name": "Boston"}]


def test_a_report_is_computed_from_given_rows() -> None:
    """Parameters are as in the URL, rows as the database would give them, and the result as it is served."""
    rows = compute(delays, {by_destination: DELAYS, names: NAMES}, month=7)
    assert rows == [
        {"month": 7, "name": "Boston", "dest": "BOS", "delay": 9},
        {"month": 7, "name": "Atlanta", "dest": "ATL", "delay": 7.5},
    ]
    assert compute(delays, {by_destination: DELAYS[:1], names: NAMES})[0]["month"] == 1


def test_what_is_given_comes_back_as_json_has_it() -> None:
    """The rows went through the body that is served: a date is text there."""
    report = Report("days")
    query = report.postgres(by_destination)
    assert compute(report, {query: [{"day": date(2013, 7, 4)}]}) == [{"day": "2013-07-04"}]


@pytest.mark.parametrize(
    ("rows", "params", "raised", "said"),
    [
        ({by_destination: DELAYS, names: NAMES}, {"month": 13}, InvalidParams, "^month: "),
        ({by_destination: DELAYS, names: NAMES}, {"year": 1}, InvalidParams, "^year: is unknown"),
        ({by_destination: DELAYS}, {}, UnknownQuery, "^no rows are given for the query 'delays.names'$"),
        (
            {by_destination: DELAYS, names: NAMES, worst_first: []},
            {},
            UnknownQuery,
            "^delays has no query 'delays.worst_first'$",
        ),
        ({by_destination: DELAYS, names: []}, {}, ComputeFailed, "^report delays: KeyError: 'BOS'$"),
    ],
)
def test_a_mistake_is_named(
    rows: dict[Any, list[Row]], params: dict[str, Scalar], raised: type[Exception], said: str
) -> None:
    """A wrong parameter, rows that are missing or too many, and an error of the function are told apart."""
    with pytest.raises(raised, match=said):
        compute(delays, rows, **params)


# The backend


class World:
    """A backend and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.backend = MemoryBackend(delays, {}, monotonic=lambda: self.now)


KEY = "gwcache:/api/v1/analytics/delays"
ENTRY = enclose(key=KEY, body=b"[]", digest_of=b"", rows=0, times=Times(1.0, 2.0, 3.0))


def test_a_query_gives_rows_raises_or_is_a_function() -> None:
    """Rows by the query's function or by its name; what it gives may depend on the parameters."""

    async def of_month(params: Mapping[str, Scalar]) -> list[Row]:
        return [{"month": params["month"]}]

    async def scenario() -> None:
        backend = MemoryBackend(delays, {"delays.names": of_month, "delays.by_destination": DELAYS})
        assert await backend.query("delays.names", {"month": 7}) == [{"month": 7}]
        assert await backend.query("delays.by_destination", {}) == DELAYS
        backend.rows["delays.names"] = QueryFailed("refused")
        with pytest.raises(QueryFailed, match="refused"):
            await backend.query("delays.names", {})
        with pytest.raises(UnknownQuery) as caught:
            await backend.query("delays.others", {})
        assert caught.value.details["known"] == ["delays.by_destination", "delays.names"]

    asyncio.run(scenario())


def test_a_lease_ends_with_its_time() -> None:
    """A lease is held by one until it is given back or its time is over, and tokens only grow."""

    async def scenario(world: World) -> None:
        backend = world.backend
        first = await backend.acquire(KEY, 10)
        world.now += 9.9
        with pytest.raises(LeaseHeld):
            await backend.acquire(KEY, 10)
        await backend.renew(KEY, first, 10)
        world.now += 9.9
        await backend.write(ENTRY, first)
        world.now += 0.1
        with pytest.raises(LeaseLost):
            await backend.renew(KEY, first, 10)
        with pytest.raises(LeaseLost):
            await backend.write(ENTRY, first)
        second = await backend.acquire(KEY, 10)
        assert second > first
        await backend.release(KEY, first)
        with pytest.raises(LeaseLost):
            await backend.write(ENTRY, first)
        await backend.release(KEY, second)
        assert await backend.acquire(KEY, 10) > second

    asyncio.run(scenario(World()))


def test_entries_and_runs_are_kept() -> None:
    """What is written is read back, as an entry of its key; runs are in their order."""

    async def scenario(world: World) -> None:
        backend = world.backend
        assert await backend.entry(KEY) is Unusable.MISSING
        await backend.write(ENTRY, await backend.acquire(KEY, 10))
        found = await backend.entry(KEY)
        assert isinstance(found, Entry)
        assert found == ENTRY
        runs = [Run(report="delays", key=KEY, params={}, trigger="miss", started_at=at) for at in (1.0, 2.0)]
        for run in runs:
            await backend.record(run)
        assert backend.runs == runs
        assert repr(backend) == "<MemoryBackend entries=1 leases=1 runs=2>"

    asyncio.run(scenario(World()))


def test_an_outage_can_be_tried() -> None:
    """An author sees what a report does while a database is down: it fails, and nothing is stored."""
    backend = MemoryBackend(delays, {by_destination: DELAYS, names: LinkDown("postgres is down")})
    with pytest.raises(LinkDown):
        asyncio.run(backend.query("delays.names", {}))
    assert backend.stored == {}
