"""The record of refreshes, in MongoDB; in a stream of Redis where MongoDB is unused.

Records wait in a bounded queue and are written in batches, so neither a slow nor an absent server holds
up a refresh. When the queue is full the oldest record is given up and counted.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
import structlog
from beanie import Document
from pymongo import DESCENDING, IndexModel

from holdfast.cache.run import Run
from holdfast.errors import AuthenticationFailed, HoldfastError, NotStorable, QueryFailed
from holdfast.links.adapter import Adapter
from holdfast.links.link import Link

KEEP_SECONDS = 7 * 86_400
QUEUE = 10_000
BATCH = 500
EVERY = 0.5
REMEMBERED = 5_000
STREAM = "holdfast:runs"
STREAM_KEEPS = 10_000
"""Runs: each is about 500 bytes, so the stream stays below 10 MB in the memory of Redis."""


class RunDocument(Document):
    """One refresh, kept for a week: the fields of `cache.run.Run`, durations in milliseconds."""

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
    reason: str | None = None
    retryable: bool = False
    pid: int = 0

    class Settings:
        """Beanie's: the collection and its indexes."""

        name = "holdfast_runs"
        indexes: ClassVar = [
            IndexModel("started_at", expireAfterSeconds=KEEP_SECONDS),
            IndexModel([("report", 1), ("started_at", DESCENDING)]),
        ]


class RunStore(Adapter, Protocol):
    """What the recorder needs of MongoDB (`links.mongo.MongoAdapter`)."""

    async def insert(self, document: type[RunDocument], values: Sequence[Mapping[str, Any]]) -> None:
        """Insert runs. Raises NotStorable where a value can never be stored."""

    async def create_indexes(self, document: type[Document], indexes: Sequence[IndexModel]) -> None:
        """Create the indexes that are not there yet."""

    async def newest(
        self, document: type[RunDocument], wanted: Mapping[str, Any], *, by: str, limit: int
    ) -> list[RunDocument]:
        """The runs with those values, the largest `by` first."""


class RunCounter(Protocol):
    """Counts runs (`supervisor.metrics.SupervisorMetrics`)."""

    def ran(self, run: Run) -> None:
        """A refresh has ended."""

    def dropped(self, runs: int) -> None:
        """So many records were given up."""


class RunStream(Adapter, Protocol):
    """What the recorder needs of Redis (`links.redis.RedisAdapter`)."""

    async def append(self, stream: str, records: Sequence[bytes], *, keep: int) -> None:
        """Append records to a stream, which keeps about that many."""

    async def newest(self, stream: str, *, before: str = "+", count: int) -> list[tuple[str, bytes]]:
        """Records of a stream with their ids, the newest first."""


L = TypeVar("L", bound=Adapter)


class RunLog(ABC, Generic[L]):
    """Takes runs at once, and writes them when the server behind the link takes them."""

    def __init__(self, link: Link[L], counter: RunCounter) -> None:
        self._link = link
        self._counter = counter
        self._queue: deque[dict[str, Any]] = deque()
        self._recent: deque[Run] = deque(maxlen=REMEMBERED)
        self._taken = 0
        self._log = structlog.get_logger("runs")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} waiting={len(self._queue)}>"

    def add(self, run: Run) -> None:
        """Take a run."""
        self._counter.ran(run)
        self._recent.append(run)
        self._taken += 1
        # The document class is bound to a database only once MongoDB was up; until then keep a mapping.
        started_at = datetime.fromtimestamp(run.started_at, UTC)
        self._queue.append({**msgspec.structs.asdict(run), "started_at": started_at})
        if len(self._queue) > QUEUE:
            self._queue.popleft()
            self._counter.dropped(1)

    def after(self, number: int) -> tuple[int, list[Run]]:
        """How many runs were taken since the start, and those after the `number`-th that are remembered."""
        new = max(0, self._taken - number)
        return self._taken, list(self._recent)[-new:] if new else []

    async def run(self) -> None:
        """Write what waits, twice a second, until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits now, while the server is up."""
        while self._queue and self._link.up:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            try:
                async with self._link.use() as server:
                    await self._write(server, batch)
            except NotStorable as error:
                # These runs are given up: they would stop every later one.
                self._counter.dropped(len(batch))
                self._log.error(
                    "Runs could not be written.", action="runs_dropped", runs=len(batch), error=str(error)
                )
            except HoldfastError as error:
                # A part of the batch may be in already: better a run twice than a run lost.
                self._queue.extendleft(reversed(batch))
                waiting = len(self._queue)
                self._log.warning(
                    f"Runs wait for {self._link.name}.", action="runs_wait", waiting=waiting, error=str(error)
                )
                return

    async def latest(self, *, report: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest runs first; times as seconds since the epoch."""
        await self.flush()
        async with self._link.use() as server:
            return await self._newest(server, report, limit)

    @abstractmethod
    async def _write(self, server: L, batch: list[dict[str, Any]]) -> None:
        """Write runs, in order."""

    @abstractmethod
    async def _newest(self, server: L, report: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest runs first."""


class Recorder(RunLog[RunStore]):
    """The runs in MongoDB, for a week."""

    def __init__(self, link: Link[RunStore], counter: RunCounter) -> None:
        super().__init__(link, counter)
        self._indexed = -1

    async def _write(self, server: RunStore, batch: list[dict[str, Any]]) -> None:
        await self._index_once(server)
        await server.insert(RunDocument, batch)

    async def _index_once(self, mongo: RunStore) -> None:
        """Once for each opening of the link; a user who may not create indexes loses no run for it."""
        if self._indexed == self._link.state.generation:
            return
        try:
            await mongo.create_indexes(RunDocument, RunDocument.Settings.indexes)
        except (QueryFailed, AuthenticationFailed) as error:
            self._log.warning(
                "The runs have no indexes and are kept forever.", action="runs_not_indexed", error=str(error)
            )
        self._indexed = self._link.state.generation

    async def _newest(self, server: RunStore, report: str | None, limit: int) -> list[dict[str, Any]]:
        wanted = {} if report is None else {"report": report}
        runs = await server.newest(RunDocument, wanted, by="started_at", limit=limit)
        return [
            {**run.model_dump(exclude={"id", "revision_id"}), "started_at": run.started_at.timestamp()}
            for run in runs
        ]


class StreamRecorder(RunLog[RunStream]):
    """The newest runs in a capped stream of Redis, where MongoDB is unused."""

    async def _write(self, server: RunStream, batch: list[dict[str, Any]]) -> None:
        records = [msgspec.json.encode({**run, "started_at": run["started_at"].timestamp()}) for run in batch]
        await server.append(STREAM, records, keep=STREAM_KEEPS)

    async def _newest(self, server: RunStream, report: str | None, limit: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        before = "+"
        while len(found) < limit and (records := await server.newest(STREAM, before=before, count=1000)):
            before = f"({records[-1][0]}"
            runs = (msgspec.json.decode(record) for _, record in records)
            found += [run for run in runs if report in (None, run["report"])]
        return sorted(found, key=lambda run: -run["started_at"])[:limit]
