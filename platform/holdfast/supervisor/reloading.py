"""The supervisor's reports, loaded again while it serves: `holdfast up` asks for it when a file changes.

One at a time. The modules are imported in a thread, the documents are bound, and then the new reports take
the place of the old ones in one step of the loop. Their warm variants are computed behind it, two at once, so
that misses have slots too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from holdfast.errors import HoldfastError
from holdfast.reports import Registry, Report
from holdfast.reports.reloading import reload_reports
from holdfast.supervisor.misses import Misses

if TYPE_CHECKING:
    from beanie import Document

WARM_AT_ONCE = 2


class Reloader:
    """Loads the reports again into the registry that everybody holds.

    Args:
        registry: the supervisor's.
        modules: what the setting REPORTS says.
        bind: makes the documents usable (`links.mongo.MongoAdapter.bind`).
        publish: writes the catalogue.
        misses: computes the warm variants of what changed.
    """

    def __init__(
        self,
        registry: Registry,
        modules: Sequence[str],
        *,
        bind: Callable[[Sequence[type[Document]]], Awaitable[None]],
        publish: Callable[[], Awaitable[None]],
        misses: Misses,
    ) -> None:
        self._registry = registry
        self._modules = modules
        self._bind = bind
        self._publish = publish
        self._misses = misses
        self._one_at_a_time = asyncio.Lock()
        self._warming: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(WARM_AT_ONCE)
        self._log = structlog.get_logger("reload")

    async def reload(self) -> dict[str, Any]:
        """Load the reports again: the names of those added, changed and removed, and what is broken."""
        async with self._one_at_a_time:
            fresh = await asyncio.to_thread(reload_reports, self._modules, self._registry)
            await self._tried("bind_documents", self._bind(fresh.documents()))
            before, after = self._registry.versions, fresh.versions
            answer: dict[str, Any] = {
                "added": sorted(after.keys() - before.keys()),
                "changed": sorted(n for n, version in after.items() if before.get(n, version) != version),
                "removed": sorted(before.keys() - after.keys()),
                "broken": [
                    {**msgspec.structs.asdict(each), "kept": each.name in after} for each in fresh.broken
                ],
            }
            self._registry.take(fresh)
            if answer["added"] or answer["changed"] or answer["removed"]:
                self._log.info("Reports were loaded again.", action="reports_reloaded", **answer)
                await self._tried("publish_catalogue", self._publish())
            for name in (*answer["added"], *answer["changed"]):
                self._warm(fresh.reports[name])
            return answer

    async def _tried(self, what: str, work: Awaitable[None]) -> None:
        try:
            await work
        except HoldfastError as error:
            # Done again when the link comes up.
            self._log.warning(
                "A reload is not complete yet.", action="reload_waits", step=what, error=str(error)
            )

    def _warm(self, report: Report) -> None:
        for params in report.warm:
            task = asyncio.create_task(self._compute(report, params))
            self._warming.add(task)
            task.add_done_callback(self._warming.discard)

    async def _compute(self, report: Report, params: Any) -> None:
        async with self._slots:
            if self._registry.reports.get(report.name) is not report:
                return
            try:
                await self._misses.compute(report, params, "change")
            except HoldfastError as error:
                self._log.warning(
                    "A changed report could not be computed.",
                    action="changed_report_failed",
                    report=report.name,
                    error=str(error),
                )

    def stop(self) -> None:
        """End what is computed behind reloads."""
        for task in self._warming:
            task.cancel()
