"""The gateway's lookup between a Redis and a supervisor in memory, on a clock that leaps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.support.clock import run_leaping
from tests.support.memory import MemoryRedis, MemorySupervisor, link_to

from holdfast.cache.entry import Entry, build, pack
from holdfast.reports.canonical import KEY_PREFIX
from holdfast_gateway.l1.lookup import (
    Lookup,
    LookupResult,
    ResultRequest,
)

BEGIN = 1_700_000_000.0
MISS_TIMEOUT = 5.0
R = ResultRequest(f"{KEY_PREFIX}/api/v1/analytics/r", "r", {})


class World:
    """A lookup between a Redis and a supervisor in memory, by the clock of a leaping loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._origin = loop.time()
        self.redis = MemoryRedis(self.wall)
        self.supervisor = MemorySupervisor()
        self.redis_link, self.supervisor_link = link_to(self.redis), link_to(self.supervisor)
        self.version = ""
        """The version of the report in the catalogue."""
        self.failed_reads = 0
        self.rejected_entries: list[str] = []
        self.lookup = Lookup(
            redis=self.redis_link,
            supervisor=self.supervisor_link,
            meter=self,
            max_bytes=2**20,
            miss_timeout=MISS_TIMEOUT,
            private=False,
            version=lambda _: self.version,
            monotonic=loop.time,
            wall=self.wall,
        )

    def wall(self) -> float:
        """Seconds since the epoch."""
        return BEGIN + asyncio.get_running_loop().time() - self._origin

    def redis_failed(self) -> None:
        """Count a failed read."""
        self.failed_reads += 1

    def rejected(self, reason: str) -> None:
        """Note why an entry was rejected."""
        self.rejected_entries.append(reason)

    def entry(
        self,
        rows: int = 1,
        *,
        ttl: float = 10,
        max_stale: float = 100,
        ago: float = 0,
        token: int = 0,
        version: str = "",
    ) -> Entry:
        """An entry computed so many seconds ago."""
        return build(
            key=R.key,
            report="r",
            params={},
            rows=[{"n": n} for n in range(rows)],
            computed_at=self.wall() - ago,
            ttl=ttl,
            max_stale=max_stale,
            token=token,
            version=version,
        )

    def store(self, entry: Entry) -> Entry:
        """Put an entry in Redis, as another process does."""
        self.redis.values[entry.key.encode()] = pack(entry)
        return entry

    def offer(self, entry: Entry) -> Entry:
        """Let the supervisor's next computation give this entry."""
        self.supervisor.entries[entry.key] = entry
        return entry

    @property
    def reads(self) -> int:
        """How often Redis was read."""
        return sum(call.startswith("get") for call in self.redis.calls)

    @property
    def computations(self) -> list[str]:
        """The triggers of the computations that the supervisor was asked for."""
        return [call.split()[-1] for call in self.supervisor.calls]

    async def find(self) -> LookupResult:
        """Look the one result up."""
        return await self.lookup.find(R)


Scenario = Callable[[World], Awaitable[None]]


def play(scenario: Scenario) -> None:
    """Run a scenario on a leaping clock."""

    async def run() -> None:
        await scenario(World())

    run_leaping(run())


def served(result: LookupResult) -> tuple[str, int]:
    """What a caller sees: X-Cache and the number of rows."""
    return result.cache, result.item.representation.entry.rows


def build_stale(world: World, entry: Entry) -> Entry:
    """The entry, stale from now on."""
    return Entry(
        entry.key,
        entry.computed_at,
        world.wall(),
        entry.stale_until,
        entry.digest,
        entry.rows,
        entry.body,
        entry.gzip,
        entry.zstd,
    )
