"""Entries and leases in Redis.

A lease is a key of its own with a short time to live, whose value is a fencing token. Tokens only grow,
also across a FLUSHALL, since each is at least the server's clock in microseconds. A write is one script
that looks at the lease first, so a process that slept through its lease cannot overwrite a newer result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from holdfast.cache.entry import HEADER_BYTES, Entry, Times, Unusable, pack, peek, unpack
from holdfast.errors import LeaseHeld, LeaseLost
from holdfast.links.link import Link
from holdfast.links.redis import RedisAdapter, translated

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


class Store:
    """The cache's entries. Every method raises LinkDown at once while Redis is down."""

    def __init__(self, link: Link, adapter: RedisAdapter) -> None:
        self._link = link
        self._adapter = adapter

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry under that key, or why there is none."""
        return unpack(key, await self.packed(key))

    async def packed(self, key: str) -> bytes | None:
        """The stored bytes under that key."""
        async with self._link.use():
            return await self._adapter.get(key)

    async def times(self, keys: Sequence[str]) -> list[Times | None]:
        """The times of many entries at once, without reading their bodies."""
        async with self._link.use():
            with translated():
                pipe = self._adapter.client.pipeline(transaction=False)
                for key in keys:
                    pipe.getrange(key, 0, HEADER_BYTES - 1)
                return [peek(head) for head in await pipe.execute()]

    async def acquire(self, key: str, seconds: float) -> int:
        """Take the lease: its fencing token. Raises LeaseHeld."""
        token = await self._script(_ACQUIRE, [LEASE_PREFIX + key, _FENCE], [int(seconds * 1000)])
        if token is None:
            raise LeaseHeld(f"{key} is being computed by another process")
        return int(token)

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep the lease. Raises LeaseLost."""
        if not await self._script(_RENEW, [LEASE_PREFIX + key], [token, int(seconds * 1000)]):
            raise LeaseLost

    async def release(self, key: str, token: int) -> None:
        """Give the lease back; one that is lost already is no error."""
        await self._script(_RELEASE, [LEASE_PREFIX + key], [token])

    async def write(self, entry: Entry, token: int) -> None:
        """Put the entry in place until its `stale_until`. Raises LeaseLost."""
        expires = int(entry.stale_until * 1000)
        args = [token, pack(entry), expires]
        if not await self._script(_WRITE, [entry.key, LEASE_PREFIX + entry.key], args):
            raise LeaseLost

    async def put(self, entry: Entry) -> None:
        """Put an entry in place that only the supervisor writes (the catalogue), without a lease."""
        async with self._link.use():
            with translated():
                await self._adapter.client.set(entry.key, pack(entry), pxat=int(entry.stale_until * 1000))

    async def mark_stale(self, key: str) -> bool:
        """Let an entry count as stale from now on; whether there was one."""
        packed = await self.packed(key)
        entry = unpack(key, packed)
        if packed is None or isinstance(entry, Unusable):
            return False
        stale = msgspec.structs.replace(entry, fresh_until=min(entry.fresh_until, time.time()))
        args = [packed[:HEADER_BYTES], pack(stale), int(entry.stale_until * 1000)]
        # A result that came in since is newer than what the caller wanted gone: it stays.
        await self._script(_REPLACE, [key], args)
        return True

    async def _script(self, script: str, keys: list[str], args: list[Any]) -> Any:
        async with self._link.use():
            with translated():
                return await self._adapter.client.eval(script, len(keys), *keys, *args)
