"""The Redis adapter: a bounded redis-py asyncio pool. It is light, since the slim gateway uses it too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
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
    SettingsError,
)
from holdfast.links.adapter import PoolStatus, host_and_port
from holdfast.reasons import outage
from holdfast.settings import RedisSettings


def _refused(error: rx.RedisError) -> str:
    if isinstance(error, rx.NoPermissionError):
        return f"the user: {str(error).partition(' ')[2] if str(error).startswith('NOPERM') else error}"
    return "the user name or the password"


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise redis-py's exceptions as ours: nothing above `links/` sees a driver's error."""
    try:
        yield
    except (rx.AuthenticationError, rx.NoPermissionError, rx.AuthorizationError) as error:
        raise AuthenticationFailed(f"Redis refused {_refused(error)}", link="redis") from error
    except rx.MaxConnectionsError as error:
        raise PoolExhausted("no Redis connection came free in time", link="redis") from error
    except rx.BusyLoadingError as error:
        raise LinkDown("Redis is loading its data", link="redis") from error
    except (rx.ConnectionError, rx.TimeoutError, TimeoutError, OSError) as error:
        if "No connection available" in str(error):
            raise PoolExhausted("no Redis connection came free in time", link="redis") from error
        raise LinkLost(f"Redis cannot be reached: {outage(error)}", link="redis") from error
    except rx.ResponseError as error:
        raise QueryFailed(f"Redis refused a command: {str(error).split(' ', 1)[0]}", link="redis") from error
    except rx.RedisError as error:
        raise LinkLost(f"Redis cannot be understood: {outage(error)}", link="redis") from error


class RedisAdapter:
    """One pool of at most `max_connections`; `timeout` (seconds) bounds each connect, read and wait.

    `on_time` is called at each probe with the server's clock, in seconds since the epoch, and the time of the
    monotonic clock at which it was asked for.
    """

    name = "redis"

    def __init__(
        self,
        settings: Callable[[], RedisSettings],
        *,
        max_connections: int = 32,
        timeout: float = 1.0,
        client_name: str = "holdfast",
        on_time: Callable[[float, float], None] | None = None,
    ) -> None:
        self._load = settings
        self._max = max_connections
        self._timeout = timeout
        self._client_name = client_name
        self._on_time = on_time
        self._client: aioredis.Redis | None = None
        self._prober: aioredis.Redis | None = None

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
        try:
            settings = self._load()
            self._client = aioredis.Redis.from_pool(self._pool_of(settings, self._max - 1))
            self._prober = aioredis.Redis.from_pool(self._pool_of(settings, 1))
            await self.probe()
        except (rx.RedisError, TypeError, ValueError):
            # redis-py looks at the URL's options as late as this; its message may hold a part of the URL.
            raise SettingsError(
                "REDIS_URL: redis-py cannot use it: an option is not known, or has a wrong value"
            ) from None

    def _pool_of(self, settings: RedisSettings, size: int) -> aioredis.BlockingConnectionPool:
        return aioredis.BlockingConnectionPool.from_url(
            settings.dsn(),
            max_connections=size,
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

    async def probe(self) -> None:
        """PING, and TIME where it is wanted, on the connection kept for it.

        A connection of its own, so that a busy pool does not look like a dead server.
        """
        if self._prober is None:
            raise LinkDown("redis is not open", link=self.name)
        with translated():
            await cast("Awaitable[Any]", self._prober.ping())
            if self._on_time is None:
                return
            asked_at = time.monotonic()
            # A user who may not ask for the time goes by what the supervisor says.
            with contextlib.suppress(rx.ResponseError):
                seconds, microseconds = await cast("Awaitable[Any]", self._prober.time())
                self._on_time(seconds + microseconds / 1_000_000, asked_at)

    async def get(self, key: str) -> bytes | None:
        """The bytes under a key."""
        with translated():
            return cast("bytes | None", await self.client.get(key))

    async def heads(self, keys: Sequence[str], length: int) -> list[bytes]:
        """The first `length` bytes under each key, in one round trip; empty where there is nothing."""
        with translated():
            pipe = self.client.pipeline(transaction=False)
            for key in keys:
                pipe.getrange(key, 0, length - 1)
            return cast("list[bytes]", await pipe.execute())

    async def set(self, key: str, value: bytes, *, expires_at_ms: int) -> None:
        """Put bytes under a key until that time, in milliseconds since the epoch."""
        with translated():
            await self.client.set(key, value, pxat=expires_at_ms)

    async def run(self, script: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """Run a Lua script on the server, at once as far as every other client can see; what it returns."""
        with translated():
            return await self.client.eval(script, len(keys), *keys, *args)

    async def append(self, stream: str, records: Sequence[bytes], *, keep: int) -> None:
        """Append records to a stream, in one round trip; it keeps about the newest `keep`."""
        with translated():
            pipe = self.client.pipeline(transaction=False)
            for record in records:
                pipe.xadd(stream, {b"": record}, maxlen=keep, approximate=True)
            await pipe.execute()

    async def newest(self, stream: str, *, before: str = "+", count: int) -> list[tuple[str, bytes]]:
        """At most `count` records of a stream with their ids, the newest first, from `before` on."""
        with translated():
            found = cast("list[Any]", await self.client.xrevrange(stream, max=before, count=count))
        return [(number.decode(), fields[b""]) for number, fields in found]

    async def close(self) -> None:
        """Close every connection of the pool."""
        clients = [client for client in (self._client, self._prober) if client is not None]
        self._client = self._prober = None
        for client in clients:
            with contextlib.suppress(HoldfastError, rx.RedisError, OSError):
                await client.aclose()

    def pool(self) -> PoolStatus:
        """The connections of the moment."""
        if self._client is None or self._prober is None:
            return PoolStatus(0, 0, self._max)
        pools: list[Any] = [self._client.connection_pool, self._prober.connection_pool]
        size = sum(len(pool._in_use_connections) + len(pool._available_connections) for pool in pools)
        return PoolStatus(size, len(pools[0]._in_use_connections), self._max)

    def endpoint(self) -> tuple[str, int] | None:
        """Host and port, from the settings."""
        return host_and_port(lambda: self._load().dsn(), 6379)
