"""The catalogue: which reports there are, and how to read their parameters.

The gateway never imports a report. It gets the catalogue from the supervisor, or from Redis while the
supervisor is away, and keeps the last one it had.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec
import structlog

from holdfast.client import Client
from holdfast.entries import Entry, unpack
from holdfast.errors import HoldfastError
from holdfast.links.link import Link
from holdfast.links.redis import RedisAdapter
from holdfast.params import ANALYTICS_PATH, KEY_PREFIX, ParamReader
from holdfast.reports import ReportSpec

KEY = KEY_PREFIX + ANALYTICS_PATH
EVERY = 5.0
EVERY_AT_FIRST = 0.1


class _Document(msgspec.Struct):
    reports: list[ReportSpec]


@dataclass(frozen=True, slots=True)
class Known:
    """One state of the catalogue."""

    entry: Entry
    readers: dict[str, ParamReader]


@dataclass(slots=True)
class Catalogue:
    """Keeps the catalogue current: each five seconds, and ten times a second until there is one."""

    redis: tuple[Link, RedisAdapter]
    supervisor: tuple[Link, Client]
    known: Known | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Look for a newer catalogue, for ever."""
        while True:
            entry = await self._fetch()
            if entry is not None and (self.known is None or self.known.entry.digest != entry.digest):
                self._take(entry)
            elif entry is not None and self.known is not None:
                self.known = Known(entry, self.known.readers)
            await asyncio.sleep(EVERY if self.known else EVERY_AT_FIRST)

    def _take(self, entry: Entry) -> None:
        try:
            specs = msgspec.json.decode(entry.body, type=_Document).reports
            readers = {spec.name: ParamReader(spec.name, spec.params) for spec in specs}
        except (msgspec.MsgspecError, HoldfastError, TypeError, ValueError) as error:
            structlog.get_logger("catalogue").error("the catalogue cannot be read", error=str(error))
            return
        self.known = Known(entry, readers)
        self.changed.set()

    async def _fetch(self) -> Entry | None:
        link, client = self.supervisor
        redis_link, redis = self.redis
        try:
            if link.up:
                found = unpack(KEY, await client.call("catalogue", deadline=2))
            elif redis_link.up:
                found = unpack(KEY, await redis.get(KEY))
            else:
                return None
        except HoldfastError:
            return None
        return found if isinstance(found, Entry) else None
