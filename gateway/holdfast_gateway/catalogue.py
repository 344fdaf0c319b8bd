"""The catalogue: which reports there are, and how to read their parameters.

The gateway never imports a report. It gets the catalogue from the supervisor, or from Redis while the
supervisor is away, and keeps the last one it had.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from holdfast.cache.entry import Entry, Unusable, unpack
from holdfast.errors import HoldfastError
from holdfast.links.adapter import Adapter
from holdfast.links.link import Link
from holdfast.reports import ReportSpec
from holdfast.reports.canonical import CATALOGUE_KEY, report_of
from holdfast.reports.params import ParamReader
from holdfast_gateway.l1.lookup import EntryReader

EVERY = 1.0
EVERY_ALONE = 1.0
EVERY_AT_FIRST = 0.1
RENEW_AT_MOST_EVERY = 1.0


class CatalogueSource(Adapter, Protocol):
    """The supervisor as the gateway asks it for the catalogue (`rpc.client.Client`)."""

    async def catalogue(self) -> Entry | Unusable:
        """The catalogue, as an entry."""


class _Described(ReportSpec, frozen=True, kw_only=True):
    version: str = ""


class _Document(msgspec.Struct):
    reports: list[_Described]


@dataclass(slots=True)
class CatalogueSnapshot:
    """The reports of one state of the catalogue, and the newest entry that said so."""

    entry: Entry
    readers: dict[str, ParamReader]
    versions: dict[str, str]


class Catalogue:
    """Keeps the catalogue current.

    It asks every second, so that an author sees an edited report soon, and ten times a second until there is
    a first catalogue.
    """

    def __init__(
        self,
        redis: Link[EntryReader],
        supervisor: Link[CatalogueSource],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.snapshot: CatalogueSnapshot | None = None
        self._redis = redis
        self._supervisor = supervisor
        self._monotonic = monotonic
        self._renewed_at = -math.inf
        self._renewing = asyncio.Lock()
        self._on_change: list[Callable[[], None]] = []

    def on_change(self, call: Callable[[], None]) -> None:
        """Call this whenever another catalogue takes the place of the one before."""
        self._on_change.append(call)

    async def run(self) -> None:
        """Look for a newer catalogue, until cancelled."""
        while True:
            await self._renew()
            if self.snapshot is None:
                await asyncio.sleep(EVERY_AT_FIRST)
            else:
                await asyncio.sleep(EVERY if self._supervisor.up else EVERY_ALONE)

    def version(self, key: str) -> str:
        """The version of the report of a cache key; empty where it is not known."""
        return "" if self.snapshot is None else self.snapshot.versions.get(report_of(key), "")

    async def renew(self) -> None:
        """Look now, unless that was done within the last second: a report may have come a moment ago."""
        async with self._renewing:
            if self._monotonic() - self._renewed_at >= RENEW_AT_MOST_EVERY:
                await self._renew()

    async def _renew(self) -> None:
        self._renewed_at = self._monotonic()
        entry = await self._fetch()
        if not isinstance(entry, Entry):
            return
        if self.snapshot is not None and self.snapshot.entry.digest == entry.digest:
            self.snapshot.entry = entry
        else:
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        try:
            specs = msgspec.json.decode(entry.body, type=_Document).reports
            readers = {spec.name: ParamReader(spec.name, spec.params) for spec in specs}
            versions = {spec.name: spec.version for spec in specs}
        except (msgspec.MsgspecError, HoldfastError, TypeError, ValueError) as error:
            log = structlog.get_logger("catalogue")
            log.error("The catalogue cannot be read.", action="catalogue_unreadable", error=str(error))
            return
        self.snapshot = CatalogueSnapshot(entry, readers, versions)
        for call in self._on_change:
            call()

    async def _fetch(self) -> Entry | Unusable | None:
        try:
            if self._supervisor.up:
                return await self._supervisor.adapter.catalogue()
            if self._redis.up:
                return unpack(CATALOGUE_KEY, await self._redis.adapter.get(CATALOGUE_KEY))
        except HoldfastError:
            pass
        return None
