"""The catalogue of reports, which is an entry like every other.

It is published whenever Redis comes up, and every minute, so that a gateway finds its reports while the
supervisor is away. With it the supervisor claims the versions of its reports (`cache.store`): at first, and
when they change, in the place of every other deployment; later only where nobody else has.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from holdfast.cache.entry import Entry, Times, enclose
from holdfast.cache.store import KeyValues, Store
from holdfast.errors import HoldfastError
from holdfast.links.link import Link
from holdfast.reports import Registry
from holdfast.reports.canonical import ANALYTICS_PATH, CATALOGUE_KEY

TTL = 300.0
MAX_STALE = 30 * 86_400.0
PUBLISH_EVERY = 60.0
RETRY_EVERY = 1.0


class CataloguePublisher:
    """Makes the catalogue from the registry, and keeps it in Redis."""

    def __init__(self, registry: Registry, store: Store, redis: Link[KeyValues]) -> None:
        self._registry = registry
        self._store = store
        self._redis = redis
        self._claimed: dict[str, str] = {}
        self._lost = 0
        self._log = structlog.get_logger("catalogue")

    def entry(self) -> Entry:
        """What `GET /api/v1/analytics` answers, and what a gateway starts from."""
        specs = self._registry.catalogue()
        versions = self._registry.versions
        reports = [
            {"href": f"{ANALYTICS_PATH}/{s.name}", "version": versions[s.name], **msgspec.to_builtins(s)}
            for s in specs
        ]
        body = msgspec.json.encode({"reports": reports})
        now = self._store.clock()
        times = Times(now, now + TTL, now + TTL + MAX_STALE)
        return enclose(key=CATALOGUE_KEY, body=body, digest_of=body, rows=len(specs), times=times)

    async def publish(self) -> None:
        """Publish now.

        Raises:
            HoldfastError: Redis cannot be used.
        """
        await self._store.put(self.entry())
        await self._claim()

    async def run(self) -> None:
        """Publish, until cancelled."""
        while True:
            await self._redis.wait_up()
            generation = self._redis.state.generation
            try:
                await self.publish()
            except HoldfastError as error:
                self._log.warning(
                    "The catalogue could not be published.",
                    action="catalogue_not_published",
                    error=str(error),
                )
                await asyncio.sleep(RETRY_EVERY)
                continue
            await self._redis.reopened(generation, within=PUBLISH_EVERY)

    async def _claim(self) -> None:
        versions = self._registry.versions
        new = {name: version for name, version in versions.items() if self._claimed.get(name) != version}
        old = {name: version for name, version in versions.items() if name not in new}
        await self._store.claim(new, first=True)
        lost = await self._store.claim(old, first=False)
        self._claimed = dict(versions)
        if lost and lost != self._lost:
            self._log.warning(
                "Another deployment has other versions of reports: theirs are stored, ours are not.",
                action="versions_superseded",
                reports=lost,
            )
        self._lost = lost
