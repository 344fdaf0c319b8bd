"""The Redis adapter: a bounded redis-py asyncio pool. Light: the slim gateway uses it too."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import redis.asyncio as aioredis
from redis import exceptions as rx
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from holdfast.errors import (
    AuthenticationFailed,
    HoldfastError,
    LinkDown,
    LinkLost,
    PoolExhausted,
    QueryFailed,
)
from holdfast.links.link import PoolStatus, host_and_port
from holdfast.settings import RedisSettings


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """redis-py's exceptions as ours; nothing above `links/` sees a driver's error."""
    try:
        yield
    except (rx.AuthenticationError, rx.NoPermissionError, rx.AuthorizationError) as error:
        raise AuthenticationFailed(f"Redis refused the user: {type(error).__name__}", link="redis") from error
    except rx.MaxConnectionsError as error:
        raise PoolExhausted("no Redis connection came free in time") from error
    except rx.BusyLoadingError as error:
        raise LinkDown("Redis is loading its data", link="redis") from error
    except (rx.ConnectionError, rx.TimeoutError, TimeoutError, OSError) as error:
        if "No connection available" in str(error):
            raise PoolExhausted("no Redis connection came free in time") from error
        raise LinkLost(f"Redis cannot be reached: {type(error).__name__}", link="redis") from error
    except rx.ResponseError as error:
        raise QueryFailed(f"Redis refused a command: {str(error).split(' ', 1)[0]}") from error


class RedisAdapter:
    """One pool of at most `max_connections`; `timeout` (seconds) bounds each connect, read and wait."""

    name = "redis"

    def __init__(
        self,
        settings: Callable[[], RedisSettings],
        *,
        max_connections: int = 32,
        timeout: float = 1.0,
        client_name: str = "holdfast",
    ) -> None:
        self._settings = settings
        self._max = max_connections
        self._timeout = timeout
        self._client_name = client_name
        self._client: aioredis.Redis | None = None

    @property
    def client(self) -> aioredis.Redis:
        """The client of the open pool.

        Raises:
            LinkDown: the pool is not open.
        """
        if self._client is None:
            raise LinkDown("redis is not open", link=self.name)
        return self._client

    async def open(self) -> None:
        """Make the pool from the settings as they are now, so that a rotated password is picked up."""
        await self.close()
        pool = aioredis.BlockingConnectionPool.from_url(
            self._settings().dsn(),
            max_connections=self._max,
            timeout=self._timeout,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            socket_keepalive=True,
            client_name=self._client_name,
            # A retry inside the driver would repeat writes and hide a lost connection from the link.
            retry=Retry(NoBackoff(), 0),
            # While these are on, redis-py may hand out a connection that the server has closed.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self._client = aioredis.Redis.from_pool(pool)
        await self.probe()

    async def probe(self) -> None:
        """PING."""
        with translated():
            await cast("Awaitable[Any]", self.client.ping())

    async def get(self, key: str) -> bytes | None:
        """The bytes under a key."""
        with translated():
            found = await self.client.get(key)
        return found.encode() if isinstance(found, str) else found

    async def close(self) -> None:
        """Close every connection of the pool."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(HoldfastError, rx.RedisError, OSError):
                await client.aclose()

    def pool(self) -> PoolStatus:
        """The connections of the moment."""
        if self._client is None:
            return PoolStatus(0, 0, self._max)
        pool: Any = self._client.connection_pool
        in_use = len(pool._in_use_connections)
        return PoolStatus(in_use + len(pool._available_connections), in_use, self._max)

    def endpoint(self) -> tuple[str, int] | None:
        """Host and port, from the settings."""
        return host_and_port(self._settings, 6379)
