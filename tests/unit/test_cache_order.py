"""The newest write wins, and another version is never fresh: refreshes with wrong clocks and changed code."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec
import pytest
from tests.support.scripted import ScriptedBackend

from holdfast.cache.entry import Entry, Freshness, build, pack
from holdfast.cache.refresh import RefreshResult, refresh
from holdfast.errors import OtherVersion, StoreUnavailable
from holdfast.reports import Params, Report, Row

HOURS = 3600.0
OLD: list[Row] = [{"carrier": "UA", "flights": 3}]
NEW: list[Row] = [{"carrier": "AA", "flights": 5}]
OTHER = "f" * 16
Run = Callable[[Coroutine[Any, Any, RefreshResult]], RefreshResult]


def report_of() -> Report:
    """A report of one query."""
    report = Report("r", ttl=60, max_stale=600)

    @report.postgres
    def rows(p: Params) -> str:
        return f"{p}"

    return report


REPORT = report_of()


class Backend(ScriptedBackend):
    """A backend whose store has a clock of its own: this machine's and `differs` seconds."""

    def __init__(self, differs: float = 0.0) -> None:
        super().__init__(REPORT, rows=NEW)
        self.differs = differs

    async def now(self) -> float:
        """The store's clock."""
        return time.time() + self.differs

    def place(self, *, ahead: float, token: int = 0, version: str = "", ttl: float = 60) -> Entry:
        """Put an entry in place whose date is so far ahead of the store's clock."""
        entry = build(
            key=self.key,
            report="r",
            params={},
            rows=OLD,
            computed_at=time.time() + self.differs + ahead,
            ttl=ttl,
            max_stale=600,
            token=token,
            version=version,
        )
        self.stored[self.key] = pack(entry)
        return entry


def refreshed(backend: Backend, **options: Any) -> Coroutine[Any, Any, RefreshResult]:
    """One refresh."""
    return refresh(backend, REPORT, {}, "manual", default_ttl=30, **options)


@pytest.mark.parametrize("differs", [-2 * HOURS, 0.0, 2 * HOURS], ids=["behind", "right", "ahead"])
@pytest.mark.parametrize("ahead", [3.0, 61.0, 2 * HOURS, 86_400 * 365.0])
@pytest.mark.parametrize("only_if_due", [False, True], ids=["asked for", "only if due"])
@pytest.mark.parametrize("token", [0, 1], ids=["without a token", "with a token"])
def test_an_entry_dated_ahead_is_replaced(
    run_leaping: Run, differs: float, ahead: float, only_if_due: bool, token: int
) -> None:
    """A refresh replaces what a clock that was ahead left, also where it only does what is due."""
    backend = Backend(differs)
    next(backend._tokens)
    backend.place(ahead=ahead, token=token)
    assert run_leaping(refreshed(backend, only_if_due=only_if_due)).changed
    placed = backend.in_place()
    assert placed.rows == 1
    assert b'"AA"' in placed.body
    assert backend.runs[0].outcome == "changed"
    header = placed.header
    assert header.freshness(time.time() + differs, REPORT.version) is Freshness.FRESH


@pytest.mark.parametrize("differs", [-2 * HOURS, 2 * HOURS])
def test_a_result_is_dated_by_the_stores_clock(run_leaping: Run, differs: float) -> None:
    """A worker whose clock is hours off leaves an entry with the right times and the right `as_of`."""
    backend = Backend(differs)
    before = time.time() + differs
    entry = run_leaping(refreshed(backend)).entry
    assert before <= entry.computed_at <= time.time() + differs
    assert entry.fresh_until - entry.computed_at == pytest.approx(60, abs=0.5)
    assert entry.stale_until == pytest.approx(entry.fresh_until + 600)
    as_of = str(msgspec.json.decode(entry.body)["as_of"])
    assert as_of[:16] == time.strftime("%Y-%m-%dT%H:%M", time.gmtime(entry.computed_at))


def test_a_clock_that_is_set_back_while_it_computes_shortens_nothing(run_leaping: Run) -> None:
    """The lifetime is never less than the report's ttl."""
    backend = Backend()

    async def rows(params: Mapping[str, Any]) -> list[Row]:
        backend.differs = -2 * HOURS
        return NEW

    backend.rows = {"r.rows": rows}
    entry = run_leaping(refreshed(backend)).entry
    assert entry.fresh_until - entry.computed_at == pytest.approx(60)


def test_tokens_put_results_in_order(run_leaping: Run) -> None:
    """Each result has the token of its lease, so that the later one is newer whatever the clocks did."""
    backend = Backend()
    first = run_leaping(refreshed(backend)).entry
    backend.differs = -2 * HOURS
    second = run_leaping(refreshed(backend)).entry
    assert [first.token, second.token] == backend.written
    assert second.token > first.token
    assert second.computed_at < first.computed_at
    assert backend.in_place() == second


def test_an_unstored_result_is_in_the_order_too(run_leaping: Run) -> None:
    """A result that is computed while Redis is down has a token of its own, and the version of its report."""
    backend = Backend()
    first = run_leaping(refreshed(backend)).entry
    backend.before["acquire"] = StoreUnavailable("Redis is down")
    second = run_leaping(refreshed(backend, store_optional=True)).entry
    del backend.before["acquire"]
    third = run_leaping(refreshed(backend)).entry
    assert first.token < second.token < third.token
    assert {first.version, second.version, third.version} == {REPORT.version}
    assert [run.outcome for run in backend.runs] == ["changed", "unstored", "unchanged"]


@pytest.mark.parametrize(
    ("version", "due"), [(REPORT.version, False), (OTHER, True), ("", False)], ids=["same", "other", "none"]
)
def test_the_result_of_another_version_is_due(run_leaping: Run, version: str, due: bool) -> None:
    """What a changed report left is computed again although it is fresh by its times."""
    backend = Backend()
    backend.place(ahead=-1, version=version, ttl=600)
    assert run_leaping(refreshed(backend, only_if_due=True)).changed is due
    assert backend.in_place().version == (REPORT.version if due else version)


def test_an_older_process_computes_nothing(run_leaping: Run) -> None:
    """A worker with another version than the supervisor's takes no lease, and may try again."""

    class Refusing(Backend):
        async def check_version(self, report: str, version: str) -> None:
            raise OtherVersion

    backend = Refusing()
    before = backend.place(ahead=-1, version=OTHER)
    with pytest.raises(OtherVersion, match="restart the older process") as raised:
        run_leaping(refreshed(backend, only_if_due=True))
    assert raised.value.retryable
    assert backend.in_place() == before
    assert (backend.calls, backend.runs) == ([], [])


@pytest.mark.parametrize("optional", [True, False], ids=["a miss", "a worker"])
def test_what_is_not_stored_for_its_version_is_still_a_result(run_leaping: Run, optional: bool) -> None:
    """While another deployment's version is kept, a miss is served unstored, and a worker says why not."""
    backend = Backend()
    before = backend.place(ahead=-1, version=OTHER)
    backend.before["write"] = OtherVersion("the cache is for another version of report r")
    if optional:
        entry = run_leaping(refreshed(backend, store_optional=True, only_if_due=True)).entry
        assert entry.version == REPORT.version
        assert backend.runs[0].outcome == "unstored"
    else:
        with pytest.raises(OtherVersion):
            run_leaping(refreshed(backend))
        assert backend.runs[0].outcome == "failed"
    assert backend.in_place() == before
    assert backend.leases == {}
