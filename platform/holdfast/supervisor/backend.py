"""The backend of the supervisor's own refreshes: its queries, its store and its record of runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.cache.run import Run
from holdfast.cache.store import KeyValues, Store
from holdfast.links.link import Link
from holdfast.reports import Row
from holdfast.reports.canonical import Scalar
from holdfast.supervisor.queries import Queries
from holdfast.supervisor.runs import RunLog


class SupervisorBackend(Store):
    """A `cache.backend.Backend`: the store, and with it the queries and the record of runs."""

    def __init__(
        self,
        redis: Link[KeyValues],
        queries: Queries,
        recorder: RunLog[Any],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(redis, clock=clock)
        self._queries = queries
        self._recorder = recorder

    async def query(self, name: str, params: Mapping[str, Scalar]) -> list[Row]:
        """The rows of a named query, as mappings."""
        result = await self._queries.run(name, params)
        return [dict(zip(result["columns"], row, strict=True)) for row in result["rows"]]

    async def check_version(self, report: str, version: str) -> None:
        """Take every version: it is this process' registry that the others are compared with."""

    async def record(self, run: Run) -> None:
        """Note a run."""
        self._recorder.add(run)
