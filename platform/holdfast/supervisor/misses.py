"""Results that a gateway did not find: computed here, so that a miss needs neither Celery nor Redis.

One computation per key at a time, however many ask for it; a bounded number of keys at once, and a bounded
number that wait. A computation goes on when those who asked have gone, since its result is still useful.
Where Redis is down the result is returned without being stored; the gateway keeps it in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from holdfast.cache.backend import Backend
from holdfast.cache.entry import Entry
from holdfast.cache.refresh import refresh
from holdfast.cache.run import Trigger
from holdfast.errors import DeadlineExceeded, HoldfastError, LeaseHeld, LeaseLost, Overloaded
from holdfast.reports import Report
from holdfast.reports.canonical import Scalar

AT_ONCE = 4
WAITING = 200
DEADLINE = 60.0
LEASE_POLL = 0.1
RENEWALS = 5
"""How often a renewal is begun at most: one that runs already, one of a worker, and its own are three."""


class Misses:
    """Single flight by key over `refresh`.

    Args:
        backend: what the refreshes run on.
        mark_stale: lets the entry of a key count as stale from now on.
        default_ttl: seconds for which a result is fresh where its report does not say.
    """

    def __init__(
        self, backend: Backend, mark_stale: Callable[[str], Awaitable[object]], *, default_ttl: float
    ) -> None:
        self._backend = backend
        self._mark_stale = mark_stale
        self._default_ttl = default_ttl
        self._running: dict[tuple[str, str], asyncio.Task[Entry]] = {}
        """By key and version: a report that was loaded again does not wait for what its old code computes."""
        self._renewals: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)

    def __repr__(self) -> str:
        return f"<Misses running={len(self._running)} renewals={len(self._renewals)}>"

    async def compute(self, report: Report, params: Mapping[str, Scalar], trigger: Trigger) -> Entry:
        """The entry of that report and those parameters, by a computation that may be shared.

        Raises:
            Overloaded: WAITING keys are being computed or waiting already.
            DeadlineExceeded: it took longer than DEADLINE seconds.
            HoldfastError: what the computation raised.
        """
        return await asyncio.shield(self.begin(report, params, trigger))

    def begin(self, report: Report, params: Mapping[str, Scalar], trigger: Trigger) -> asyncio.Task[Entry]:
        """The task that computes this result: the one that runs, or a new one. Raises Overloaded."""
        key = report.reader.key(params), report.version
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= WAITING:
                raise Overloaded(f"{WAITING} results are being computed already")
            task = asyncio.create_task(self._bounded(report, params, trigger), name=f"compute {key[0]}")
            self._running[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        return task

    def _finished(self, key: tuple[str, str], task: asyncio.Task[Entry]) -> None:
        del self._running[key]
        if not task.cancelled():
            # Retrieved here too, since all who asked may have gone.
            task.exception()

    def renew(self, report: Report, params: Mapping[str, Scalar], since: int) -> None:
        """Begin to compute a result with a token larger than `since`; nobody waits for it.

        A token and not a time: the clock of whoever computes a result may be wrong.
        """
        task = asyncio.create_task(self._renew(report, params, since))
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

    async def _renew(self, report: Report, params: Mapping[str, Scalar], since: int) -> None:
        error = f"{RENEWALS} results came, and each was begun before"
        try:
            for _ in range(RENEWALS):
                # A computation that ran already, here or in a worker, may have read the data before.
                if (await self.compute(report, params, "manual")).token > since:
                    return
                await self._mark_stale(report.reader.key(params))
        except HoldfastError as failure:
            error = str(failure)
        structlog.get_logger("misses").warning(
            "A result could not be renewed.", action="renewal_failed", report=report.name, error=error
        )

    async def drain(self, seconds: float) -> None:
        """Let what is being computed finish, for so many seconds; then cancel it."""
        running = [*self._running.values(), *self._renewals]
        if running:
            _, late = await asyncio.wait(running, timeout=seconds)
            for task in late:
                task.cancel()

    async def _bounded(self, report: Report, params: Mapping[str, Scalar], trigger: Trigger) -> Entry:
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    try:
                        return await self._one(report, params, trigger)
                    except (LeaseHeld, LeaseLost):
                        # A worker computes it: its result, or the lease that it gives up, comes soon.
                        # Waiting takes no slot, or a few leases of a dead worker would hold up every other
                        # miss.
                        await asyncio.sleep(LEASE_POLL)
        except TimeoutError:
            raise DeadlineExceeded(f"{report.name} was not computed in {DEADLINE:g} s") from None

    async def _one(self, report: Report, params: Mapping[str, Scalar], trigger: Trigger) -> Entry:
        async with self._slots:
            result = await refresh(
                self._backend,
                report,
                params,
                trigger,
                default_ttl=self._default_ttl,
                only_if_due=True,
                store_optional=True,
            )
        return result.entry
