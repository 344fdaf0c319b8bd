"""The one way to a new entry: lease → compute → compare → write → read back → record.

Workers run it over the supervisor's socket, and the supervisor runs it on itself, through the same `Backend`.
A computation that fails, or ends in part, becomes an error and a recorded run; it never touches the entry in
place. While it computes, a task renews the lease; the write is refused when the lease was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass

import structlog

from holdfast.cache.backend import Backend
from holdfast.cache.entry import Entry, Freshness, build, newer
from holdfast.cache.run import Run, RunOutcome, Trigger
from holdfast.errors import (
    ComputeFailed,
    HoldfastError,
    LeaseLost,
    OtherVersion,
    StoreUnavailable,
    ValueNotServable,
)
from holdfast.reasons import MAX_TEXT, author_places, reason
from holdfast.reports import Report, Row
from holdfast.reports.canonical import Scalar

LEASE_SECONDS = 10.0
RENEW_EVERY = LEASE_SECONDS / 4


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """The entry that is good now, and whether its rows are new."""

    entry: Entry
    changed: bool


async def refresh(
    backend: Backend,
    report: Report,
    params: Mapping[str, Scalar],
    trigger: Trigger,
    *,
    default_ttl: float,
    only_if_due: bool = False,
    store_optional: bool = False,
) -> RefreshResult:
    """Compute a result and put it in its place.

    Args:
        params: checked parameters, every one of them (`report.reader.parse`).
        default_ttl: seconds for which a result is fresh where the report does not say.
        only_if_due: leave an entry alone that is still fresh.
        store_optional: while Redis cannot be used, compute the result and store nothing.

    Raises:
        LeaseHeld: another process computes this result now.
        OtherVersion: this process has another version of the report than the supervisor.
        ComputeFailed: the report's function raised; the message says what.
        HoldfastError: a query failed, a link is down, the lease was lost.
    """
    key = report.reader.key(params)
    token: int | None = None
    try:
        await backend.check_version(report.name, report.version)
        if only_if_due and (fresh := await _fresh(backend, key, report.version)):
            return RefreshResult(fresh, changed=False)
        token = await backend.acquire(key, LEASE_SECONDS)
    except StoreUnavailable:
        if not store_optional:
            raise
    async with _recorded(backend, report, params, trigger) as run, _leased(backend, key, token):
        entry = await compute(backend, report, params, default_ttl=default_ttl, token=token)
        outcome = await _put_in_place(backend, entry, token, optional=store_optional)
        run.done(entry, outcome)
    return RefreshResult(entry, changed=outcome != "unchanged")


async def compute(
    backend: Backend,
    report: Report,
    params: Mapping[str, Scalar],
    *,
    default_ttl: float,
    token: int | None = None,
) -> Entry:
    """The entry of a report, computed and stored nowhere. Its queries run at the same time.

    `token` is that of the lease; a result without a lease gets one of its own.

    Raises:
        ComputeFailed, HoldfastError: as `refresh` does.
    """
    # The time before the queries: what changes while they run may not be in the result.
    computed_at = await backend.now()
    if token is None:
        token = await backend.unstored_token()
    names = list(report.queries)
    fetched = dict(zip(names, await _fetch(backend, names, params), strict=True))
    try:
        rows = await asyncio.to_thread(report.rows, params, fetched)
        # From when it is there: a result that took longer than its ttl must not be stale at once.
        took = max(0.0, await backend.now() - computed_at)
        ttl = (report.ttl or default_ttl) + took
        made = functools.partial(_build, computed_at=computed_at, ttl=ttl, token=token)
        return await asyncio.to_thread(made, report, params, rows)
    except ValueNotServable as error:
        raise _of_function(report, error) from error
    except HoldfastError:
        raise
    except Exception as error:
        lines = [str(place) for place in author_places(error, {report.module.partition(".")[0]})]
        failed = ComputeFailed(f"report {report.name}: {reason(error)}", lines=lines)
        structlog.get_logger("refresh").error(
            "A report's function raised.", action="compute_failed", report=report.name, error=failed.full
        )
        raise failed from error


def _of_function(report: Report, error: ValueNotServable) -> ComputeFailed:
    """The failure of the report's function, with the line where it is defined."""
    place = report.compute_place
    return ComputeFailed(str(error), **{**error.details, "lines": [str(place)] if place else []})


def _build(
    report: Report,
    params: Mapping[str, Scalar],
    rows: list[Row],
    *,
    computed_at: float,
    ttl: float,
    token: int,
) -> Entry:
    return build(
        key=report.reader.key(params),
        report=report.name,
        params={name: value for name, value in params.items() if value is not None},
        rows=rows,
        computed_at=computed_at,
        ttl=ttl,
        max_stale=report.max_stale,
        token=token,
        version=report.version,
    )


async def _fetch(backend: Backend, names: list[str], params: Mapping[str, Scalar]) -> list[list[Row]]:
    if len(names) == 1:
        return [await backend.query(names[0], params)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(backend.query(name, params)) for name in names]
    except* HoldfastError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _fresh(backend: Backend, key: str, version: str) -> Entry | None:
    found = await backend.entry(key)
    if not isinstance(found, Entry):
        return None
    now = await backend.now()
    return found if found.header.freshness(now, version) is Freshness.FRESH else None


async def _put_in_place(backend: Backend, entry: Entry, token: int | None, *, optional: bool) -> RunOutcome:
    if token is None:
        return "unstored"
    try:
        before = await backend.entry(entry.key)
        await backend.write(entry, token)
        await _read_back(backend, entry)
    except (StoreUnavailable, OtherVersion):
        if not optional:
            raise
        return "unstored"
    changed = not isinstance(before, Entry) or before.digest != entry.digest
    return "changed" if changed else "unchanged"


async def _read_back(backend: Backend, entry: Entry) -> None:
    found = await backend.entry(entry.key)
    if not isinstance(found, Entry):
        raise ComputeFailed(f"the entry was written and is {found.value} when read back")
    if newer(entry, found):
        raise LeaseLost("an older entry is in the place where this one was written")


@contextlib.asynccontextmanager
async def _recorded(
    backend: Backend, report: Report, params: Mapping[str, Scalar], trigger: Trigger
) -> AsyncIterator[Run]:
    """Record the run of the body, also when it fails; a record that is lost fails nothing."""
    began = time.perf_counter()
    run = Run(
        report=report.name,
        key=report.reader.key(params),
        params=dict(params),
        trigger=trigger,
        started_at=time.time(),
    )
    try:
        yield run
    except BaseException as error:
        run.error = f"{type(error).__name__}: {error}"[:500]
        run.reason = reason(error)[:MAX_TEXT]
        run.retryable = isinstance(error, HoldfastError) and error.retryable
        raise
    finally:
        run.duration_ms = round((time.perf_counter() - began) * 1000, 3)
        try:
            await backend.record(run)
        except HoldfastError as error:
            structlog.get_logger("refresh").warning(
                "A run could not be recorded.",
                action="run_not_recorded",
                report=report.name,
                error=str(error),
            )


@contextlib.asynccontextmanager
async def _leased(backend: Backend, key: str, token: int | None) -> AsyncIterator[None]:
    """Keep the lease while the body runs, and give it back; a lost one cancels the body."""
    if token is None:
        yield
        return
    try:
        async with _cancelled_when_lost(lambda: _renew(backend, key, token)):
            yield
    finally:
        with contextlib.suppress(HoldfastError):
            await backend.release(key, token)


async def _renew(backend: Backend, key: str, token: int) -> HoldfastError:
    """Renew the lease until it is lost: the error that says so."""
    clock = asyncio.get_running_loop().time
    held_until = clock() + LEASE_SECONDS
    while True:
        await asyncio.sleep(RENEW_EVERY)
        try:
            await backend.renew(key, token, LEASE_SECONDS)
            held_until = clock() + LEASE_SECONDS
        except LeaseLost as error:
            return error
        except HoldfastError as error:
            # A renewal without an answer does not end the lease, and the write looks at it again.
            if clock() >= held_until:
                return error


@contextlib.asynccontextmanager
async def _cancelled_when_lost(
    renew: Callable[[], Coroutine[None, None, HoldfastError]],
) -> AsyncIterator[None]:
    body = asyncio.current_task()
    assert body is not None  # noqa: S101 - a coroutine always runs in a task

    async def watch() -> HoldfastError:
        error = await renew()
        # In the same step as the end of the renewal: a cancellation that came later could hit what follows
        # the body.
        body.cancel()
        return error

    heart = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not heart.done() or body.uncancel():
            raise
        raise LeaseLost from heart.result()
    finally:
        heart.cancel()
