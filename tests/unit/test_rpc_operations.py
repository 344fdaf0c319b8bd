"""The operations of the supervisor and the methods of its client: one name, one set of arguments, one answer.

The client is connected to the operations without a socket: what it sends is encoded and decoded as a frame.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.clock import run_leaping
from tests.support.memory import MemoryRedis, link_to
from tests.support.scripted import ScriptedBackend, loop_time

from holdfast.cache.entry import Entry, Times, Unusable, enclose, pack
from holdfast.cache.run import Run
from holdfast.cache.store import Store
from holdfast.errors import (
    HoldfastError,
    InvalidParams,
    LeaseHeld,
    LeaseLost,
    OtherVersion,
    ProtocolError,
    QueryFailed,
    StoreUnavailable,
    UnknownReport,
    from_wire,
)
from holdfast.reports import Params, Registry, Report
from holdfast.reports.canonical import CATALOGUE_KEY, MAX_KEY
from holdfast.reports.outcome import ReloadedReports, SetAside
from holdfast.rpc import frames
from holdfast.rpc.client import Client, EndedRun, Progress
from holdfast.rpc.dispatch import Dispatcher, operation
from holdfast.supervisor.misses import Misses
from holdfast.supervisor.operations import MAX_RUNS, Operations
from holdfast.supervisor.queries import QueryResult

BEGIN = 1_700_000_000.0


class NumberParams(Params):
    """One parameter."""

    n: int = 0


def numbers_report() -> Report:
    """A report of one query."""
    report = Report("numbers", params=NumberParams, ttl=60, max_stale=600)

    @report.postgres
    def rows(p: NumberParams) -> str:
        return f"{p.n}"

    return report


REPORT = numbers_report()
KEY = "gwcache:/api/v1/analytics/numbers"
BROKEN = SetAside("old", "reports.old", "SyntaxError", kept=True, file="reports/old.py", line=3, text="x =")


class QueriesInMemory:
    """Queries that answer with what they were asked."""

    async def run(self, name: str, params: dict[str, Any]) -> QueryResult:
        """Two rows of two columns, with numbers that msgpack has no type for."""
        return {"columns": ["name", "n"], "rows": [[name, params.get("n")], [Decimal("1.50"), 2**70]]}


class RunsInMemory:
    """A record of runs."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.limits: list[int] = []

    def add(self, run: Run) -> None:
        """Take a run."""
        self.runs.append(run)

    def after(self, number: int) -> tuple[int, list[Run]]:
        """How many runs there are, and those after the `number`-th."""
        return len(self.runs), self.runs[number:]

    async def latest(self, *, report: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest first."""
        self.limits.append(limit)
        newest = [run for run in reversed(self.runs) if report in {None, run.report}]
        return [msgspec.to_builtins(run) for run in newest[:limit]]


class DirectClient(Client):
    """A client whose calls go to a dispatcher; `deadlines` are those of its calls."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(Path("nowhere"))
        self.deadlines: dict[str, float] = {}
        self._dispatcher = dispatcher

    async def call(self, op: str, *, deadline: float, **args: Any) -> Any:
        """Do the operation, with its arguments and its answer as frames carry them."""
        self.deadlines[op] = deadline
        sent = await carried(frames.Call(1, op, int(deadline * 1000), args))
        assert isinstance(sent, frames.Call)
        try:
            answer = await carried(frames.Reply(1, await self._dispatcher.call(sent.op, sent.args)))
        except HoldfastError as error:
            answer = await carried(frames.Failure(1, error.to_wire()))
        match answer:
            case frames.Reply(_, value):
                return value
            case frames.Failure(_, failure):
                raise from_wire(failure)
        raise AssertionError(answer)


async def carried(frame: frames.Frame) -> frames.Frame:
    """A frame, encoded and decoded."""
    stream = asyncio.StreamReader()
    stream.feed_data(frames.encode(frame))
    stream.feed_eof()
    arrived = await frames.read(stream)
    assert arrived is not None
    return arrived


class World:
    """A supervisor's operations in memory, and a client of them."""

    def __init__(self) -> None:
        self.redis = MemoryRedis(self.wall)
        self.store = Store(link_to(self.redis), clock=self.wall)
        self.records = RunsInMemory()
        self.backend = ScriptedBackend(REPORT, rows=[{"n": 1}])
        self.misses = Misses(self.backend, self.forget, default_ttl=30)
        self.operations = Operations(
            registry=Registry([REPORT]),
            queries=QueriesInMemory(),
            store=self.store,
            runs=self.records,
            misses=self.misses,
            catalogue=lambda: entry_of(CATALOGUE_KEY),
            report_states=self.report_states,
            reload=self.reload,
        )
        self.dispatcher = Dispatcher(self.operations)
        self.client = DirectClient(self.dispatcher)

    def wall(self) -> float:
        """Seconds since the epoch, on the loop's clock."""
        return BEGIN + loop_time()

    async def forget(self, key: str) -> bool:
        """Drop an entry, as one that is stale would be computed again."""
        return self.backend.stored.pop(key, None) is not None

    async def report_states(self) -> list[dict[str, Any]]:
        """One warm variant."""
        return [{"report": "numbers", "params": {}, "age_s": 1.5, "state": "fresh"}]

    async def reload(self) -> dict[str, Any]:
        """One report has come, and one is broken."""
        return {"added": ["new"], "changed": [], "removed": [], "broken": [msgspec.structs.asdict(BROKEN)]}


def entry_of(key: str = KEY, body: bytes = b"[]") -> Entry:
    """An entry that stays for days."""
    times = Times(BEGIN, BEGIN + 100_000.0, BEGIN + 1_000_000.0)
    return enclose(key=key, body=body, digest_of=body, rows=0, times=times)


Scenario = Callable[[World], Awaitable[None]]


def play(scenario: Scenario) -> None:
    """Run a scenario on a leaping clock."""

    async def run() -> None:
        await scenario(World())

    run_leaping(run())


OF_THE_CONNECTION = {"call", "open", "probe", "close", "aclose"}


def client_methods() -> set[str]:
    """The async methods of the client that are operations."""
    methods = inspect.getmembers(Client, inspect.iscoroutinefunction)
    return {name for name, _ in methods if not name.startswith("_")} - OF_THE_CONNECTION


def test_each_operation_has_a_method_of_its_name() -> None:
    """Whoever adds an operation adds it to the client too, and the other way round."""

    async def scenario(world: World) -> None:
        assert world.dispatcher.names == client_methods()

    play(scenario)


# Each method, with what it sends and what it answers


async def _ping(world: World) -> None:
    assert await world.client.ping() == os.getpid()


async def _now(world: World) -> None:
    await asyncio.sleep(7.25)
    assert await world.client.now() == BEGIN + loop_time()


async def _unstored_token(world: World) -> None:
    leased = await world.client.acquire(KEY, 10.0)
    tokens = [await world.client.unstored_token() for _ in range(3)]
    assert leased < tokens[0] < tokens[1] < tokens[2]


async def _check_version(world: World) -> None:
    await world.client.check_version("numbers", REPORT.version)
    await world.client.check_version("numbers", "")
    await world.client.check_version("letters", "f" * 16)
    with pytest.raises(OtherVersion, match="numbers differs"):
        await world.client.check_version("numbers", "f" * 16)


async def _query(world: World) -> None:
    rows = await world.client.query("numbers.rows", {"n": 7})
    assert rows == [{"name": "numbers.rows", "n": 7}, {"name": Decimal("1.50"), "n": 2**70}]
    assert str(rows[1]["name"]) == "1.50"


async def _entry(world: World) -> None:
    assert await world.client.entry(KEY) is Unusable.MISSING
    await world.store.put(entry_of())
    assert await world.client.entry(KEY) == entry_of()


async def _acquire(world: World) -> None:
    token = await world.client.acquire(KEY, 10.0)
    assert token > BEGIN
    with pytest.raises(LeaseHeld):
        await world.client.acquire(KEY, 10.0)
    await asyncio.sleep(10.1)
    assert await world.client.acquire(KEY, 10.0) > token


async def _renew(world: World) -> None:
    token = await world.client.acquire(KEY, 10.0)
    await asyncio.sleep(5)
    await world.client.renew(KEY, token, 20.0)
    await asyncio.sleep(15)
    await world.client.renew(KEY, token, 1.0)
    await asyncio.sleep(1.1)
    with pytest.raises(LeaseLost):
        await world.client.renew(KEY, token, 1.0)


async def _release(world: World) -> None:
    token = await world.client.acquire(KEY, 10.0)
    await world.client.release(KEY, token - 1)
    with pytest.raises(LeaseHeld):
        await world.client.acquire(KEY, 10.0)
    await world.client.release(KEY, token)
    await world.client.acquire(KEY, 10.0)


async def _write(world: World) -> None:
    token = await world.client.acquire(KEY, 10.0)
    with pytest.raises(LeaseLost):
        await world.client.write(entry_of(), token - 1)
    with pytest.raises(OtherVersion, match="numbers differs"):
        await world.client.write(msgspec.structs.replace(entry_of(), version="f" * 16), token)
    await world.client.write(entry_of(), token)
    assert await world.store.entry(KEY) == entry_of()


async def _record(world: World) -> None:
    run = Run(report="numbers", key=KEY, params={"n": 1}, trigger="manual", started_at=5.5, duration_ms=1.25)
    run.done(entry_of(), "changed")
    await world.client.record(run)
    assert world.records.runs == [run]


async def _runs(world: World) -> None:
    for report in ("a", "b", "a"):
        world.records.add(Run(report=report, key=KEY, params={}, trigger="miss", started_at=1.0))
    assert [run["report"] for run in await world.client.runs()] == ["a", "b", "a"]
    assert [run["report"] for run in await world.client.runs("a", limit=1)] == ["a"]
    assert world.records.limits == [20, 1]


async def _progress(world: World) -> None:
    assert await world.client.progress(0) == Progress(0, [], [])
    for n, error in enumerate(("QueryFailed: broke", None)):
        run = Run(report="numbers", key=f"{KEY}?n={n}", params={"n": n}, trigger="manual", started_at=1.0)
        run.error, run.retryable = error, error is not None
        world.records.add(run)
    await world.client.acquire(KEY, 10.0)
    given_back = await world.client.acquire(f"{KEY}?n=2", 10.0)
    await world.client.release(f"{KEY}?n=2", given_back)
    ended = [
        EndedRun("numbers", f"{KEY}?n=0", "failed", "QueryFailed: broke", retryable=True),
        EndedRun("numbers", f"{KEY}?n=1", "failed", None, retryable=False),
    ]
    assert await world.client.progress(0) == Progress(2, ended, [KEY])
    assert await world.client.progress(1) == Progress(2, ended[1:], [KEY])


async def _reload(world: World) -> None:
    assert await world.client.reload() == ReloadedReports(["new"], [], [], [BROKEN])


async def _report_states(world: World) -> None:
    assert await world.client.report_states() == await world.report_states()


async def _catalogue(world: World) -> None:
    assert await world.client.catalogue() == entry_of(CATALOGUE_KEY)


async def _compute(world: World) -> None:
    key = f"{KEY}?n=7"
    entry = await world.client.compute(key, "numbers", {"n": 7}, "stale", deadline=60.0)
    assert entry == await world.backend.entry(key)
    assert [run.trigger for run in world.backend.runs] == ["stale"]


async def _mark_stale(world: World) -> None:
    assert await world.client.mark_stale("numbers", {"n": 7}) is False
    await world.misses.drain(1)
    await world.store.put(entry_of(f"{KEY}?n=7"))
    assert await world.client.mark_stale("numbers", {"n": 7}) is True
    found = await world.client.entry(f"{KEY}?n=7")
    assert isinstance(found, Entry)
    assert found.fresh_until == pytest.approx(world.wall(), abs=1)
    await world.misses.drain(1)
    assert [run.trigger for run in world.backend.runs][-1] == "manual"


CALLS: dict[str, Scenario] = {
    "ping": _ping,
    "now": _now,
    "unstored_token": _unstored_token,
    "check_version": _check_version,
    "query": _query,
    "entry": _entry,
    "acquire": _acquire,
    "renew": _renew,
    "release": _release,
    "write": _write,
    "record": _record,
    "runs": _runs,
    "progress": _progress,
    "reload": _reload,
    "report_states": _report_states,
    "catalogue": _catalogue,
    "compute": _compute,
    "mark_stale": _mark_stale,
}


def test_every_operation_is_tried_here() -> None:
    """The table of calls is complete."""
    assert set(CALLS) == client_methods()


@pytest.mark.parametrize("name", CALLS)
def test_an_operation_does_what_its_method_says(name: str) -> None:
    """What the client's method sends is taken by the operation, and its answer or error arrives as it was."""
    play(CALLS[name])


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("ping", 1.0),
        ("now", 5.0),
        ("unstored_token", 5.0),
        ("check_version", 5.0),
        ("query", 35.0),
        ("entry", 5.0),
        ("acquire", 5.0),
        ("renew", 5.0),
        ("release", 5.0),
        ("write", 10.0),
        ("record", 5.0),
        ("runs", 35.0),
        ("progress", 5.0),
        ("reload", 35.0),
        ("report_states", 35.0),
        ("catalogue", 2.0),
        ("compute", 60.0),
        ("mark_stale", 5.0),
    ],
)
def test_no_call_waits_longer_than_its_deadline(name: str, seconds: float) -> None:
    """A lookup in a store is short; what computes or queries has the time that a database may take."""

    async def scenario(world: World) -> None:
        await CALLS[name](world)
        assert world.client.deadlines[name] == seconds

    play(scenario)


# Errors


def test_an_error_of_the_store_arrives_as_what_it_was() -> None:
    """A worker can tell an absent Redis from a lost lease."""

    async def scenario(world: World) -> None:
        world.redis.failure = QueryFailed("OOM", link="redis")
        with pytest.raises(StoreUnavailable, match="OOM") as caught:
            await world.client.entry(KEY)
        assert caught.value.details == {"link": "redis"}

    play(scenario)


@pytest.mark.parametrize("operation", ["compute", "mark_stale"])
def test_what_is_asked_for_must_be_a_report_and_its_parameters(operation: str) -> None:
    """An unknown report and a wrong parameter are refused by name, and nothing is computed."""

    async def call(client: Client, report: str, params: dict[str, Any]) -> object:
        if operation == "compute":
            return await client.compute(KEY, report, params, "miss", deadline=1)
        return await client.mark_stale(report, params)

    async def scenario(world: World) -> None:
        with pytest.raises(UnknownReport, match="'letters'"):
            await call(world.client, "letters", {})
        with pytest.raises(InvalidParams, match=r"^n: "):
            await call(world.client, "numbers", {"n": "x"})
        assert world.backend.calls == []

    play(scenario)


def test_an_entry_of_another_key_is_not_taken_for_the_result() -> None:
    """The client compares the key of what was computed with the key that it asked for."""

    async def scenario(world: World) -> None:
        with pytest.raises(ProtocolError, match="foreign"):
            await world.client.compute(KEY, "numbers", {"n": 7}, "miss", deadline=1)

    play(scenario)


@pytest.mark.parametrize(
    ("key", "packed", "reason"),
    [
        (KEY, b"garbage", "foreign"),
        (KEY, pack(entry_of())[:-1], "corrupt"),
        (f"{KEY}?n=7", pack(entry_of()), "foreign"),
    ],
)
def test_bytes_that_are_no_entry_of_the_key_are_not_written(key: str, packed: bytes, reason: str) -> None:
    """Whatever a client sends, what lies under a key is an entry of that key."""

    async def scenario(world: World) -> None:
        token = await world.client.acquire(key, 10.0)
        with pytest.raises(QueryFailed, match=f"to be written is {reason}$"):
            await world.client.call("write", deadline=1, key=key, packed=packed, token=token)
        assert await world.client.entry(key) is Unusable.MISSING

    play(scenario)


@pytest.mark.parametrize(("given", "used"), [(-5, 1), (0, 1), (1, 1), (7, 7), (1000, 1000), (1001, MAX_RUNS)])
def test_the_number_of_runs_is_bounded(given: int, used: int) -> None:
    """However many runs are asked for, at least one and at most a thousand are looked for."""

    async def scenario(world: World) -> None:
        await world.client.runs(limit=given)
        assert world.records.limits == [used]

    play(scenario)


@pytest.mark.parametrize(
    ("name", "arguments", "taken"),
    [
        ("nothing", {}, False),
        ("_store", {}, False),
        ("__init__", {}, False),
        ("ping", {"x": 1}, False),
        ("entry", {}, False),
        ("entry", {"key": 7}, False),
        ("entry", {"key": "holdfast:fence"}, False),
        ("entry", {"key": " gwcache:/"}, False),
        ("entry", {"key": "gwcache:".ljust(MAX_KEY, "x")}, True),
        ("entry", {"key": "gwcache:".ljust(MAX_KEY + 1, "x")}, False),
        ("acquire", {"key": KEY, "seconds": 0}, False),
        ("acquire", {"key": KEY, "seconds": 0.5}, True),
        ("acquire", {"key": KEY, "seconds": 60}, True),
        ("acquire", {"key": KEY, "seconds": 60.5}, False),
        ("renew", {"key": KEY, "token": "1", "seconds": 1.0}, False),
        ("query", {"name": "numbers.rows", "params": {"n": [1]}}, False),
        ("query", {"name": "numbers.rows", "params": {"n": None}}, True),
        ("runs", {"report": None, "limit": 1}, True),
        ("runs", {"report": None}, False),
        ("record", {"run": {"report": "numbers"}}, False),
        ("compute", {"report": "numbers", "params": {}, "trigger": "whim"}, False),
        ("mark_stale", {"report": "numbers"}, False),
        ("check_version", {"report": "numbers"}, False),
        ("progress", {}, False),
        ("progress", {"after": "0"}, False),
        ("reload", {"report": "numbers"}, False),
    ],
)
def test_a_call_that_does_not_fit_is_refused(name: str, arguments: dict[str, Any], taken: bool) -> None:
    """Only operations are called, with their own arguments, within their types and bounds."""

    async def scenario(world: World) -> None:
        if taken:
            await world.client.call(name, deadline=1, **arguments)
            return
        with pytest.raises(ProtocolError) as caught:
            await world.client.call(name, deadline=1, **arguments)
        assert name in str(caught.value)

    play(scenario)


def test_an_unknown_operation_is_shown_in_forty_characters() -> None:
    """A peer's nonsense does not fill the log."""

    async def scenario(world: World) -> None:
        with pytest.raises(ProtocolError, match=r"^there is no operation 'x{40}'$"):
            await world.client.call("x" * 100, deadline=1)

    play(scenario)


def test_only_marked_methods_are_operations() -> None:
    """A method that is public by accident cannot be called over the socket."""

    class Owner:
        @operation
        async def shown(self, n: int) -> int:
            return n

        async def hidden(self) -> None:
            """Not marked."""

    dispatcher = Dispatcher(Owner())
    assert dispatcher.names == {"shown"}
    assert asyncio.run(dispatcher.call("shown", {"n": 7})) == 7
