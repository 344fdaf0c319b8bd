"""The one way to a new entry: what a refresh leaves behind when it succeeds, fails, or loses its lease."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from holdfast.cache import refresh as module
from holdfast.cache.entry import Entry, Unusable, build, pack, unpack
from holdfast.cache.refresh import LEASE_SECONDS, Outcome, compute, refresh
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
from holdfast.reports.params import Scalar

Rows = list[dict[str, Any]]
UA: Rows = [{"carrier": "UA", "flights": 3}]
AA: Rows = [{"carrier": "AA", "flights": 5}]


class Memory:
    """A `Backend` that keeps everything in this process: entries as packed bytes, leases with fencing tokens.

    `rows` says what each query gives: rows, an error to raise, or a function to call.
    """

    def __init__(self, **rows: Rows | BaseException | Callable[[], Any]) -> None:
        self.rows = {f"r.{name}": value for name, value in rows.items()}
        self.stored: dict[str, bytes] = {}
        self.leases: dict[str, int] = {}
        self.runs: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.called = asyncio.Event()
        self.keeps = True
        self.records: HoldfastError | None = None
        self._tokens = itertools.count(1)

    async def query(self, name: str, params: Mapping[str, Scalar]) -> list[Row]:
        """The rows of a query."""
        self.asked.append(REPORT.reader.url(params))
        self.called.set()
        value = self.rows[name]
        if isinstance(value, BaseException):
            raise value
        found = value() if callable(value) else value
        return await found if asyncio.iscoroutine(found) else found

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry in place."""
        return unpack(key, self.stored.get(key))

    async def acquire(self, key: str, seconds: float) -> int:
        """The lease, or LeaseHeld."""
        assert seconds == LEASE_SECONDS
        if key in self.leases:
            raise LeaseHeld
        self.leases[key] = next(self._tokens)
        return self.leases[key]

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep the lease, or LeaseLost."""
        assert seconds == LEASE_SECONDS
        if self.leases.get(key) != token:
            raise LeaseLost

    async def release(self, key: str, token: int) -> None:
        """Give the lease back."""
        if self.leases.get(key) == token:
            del self.leases[key]

    async def write(self, entry: Entry, token: int) -> None:
        """Put the entry in place, or LeaseLost."""
        if self.leases.get(entry.key) != token:
            raise LeaseLost
        if self.keeps:
            self.stored[entry.key] = pack(entry)

    async def record(self, run: dict[str, Any]) -> None:
        """Note the run."""
        if self.records is not None:
            raise self.records
        self.runs.append(run)

    def take_over(self, rows: Rows) -> None:
        """What another process does whose lease came after ours had run out: it computes and writes."""
        self.leases[KEY] = next(self._tokens)
        entry = build(
            key=KEY, report="r", params={}, rows=rows, computed_at=time.time(), ttl=60, max_stale=60
        )
        self.stored[KEY] = pack(entry)

    def put(self, rows: Rows, *, age: float, ttl: float = 60, max_stale: float = 600) -> bytes:
        """An entry that is so many seconds old; its bytes."""
        entry = build(
            key=KEY,
            report="r",
            params={},
            rows=rows,
            computed_at=time.time() - age,
            ttl=ttl,
            max_stale=max_stale,
        )
        self.stored[KEY] = pack(entry)
        return self.stored[KEY]


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
KEY = "gwcache:/api/v1/analytics/r"


def run(
    backend: Memory, report: Report = REPORT, params: Mapping[str, Scalar] = NOTHING, **options: Any
) -> Outcome:
    """One refresh, asked for by hand."""
    return asyncio.run(refresh(backend, report, params, "manual", default_ttl=30, **options))


def standing(backend: Memory) -> Entry:
    """The entry in place."""
    found = unpack(KEY, backend.stored[KEY])
    assert isinstance(found, Entry)
    return found


# Success


def test_a_refresh_leaves_an_entry_under_the_requests_key() -> None:
    """What was computed lies under the key that the gateway looks up, with the times of its report."""
    backend = Memory(rows=UA)
    before = time.time()
    outcome = run(backend, params={"month": 7})
    (key,) = backend.stored
    assert key == "gwcache:/api/v1/analytics/r?month=7"
    entry = unpack(key, backend.stored[key])
    assert entry == outcome.entry
    assert outcome.changed
    assert before <= outcome.entry.computed_at <= time.time()
    assert 0 <= outcome.entry.fresh_until - outcome.entry.computed_at - 60 < 1
    assert outcome.entry.stale_until == pytest.approx(outcome.entry.fresh_until + 600)
    assert b'"params":{"month":7}' in outcome.entry.body
    assert backend.asked == ["/api/v1/analytics/r?month=7"]
    assert backend.leases == {}


def test_a_report_without_a_ttl_has_the_default() -> None:
    """A result is fresh for GW_CACHE_TTL seconds where its report does not say."""
    outcome = run(Memory(rows=UA), report_of(ttl=None))
    assert 0 <= outcome.entry.fresh_until - outcome.entry.computed_at - 30 < 1


def test_equal_rows_keep_the_etag_and_move_the_times() -> None:
    """Rows that came out the same are no change to a client: the same ETag, and a new lease of life."""
    backend = Memory(rows=UA)
    backend.put(UA, age=300)
    old = standing(backend)
    outcome = run(backend)
    new = standing(backend)
    assert not outcome.changed
    assert (new.digest, new.etag, new.rows) == (old.digest, old.etag, old.rows)
    assert new.computed_at > old.computed_at + 299
    assert new.fresh_until > old.fresh_until + 299
    assert new.stale_until > old.stale_until + 299
    assert backend.runs[0]["outcome"] == "unchanged"


def test_other_rows_are_a_change() -> None:
    """New rows replace the entry, with another ETag."""
    backend = Memory(rows=AA)
    backend.put(UA, age=300)
    old = standing(backend)
    assert run(backend).changed
    assert standing(backend).etag != old.etag
    assert backend.runs[0]["outcome"] == "changed"


@pytest.mark.parametrize("stored", [b"", b"garbage", b"HF\x00older"])
def test_what_is_no_entry_is_replaced(stored: bytes) -> None:
    """Corrupt, foreign and older bytes under a key are computed anew like missing ones."""
    backend = Memory(rows=UA)
    backend.stored[KEY] = stored
    assert run(backend).changed
    assert standing(backend).rows == 1


def test_the_time_of_a_result_is_before_its_queries() -> None:
    """What changes while a query runs may not be in its rows, so the result is dated before it began."""
    began: list[float] = []

    def rows() -> Rows:
        began.append(time.time())
        return UA

    outcome = run(Memory(rows=rows))
    assert outcome.entry.computed_at <= began[0]


def test_a_run_is_recorded_with_what_it_came_to() -> None:
    """`holdfast runs` shows what asked, for what, how long it took, and the size and digest of the result."""
    backend = Memory(rows=UA)
    entry = run(backend, params={"month": 7}).entry
    (noted,) = backend.runs
    assert noted["report"] == "r"
    assert noted["key"] == entry.key
    assert noted["params"] == {"month": 7}
    assert noted["trigger"] == "manual"
    assert noted["outcome"] == "changed"
    assert (noted["rows"], noted["bytes"], noted["digest"]) == (1, len(entry.body), entry.digest)
    assert noted["error"] is None
    assert 0 < noted["duration_ms"] < 60_000
    assert abs(noted["started_at"] - entry.computed_at) < 60


def test_a_run_that_cannot_be_recorded_is_a_run_all_the_same() -> None:
    """MongoDB may be down: the result is computed and stored, and the caller is none the wiser."""
    backend = Memory(rows=UA)
    backend.records = LinkDown("mongo is down")
    assert run(backend).changed
    assert standing(backend).rows == 1


def test_several_queries_run_at_the_same_time() -> None:
    """A report of two databases waits for the slower of them, not for one after the other."""
    both = asyncio.Barrier(2)

    async def meet(rows: Rows) -> Rows:
        async with asyncio.timeout(5):
            await both.wait()
        return rows

    backend = Memory(one=lambda: meet(UA), two=lambda: meet(AA))
    assert run(backend, report_of("one", "two")).entry.rows == 2


# Only where it is due


def test_a_fresh_entry_is_left_alone_where_only_what_is_due_is_wanted() -> None:
    """Nothing is asked of a database, no lease is taken and nothing is recorded for a result still fresh."""
    backend = Memory(rows=AA)
    stored = backend.put(UA, age=59)
    outcome = run(backend, only_if_due=True)
    assert not outcome.changed
    assert outcome.entry == standing(backend)
    assert backend.stored[KEY] == stored
    assert (backend.asked, backend.runs, backend.leases) == ([], [], {})


def test_a_stale_or_missing_entry_is_due() -> None:
    """What is no longer fresh, or not there, is computed; and anything is, where it is asked for."""
    backend = Memory(rows=AA)
    assert run(backend, only_if_due=True).changed
    backend.put(UA, age=61)
    assert run(backend, only_if_due=True).changed
    backend.put(UA, age=0)
    assert run(backend).changed


# Failure


def breaks(p: MonthParams, data: Data) -> Rows:
    """A report's function with a mistake in it."""
    raise KeyError("avg_delay")


def unsendable(p: MonthParams, data: Data) -> Rows:
    """A report's function that makes what JSON cannot carry."""
    return [{"x": object()}]


@pytest.mark.parametrize(
    ("function", "rows", "raised"),
    [
        (None, LinkDown("postgres is down", link="postgres"), LinkDown),
        (None, QueryFailed("Postgres refused the query"), QueryFailed),
        (None, InvalidParams("month: must be odd"), InvalidParams),
        (breaks, UA, ComputeFailed),
        (unsendable, UA, ComputeFailed),
    ],
)
def test_a_failure_never_touches_the_entry(function: Any, rows: Any, raised: type[HoldfastError]) -> None:
    """Whatever fails, the bytes of the entry in place stay as they are: nothing begins to look fresh."""
    report = report_of()
    if function is not None:
        report.compute(function)
    backend = Memory(rows=rows)
    stored = backend.put(UA, age=61)
    with pytest.raises(raised):
        run(backend, report)
    assert backend.stored == {KEY: stored}
    assert backend.leases == {}
    (noted,) = backend.runs
    assert noted["outcome"] == "failed"
    assert noted["error"].startswith(f"{raised.__name__}: ")
    assert (noted["rows"], noted["digest"]) == (None, None)


def test_a_function_that_raised_is_told_with_its_reason() -> None:
    """The error of a report's author has the report's name and what was raised, for the log and the runs."""
    report = report_of()
    report.compute(breaks)
    with pytest.raises(ComputeFailed, match=r"^report r: KeyError: 'avg_delay'$"):
        run(Memory(rows=UA), report)


@pytest.mark.parametrize("failing", ["one", "two"])
def test_one_failed_query_of_two_is_that_querys_error(failing: str) -> None:
    """Half a result is none: the caller gets the very error of the query, and may try again if that helps."""
    error = LinkDown("mongo is down", link="mongo", retry_in=2.0)
    rows: dict[str, Any] = {"one": UA, "two": AA, failing: error}
    backend = Memory(**rows)
    stored = backend.put(UA, age=61)
    with pytest.raises(LinkDown) as caught:
        run(backend, report_of("one", "two"))
    assert caught.value is error
    assert backend.stored == {KEY: stored}
    assert backend.runs[0]["error"] == "LinkDown: mongo is down"


def test_when_both_queries_fail_it_is_one_of_their_errors() -> None:
    """Two failures at once are told as one, never as a group that nobody above expects."""
    backend = Memory(one=LinkDown("postgres is down"), two=LinkDown("mongo is down"))
    with pytest.raises(LinkDown, match="is down"):
        run(backend, report_of("one", "two"))


def test_the_other_query_is_ended_when_one_fails() -> None:
    """Nothing goes on asking a database for rows that nobody will use."""
    ended = []

    async def slow() -> Rows:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return []

    with pytest.raises(QueryFailed):
        run(Memory(one=slow, two=QueryFailed("refused")), report_of("one", "two"))
    assert ended == [True]


def test_an_entry_that_cannot_be_read_back_is_a_failure() -> None:
    """A write that Redis took and did not keep is told: the run failed, whatever the write said."""
    backend = Memory(rows=UA)
    backend.keeps = False
    with pytest.raises(ComputeFailed, match="missing when read back"):
        run(backend)
    assert backend.runs[0]["outcome"] == "failed"
    assert backend.leases == {}


def test_an_older_entry_in_its_place_is_a_lost_write() -> None:
    """Where an older entry is read back than was written, the result does not count as stored."""
    backend = Memory(rows=AA)
    backend.put(UA, age=61)
    backend.keeps = False
    with pytest.raises(LeaseLost, match="an older entry"):
        run(backend)
    assert backend.runs[0]["outcome"] == "failed"


def test_a_cancelled_refresh_gives_its_lease_back() -> None:
    """A refresh whose process stops leaves no lease behind it, and is recorded as failed."""

    async def for_ever() -> Rows:
        await asyncio.Event().wait()
        return []

    backend = Memory(rows=for_ever)
    stored = backend.put(UA, age=61)

    async def begin_and_cancel() -> None:
        task = asyncio.create_task(refresh(backend, REPORT, NOTHING, "stale", default_ttl=30))
        await backend.called.wait()
        assert backend.leases
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(begin_and_cancel())
    assert backend.leases == {}
    assert backend.stored == {KEY: stored}
    assert [(noted["outcome"], noted["trigger"]) for noted in backend.runs] == [("failed", "stale")]


# Leases


def test_a_key_is_computed_by_one_process_at_a_time() -> None:
    """Where another holds the lease nothing is asked or recorded, and its lease is not touched."""
    backend = Memory(rows=UA)
    backend.leases[KEY] = 99
    with pytest.raises(LeaseHeld):
        run(backend)
    assert (backend.asked, backend.runs, backend.stored) == ([], [], {})
    assert backend.leases == {KEY: 99}


def test_a_lease_is_of_one_key() -> None:
    """Another variant of the same report is computed meanwhile."""
    backend = Memory(rows=UA)
    backend.leases[KEY] = 99
    assert run(backend, params={"month": 7}).changed


def test_a_result_whose_lease_was_lost_is_not_written() -> None:
    """A process that slept through its lease finds a newer result, and leaves it and its lease alone."""
    backend = Memory()

    def rows() -> Rows:
        backend.take_over(AA)
        return UA

    backend.rows["r.rows"] = rows
    with pytest.raises(LeaseLost):
        run(backend)
    assert b'"AA"' in standing(backend).body
    assert backend.leases == {KEY: 1 + 1}
    assert backend.runs[0]["outcome"] == "failed"


def test_a_computation_ends_when_its_lease_is_lost(run_leaping: Callable[[Any], Any]) -> None:
    """The lease is renewed while a query runs; when it is gone the query is ended, and soon."""
    backend = Memory()
    took: list[float] = []

    async def for_ever() -> Rows:
        began = asyncio.get_running_loop().time()
        try:
            await asyncio.sleep(LEASE_SECONDS * 5.1)
            backend.take_over(AA)
            await asyncio.sleep(LEASE_SECONDS * 100)
        finally:
            took.append(asyncio.get_running_loop().time() - began)
        return []

    backend.rows["r.rows"] = for_ever
    with pytest.raises(LeaseLost):
        run_leaping(refresh(backend, REPORT, NOTHING, "schedule", default_ttl=30))
    assert LEASE_SECONDS * 5.1 < took[0] <= LEASE_SECONDS * 6.1
    assert b'"AA"' in standing(backend).body
    assert backend.runs[0]["error"].startswith("LeaseLost: ")


def test_a_lease_is_renewed_well_before_its_end() -> None:
    """Two renewals may be late or lost before a lease runs out."""
    assert module.RENEW_EVERY * 3 < LEASE_SECONDS


def test_a_computation_can_be_had_without_storing_it() -> None:
    """While Redis is down a result is still computed for the one who asked; it takes no lease."""
    backend = Memory(rows=UA)
    entry = asyncio.run(compute(backend, REPORT, NOTHING, default_ttl=30))
    assert entry.rows == 1
    assert (backend.stored, backend.leases, backend.runs) == ({}, {}, [])


class Refusing(Memory):
    """A `Memory` whose store fails at one step, as Redis does when it is full or away."""

    def __init__(self, step: str, **rows: Rows) -> None:
        super().__init__(**rows)
        self.step = step

    async def acquire(self, key: str, seconds: float) -> int:
        """The lease, unless that step fails."""
        if self.step == "acquire":
            raise LinkDown("redis is down", link="redis")
        return await super().acquire(key, seconds)

    async def write(self, entry: Entry, token: int) -> None:
        """Write, unless that step fails."""
        if self.step == "write":
            raise QueryFailed("Redis refused a command: OOM", link="redis")
        await super().write(entry, token)


@pytest.mark.parametrize("step", ["acquire", "write"])
def test_a_result_is_computed_although_it_cannot_be_stored(step: str) -> None:
    """A caller who needs the result gets it, computed once, also when Redis is down or refuses to write;
    a worker, whose result would be for nobody, gets the error.
    """
    backend = Refusing(step, rows=UA)
    report = report_of()

    async def ask(optional: bool) -> Outcome:
        params = report.reader.parse({})
        return await refresh(backend, report, params, "miss", default_ttl=30, store_optional=optional)

    assert asyncio.run(ask(True)).entry.rows == 1
    assert backend.stored == {}
    assert backend.leases == {}
    assert len(backend.asked) == 1
    assert [run["outcome"] for run in backend.runs] == ["unstored"]
    with pytest.raises(LinkDown if step == "acquire" else QueryFailed):
        asyncio.run(ask(False))
