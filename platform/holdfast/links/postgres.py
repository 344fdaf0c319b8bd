"""The Postgres adapter: SQLAlchemy's async engine on asyncpg, with a pool that closes idle connections.

SQLAlchemy looks at `pool_recycle` only on checkout, so an idle connection would stay open forever. The
pool here stamps each connection on its return, and a reaper closes those that lay idle for longer than
PG_POOL_IDLE. A checkout costs no round trip: a connection that asyncpg knows to be closed is replaced.
Of PG_POOL_MAX connections one is kept apart for the probes, so a busy pool never looks like a dead one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from weakref import WeakSet

import asyncpg
from sqlalchemy import TextClause, event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.util import greenlet_spawn

from holdfast.errors import HoldfastError, LinkDown, LinkLost, PoolExhausted
from holdfast.links.adapter import PoolStatus
from holdfast.links.postgres_connect import connect
from holdfast.links.postgres_errors import translated
from holdfast.links.postgres_query import Compiler, Runner
from holdfast.links.postgres_types import set_codecs
from holdfast.reports.values import exact_json
from holdfast.settings import PostgresSettings


class IdleClosingPool(AsyncAdaptedQueuePool):
    """A queue pool that can close the connections which have lain idle for too long."""

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        record.info["returned_at"] = time.monotonic()
        super()._do_return_conn(record)

    def close_idle(self, older_than: float) -> int:
        """Close what was returned more than `older_than` seconds ago; how many that were."""
        limit = time.monotonic() - older_than
        waiting = []
        # No await in between: to the other tasks of this loop the queue is never seen half empty.
        while not self._pool.empty():
            waiting.append(self._pool.get_nowait())
        idle = [r for r in waiting if r.info.get("returned_at", limit) < limit]
        for record in reversed(waiting):
            if record not in idle:
                self._pool.put_nowait(record)
        for record in idle:
            try:
                record.close()
            finally:
                self._dec_overflow()
        return len(idle)


class PostgresAdapter:
    """The pool of at most PG_POOL_MAX connections, and the one way to run a `Select` on it."""

    name = "postgres"

    def __init__(self, settings: Callable[[], PostgresSettings]) -> None:
        self._load = settings
        self._settings = settings()
        self._engine: AsyncEngine | None = None
        self._prober: asyncpg.Connection | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._connections: WeakSet[asyncpg.Connection] = WeakSet()
        self._compiler: Compiler
        self._runner = Runner()

    async def open(self) -> None:
        """Make the pool from the settings as they are now, and have `SELECT 1` answered."""
        await self.close()
        self._settings = settings = self._load()
        with translated():
            self._prober = await open_connection(settings)
        await self.probe()
        self._engine = engine = _engine(settings, self._connections)
        self._compiler, self._runner = Compiler(engine.dialect), Runner()
        self._reaper = asyncio.create_task(_reap(engine, settings.pool_idle / 1000))

    async def probe(self) -> None:
        """`SELECT 1`, on the connection kept for it."""
        if self._prober is None:
            raise LinkDown("postgres is not open", link=self.name)
        with translated():
            await self._prober.fetchval("SELECT 1")

    async def close(self) -> None:
        """Close every connection, without waiting for a server that does not answer."""
        engine, self._engine = self._engine, None
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.terminate()
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        # The pool's own end leaves those in use open, and what waits on them waiting.
        for connection in list(self._connections):
            connection.terminate()
        if engine is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await engine.dispose()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a read-only transaction; waiting for one is bounded by PG_CONN_TIMEOUT.

        Raises:
            LinkDown, LinkLost, PoolExhausted, AuthenticationFailed, DeadlineExceeded, QueryFailed.
        """
        if self._engine is None:
            raise LinkDown("postgres is not open", link=self.name)
        with translated():
            connection = self._engine.connect()
            try:
                async with asyncio.timeout(self._settings.conn_timeout / 1000):
                    await connection.start()
            except TimeoutError:
                raise PoolExhausted(f"no Postgres connection in {self._settings.conn_timeout} ms") from None
            try:
                yield await connection.execution_options(postgresql_readonly=True)
            finally:
                await asyncio.shield(connection.close())

    async def select(self, query: SelectBase | TextClause) -> tuple[list[str], list[list[Any]]]:
        """Run a query in a read-only transaction: its column names and its rows, by `links.postgres_types`.

        Raises:
            ValueOutOfRange: a value does not fit the column that it is compared with.
            LinkDown, LinkLost, PoolExhausted, AuthenticationFailed, DeadlineExceeded, QueryFailed.
        """
        async with self.connection() as connection:
            statement = self._compiler.statement(query)
            raw = await connection.get_raw_connection()
            return await self._runner.rows(raw.driver_connection, statement)

    async def columns(self, query: SelectBase | TextClause) -> list[str]:
        """The names of a query's columns, by the database, without running it. Raises as `select` does."""
        async with self.connection() as connection:
            statement = self._compiler.statement(query)
            raw = await connection.get_raw_connection()
            return await self._runner.columns(raw.driver_connection, statement)

    def pool(self) -> PoolStatus:
        """The connections of the moment."""
        limit = self._settings.pool_max
        if self._engine is None:
            return PoolStatus(0, 0, limit)
        pool: Any = self._engine.pool
        return PoolStatus(1 + pool.checkedin() + pool.checkedout(), pool.checkedout(), limit)

    def endpoint(self) -> tuple[str, int] | None:
        """Host and port, from the settings."""
        try:
            hosts = self._load().target().hosts
        except (HoldfastError, ValueError):
            return None
        return hosts[0] if len(hosts) == 1 and not hosts[0][0].startswith("/") else None


async def open_connection(settings: PostgresSettings) -> asyncpg.Connection:
    """One connection, read-only and with PG_STATEMENT_TIMEOUT, within PG_CONN_TIMEOUT; raises LinkLost."""
    try:
        async with asyncio.timeout(settings.conn_timeout / 1000):
            connection = await connect(
                settings,
                name="holdfast-supervisor",
                # A little above the server's own limit: that one ends the query, this one a dead server's.
                command_timeout=settings.statement_timeout / 1000 + 1,
            )
            try:
                await _configure(connection, settings)
            except BaseException:
                # Cancelled or timed out in between, it belongs to nobody yet and would stay open forever.
                connection.terminate()
                raise
            return connection
    except TimeoutError:
        reason = f"no answer in {settings.conn_timeout} ms"
        raise LinkLost(f"Postgres cannot be reached: {reason}", link="postgres") from None


async def _configure(connection: asyncpg.Connection, settings: PostgresSettings) -> None:
    await set_codecs(connection)
    # Not as parameters of the start: PgBouncer would refuse the connection for them.
    await connection.execute(
        f"SET statement_timeout = {settings.statement_timeout}; SET default_transaction_read_only = on"
    )
    with contextlib.suppress(asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError):
        # A query whose client has gone ends, instead of holding a connection until it is done.
        # PostgreSQL 14 or later, and not on every system.
        await connection.execute("SET client_connection_check_interval = 1000")


def _engine(settings: PostgresSettings, connections: WeakSet[asyncpg.Connection]) -> AsyncEngine:
    async def creator(*_: Any, **__: Any) -> asyncpg.Connection:
        connection = await open_connection(settings)
        connections.add(connection)
        return connection

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=creator,
        poolclass=IdleClosingPool,
        pool_size=settings.pool_max - 1,
        max_overflow=0,
        pool_timeout=settings.conn_timeout / 1000,
        pool_use_lifo=True,
        json_deserializer=exact_json,
    )

    @event.listens_for(engine.sync_engine, "checkout")
    def replace_closed(dbapi_connection: Any, *_: Any) -> None:
        if dbapi_connection.driver_connection.is_closed():
            raise exc.DisconnectionError("closed by the server while idle")

    return engine


async def _reap(engine: AsyncEngine, idle: float) -> None:
    pool = engine.pool
    assert isinstance(pool, IdleClosingPool)  # noqa: S101 - narrows the type, set by _engine
    while True:
        await asyncio.sleep(max(0.5, min(idle / 4, 5)))
        with contextlib.suppress(exc.SQLAlchemyError, asyncpg.PostgresError, OSError):
            await greenlet_spawn(pool.close_idle, idle)
