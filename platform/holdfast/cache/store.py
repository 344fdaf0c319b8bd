"""Entries and leases in Redis.

A lease is a key of its own with a short time to live, whose value is a fencing token. Tokens only grow,
also after a FLUSHALL, since each is at least the server's clock in microseconds. A write is one script that
looks at the lease first, so a process that slept longer than its lease cannot overwrite a newer result.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import msgspec

from holdfast.cache.entry import HEADER_BYTES, Entry, Times, Unusable, pack, peek, unpack
from holdfast.errors import HoldfastError, LeaseHeld, LeaseLost, StoreUnavailable
from holdfast.links.adapter import Adapter
from holdfast.links.link import Link

LEASE_PREFIX = "holdfast:lease:"
_FENCE = "holdfast:fence"

_ACQUIRE = """
local now = redis.call('TIME')
local token = math.max(now[1] * 1000000 + now[2], tonumber(redis.call('GET', KEYS[2]) or '0') + 1)
local text = string.format('%.0f', token)
if not redis.call('SET', KEYS[1], text, 'NX', 'PX', ARGV[1]) then return false end
redis.call('SET', KEYS[2], text)
return text
"""
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
_WRITE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
return 1
"""
_REPLACE = """
if redis.call('GETRANGE', KEYS[1], 0, string.len(ARGV[1]) - 1) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
return 1
"""


class KeyValues(Adapter, Protocol):
    """What the store needs of Redis (`links.redis.RedisAdapter`)."""

    async def get(self, key: str) -> bytes | None:
        """The bytes under a key."""

    async def heads(self, keys: Sequence[str], length: int) -> list[bytes]:
        """The first bytes under each key."""

    async def set(self, key: str, value: bytes, *, expires_at_ms: int) -> None:
        """Put bytes under a key until that time."""

    async def run(self, script: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """Run a Lua script atomically."""


class Store:
    """The entries of the cache and the leases on them.

    Every method raises StoreUnavailable, at once while the link to Redis is down.
    """

    def __init__(self, redis: Link[KeyValues], *, clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._clock = clock

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry under that key, or why there is none."""
        return unpack(key, await self.packed(key))

    async def packed(self, key: str) -> bytes | None:
        """The stored bytes under that key."""
        async with self._reach() as redis:
            return await redis.get(key)

    async def times(self, keys: Sequence[str]) -> list[Times | None]:
        """The times of many entries in one round trip, without their bodies."""
        async with self._reach() as redis:
            return [peek(head) for head in await redis.heads(keys, HEADER_BYTES)]

    async def acquire(self, key: str, seconds: float) -> int:
        """Take the lease: its fencing token. Raises LeaseHeld."""
        token = await self._run(_ACQUIRE, [LEASE_PREFIX + key, _FENCE], _milliseconds(seconds))
        if token is None:
            raise LeaseHeld(f"{key} is being computed by another process")
        return int(token)

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep the lease for so many seconds from now. Raises LeaseLost."""
        if not await self._run(_RENEW, [LEASE_PREFIX + key], token, _milliseconds(seconds)):
            raise LeaseLost

    async def release(self, key: str, token: int) -> None:
        """Give the lease back; one that is lost already is no error."""
        await self._run(_RELEASE, [LEASE_PREFIX + key], token)

    async def write(self, entry: Entry, token: int) -> None:
        """Put the entry in its place until its `stale_until`. Raises LeaseLost."""
        keys = [entry.key, LEASE_PREFIX + entry.key]
        if not await self._run(_WRITE, keys, token, pack(entry), _milliseconds(entry.stale_until)):
            raise LeaseLost

    async def put(self, entry: Entry) -> None:
        """Put an entry in its place that only the supervisor writes (the catalogue), without a lease."""
        async with self._reach() as redis:
            await redis.set(entry.key, pack(entry), expires_at_ms=_milliseconds(entry.stale_until))

    async def mark_stale(self, key: str) -> bool:
        """Let an entry count as stale from now on; whether there was one."""
        packed = await self.packed(key)
        entry = unpack(key, packed)
        if packed is None or isinstance(entry, Unusable):
            return False
        stale = msgspec.structs.replace(entry, fresh_until=min(entry.fresh_until, self._clock()))
        # A result that came in meanwhile is newer than the one the caller wanted gone: it stays.
        head, expires = packed[:HEADER_BYTES], _milliseconds(entry.stale_until)
        await self._run(_REPLACE, [key], head, pack(stale), expires)
        return True

    async def _run(self, script: str, keys: Sequence[str], *args: str | bytes | int) -> Any:
        async with self._reach() as redis:
            return await redis.run(script, keys, args)

    @contextlib.asynccontextmanager
    async def _reach(self) -> AsyncIterator[KeyValues]:
        """Redis, for one use; whatever keeps it from being used is StoreUnavailable."""
        try:
            async with self._redis.use() as redis:
                yield redis
        except HoldfastError as error:
            raise StoreUnavailable(str(error), **error.details) from error


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
