"""The one way to a new entry: lease → compute → compare → write → read back → record.

Workers run it over the supervisor's socket and the supervisor runs it on itself, through the same
`Backend`. A failed or partial computation ends in an error and a recorded run; it never touches the entry
in place. While it computes, a task renews the lease; the write is refused when the lease was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
import structlog

from holdfast.cache.entry import Entry, State, Unusable, build
from holdfast.errors import ComputeFailed, HoldfastError, LeaseLost
from holdfast.reports import Report, Row
from holdfast.reports.params import Scalar

LEASE_SECONDS = 10.0
RENEW_EVERY = LEASE_SECONDS / 4

Trigger = Literal["schedule", "change", "miss", "stale", "manual", "startup"]
RunOutcome = Literal["changed", "unchanged", "unstored", "failed"]


class Backend(Protocol):
    """What a refresh needs. Times are in seconds; every method raises HoldfastErrors only."""

    async def query(self, name: str, params: Mapping[str, Scalar]) -> list[Row]:
        """The rows of a named query."""

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry in place."""

    async def acquire(self, key: str, seconds: float) -> int:
        """The lease's fencing token, or LeaseHeld."""

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep the lease, or LeaseLost."""

    async def release(self, key: str, token: int) -> None:
        """Give the lease back."""

    async def write(self, entry: Entry, token: int) -> None:
        """Put the entry in place, or LeaseLost."""

    async def record(self, run: dict[str, Any]) -> None:
        """Note the run."""


class Run(msgspec.Struct, kw_only=True):
    """One refresh, as it is recorded. `started_at` is seconds since the epoch; durations are in ms."""

    report: str
    key: str
    params: dict[str, Scalar]
    trigger: Trigger
    started_at: float
    outcome: RunOutcome = "failed"
    duration_ms: float = 0.0
    rows: int | None = None
    bytes: int | None = None
    digest: str | None = None
    error: str | None = None
    pid: int = msgspec.field(default_factory=os.getpid)

    def done(self, entry: Entry, outcome: RunOutcome) -> None:
        """The run made this entry."""
        self.outcome = outcome
        self.rows, self.bytes, self.digest = entry.rows, len(entry.body), entry.digest


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a refresh came to: the entry that is now good, and whether its rows are new."""

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
) -> Outcome:
    """Compute a result and put it in its place.

    Args:
        params: checked parameters, every one of them (`report.reader.parse`).
        default_ttl: seconds a result is fresh where the report says nothing.
        only_if_due: leave an entry alone that is fresh still.
        store_optional: while Redis cannot be used, compute all the same and store nothing.

    Raises:
        LeaseHeld: another process is at it.
        ComputeFailed: the report's function raised; the message says what.
        HoldfastError: a query failed, a link is down, the lease was lost.
    """
    key = report.reader.key(params)
    token: int | None = None
    try:
        if only_if_due:
            found = await backend.entry(key)
            if isinstance(found, Entry) and found.state(time.time()) is State.FRESH:
                return Outcome(found, changed=False)
        token = await backend.acquire(key, LEASE_SECONDS)
    except HoldfastError as error:
        if not (store_optional and _is_the_stores(error)):
            raise
    async with recorded(backend, report, params, trigger) as run:
        if token is None:
            entry = await compute(backend, report, params, default_ttl=default_ttl)
            run.done(entry, "unstored")
            return Outcome(entry, changed=True)
        try:
            async with _kept(backend, key, token):
                entry = await compute(backend, report, params, default_ttl=default_ttl)
                try:
                    before = await backend.entry(key)
                    await backend.write(entry, token)
                    await _read_back(backend, entry)
                except HoldfastError as error:
                    if not (store_optional and _is_the_stores(error)):
                        raise
                    run.done(entry, "unstored")
                    return Outcome(entry, changed=True)
        finally:
            with contextlib.suppress(HoldfastError):
                await backend.release(key, token)
        changed = not isinstance(before, Entry) or before.digest != entry.digest
        run.done(entry, "changed" if changed else "unchanged")
    return Outcome(entry, changed)


def _is_the_stores(error: HoldfastError) -> bool:
    """Whether an error says that Redis cannot be used, and nothing about the computation."""
    return error.details.get("link") == "redis"


@contextlib.asynccontextmanager
async def recorded(
    backend: Backend, report: Report, params: Mapping[str, Scalar], trigger: Trigger
) -> AsyncIterator[Run]:
    """Record what the body does as a run; one that does not call `run.done` has failed."""
    key = report.reader.key(params)
    run = Run(report=report.name, key=key, params=dict(params), trigger=trigger, started_at=time.time())
    began = time.perf_counter()
    try:
        yield run
    except BaseException as error:
        run.error = f"{type(error).__name__}: {error}"[:500]
        raise
    finally:
        run.duration_ms = round((time.perf_counter() - began) * 1000, 3)
        try:
            await backend.record(msgspec.to_builtins(run))
        except HoldfastError as error:
            log = structlog.get_logger("refresh")
            log.warning("a run could not be recorded", report=report.name, error=str(error))


async def compute(
    backend: Backend, report: Report, params: Mapping[str, Scalar], *, default_ttl: float
) -> Entry:
    """The entry of a report, computed and stored nowhere. Its queries run at the same time.

    Raises:
        ComputeFailed, HoldfastError: as `refresh` does.
    """
    key = report.reader.key(params)
    # The time before the queries: what changes while they run may not be in the result.
    computed_at = time.time()
    names = list(report.queries)
    fetched = await _all(backend, names, params)
    try:
        rows = await asyncio.to_thread(report.rows, params, dict(zip(names, fetched, strict=True)))
        return await asyncio.to_thread(
            build,
            key=key,
            report=report.name,
            params={name: value for name, value in params.items() if value is not None},
            rows=rows,
            computed_at=computed_at,
            # From when it is there: a result that took longer than its ttl must not be stale at once.
            ttl=(report.ttl or default_ttl) + time.time() - computed_at,
            max_stale=report.max_stale,
        )
    except HoldfastError:
        raise
    except Exception as error:
        structlog.get_logger("refresh").exception("a report's function raised", report=report.name)
        raise ComputeFailed(f"report {report.name}: {type(error).__name__}: {error}") from error


async def _all(backend: Backend, names: list[str], params: Mapping[str, Scalar]) -> list[list[Row]]:
    if len(names) == 1:
        return [await backend.query(names[0], params)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(backend.query(name, params)) for name in names]
    except* HoldfastError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


@contextlib.asynccontextmanager
async def _kept(backend: Backend, key: str, token: int) -> AsyncIterator[None]:
    """Renew the lease for as long as the body runs; a lost one cancels it."""
    body = asyncio.current_task()
    lost: list[HoldfastError] = []

    async def renew() -> None:
        held_until = time.monotonic() + LEASE_SECONDS
        while True:
            await asyncio.sleep(RENEW_EVERY)
            try:
                await backend.renew(key, token, LEASE_SECONDS)
                held_until = time.monotonic() + LEASE_SECONDS
            except HoldfastError as error:
                if not isinstance(error, LeaseLost) and time.monotonic() < held_until:
                    # Unheard is not lost: the write will look again.
                    continue
                lost.append(error)
                if body is not None:
                    body.cancel()
                return

    heart = asyncio.create_task(renew())
    try:
        yield
    except asyncio.CancelledError:
        if not lost:
            raise
        if body is not None:
            body.uncancel()
        raise LeaseLost from lost[0]
    finally:
        heart.cancel()


async def _read_back(backend: Backend, entry: Entry) -> None:
    found = await backend.entry(entry.key)
    if not isinstance(found, Entry):
        raise ComputeFailed(f"the entry was written and is {found.value} when read back")
    if found.computed_at < entry.computed_at:
        raise LeaseLost("an older entry stands where this one was written")
