"""Where an answer comes from: memory (L1), then Redis, then the supervisor.

An entry in memory is trusted for a second; then Redis is asked whether there is a newer one. While Redis
does not answer, memory goes on serving within the entry's own time fields, which age by the monotonic
clock here, so a clock that is set back cannot make an old result fresh. What is stale is served at once
while one refresh runs behind it. Whatever is asked of Redis or of the supervisor is asked once per key,
however many clients wait for it, and goes on when they have gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from holdfast.cache.entry import Entry, Unusable, unpack
from holdfast.cache.refresh import Trigger
from holdfast.errors import HoldfastError, LinkDown, SupervisorUnavailable
from holdfast.links.link import Link
from holdfast.links.redis import RedisAdapter
from holdfast.reports.params import Scalar
from holdfast.rpc.client import Client
from holdfast_gateway.http import Cache, Representation
from holdfast_gateway.metrics import GatewayMetrics

TRUSTED_SECONDS = 1.0
REDIS_SECONDS = 0.5
COMPUTE_SECONDS = 70.0
RETRY_STALE_SECONDS = 1.0
_BOOKKEEPING = 1024
"""Bytes that an item costs beside its bodies, about."""

T = TypeVar("T")


class Item:
    """An entry in memory. `fresh_until` and `stale_until` are on the monotonic clock."""

    __slots__ = ("computed_at", "fresh_until", "representation", "size", "stale_until", "trusted_until")

    def __init__(self, representation: Representation, now: float, wall: float) -> None:
        entry = representation.entry
        # Computed in the future: the clock was set back since, and must not make the entry fresh for longer.
        wall = max(wall, entry.computed_at)
        self.representation = representation
        self.computed_at = now + entry.computed_at - wall
        self.fresh_until = now + entry.fresh_until - wall
        self.stale_until = now + entry.stale_until - wall
        self.trusted_until = now + TRUSTED_SECONDS
        self.size = len(entry.body) + len(entry.gzip) + len(entry.zstd) + _BOOKKEEPING


class Memory:
    """The items by key, at most `max_bytes` of them; the one stored longest ago goes first."""

    def __init__(self, max_bytes: int) -> None:
        self.items: dict[str, Item] = {}
        self.bytes = 0
        self._max = max_bytes

    def put(self, key: str, item: Item) -> None:
        """Store an item in the newest place."""
        self.drop(key)
        self.items[key] = item
        self.bytes += item.size
        while self.bytes > self._max and len(self.items) > 1:
            self.drop(next(iter(self.items)))

    def drop(self, key: str) -> None:
        """Forget an item."""
        if item := self.items.pop(key, None):
            self.bytes -= item.size


@dataclass(frozen=True, slots=True)
class Wanted:
    """One result: its key, and what to ask the supervisor for."""

    key: str
    report: str
    params: dict[str, Scalar]


@dataclass(frozen=True, slots=True)
class Found:
    """An item, and what it is to the caller."""

    item: Item
    cache: Cache


class StillComputing(HoldfastError):
    """The result is being computed and was not ready in time."""

    code = "still_computing"


class Lookup:
    """The three tiers. `miss_timeout` is in seconds."""

    def __init__(
        self,
        *,
        redis: tuple[Link, RedisAdapter],
        supervisor: tuple[Link, Client],
        metrics: GatewayMetrics,
        max_bytes: int,
        miss_timeout: float,
        private: bool,
    ) -> None:
        self.memory = Memory(max_bytes)
        self._redis_link, self._redis = redis
        self._supervisor_link, self._supervisor = supervisor
        self._metrics = metrics
        self._miss_timeout = miss_timeout
        self._private = private
        self._reads: dict[str, asyncio.Task[None]] = {}
        self._computations: dict[str, asyncio.Task[Item]] = {}
        self._retry_stale_at: dict[str, float] = {}
        self._log = structlog.get_logger("lookup")

    async def find(self, wanted: Wanted) -> Found:
        """The result, from the nearest tier that has it.

        Raises:
            StillComputing: it is being computed, and not ready within the miss time-out.
            LinkDown: nothing here has it, and the supervisor cannot compute it now.
            HoldfastError: what the computation raised.
        """
        now = time.monotonic()
        item = self.memory.items.get(wanted.key)
        if item is None or now >= item.trusted_until:
            await self._shared(self._reads, wanted.key, self._read(wanted.key))
            item = self.memory.items.get(wanted.key)
            now = time.monotonic()
        if item is not None:
            if now < item.fresh_until:
                return Found(item, "HIT")
            if now < item.stale_until:
                self._refresh_behind(wanted, now)
                return Found(item, "STALE")
            self.memory.drop(wanted.key)
        return Found(await self._compute(wanted), "MISS")

    async def _read(self, key: str) -> None:
        """Bring memory up to what Redis has; leave it as it is while Redis does not answer."""
        item = self.memory.items.get(key)
        try:
            self._redis_link.check()
            async with asyncio.timeout(REDIS_SECONDS):
                stored = await self._redis.get(key)
        except (HoldfastError, TimeoutError) as error:
            self._metrics.redis_errors.inc()
            if self._redis_link.up:
                self._redis_link.suspect()
                self._log.warning("Redis could not be read", error=str(error))
            if item is not None:
                item.trusted_until = time.monotonic() + TRUSTED_SECONDS
            return
        entry = unpack(key, stored)
        if isinstance(entry, Entry):
            self.keep(entry)
            return
        if entry is not Unusable.MISSING:
            self._metrics.rejected_entries.labels(entry.value).inc()
            self._log.warning("rejected an entry", key=key, reason=entry.value)
        if item is not None:
            # Gone from Redis, by eviction or a flush: what is here is no worse than it was.
            item.trusted_until = time.monotonic() + TRUSTED_SECONDS

    def keep(self, entry: Entry) -> Item:
        """Put an entry in memory, unless a newer one is there."""
        now, wall = time.monotonic(), time.time()
        if item := self.memory.items.get(entry.key):
            here = item.representation.entry
            if here.computed_at > entry.computed_at:
                item.trusted_until = now + TRUSTED_SECONDS
                return item
            if (here.computed_at, here.fresh_until) == (entry.computed_at, entry.fresh_until):
                item.trusted_until = now + TRUSTED_SECONDS
                return item
        item = Item(Representation(entry, private=self._private), now, wall)
        self.memory.put(entry.key, item)
        return item

    def distrust(self, key: str) -> None:
        """Ask Redis at the next read of this key."""
        if item := self.memory.items.get(key):
            item.trusted_until = 0.0

    async def _compute(self, wanted: Wanted) -> Item:
        task = self._begin(wanted, "miss")
        try:
            async with asyncio.timeout(self._miss_timeout):
                return await asyncio.shield(task)
        except TimeoutError:
            raise StillComputing from None

    def _refresh_behind(self, wanted: Wanted, now: float) -> None:
        if now >= self._retry_stale_at.get(wanted.key, 0.0) and self._supervisor_link.up:
            self._retry_stale_at[wanted.key] = now + RETRY_STALE_SECONDS
            self._begin(wanted, "stale")

    def _begin(self, wanted: Wanted, trigger: Trigger) -> asyncio.Task[Item]:
        task = self._computations.get(wanted.key)
        if task is None:
            task = asyncio.create_task(self._ask(wanted, trigger))
            self._computations[wanted.key] = task
            task.add_done_callback(lambda done: self._computed(wanted, done))
        return task

    async def _ask(self, wanted: Wanted, trigger: Trigger) -> Item:
        self._supervisor_link.check()
        packed = await self._supervisor.call(
            "compute",
            report=wanted.report,
            params=wanted.params,
            trigger=trigger,
            deadline=COMPUTE_SECONDS,
        )
        entry = unpack(wanted.key, packed)
        if not isinstance(entry, Entry):
            raise HoldfastError(f"the supervisor's answer is {entry.value}")
        return self.keep(entry)

    def _computed(self, wanted: Wanted, task: asyncio.Task[Item]) -> None:
        del self._computations[wanted.key]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._retry_stale_at.pop(wanted.key, None)
        elif isinstance(error, SupervisorUnavailable):
            self._supervisor_link.suspect()
        elif not isinstance(error, LinkDown):
            self._log.warning("a result could not be computed", key=wanted.key, error=str(error))

    async def _shared(self, flights: dict[str, asyncio.Task[T]], key: str, work: Coroutine[Any, Any, T]) -> T:
        task = flights.get(key)
        if task is None:
            task = flights[key] = asyncio.create_task(work)
            task.add_done_callback(lambda _: flights.pop(key, None))
        else:
            work.close()
        return await asyncio.shield(task)
