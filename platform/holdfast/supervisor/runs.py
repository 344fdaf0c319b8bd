"""The record of refreshes, in MongoDB.

Records wait in a bounded queue and are inserted in batches, so neither a slow nor an absent MongoDB holds
up a refresh. When the queue is full the oldest record is given up and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from typing import Any, ClassVar

import structlog
from beanie import Document
from bson.errors import BSONError
from pydantic import ValidationError
from pymongo import DESCENDING, IndexModel

from holdfast.errors import AuthenticationFailed, HoldfastError, QueryFailed
from holdfast.links.link import Link
from holdfast.links.mongo import translated
from holdfast.supervisor.metrics import SupervisorMetrics

KEEP_SECONDS = 7 * 86_400
_QUEUE = 10_000
_BATCH = 500
_EVERY = 0.5


class RunDocument(Document):
    """One refresh, kept for a week. Durations are in milliseconds; the fields are `refresh.Run`'s."""

    report: str
    key: str
    params: dict[str, Any]
    trigger: str
    started_at: datetime
    outcome: str
    duration_ms: float
    rows: int | None = None
    bytes: int | None = None
    digest: str | None = None
    error: str | None = None
    pid: int = 0

    class Settings:
        name = "holdfast_runs"
        indexes: ClassVar = [
            IndexModel("started_at", expireAfterSeconds=KEEP_SECONDS),
            IndexModel([("report", 1), ("started_at", DESCENDING)]),
        ]


class Recorder:
    """Takes runs at once and writes them when MongoDB takes them."""

    def __init__(self, link: Link, metrics: SupervisorMetrics) -> None:
        self._link = link
        self._metrics = metrics
        self._queue: deque[dict[str, Any]] = deque()
        self._indexed = -1

    def add(self, run: dict[str, Any]) -> None:
        """Take a run (`refresh.Run` as a mapping)."""
        at = datetime.fromtimestamp(run["started_at"], UTC)
        self._metrics.runs.labels(run["report"], run["trigger"], run["outcome"]).inc()
        # The document class is bound to a database only once MongoDB was up; until then keep the mapping.
        self._queue.append({**run, "started_at": at})
        if len(self._queue) > _QUEUE:
            self._queue.popleft()
            self._metrics.runs_dropped.inc()

    async def run(self) -> None:
        """Write what waits, twice a second, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits now, while MongoDB is up."""
        log = structlog.get_logger("runs")
        while self._queue and self._link.up:
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            try:
                async with self._link.use():
                    await self._index_once()
                    with translated():
                        await RunDocument.insert_many([RunDocument(**run) for run in batch])
            except (BSONError, ValidationError, OverflowError) as error:
                # Parameters that BSON cannot hold: these runs are given up, the supervisor is not.
                self._metrics.runs_dropped.inc(len(batch))
                log.error("runs could not be written", runs=len(batch), error=type(error).__name__)
            except HoldfastError as error:
                # Some of an unordered half may be in: better a run twice than a run lost.
                self._queue.extendleft(reversed(batch))
                log.warning("runs wait for MongoDB", waiting=len(self._queue), error=str(error))
                return

    async def _index_once(self) -> None:
        """Once for each opening of the link, and a user who may not make them loses no run for it."""
        if self._indexed == self._link.state.generation:
            return
        try:
            with translated():
                await RunDocument.get_pymongo_collection().create_indexes(RunDocument.Settings.indexes)
        except (QueryFailed, AuthenticationFailed) as error:
            log = structlog.get_logger("runs")
            log.warning("the runs have no indexes and are kept for ever", error=str(error))
        self._indexed = self._link.state.generation

    async def latest(self, *, report: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest runs first; times as seconds since the epoch."""
        await self.flush()
        async with self._link.use():
            with translated():
                found = RunDocument.find_all() if report is None else RunDocument.find({"report": report})
                runs = await found.sort("-started_at").limit(limit).to_list()
        return [
            {**run.model_dump(exclude={"id", "revision_id"}), "started_at": run.started_at.timestamp()}
            for run in runs
        ]
