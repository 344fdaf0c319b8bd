"""The MongoDB adapter: Beanie on PyMongo's asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import pymongo
from beanie import Document, init_beanie
from pymongo import AsyncMongoClient, IndexModel
from pymongo import errors as mx

from holdfast.errors import (
    DeadlineExceeded,
    LinkDown,
    QueryFailed,
    SettingsError,
)
from holdfast.links.adapter import PoolStatus, host_and_port
from holdfast.links.link import PROBE_TIMEOUT
from holdfast.links.mongo_errors import translated, unusable
from holdfast.links.mongo_types import CODEC_OPTIONS
from holdfast.settings import MongoSettings

_CLOSE_TIMEOUT = 0.5
_LOOK_SECONDS = 5
_WRITING_STAGES = frozenset({"$out", "$merge"})

D = TypeVar("D", bound=Document)


class MongoAdapter:
    """The client with its pool of at most MONGO_MAX_POOL connections, and Beanie on top of it."""

    name = "mongo"

    def __init__(self, settings: Callable[[], MongoSettings], documents: Sequence[type[Document]]) -> None:
        self._load = settings
        self._settings = settings()
        self._documents = list(documents)
        self._client: AsyncMongoClient[dict[str, Any]] | None = None
        self._prober: AsyncMongoClient[dict[str, Any]] | None = None

    async def open(self) -> None:
        """Make the client from the settings as they are now, have a ping answered, bind the documents."""
        await self.close()
        self._settings = settings = self._load()
        try:
            self._client, self._prober = client_of(settings), client_of(settings, probing=True)
        except (mx.PyMongoError, OSError, ValueError) as error:
            raise SettingsError(f"MONGO_URL: PyMongo cannot use it: {unusable(error)}") from None
        await self._ping(PROBE_TIMEOUT)
        await self._bind(self._client)

    async def bind(self, documents: Sequence[type[Document]]) -> None:
        """Use these documents from now on; while there is no client, from when there is one."""
        self._documents = list(documents)
        if self._client is not None:
            await self._bind(self._client)

    async def _bind(self, client: AsyncMongoClient[dict[str, Any]]) -> None:
        with translated():
            # Without indexes: building one is a job of its own, never a reason not to be up.
            await init_beanie(
                database=client[self._settings.database],
                document_models=self._documents,
                skip_indexes=True,
            )

    async def probe(self) -> None:
        """`ping`, on the connection kept for it, so that a busy pool does not look like a dead server."""
        known = self._prober is not None and self._prober.topology_description.has_readable_server()
        # A server that PyMongo has just lost is looked for, for a shorter while than one may be slow.
        await self._ping(PROBE_TIMEOUT if known else PROBE_TIMEOUT / 2)

    async def _ping(self, seconds: float) -> None:
        if self._prober is None:
            raise LinkDown("mongo is not open", link=self.name)
        with translated(), pymongo.timeout(seconds):
            await self._prober[self._settings.database].command("ping")

    async def close(self) -> None:
        """Close every connection; what still waits on one fails at once."""
        clients = [client for client in (self._client, self._prober) if client is not None]
        self._client = self._prober = None
        for client in clients:
            with contextlib.suppress(mx.PyMongoError, OSError), pymongo.timeout(_CLOSE_TIMEOUT):
                # PyMongo's own close writes to a server that may be gone, and leaves connections in use open.
                for pool in _pools(client):
                    await pool.reset(interrupt_connections=True)
                await client.close()

    async def aggregate(
        self, document: type[Document], pipeline: Sequence[dict[str, Any]], *, seconds: float
    ) -> list[dict[str, Any]]:
        """Run a reading pipeline over the document's collection: its result documents, in BSON's types.

        Raises:
            QueryFailed: the pipeline has a stage that writes, or MongoDB refused it.
            LinkDown, LinkLost, PoolExhausted, DeadlineExceeded.
        """
        if any(stage.keys() & _WRITING_STAGES for stage in pipeline):
            raise QueryFailed("a query may not write: it has a $out or $merge stage")
        self._open_client()
        try:
            # Not pymongo.timeout, which takes the place of the limit on waiting for a connection. A little
            # above the server's own limit: that one ends the query, this one a dead server's.
            async with asyncio.timeout(seconds + 1):
                with translated():
                    collection = document.get_pymongo_collection().with_options(codec_options=CODEC_OPTIONS)
                    cursor = await collection.aggregate(list(pipeline), maxTimeMS=int(seconds * 1000))
                    return await cursor.to_list()
        except TimeoutError:
            raise DeadlineExceeded("the query ran longer than it may") from None

    async def collections(self) -> list[str]:
        """The names of the database's collections and views, sorted. Raises as `aggregate` does."""
        client = self._open_client()
        with translated():
            return sorted(await client[self._settings.database].list_collection_names())

    async def absent_fields(self, document: type[Document], fields: Collection[str]) -> list[str] | None:
        """Those of these top-level fields that no document of the collection has; None where it is empty.

        Raises as `aggregate` does.
        """
        self._open_client()
        with translated(), pymongo.timeout(_LOOK_SECONDS):
            collection = document.get_pymongo_collection()
            if await collection.find_one({}, {"_id": 1}) is None:
                return None
            return [f for f in fields if not await collection.find_one({f: {"$exists": True}}, {"_id": 1})]

    async def insert(self, document: type[D], values: Sequence[Mapping[str, Any]]) -> None:
        """Insert documents of that class, in one round trip.

        Raises:
            NotStorable: a value is not of its field's type, or of none that BSON has.
            LinkDown, LinkLost, PoolExhausted, DeadlineExceeded, QueryFailed.
        """
        self._open_client()
        with translated():
            await document.insert_many([document(**value) for value in values])

    async def create_indexes(self, document: type[Document], indexes: Sequence[IndexModel]) -> None:
        """Create the indexes of a collection that are not there yet; raises as `insert` does."""
        self._open_client()
        with translated():
            await document.get_pymongo_collection().create_indexes(indexes)

    async def newest(self, document: type[D], wanted: Mapping[str, Any], *, by: str, limit: int) -> list[D]:
        """At most `limit` documents with those values, the largest `by` first; raises as `insert` does."""
        self._open_client()
        with translated():
            return await document.find(dict(wanted)).sort(f"-{by}").limit(limit).to_list()

    def _open_client(self) -> AsyncMongoClient[dict[str, Any]]:
        if self._client is None:
            raise LinkDown("mongo is not open", link=self.name)
        return self._client

    def pool(self) -> PoolStatus:
        """The connections of the moment, from the pools of PyMongo's topology."""
        limit = self._settings.max_pool
        pools, probing = _pools(self._client), _pools(self._prober)
        in_use = sum(pool.active_sockets for pool in pools)
        open_now = sum(pool.active_sockets for pool in probing)
        open_now += in_use + sum(len(pool.conns) for pool in (*pools, *probing))
        return PoolStatus(open_now, in_use, limit)

    def endpoint(self) -> tuple[str, int] | None:
        """Host and port, from the settings; None for a replica set with several hosts."""
        return host_and_port(lambda: self._load().uri(), 27017)


def _pools(client: AsyncMongoClient[dict[str, Any]] | None) -> list[Any]:
    servers = getattr(getattr(client, "_topology", None), "_servers", {})
    return [server.pool for server in servers.values()]


def client_of(settings: MongoSettings, *, probing: bool = False) -> AsyncMongoClient[dict[str, Any]]:
    """A client by these settings, which connects when it is first used.

    The client for probes has one connection of MONGO_MAX_POOL, and the other client has the rest.
    """
    seconds = settings.selection_timeout
    login: dict[str, Any] = settings.credentials()
    return AsyncMongoClient(
        settings.uri(),
        **login,
        maxPoolSize=1 if probing else settings.max_pool - 1,
        minPoolSize=0 if probing else min(settings.min_pool, settings.max_pool - 1),
        serverMonitoringMode="poll" if probing else "auto",
        serverSelectionTimeoutMS=seconds,
        connectTimeoutMS=min(seconds, 5_000),
        waitQueueTimeoutMS=2_000,
        maxIdleTimeMS=60_000,
        retryWrites=True,
        # A retry in the driver would hide a lost connection from the link, for as long as a query may take.
        retryReads=False,
        tz_aware=True,
        appname="holdfast-supervisor",
    )
