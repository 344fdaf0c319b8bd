"""The one way to a new entry: what a refresh leaves behind when it succeeds and when it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.support.clock import run_leaping
from tests.support.scripted import ScriptedBackend

from holdfast.cache.entry import unpack
from holdfast.cache.refresh import RefreshResult, compute, refresh
from holdfast.errors import (
    ComputeFailed,
    HoldfastError,
    InvalidParams,
    LeaseHeld,
    LeaseLost,
    LinkDown,
    QueryFailed,
)
from holdfast.reports import Data, Params, Report, Row
from holdfast.reports.canonical import Scalar

Rows = list[Row]
UA: Rows = [{"carrier": "UA", "flights": 3}]
AA: Rows = [{"carrier": "AA", "flights": 5}]


class MonthParams(Params):
    """One parameter."""

    month: int | None = None


def report_of(*queries: str, **settings: Any) -> Report:
    """A report with queries of those names, whose rows are all of theirs, one after the other."""
    report = Report("r", params=MonthParams, **{"ttl": 60, "max_stale": 600, **settings})
    functions = []
    for name in queries or ("rows",):

        def build_query(p: MonthParams) -> str:
            return f"{p}"

        build_query.__name__ = name
        functions.append(report.postgres(build_query))

    if len(functions) > 1:

        @report.compute
        def together(p: MonthParams, data: Data) -> Iterator[Row]:
            for function in functions:
                yield from data[function]

    return report


REPORT = report_of()
NOTHING: dict[str, Scalar] = {"month": None}


def backend_of(report: Report = REPORT, **rows: Any) -> ScriptedBackend:
    """A backend in memory; the one query gives the rows of UA unless others are given."""
    return ScriptedBackend(report, **(rows or {"rows": UA}))


def run(
    backend: ScriptedBackend,
    report: Report = REPORT,
    params: Mapping[str, Scalar] = NOTHING,
    **options: Any,
) -> RefreshResult:
    """One refresh, asked for by hand."""
    return run_leaping(refresh(backend, report, params, "manual", default_ttl=30, **options))


# Success


def test_a_refresh_leaves_an_entry_under_the_requests_key() -> None:
    """What was computed lies under the key that the gateway looks up, with the times of its report."""
    asked: list[Mapping[str, Scalar]] = []

    async def rows(params: Mapping[str, Scalar]) -> Rows:
        asked.append(params)
        return UA

    backend = backend_of(rows=rows)
    before = time.time()
    result = run(backend, params={"month": 7})
    (key,) = backend.stored
    assert key == "gwcache:/api/v1/analytics/r?month=7"
    entry = unpack(key, backend.stored[key])
    assert entry == result.entry
    assert result.changed
    assert before <= result.entry.computed_at <= time.time()
    assert 0 <= result.entry.fresh_until - result.entry.computed_at - 60 < 1
    assert result.entry.stale_until == pytest.approx(result.entry.fresh_until + 600)
    assert b'"params":{"month":7}' in result.entry.body
    assert asked == [{"month": 7}]
    assert backend.leases == {}


def test_a_parameter_that_was_not_given_is_not_in_the_body() -> None:
    """The body names the parameters that were given and no other."""
    assert b'"params":{}' in run(backend_of()).entry.body


def test_a_report_without_a_ttl_has_the_default() -> None:
    """A result is fresh for GW_CACHE_TTL seconds where its report does not say."""
    result = run(backend_of(), report_of(ttl=None))
    assert 0 <= result.entry.fresh_until - result.entry.computed_at - 30 < 1


def test_equal_rows_keep_the_etag_and_move_the_times() -> None:
    """Rows that came out the same are no change to a client: the same ETag, and later times."""
    backend = backend_of()
    backend.put(UA, age=300)
    old = backend.in_place()
    result = run(backend)
    new = backend.in_place()
    assert not result.changed
    assert (new.digest, new.etag, new.rows) == (old.digest, old.etag, old.rows)
    assert new.computed_at > old.computed_at + 299
    assert new.fresh_until > old.fresh_until + 299
    assert new.stale_until > old.stale_until + 299
    assert backend.runs[0].outcome == "unchanged"


def test_other_rows_are_a_change() -> None:
    """New rows replace the entry, with another ETag."""
    backend = backend_of(rows=AA)
    backend.put(UA, age=300)
    old = backend.in_place()
    assert run(backend).changed
    assert backend.in_place().etag != old.etag
    assert backend.runs[0].outcome == "changed"


@pytest.mark.parametrize("stored", [b"", b"garbage", b"HF\x00older"])
def test_what_is_no_entry_is_replaced(stored: bytes) -> None:
    """Corrupt, foreign and older bytes under a key are replaced like missing ones."""
    backend = backend_of()
    backend.stored[backend.key] = stored
    assert run(backend).changed
    assert backend.in_place().rows == 1


def set_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A wall clock that stands still at the time in this list."""
    now = [1_700_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_the_time_of_a_result_is_before_its_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes while a query runs may not be in its rows, so the result is dated before it began.

    Its freshness begins when it is there, or a slow result would be stale at once.
    """
    now = set_clock(monkeypatch)

    async def rows(params: Mapping[str, Scalar]) -> Rows:
        now[0] += 100
        return UA

    began = now[0]
    entry = run(backend_of(rows=rows)).entry
    assert entry.computed_at == began
    assert entry.fresh_until == began + 100 + 60
    assert entry.stale_until == began + 100 + 60 + 600


def test_a_run_is_recorded_with_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """`holdfast runs` shows what asked, for what, how long it took, and the size and digest of the result."""
    set_clock(monkeypatch)
    backend = backend_of()
    ticks = iter([5.0, 5.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    entry = run(backend, params={"month": 7}).entry
    (noted,) = backend.runs
    assert noted.report == "r"
    assert noted.key == entry.key
    assert noted.params == {"month": 7}
    assert noted.trigger == "manual"
    assert noted.outcome == "changed"
    assert (noted.rows, noted.bytes, noted.digest) == (1, len(entry.body), entry.digest)
    assert noted.error is None
    assert noted.duration_ms == 250.0
    assert noted.started_at == entry.computed_at


def test_a_run_that_cannot_be_recorded_is_a_run_all_the_same() -> None:
    """MongoDB may be down: the result is computed and stored, and the caller sees no difference."""
    backend = backend_of()
    backend.before["record"] = LinkDown("mongo is down")
    assert run(backend).changed
    assert backend.in_place().rows == 1


def test_several_queries_run_at_the_same_time() -> None:
    """A report of two databases waits for the slower of them, not for one after the other."""
    both = asyncio.Barrier(2)

    async def one(params: Mapping[str, Scalar]) -> Rows:
        await both.wait()
        return UA

    async def two(params: Mapping[str, Scalar]) -> Rows:
        await both.wait()
        return AA

    report = report_of("one", "two")
    assert (
        b'"UA","flights":3},{"carrier":"AA"' in run(backend_of(report, one=one, two=two), report).entry.body
    )


# Only where it is due


def test_a_fresh_entry_is_left_alone_where_only_what_is_due_is_wanted() -> None:
    """Nothing is asked of a database, no lease is taken and nothing is recorded for a result still fresh."""
    backend = backend_of(rows=AA)
    stored = backend.put(UA, age=59)
    result = run(backend, only_if_due=True)
    assert not result.changed
    assert result.entry == backend.in_place()
    assert backend.stored[backend.key] == stored
    assert backend.calls == ["entry"]
    assert (backend.runs, backend.leases) == ([], {})


@pytest.mark.parametrize(
    ("age", "only_if_due"),
    [(None, True), (61, True), (700, True), (0, False)],
    ids=["missing", "stale", "expired", "fresh and asked for"],
)
def test_what_is_due_is_computed(age: float | None, only_if_due: bool) -> None:
    """What is no longer fresh, or not there, is due; and anything is computed where it is asked for."""
    backend = backend_of(rows=AA)
    if age is not None:
        backend.put(UA, age=age)
    assert run(backend, only_if_due=only_if_due).changed
    assert b'"AA"' in backend.in_place().body


# Failure


def breaks(p: MonthParams, data: Data) -> Rows:
    """A report's function with a mistake in it."""
    raise KeyError("avg_delay")


def unsendable(p: MonthParams, data: Data) -> Rows:
    """A report's function that makes what JSON cannot carry."""
    return [{"x": object()}]


def refuses(p: MonthParams, data: Data) -> Rows:
    """A report's function that finds its parameters wrong."""
    raise InvalidParams("month: has no flights")


@pytest.mark.parametrize(
    ("function", "rows", "raised"),
    [
        (None, LinkDown("postgres is down", link="postgres"), LinkDown),
        (None, QueryFailed("Postgres refused the query"), QueryFailed),
        (None, InvalidParams("month: must be odd"), InvalidParams),
        (breaks, UA, ComputeFailed),
        (unsendable, UA, ComputeFailed),
        (refuses, UA, InvalidParams),
    ],
)
def test_a_failure_never_touches_the_entry(function: Any, rows: Any, raised: type[HoldfastError]) -> None:
    """Whatever fails, the bytes of the entry in place stay as they are: nothing begins to look fresh."""
    report = report_of()
    if function is not None:
        report.compute(function)
    backend = backend_of(report, rows=rows)
    stored = backend.put(UA, age=61)
    with pytest.raises(raised):
        run(backend, report)
    assert backend.stored == {backend.key: stored}
    assert backend.leases == {}
    (noted,) = backend.runs
    assert noted.outcome == "failed"
    assert str(noted.error).startswith(f"{raised.__name__}: ")
    assert (noted.rows, noted.digest) == (None, None)


def test_a_function_that_raised_is_reported_with_its_reason() -> None:
    """The error of a report's author has the report's name and what was raised, for the log and the runs."""
    report = report_of()
    report.compute(breaks)
    with pytest.raises(ComputeFailed, match=r"^report r: KeyError: 'avg_delay'$"):
        run(backend_of(report, rows=UA), report)


def test_a_long_error_is_recorded_in_500_characters() -> None:
    """A record of a run stays small whatever an author's function says."""
    backend = backend_of(rows=QueryFailed("x" * 1000))
    with pytest.raises(QueryFailed):
        run(backend)
    assert backend.runs[0].error == "QueryFailed: " + "x" * (500 - len("QueryFailed: "))


@pytest.mark.parametrize("failing", ["one", "two"])
def test_one_failed_query_of_two_is_that_querys_error(failing: str) -> None:
    """Half a result is none: the caller gets the very error of the query, and may try again if that helps."""
    error = LinkDown("mongo is down", link="mongo", retry_in=2.0)
    rows: dict[str, Any] = {"one": UA, "two": AA, failing: error}
    report = report_of("one", "two")
    backend = backend_of(report, **rows)
    stored = backend.put(UA, age=61)
    with pytest.raises(LinkDown) as caught:
        run(backend, report)
    assert caught.value is error
    assert backend.stored == {backend.key: stored}
    assert backend.runs[0].error == "LinkDown: mongo is down"


def test_when_both_queries_fail_it_is_one_of_their_errors() -> None:
    """Two failures at once are reported as one, never as a group that nobody above expects."""
    report = report_of("one", "two")
    backend = backend_of(report, one=LinkDown("postgres is down"), two=LinkDown("mongo is down"))
    with pytest.raises(LinkDown, match="is down"):
        run(backend, report)


def test_the_other_query_is_ended_when_one_fails() -> None:
    """Nothing goes on asking a database for rows that nobody will use."""
    ended = []

    async def slow(params: Mapping[str, Scalar]) -> Rows:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return []

    report = report_of("one", "two")
    with pytest.raises(QueryFailed):
        run(backend_of(report, one=slow, two=QueryFailed("refused")), report)
    assert ended == [True]


def test_an_entry_that_cannot_be_read_back_is_a_failure() -> None:
    """A write that Redis took and did not keep is reported: the run failed, whatever the write said."""
    backend = backend_of()
    backend.keeps = False
    with pytest.raises(ComputeFailed, match="missing when read back"):
        run(backend)
    assert backend.runs[0].outcome == "failed"
    assert backend.leases == {}


def test_an_older_entry_in_its_place_is_a_lost_write() -> None:
    """Where an older entry is read back than was written, the result does not count as stored."""
    backend = backend_of(rows=AA)
    backend.put(UA, age=61)
    backend.keeps = False
    with pytest.raises(LeaseLost, match="an older entry"):
        run(backend)
    assert backend.runs[0].outcome == "failed"


def test_a_key_is_computed_by_one_process_at_a_time() -> None:
    """Where another holds the lease nothing is asked or recorded, and its lease is not touched."""
    backend = backend_of()
    backend.leases[backend.key] = (99, float("inf"))
    with pytest.raises(LeaseHeld):
        run(backend)
    assert backend.calls == ["acquire"]
    assert (backend.runs, backend.stored) == ([], {})
    assert backend.leases == {backend.key: (99, float("inf"))}


def test_a_lease_is_of_one_key() -> None:
    """Another variant of the same report is computed meanwhile."""
    backend = backend_of()
    backend.leases[backend.key] = (99, float("inf"))
    assert run(backend, params={"month": 7}).changed


def test_a_computation_can_be_had_without_storing_it() -> None:
    """While Redis is down a result is still computed for the one who asked; it takes no lease."""
    backend = backend_of()
    entry = run_leaping(compute(backend, REPORT, NOTHING, default_ttl=30))
    assert entry.rows == 1
    assert (backend.stored, backend.leases, backend.runs) == ({}, {}, [])
