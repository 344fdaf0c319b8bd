"""The catalogue of reports, which is an entry like every other.

It is published whenever Redis comes up, and every minute, so that a gateway finds its reports while the
supervisor is away.
"""

from __future__ import annotations

import asyncio
import time

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

    def entry(self) -> Entry:
        """What `GET /api/v1/analytics` answers, and what a gateway starts from."""
        specs = self._registry.catalogue()
        reports = [{"href": f"{ANALYTICS_PATH}/{s.name}", **msgspec.to_builtins(s)} for s in specs]
        body = msgspec.json.encode({"reports": reports})
        now = time.time()
        times = Times(now, now + TTL, now + TTL + MAX_STALE)
        return enclose(key=CATALOGUE_KEY, body=body, digest_of=body, rows=len(specs), times=times)

    async def run(self) -> None:
        """Publish, until cancelled."""
        while True:
            await self._redis.wait_up()
            generation = self._redis.state.generation
            try:
                await self._store.put(self.entry())
            except HoldfastError as error:
                log = structlog.get_logger("catalogue")
                log.warning(
                    "The catalogue could not be published.",
                    action="catalogue_not_published",
                    error=str(error),
                )
                await asyncio.sleep(RETRY_EVERY)
                continue
            await self._redis.reopened(generation, within=PUBLISH_EVERY)
