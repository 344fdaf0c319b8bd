"""The catalogue: which reports there are, and how to read their parameters.

The gateway never imports a report. It gets the catalogue from the supervisor, or from Redis while the
supervisor is away, and keeps the last one it had.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

import msgspec
import structlog

from holdfast.cache.entry import Entry, unpack
from holdfast.errors import HoldfastError
from holdfast.links.link import Link
from holdfast.links.redis import RedisAdapter
from holdfast.reports import ReportSpec
from holdfast.reports.params import ANALYTICS_PATH, KEY_PREFIX, ParamReader
from holdfast.rpc.client import Client

KEY = KEY_PREFIX + ANALYTICS_PATH
EVERY = 5.0
EVERY_ALONE = 1.0
EVERY_AT_FIRST = 0.1
RENEW_AT_MOST_EVERY = 1.0


class _Document(msgspec.Struct):
    reports: list[ReportSpec]


@dataclass(slots=True)
class Known:
    """The reports of one state of the catalogue, and the newest entry that said so."""

    entry: Entry
    readers: dict[str, ParamReader]


class Catalogue:
    """Keeps the catalogue current: each five seconds by the supervisor's word, each second while that is
    not to be had, and ten times a second until there is one.
    """

    def __init__(self, redis: tuple[Link, RedisAdapter], supervisor: tuple[Link, Client]) -> None:
        self.known: Known | None = None
        self._redis_link, self._redis = redis
        self._supervisor_link, self._supervisor = supervisor
        self._renewed_at = -math.inf
        self._renewing = asyncio.Lock()

    async def run(self) -> None:
        """Look for a newer catalogue, for ever."""
        while True:
            await self._renew()
            if self.known is None:
                await asyncio.sleep(EVERY_AT_FIRST)
            else:
                await asyncio.sleep(EVERY if self._supervisor_link.up else EVERY_ALONE)

    async def renew(self) -> None:
        """Look now, unless somebody did within the last second: a report may have come a moment ago."""
        async with self._renewing:
            if time.monotonic() - self._renewed_at >= RENEW_AT_MOST_EVERY:
                await self._renew()

    async def _renew(self) -> None:
        self._renewed_at = time.monotonic()
        entry = await self._fetch()
        if entry is None:
            return
        if self.known is not None and self.known.entry.digest == entry.digest:
            self.known.entry = entry
        else:
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        try:
            specs = msgspec.json.decode(entry.body, type=_Document).reports
            readers = {spec.name: ParamReader(spec.name, spec.params) for spec in specs}
        except (msgspec.MsgspecError, HoldfastError, TypeError, ValueError) as error:
            structlog.get_logger("catalogue").error("the catalogue cannot be read", error=str(error))
            return
        self.known = Known(entry, readers)

    async def _fetch(self) -> Entry | None:
        try:
            if self._supervisor_link.up:
                found = unpack(KEY, await self._supervisor.call("catalogue", deadline=2))
            elif self._redis_link.up:
                found = unpack(KEY, await self._redis.get(KEY))
            else:
                return None
        except HoldfastError:
            return None
        return found if isinstance(found, Entry) else None
