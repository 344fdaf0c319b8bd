"""The MongoDB adapter: Beanie on PyMongo's asyncio client."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pymongo
from beanie import Document, init_beanie
from pymongo import AsyncMongoClient
from pymongo import errors as mx

from holdfast.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    LinkDown,
    LinkLost,
    PoolExhausted,
    QueryFailed,
)
from holdfast.links.link import PROBE_TIMEOUT, PoolStatus, host_and_port
from holdfast.settings import MongoSettings

AUTHENTICATION_CODES = frozenset({13, 18})
"""Unauthorized and AuthenticationFailed, of MongoDB's error codes."""
_WRITING_STAGES = frozenset({"$out", "$merge"})


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """PyMongo's exceptions as ours."""
    try:
        yield
    except mx.WaitQueueTimeoutError as error:
        raise PoolExhausted("no MongoDB connection came free in time") from error
    except mx.ExecutionTimeout as error:
        raise DeadlineExceeded("the query ran longer than it may") from error
    except mx.OperationFailure as error:
        if error.code in AUTHENTICATION_CODES:
            raise AuthenticationFailed(
                "MongoDB refused the user name or the password", link="mongo"
            ) from error
        raise QueryFailed("MongoDB refused the query", mongo_code=error.code) from error
    except (mx.ConnectionFailure, OSError) as error:
        raise LinkLost(f"MongoDB cannot be reached: {type(error).__name__}", link="mongo") from error
    except mx.PyMongoError as error:
        raise QueryFailed(f"MongoDB refused the query: {type(error).__name__}") from error


class MongoAdapter:
    """The client with its pool of at most MONGO_MAX_POOL connections, and Beanie on top of it."""

    name = "mongo"

    def __init__(self, settings: Callable[[], MongoSettings], documents: Sequence[type[Document]]) -> None:
        self._load = settings
        self._documents = list(documents)
        self._client: AsyncMongoClient[dict[str, Any]] | None = None
        self._database = ""

    async def open(self) -> None:
        """Make the client from the settings as they are now, have a ping answered, bind the documents."""
        await self.close()
        settings = self._load()
        self._client = client_of(settings)
        self._database = settings.db
        await self.probe()
        with translated():
            # Without indexes: building one is a job of its own, never a reason not to be up.
            await init_beanie(
                database=self._client[settings.db],
                document_models=self._documents,
                skip_indexes=True,
            )

    async def probe(self) -> None:
        """`ping`; while every connection is busy, what PyMongo's own monitor knows of the server."""
        client, pool = self._open_client(), self.pool()
        if pool.in_use >= pool.max and client.topology_description.has_readable_server():
            return
        with translated(), pymongo.timeout(PROBE_TIMEOUT):
            await client[self._database].command("ping")

    async def close(self) -> None:
        """Close every connection."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(mx.PyMongoError, OSError):
                await client.close()

    async def aggregate(
        self, document: type[Document], pipeline: Sequence[dict[str, Any]], *, seconds: float
    ) -> list[dict[str, Any]]:
        """Run a reading pipeline over the document's collection: its result documents, without `_id`.

        Raises:
            QueryFailed: the pipeline has a stage that writes, or MongoDB refused it.
            LinkDown, LinkLost, PoolExhausted, DeadlineExceeded.
        """
        if any(stage.keys() & _WRITING_STAGES for stage in pipeline):
            raise QueryFailed("a query may not write: it has a $out or $merge stage")
        self._open_client()
        with translated(), pymongo.timeout(seconds):
            cursor = await document.get_pymongo_collection().aggregate(list(pipeline))
            return [{k: v for k, v in row.items() if k != "_id"} async for row in cursor]

    def _open_client(self) -> AsyncMongoClient[dict[str, Any]]:
        if self._client is None:
            raise LinkDown("mongo is not open", link=self.name)
        return self._client

    def pool(self) -> PoolStatus:
        """The connections of the moment; PyMongo tells them through its topology's pools."""
        limit = self._load().max_pool
        topology = getattr(self._client, "_topology", None)
        servers = getattr(topology, "_servers", {})
        pools = [server.pool for server in servers.values()]
        in_use = sum(pool.active_sockets for pool in pools)
        return PoolStatus(in_use + sum(len(pool.conns) for pool in pools), in_use, limit)

    def endpoint(self) -> tuple[str, int] | None:
        """Host and port, from the settings; None for a replica set with several hosts."""
        return host_and_port(self._load, 27017)


def client_of(settings: MongoSettings) -> AsyncMongoClient[dict[str, Any]]:
    """A client by these settings; it connects when first used."""
    seconds = settings.selection_timeout
    login: dict[str, Any] = settings.credentials()
    return AsyncMongoClient(
        settings.uri(),
        **login,
        maxPoolSize=settings.max_pool,
        minPoolSize=settings.min_pool,
        serverSelectionTimeoutMS=seconds,
        connectTimeoutMS=min(seconds, 5_000),
        waitQueueTimeoutMS=2_000,
        maxIdleTimeMS=60_000,
        retryWrites=True,
        tz_aware=True,
        appname="holdfast-supervisor",
    )
