"""Misses: one computation per key, a bounded number at once, on a backend in memory."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping

import pytest
from tests.support.clock import run_leaping

from holdfast.cache.entry import Entry, build
from holdfast.errors import DeadlineExceeded, Overloaded, QueryFailed, StoreUnavailable
from holdfast.reports import Params, Report, Row
from holdfast.reports.canonical import Scalar
from holdfast.supervisor.misses import AT_ONCE, DEADLINE, LEASE_POLL, RENEWALS, WAITING, Misses
from holdfast.testing import MemoryBackend

TTL = 60.0


class NumberParams(Params):
    """One parameter."""

    n: int = 0


def numbers_report() -> Report:
    """A report of one query."""
    report = Report("numbers", params=NumberParams, max_stale=600)

    @report.postgres
    def rows(p: NumberParams) -> str:
        return f"{p.n}"

    return report


REPORT = numbers_report()


class World:
    """Misses on a backend whose one query waits until it may go on."""

    def __init__(self) -> None:
        self.running: list[Scalar] = []
        self.peak = 0
        self.queries = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.marked: list[str] = []
        clock = asyncio.get_running_loop().time
        self.backend = MemoryBackend(REPORT, {"numbers.rows": self.rows}, monotonic=clock)
        self.misses = Misses(self.backend, self.mark_stale, default_ttl=TTL)

    async def rows(self, params: Mapping[str, Scalar]) -> list[Row]:
        """What the query gives."""
        self.queries += 1
        self.running.append(params["n"])
        self.peak = max(self.peak, len(self.running))
        try:
            await self.go.wait()
            # A query takes time: without it, a loop of computations would leave the clock no leap.
            await asyncio.sleep(0.001)
        finally:
            self.running.remove(params["n"])
        if self.error is not None:
            raise self.error
        return [{"n": params["n"]}]

    async def mark_stale(self, key: str) -> bool:
        """Note that an entry was to be marked, and let it be gone."""
        self.marked.append(key)
        return self.backend.stored.pop(key, None) is not None

    def begin(self, n: int = 0) -> asyncio.Task[Entry]:
        """Begin to compute a result."""
        return self.misses.begin(REPORT, REPORT.reader.parse({"n": n}), "miss")

    async def settle(self) -> None:
        """Let everything run that can."""
        await asyncio.sleep(0.01)


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario on a leaping clock."""

    async def run() -> None:
        await scenario(World())

    run_leaping(run())


def key_of(n: int) -> str:
    """The key of a result."""
    return REPORT.reader.key(REPORT.reader.parse({"n": n}))


def test_all_who_ask_for_a_key_share_one_computation() -> None:
    """The same key is computed once however many ask for it, and then again for the next who asks."""

    async def scenario(world: World) -> None:
        tasks = [world.begin() for _ in range(100)]
        assert len(set(tasks)) == 1
        world.go.set()
        assert (await tasks[0]).rows == 1
        assert world.queries == 1
        assert isinstance(await world.backend.entry(key_of(0)), Entry)
        assert [run.trigger for run in world.backend.runs] == ["miss"]

    play(scenario)


def test_a_report_that_was_loaded_again_is_computed_by_its_new_code() -> None:
    """What the old code computes is not the answer for the new one, which follows it."""

    async def scenario(world: World) -> None:
        old = world.begin()
        await world.settle()
        changed = numbers_report()
        changed.__dict__["version"] = "f" * 16
        new = world.misses.begin(changed, REPORT.reader.parse({"n": 0}), "change")
        world.go.set()
        assert (await old).version == REPORT.version
        assert (await new).version == changed.version
        entry = await world.backend.entry(key_of(0))
        assert isinstance(entry, Entry)
        assert (entry.version, world.queries) == (changed.version, 2)

    play(scenario)


def test_a_result_that_came_in_meanwhile_is_not_computed_again() -> None:
    """A key whose entry is fresh by now is answered from the store."""

    async def scenario(world: World) -> None:
        world.go.set()
        first = await world.begin()
        assert await world.begin() == first
        assert world.queries == 1

    play(scenario)


def test_a_bounded_number_is_computed_at_once_and_the_others_wait_their_turn() -> None:
    """At most AT_ONCE keys are computed at the same time, and every one that waits is computed in the end."""

    async def scenario(world: World) -> None:
        tasks = [world.begin(n) for n in range(3 * AT_ONCE)]
        await world.settle()
        assert sorted(world.running, key=str) == sorted(range(AT_ONCE), key=str)
        world.go.set()
        await asyncio.gather(*tasks)
        assert world.peak == AT_ONCE
        assert world.queries == 3 * AT_ONCE

    play(scenario)


def test_beyond_the_bound_of_those_that_wait_nothing_is_taken() -> None:
    """WAITING keys may be computed or wait; one more is refused, one of the same keys is not."""

    async def scenario(world: World) -> None:
        tasks = [world.begin(n) for n in range(WAITING)]
        with pytest.raises(Overloaded, match=str(WAITING)):
            world.begin(WAITING)
        assert world.begin(WAITING - 1) is tasks[-1]
        world.go.set()
        await asyncio.gather(*tasks)
        assert (await world.begin(WAITING)).rows == 1

    play(scenario)


def test_a_caller_who_goes_away_ends_no_computation() -> None:
    """The result is computed and stored although the one who asked for it is gone."""

    async def scenario(world: World) -> None:
        params = REPORT.reader.parse({})
        caller = asyncio.create_task(world.misses.compute(REPORT, params, "miss"))
        await world.settle()
        caller.cancel()
        await world.settle()
        world.go.set()
        await world.settle()
        assert isinstance(await world.backend.entry(key_of(0)), Entry)

    play(scenario)


def test_a_computation_ends_at_its_deadline() -> None:
    """A result that is not there after DEADLINE seconds is a typed error, and its slot is free again."""

    async def scenario(world: World) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        tasks = [world.begin(n) for n in range(AT_ONCE)]
        for task in tasks:
            with pytest.raises(DeadlineExceeded, match=f"numbers was not computed in {DEADLINE:g} s"):
                await task
        assert clock() - began == pytest.approx(DEADLINE, abs=0.1)
        world.go.set()
        assert (await world.begin(AT_ONCE)).rows == 1
        assert world.backend.leases == {}

    play(scenario)


def test_while_a_worker_computes_a_result_nothing_else_is_held_up() -> None:
    """A key whose lease another holds takes no slot while it waits, and is computed in the end."""

    async def scenario(world: World) -> None:
        for n in range(2 * AT_ONCE):
            await world.backend.acquire(key_of(n), 10)
        held = [world.begin(n) for n in range(2 * AT_ONCE)]
        await asyncio.sleep(LEASE_POLL * 3)
        world.go.set()
        assert (await world.begin(999)).rows == 1
        assert world.queries == 1
        await asyncio.gather(*held)
        # The leases ended by themselves after ten seconds.
        assert world.queries == 1 + 2 * AT_ONCE

    play(scenario)


def test_a_failure_is_raised_and_not_remembered() -> None:
    """A failed computation raises its error to all who wait; the next one is a new attempt."""

    async def scenario(world: World) -> None:
        world.error = QueryFailed("refused")
        world.go.set()
        with pytest.raises(QueryFailed, match="refused"):
            await world.begin()
        world.error = None
        assert (await world.begin()).rows == 1

    play(scenario)


def test_without_redis_a_result_is_computed_and_returned_unstored() -> None:
    """While the store cannot be used a miss is computed all the same."""

    async def scenario(world: World) -> None:
        async def away(*_: object) -> None:
            raise StoreUnavailable

        world.backend.entry = world.backend.acquire = away  # type: ignore[method-assign, assignment] # Redis is down
        world.go.set()
        assert (await world.begin()).rows == 1
        assert world.backend.stored == {}
        assert [run.outcome for run in world.backend.runs] == ["unstored"]

    play(scenario)


def test_a_result_without_a_ttl_of_its_own_has_the_default() -> None:
    """The setting GW_CACHE_TTL counts where the report says nothing."""

    async def scenario(world: World) -> None:
        world.go.set()
        entry = await world.begin()
        assert entry.fresh_until - entry.computed_at == pytest.approx(TTL, abs=0.5)

    play(scenario)


def test_a_renewal_is_newer_than_the_change_it_is_for() -> None:
    """A computation that began before the change does not count: the result is marked and computed again."""

    async def scenario(world: World) -> None:
        world.begin()
        await world.settle()
        first = world.queries
        world.misses.renew(REPORT, REPORT.reader.parse({}), since=2**40)
        world.go.set()
        await world.settle()
        assert world.queries > first + 1
        assert set(world.marked) == {key_of(0)}
        world.error = QueryFailed("enough")
        await world.settle()

    play(scenario)


def test_a_renewal_ends_with_a_result_that_is_new_enough() -> None:
    """A result computed after the change is final: nothing is marked, nothing is computed again."""

    async def scenario(world: World) -> None:
        world.go.set()
        world.misses.renew(REPORT, REPORT.reader.parse({}), since=0)
        await world.settle()
        assert (world.queries, world.marked) == (1, [])

    play(scenario)


@pytest.mark.parametrize("differs", [-7200.0, 0.0, 7200.0], ids=["behind", "right", "ahead"])
def test_a_renewal_is_computed_once_whatever_the_clock_says(differs: float) -> None:
    """With a store's clock hours off, a DELETE is one computation and no loop."""

    async def scenario(world: World) -> None:
        async def now() -> float:
            return time.time() + differs

        world.backend.now = now  # type: ignore[method-assign] # the store's clock
        world.go.set()
        await world.begin()
        since = await world.backend.unstored_token()
        await world.mark_stale(key_of(0))
        world.misses.renew(REPORT, REPORT.reader.parse({}), since)
        await asyncio.sleep(60)
        assert world.queries == 2
        entry = await world.backend.entry(key_of(0))
        assert isinstance(entry, Entry)
        assert entry.token > since

    play(scenario)


def test_a_renewal_waits_for_what_a_worker_began_before_and_computes_once_more() -> None:
    """A worker that read the data before the change does not count, and is waited for."""

    async def scenario(world: World) -> None:
        token = await world.backend.acquire(key_of(0), 10)
        since = await world.backend.unstored_token()
        world.go.set()
        world.misses.renew(REPORT, REPORT.reader.parse({}), since)
        await asyncio.sleep(1)
        made = build(
            key=key_of(0),
            report="numbers",
            params={},
            rows=[{"n": "old"}],
            computed_at=time.time() + 7200,
            ttl=60,
            max_stale=600,
            token=token,
        )
        await world.backend.write(made, token)
        await world.backend.release(key_of(0), token)
        await asyncio.sleep(1)
        entry = await world.backend.entry(key_of(0))
        assert isinstance(entry, Entry)
        assert (world.queries, b'"old"' in entry.body) == (1, False)

    play(scenario)


def test_a_renewal_that_never_comes_new_enough_ends() -> None:
    """Whatever is wrong with the order of the tokens, a DELETE does not compute forever."""

    async def scenario(world: World) -> None:
        world.go.set()
        world.misses.renew(REPORT, REPORT.reader.parse({}), since=2**40)
        await asyncio.sleep(600)
        assert world.queries == RENEWALS
        assert world.marked == [key_of(0)] * RENEWALS

    play(scenario)


@pytest.mark.parametrize("finishes", [True, False])
def test_a_drain_waits_for_what_is_computed_and_then_ends_it(finishes: bool) -> None:
    """At a stop, what is being computed may finish for so many seconds; then it is cancelled."""

    async def scenario(world: World) -> None:
        task = world.begin()
        world.misses.renew(REPORT, REPORT.reader.parse({"n": 1}), since=0)
        await world.settle()
        clock = asyncio.get_running_loop().time
        if finishes:
            asyncio.get_running_loop().call_later(3, world.go.set)
        began = clock()
        await world.misses.drain(8)
        assert clock() - began == pytest.approx(3 if finishes else 8, abs=0.2)
        await asyncio.wait([task])
        assert task.cancelled() is not finishes
        await world.settle()
        assert world.running == []

    play(scenario)


def test_a_drain_with_nothing_to_wait_for_ends_at_once() -> None:
    """A supervisor that computes nothing stops without a delay."""

    async def scenario(world: World) -> None:
        await world.misses.drain(8)

    play(scenario)


@pytest.mark.parametrize("how", ["it fails", "it is cancelled"])
def test_a_computation_that_nobody_waits_for_leaves_no_lost_exception(how: str) -> None:
    """Its failure is taken note of, and so is its end at a stop: the loop reports no lost exception."""
    reported: list[dict[str, object]] = []

    async def scenario(world: World) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        world.error = QueryFailed("refused")
        world.begin()
        await world.settle()
        if how == "it fails":
            world.go.set()
        else:
            await world.misses.drain(0)
        await world.settle()
        gc.collect(1)
        assert repr(world.misses) == "<Misses running=0 renewals=0>"

    play(scenario)
    assert reported == []
