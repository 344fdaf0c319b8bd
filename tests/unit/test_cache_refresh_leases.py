"""A refresh's lease: how it is kept and how it is lost, and what happens where the store fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.clock import run_leaping
from tests.support.scripted import ScriptedBackend, loop_time

from holdfast.cache.entry import Entry
from holdfast.cache.refresh import LEASE_SECONDS, RENEW_EVERY, RefreshResult, refresh
from holdfast.errors import DeadlineExceeded, HoldfastError, LeaseHeld, LeaseLost, LinkDown, StoreUnavailable
from holdfast.reports import Params, Report, Row
from holdfast.reports.canonical import Scalar

Rows = list[Row]
UA: Rows = [{"carrier": "UA", "flights": 3}]
AA: Rows = [{"carrier": "AA", "flights": 5}]
NOTHING: dict[str, Scalar] = {}


def one_query_report() -> Report:
    """A report of one query, without parameters."""
    report = Report("r", ttl=60, max_stale=600)

    @report.postgres
    def rows(p: Params) -> str:
        return ""

    return report


REPORT = one_query_report()


def backend_that_takes(seconds: float, rows: Rows = UA) -> ScriptedBackend:
    """A backend whose query takes so long."""

    async def query(params: Mapping[str, Scalar]) -> Rows:
        await asyncio.sleep(seconds)
        return rows

    return ScriptedBackend(REPORT, rows=query)


async def refreshed(backend: ScriptedBackend, **options: Any) -> RefreshResult:
    """One refresh, for the schedule."""
    return await refresh(backend, REPORT, NOTHING, "schedule", default_ttl=30, **options)


async def timed(work: Coroutine[Any, Any, object]) -> tuple[object, float]:
    """The result of the work or its error, and how many seconds it took on the loop's clock."""
    began = loop_time()
    try:
        result: object = await work
    except HoldfastError as error:
        result = error
    return result, loop_time() - began


# Kept


def test_the_lease_is_kept_for_as_long_as_the_computation_runs() -> None:
    """A query that takes ten minutes keeps its lease: nobody else computes the result meanwhile."""
    backend = backend_that_takes(600)

    async def scenario() -> None:
        task = asyncio.create_task(refreshed(backend))
        for _ in range(599):
            await asyncio.sleep(1)
            assert backend.held()
        assert (await task).changed
        assert not backend.held()

    run_leaping(scenario())
    assert backend.calls.count("renew") == pytest.approx(600 / RENEW_EVERY, abs=2)


def test_a_lease_lasts_ten_seconds_from_when_it_was_taken_or_renewed() -> None:
    """A process that dies holds up its key for ten seconds, and no longer."""
    backend = backend_that_takes(4)

    async def scenario() -> None:
        task = asyncio.create_task(refreshed(backend))
        await asyncio.sleep(0)
        began, (_, until) = loop_time(), backend.leases[backend.key]
        assert until - began == pytest.approx(10, abs=0.2)
        await asyncio.sleep(3)
        assert backend.leases[backend.key][1] - until == pytest.approx(2.5, abs=0.2)
        await task

    run_leaping(scenario())


def test_a_lease_is_renewed_well_before_its_end() -> None:
    """Two renewals may be late or lost before a lease runs out."""
    assert RENEW_EVERY * 3 < LEASE_SECONDS


NO_ANSWER = [StoreUnavailable("redis is down"), DeadlineExceeded("late"), LinkDown("the supervisor is away")]


@pytest.mark.parametrize("error", NO_ANSWER, ids=lambda error: type(error).__name__)
def test_renewals_without_an_answer_end_nothing_before_the_lease_does(error: HoldfastError) -> None:
    """While a lease lasts it is ours, whether renewals are answered or not: the result is stored."""
    backend = backend_that_takes(LEASE_SECONDS - 0.5)
    backend.before["renew"] = error
    assert run_leaping(refreshed(backend)).changed
    assert backend.calls.count("renew") == 3


@pytest.mark.parametrize("error", NO_ANSWER, ids=lambda error: type(error).__name__)
def test_without_an_answer_the_lease_is_lost_at_its_end(error: HoldfastError) -> None:
    """A computation whose lease has ended is given up then, and says why; it does not run on for nobody."""
    backend = backend_that_takes(3600)
    backend.before["renew"] = error
    lost, took = run_leaping(timed(refreshed(backend)))
    assert isinstance(lost, LeaseLost)
    assert lost.__cause__ is error
    assert took == pytest.approx(LEASE_SECONDS, abs=0.5)
    assert backend.stored == {}
    assert [(run.outcome, str(run.error)[:10]) for run in backend.runs] == [("failed", "LeaseLost:")]


@pytest.mark.parametrize(
    ("answered", "lost_after"),
    [({1}, 12.5), ({3}, 17.5), ({1, 2, 3}, 17.5), ({2, 5}, 22.5)],
    ids=["the first", "the third", "three", "two apart"],
)
def test_the_end_of_a_lease_is_counted_from_its_last_renewal(answered: set[int], lost_after: float) -> None:
    """Each renewal that is answered gives the lease ten seconds from then."""
    backend = backend_that_takes(3600)
    backend.before |= {
        f"renew {n}": StoreUnavailable("redis is down") for n in range(1, 20) if n not in answered
    }
    lost, took = run_leaping(timed(refreshed(backend)))
    assert isinstance(lost, LeaseLost)
    assert took == pytest.approx(lost_after, abs=0.5)


# Lost


def test_a_computation_ends_when_its_lease_was_taken_over() -> None:
    """The next renewal finds another holder: the query is ended then, and the newer result stays."""
    backend = backend_that_takes(3600)

    async def scenario() -> tuple[object, float]:
        asyncio.get_running_loop().call_later(51, backend.take_over, AA)
        return await timed(refreshed(backend))

    lost, took = run_leaping(scenario())
    assert isinstance(lost, LeaseLost)
    assert 51 < took <= 51 + RENEW_EVERY + 0.5
    assert b'"AA"' in backend.in_place().body
    assert backend.leases[backend.key][0] == 2
    assert str(backend.runs[0].error).startswith("LeaseLost: ")


@pytest.mark.parametrize("how", ["taken over", "ended"])
def test_a_result_whose_lease_was_lost_is_not_written(how: str) -> None:
    """A process that was stopped for longer than its lease finds it lost at the write, which is refused."""
    backend = ScriptedBackend(REPORT)

    async def query(params: Mapping[str, Scalar]) -> Rows:
        if how == "taken over":
            backend.take_over(AA)
        else:
            backend.leases.clear()
        return UA

    backend.rows["r.rows"] = query
    lost, _ = run_leaping(timed(refreshed(backend)))
    assert isinstance(lost, LeaseLost)
    assert backend.written == []
    assert [run.outcome for run in backend.runs] == ["failed"]
    if how == "taken over":
        assert b'"AA"' in backend.in_place().body
        assert backend.leases[backend.key][0] == 2


def test_a_newer_entry_that_comes_after_the_write_is_no_failure() -> None:
    """Where another process's newer entry is read back, ours was stored before it: the refresh succeeded."""
    backend = backend_that_takes(1)

    async def newer() -> None:
        backend.take_over(AA)

    backend.after["write"] = newer
    result = run_leaping(refreshed(backend))
    assert result.changed
    assert b'"UA"' in result.entry.body
    assert b'"AA"' in backend.in_place().body
    assert backend.runs[0].outcome == "changed"


def test_an_entry_that_came_before_the_write_decides_whether_it_is_a_change() -> None:
    """What the result is compared with is what is there at the write, not what was there at the beginning."""
    backend = backend_that_takes(1)
    backend.put(AA, age=100)

    async def meanwhile() -> None:
        backend.put(UA, age=10)

    backend.after["query"] = meanwhile
    assert not run_leaping(refreshed(backend)).changed
    assert backend.runs[0].outcome == "unchanged"


# Cancelled


def test_a_cancelled_refresh_gives_its_lease_back() -> None:
    """A refresh whose process stops leaves no lease behind it, and is recorded as failed."""
    backend = backend_that_takes(3600)

    async def scenario() -> None:
        stored = backend.put(UA, age=61)
        task = asyncio.create_task(refreshed(backend))
        await asyncio.sleep(30)
        assert backend.held()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backend.leases == {}
        assert backend.stored == {backend.key: stored}
        assert [(run.outcome, run.trigger) for run in backend.runs] == [("failed", "schedule")]
        renewals = backend.calls.count("renew")
        await asyncio.sleep(60)
        assert backend.calls.count("renew") == renewals

    run_leaping(scenario())


@pytest.mark.parametrize("first", ["the cancellation", "the loss"])
def test_a_cancellation_that_meets_a_loss_stays_a_cancellation(first: str) -> None:
    """A stop of the process at the moment of a loss is not taken for the loss: the task ends cancelled."""
    backend = backend_that_takes(3600)

    async def scenario() -> None:
        task = asyncio.create_task(refreshed(backend))
        loop = asyncio.get_running_loop()

        async def race() -> None:
            if first == "the cancellation":
                task.cancel()
            else:
                loop.call_soon(task.cancel)
            backend.take_over(AA)

        backend.before["renew"] = race
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert b'"AA"' in backend.in_place().body
        assert backend.leases[backend.key][0] == 2
        assert [run.outcome for run in backend.runs] == ["failed"]

    run_leaping(scenario())


def test_a_loss_cancels_nothing_beyond_the_refresh() -> None:
    """The caller's task goes on after a lost lease, and is not cancelled at its next step."""
    backend = backend_that_takes(3600)

    async def scenario() -> None:
        asyncio.get_running_loop().call_later(1, backend.take_over, AA)
        with pytest.raises(LeaseLost):
            await refreshed(backend)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(60)

    run_leaping(scenario())


def test_a_finished_refresh_renews_nothing_more() -> None:
    """Once the result is stored no renewal runs on behind it."""
    backend = backend_that_takes(4)

    async def scenario() -> None:
        await refreshed(backend)
        await asyncio.sleep(60)

    run_leaping(scenario())
    assert backend.calls == ["acquire", "query", "renew", "entry", "write", "entry", "release", "record"]


# The store cannot be used

DOWN = StoreUnavailable("redis is down", link="redis")


@dataclass
class Expected:
    """What a refresh leaves behind whose store fails at one step."""

    calls: list[str]
    outcome: str | None = "unstored"
    stored: bool = False


UNSTORED = {
    "entry 1": Expected(["entry", "query", "record"]),
    "acquire": Expected(["entry", "acquire", "query", "record"]),
    "entry 2": Expected(["entry", "acquire", "query", "entry", "release", "record"]),
    "write": Expected(["entry", "acquire", "query", "entry", "write", "release", "record"]),
    "entry 3": Expected(
        ["entry", "acquire", "query", "entry", "write", "entry", "release", "record"], stored=True
    ),
}


@pytest.mark.parametrize("step", UNSTORED)
def test_a_result_is_computed_although_it_cannot_be_stored(step: str) -> None:
    """A caller who needs the result gets it, computed once, whenever Redis goes away."""
    backend, expected = ScriptedBackend(REPORT, rows=UA), UNSTORED[step]
    backend.before[step] = DOWN
    result = run_leaping(refreshed(backend, only_if_due=True, store_optional=True))
    assert result.entry.rows == 1
    assert result.changed
    assert backend.calls == expected.calls
    assert [run.outcome for run in backend.runs] == [expected.outcome]
    assert bool(backend.stored) is expected.stored
    assert backend.leases == {}


REFUSED = {
    "entry 1": Expected(["entry"], None),
    "acquire": Expected(["entry", "acquire"], None),
    "entry 2": Expected(UNSTORED["entry 2"].calls, "failed"),
    "write": Expected(UNSTORED["write"].calls, "failed"),
    "entry 3": Expected(UNSTORED["entry 3"].calls, "failed", stored=True),
}


@pytest.mark.parametrize("step", REFUSED)
def test_a_result_for_nobody_is_an_error_where_it_cannot_be_stored(step: str) -> None:
    """A worker, whose result is of use in the store alone, gets the error and begins nothing unleased."""
    backend, expected = ScriptedBackend(REPORT, rows=UA), REFUSED[step]
    backend.before[step] = DOWN
    error, _ = run_leaping(timed(refreshed(backend, only_if_due=True)))
    assert error is DOWN
    assert backend.calls == expected.calls
    assert [run.outcome for run in backend.runs] == ([expected.outcome] if expected.outcome else [])
    assert bool(backend.stored) is expected.stored
    assert backend.leases == {}


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("step", ["renew", "release", "record"])
def test_what_is_not_needed_for_the_result_fails_nothing(step: str, optional: bool) -> None:
    """A renewal, a release or a record that gets no answer leaves a good result good and stored."""
    backend = backend_that_takes(4)
    backend.before[step] = DOWN
    result = run_leaping(refreshed(backend, store_optional=optional))
    assert result.entry == backend.in_place()
    assert [run.outcome for run in backend.runs] == ([] if step == "record" else ["changed"])


@pytest.mark.parametrize("error", [LeaseHeld(), LinkDown("the supervisor is away")])
def test_only_an_absent_store_is_optional(error: HoldfastError) -> None:
    """A lease that another holds is no reason to compute the same result beside it."""
    backend = ScriptedBackend(REPORT, rows=UA)
    backend.before["acquire"] = error
    raised, _ = run_leaping(timed(refreshed(backend, store_optional=True)))
    assert raised is error
    assert backend.calls == ["acquire"]


# In any order


@dataclass
class Process:
    """One process that refreshes the same result: when it begins, how long it takes, when Redis is silent."""

    begins: float
    takes: float
    silent_from: float
    silent_for: float


PROCESSES = st.lists(
    st.builds(
        Process, st.floats(0, 30), st.floats(0, 40), silent_from=st.floats(0, 20), silent_for=st.floats(0, 30)
    ),
    min_size=2,
    max_size=4,
)


def silence(process: Process, began: float) -> Callable[[], Awaitable[None]]:
    """A hook that fails while that process gets no answer."""

    async def hook() -> None:
        if process.silent_from <= loop_time() - began < process.silent_from + process.silent_for:
            raise StoreUnavailable("no answer")

    return hook


@given(PROCESSES)
def test_in_any_order_no_result_takes_the_place_of_a_newer_one(processes: list[Process]) -> None:
    """However the refreshes of several processes overlap, writes are in the order of the leases.

    The last one is in place, each refresh ends in a result or in an error that says why, and in the end no
    process holds a lease, whoever got no answers from Redis meanwhile.
    """
    store = ScriptedBackend(REPORT, rows=UA)

    async def one(process: Process, began: float) -> object:
        backend = store.beside()
        backend.before = {step: silence(process, began) for step in ("renew", "write", "release")}
        backend.before["query"] = lambda: asyncio.sleep(process.takes)
        await asyncio.sleep(process.begins)
        result, took = await timed(refreshed(backend))
        assert took <= process.takes + RENEW_EVERY
        return result

    async def scenario() -> list[object]:
        began = loop_time()
        results = await asyncio.gather(*(one(process, began) for process in processes))
        await asyncio.sleep(LEASE_SECONDS)
        assert not store.held()
        return results

    results = run_leaping(scenario())
    assert store.written == sorted(set(store.written))
    stored = [result.entry for result in results if isinstance(result, RefreshResult)]
    failed = {type(result) for result in results if not isinstance(result, RefreshResult)}
    assert failed <= {LeaseHeld, LeaseLost, StoreUnavailable}
    assert len(stored) == len(store.written)
    if stored:
        found: Entry = store.in_place()
        assert found.computed_at == max(entry.computed_at for entry in stored)
