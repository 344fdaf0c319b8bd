"""Where an answer comes from: memory (L1), then Redis, then the supervisor.

An entry in memory is trusted for a second; then Redis is asked whether there is a newer one. While Redis
does not answer, memory goes on serving within the entry's own times, which age by the monotonic clock here:
a clock that is set back cannot make an old result fresh. What is stale is served at once while one refresh
runs behind it. Each key is asked for once at a time, of Redis and of the supervisor, however many clients
wait for it; the request goes on when they have gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from holdfast.cache.entry import Entry, Unusable, same_version, unpack
from holdfast.cache.run import Trigger
from holdfast.errors import HoldfastError, LinkDown, SupervisorUnavailable
from holdfast.links.adapter import Adapter
from holdfast.links.link import Link
from holdfast.reports.canonical import Scalar
from holdfast_gateway.http import Cache, Representation
from holdfast_gateway.l1.memory import Item, Memory

REDIS_SECONDS = 0.5
COMPUTE_SECONDS = 70.0
RETRY_STALE_SECONDS = 1.0


class EntryReader(Adapter, Protocol):
    """Redis as the gateway reads it (`links.redis.RedisAdapter`)."""

    async def get(self, key: str) -> bytes | None:
        """The bytes under a key."""


class Computer(Adapter, Protocol):
    """The supervisor as the gateway asks it for results (`rpc.client.Client`)."""

    async def compute(
        self, key: str, report: str, params: Mapping[str, Scalar], trigger: Trigger, *, deadline: float
    ) -> Entry:
        """The entry of that result, computed and stored."""


class LookupMeter(Protocol):
    """Counts what goes wrong in a lookup (`metrics.GatewayMetrics`)."""

    def redis_failed(self) -> None:
        """A read of Redis failed."""

    def rejected(self, reason: str) -> None:
        """Stored bytes were no entry of their key."""


@dataclass(frozen=True, slots=True)
class ResultRequest:
    """One result: its key, and what to ask the supervisor for."""

    key: str
    report: str
    params: dict[str, Scalar]


@dataclass(frozen=True, slots=True)
class LookupResult:
    """An item, and what it is to the caller: HIT, MISS or STALE."""

    item: Item
    cache: Cache


class StillComputing(HoldfastError):
    """The result is being computed and was not ready in time."""

    code = "still_computing"


class Lookup:
    """The three tiers. `miss_timeout` is in seconds; `private` marks results that need a token.

    `version` gives the version of the report of a key, empty where it is not known (`catalogue.Catalogue`).
    `wall` is the clock that dates entries (`cache.clock.StoreClock`).
    """

    def __init__(
        self,
        *,
        redis: Link[EntryReader],
        supervisor: Link[Computer],
        meter: LookupMeter,
        max_bytes: int,
        miss_timeout: float,
        private: bool,
        version: Callable[[str], str] = lambda _: "",
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.memory = Memory(max_bytes)
        self._redis = redis
        self._supervisor = supervisor
        self._meter = meter
        self._miss_timeout = miss_timeout
        self._private = private
        self._version = version
        self._monotonic = monotonic
        self._wall = wall
        self._reads: dict[str, asyncio.Task[None]] = {}
        self._computations: dict[str, asyncio.Task[Item]] = {}
        self._retry_stale_at: dict[str, float] = {}
        self._log = structlog.get_logger("lookup")

    def __repr__(self) -> str:
        return f"<Lookup {self.memory!r} reads={len(self._reads)} computations={len(self._computations)}>"

    async def find(self, request: ResultRequest) -> LookupResult:
        """The result, from the nearest tier that has it.

        Raises:
            StillComputing: it is being computed, and is not ready within the miss time-out.
            LinkDown: no tier has it, and the supervisor cannot compute it now.
            HoldfastError: what the computation raised.
        """
        now = self._monotonic()
        item = self.memory.items.get(request.key)
        if item is None or now >= item.trusted_until:
            await self._read_once(request.key)
            item = self.memory.items.get(request.key)
            now = self._monotonic()
        if item is not None:
            if now < item.fresh_until:
                return LookupResult(item, "HIT")
            if now < item.stale_until:
                self._refresh_behind(request, now)
                return LookupResult(item, "STALE")
            self.memory.drop(request.key)
        return LookupResult(await self._compute(request), "MISS")

    def keep(self, entry: Entry) -> Item:
        """Put an entry in memory, unless the same or a newer one is there."""
        item = self.memory.items.get(entry.key)
        if item is not None and item.newer_than(entry):
            item.trust(self._monotonic())
            return item
        return self.put(entry)

    def put(self, entry: Entry) -> Item:
        """Put an entry in memory that is the newest one, unless this very entry is there."""
        now, version = self._monotonic(), self._version(entry.key)
        item = self.memory.items.get(entry.key)
        if item is not None and item.version == version and item.is_of(entry):
            item.trust(now)
            return item
        item = Item(Representation(entry, private=self._private), now, self._wall(), version=version)
        self.memory.put(entry.key, item)
        return item

    def compare_versions(self) -> None:
        """Let every item be stale whose report has another version now, and have Redis asked for it."""
        now = self._monotonic()
        for key, item in self.memory.items.items():
            version = self._version(key)
            if item.version != version:
                item.compare(version, now)
                item.distrust()

    def distrust(self, key: str) -> None:
        """Have Redis asked at the next read of this key."""
        if item := self.memory.items.get(key):
            item.distrust()

    async def _read_once(self, key: str) -> None:
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = asyncio.create_task(self._read(key))
            task.add_done_callback(lambda _: self._reads.pop(key))
        await asyncio.shield(task)

    async def _read(self, key: str) -> None:
        """Bring memory to what Redis has; leave it as it is while Redis does not answer."""
        try:
            async with asyncio.timeout(REDIS_SECONDS), self._redis.use() as redis:
                entry = unpack(key, await redis.get(key))
        except (HoldfastError, TimeoutError) as error:
            self._meter.redis_failed()
            if self._redis.up:
                self._redis.suspect()
                self._log.warning("Redis could not be read.", action="cache_read_failed", error=str(error))
            self._trust(key)
            return
        if isinstance(entry, Entry):
            self._take(entry)
            return
        if entry is not Unusable.MISSING:
            self._meter.rejected(entry.value)
            self._log.warning("Rejected an entry.", action="entry_rejected", key=key, reason=entry.value)
        # Missing from Redis by eviction or a flush: what is in memory is as good as before.
        self._trust(key)

    def _take(self, entry: Entry) -> None:
        """Keep what Redis has. Another deployment's result takes no place from one of the right version."""
        item = self.memory.items.get(entry.key)
        right = item is not None and same_version(item.representation.entry.version, item.version)
        if right and not same_version(entry.version, self._version(entry.key)):
            self._trust(entry.key)
        else:
            self.keep(entry)

    def _trust(self, key: str) -> None:
        if item := self.memory.items.get(key):
            item.trust(self._monotonic())

    async def _compute(self, request: ResultRequest) -> Item:
        task = self._begin(request, "miss")
        try:
            async with asyncio.timeout(self._miss_timeout):
                return await asyncio.shield(task)
        except TimeoutError:
            raise StillComputing from None

    def _refresh_behind(self, request: ResultRequest, now: float) -> None:
        if now >= self._retry_stale_at.get(request.key, 0.0) and self._supervisor.up:
            self._retry_stale_at[request.key] = now + RETRY_STALE_SECONDS
            self._begin(request, "stale")

    def _begin(self, request: ResultRequest, trigger: Trigger) -> asyncio.Task[Item]:
        task = self._computations.get(request.key)
        if task is None:
            task = asyncio.create_task(self._ask(request, trigger))
            self._computations[request.key] = task
            task.add_done_callback(lambda done: self._computed(request, done))
        return task

    async def _ask(self, request: ResultRequest, trigger: Trigger) -> Item:
        before = self.memory.items.get(request.key)
        # Not `use()`: a computation that is late says nothing about the socket.
        self._supervisor.check()
        entry = await self._supervisor.adapter.compute(
            request.key, request.report, request.params, trigger, deadline=COMPUTE_SECONDS
        )
        # What was asked for later is newer than what was there, whatever their dates and tokens say.
        return self.put(entry) if self.memory.items.get(request.key) is before else self.keep(entry)

    def _computed(self, request: ResultRequest, task: asyncio.Task[Item]) -> None:
        del self._computations[request.key]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._retry_stale_at.pop(request.key, None)
        elif isinstance(error, SupervisorUnavailable):
            self._supervisor.suspect()
        elif not isinstance(error, LinkDown):
            self._log.warning(
                "A result could not be computed.",
                action="computation_failed",
                key=request.key,
                error=str(error),
            )
