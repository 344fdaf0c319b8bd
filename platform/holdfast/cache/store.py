"""Entries and leases in Redis.

A lease is a key of its own with a short time to live, whose value is a fencing token. A write is one script
that looks at the lease first, so a process that slept longer than its lease cannot overwrite a newer result.

Tokens put the results of a key in order. Each is larger than the one before, than that of the entry in place
and than all that this process has seen, and at least the server's clock in microseconds: so they grow also
after a FLUSHALL, and while that clock is set back.

A claim names the version of a report whose results are kept in Redis: that of the supervisor that came last.
While two deployments share a cache, the other one serves its own results from memory and writes none.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from holdfast.cache.entry import (
    HEADER_BYTES,
    MAGIC,
    MAX_TOKEN,
    TOKEN_AT,
    Entry,
    Header,
    Unusable,
    pack,
    peek,
    unpack,
)
from holdfast.errors import HoldfastError, LeaseHeld, LeaseLost, OtherVersion, StoreUnavailable
from holdfast.links.adapter import Adapter
from holdfast.links.link import Link
from holdfast.reports.canonical import report_of

LEASE_PREFIX = "holdfast:lease:"
CLAIM_PREFIX = "holdfast:version:"
CLAIM_SECONDS = 30 * 86_400
_FENCE = "holdfast:fence"

_LARGER = """
local now = redis.call('TIME')
local before = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1]))
local token = math.max(now[1] * 1000000 + now[2], before + 1)
"""
# The token of the entry in place counts too: the fence may have been lost, and that entry be dated ahead.
_ACQUIRE = (
    f"""
local head, placed = redis.call('GETRANGE', KEYS[3], 0, {TOKEN_AT + 7}), 0
if string.sub(head, 1, {len(MAGIC)}) == ARGV[3] and string.len(head) == {TOKEN_AT + 8} then
  for i = {TOKEN_AT + 1}, {TOKEN_AT + 8} do placed = placed * 256 + string.byte(head, i) end
  if placed > {MAX_TOKEN - 1} then placed = 0 end
end
"""
    + _LARGER
    + """
local text = string.format('%.0f', math.max(token, placed + 1))
if not redis.call('SET', KEYS[2], text, 'NX', 'PX', ARGV[2]) then return false end
redis.call('SET', KEYS[1], text)
return text
"""
)
_NEXT = (
    _LARGER
    + """
local text = string.format('%.0f', token)
redis.call('SET', KEYS[1], text)
return text
"""
)
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
local claimed = redis.call('GET', KEYS[3])
if claimed and ARGV[4] ~= '' and claimed ~= ARGV[4] then return 2 end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
return 1
"""
_REPLACE = """
if redis.call('GETRANGE', KEYS[1], 0, string.len(ARGV[1]) - 1) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
return 1
"""
_CLAIM = """
local lost = 0
for i, key in ipairs(KEYS) do
  local claimed = redis.call('GET', key)
  if ARGV[2] == 'first' or not claimed or claimed == ARGV[i + 2] then
    redis.call('SET', key, ARGV[i + 2], 'PX', ARGV[1])
  else
    lost = lost + 1
  end
end
return lost
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
        self.clock = clock
        """The clock that dates entries, in seconds since the epoch."""
        self._token = 0
        """The largest token that this process has seen."""

    async def now(self) -> float:
        """The time by the clock that dates entries, in seconds since the epoch."""
        return self.clock()

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry under that key, or why there is none."""
        return unpack(key, await self.packed(key))

    async def packed(self, key: str) -> bytes | None:
        """The stored bytes under that key."""
        async with self._reach() as redis:
            return await redis.get(key)

    async def headers(self, keys: Sequence[str]) -> list[Header | None]:
        """The headers of many entries in one round trip, without their bodies."""
        async with self._reach() as redis:
            return [peek(head) for head in await redis.heads(keys, HEADER_BYTES)]

    async def acquire(self, key: str, seconds: float) -> int:
        """Take the lease: its fencing token. Raises LeaseHeld."""
        keys = [_FENCE, LEASE_PREFIX + key, key]
        token = await self._run(_ACQUIRE, keys, self._token, _milliseconds(seconds), MAGIC)
        if token is None:
            raise LeaseHeld(f"{key} is being computed by another process")
        return self._seen(int(token))

    async def next_token(self) -> int:
        """A token of no lease: those given before are smaller, and those given later are larger."""
        return self._seen(int(await self._run(_NEXT, [_FENCE], self._token)))

    async def unstored_token(self) -> int:
        """A token for a result that is stored nowhere: larger than all that this process has seen."""
        return self._seen(max(self._token + 1, int(self.clock() * 1_000_000)))

    def _seen(self, token: int) -> int:
        self._token = max(self._token, token)
        return token

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep the lease for so many seconds from now. Raises LeaseLost."""
        if not await self._run(_RENEW, [LEASE_PREFIX + key], token, _milliseconds(seconds)):
            raise LeaseLost

    async def release(self, key: str, token: int) -> None:
        """Give the lease back; one that is lost already is no error."""
        await self._run(_RELEASE, [LEASE_PREFIX + key], token)

    async def write(self, entry: Entry, token: int) -> None:
        """Put the entry in its place until its `stale_until`.

        Raises:
            LeaseLost: the token does not hold the lease.
            OtherVersion: the results of another version of the report are kept.
        """
        report = report_of(entry.key)
        keys = [entry.key, LEASE_PREFIX + entry.key, CLAIM_PREFIX + report]
        expires = _milliseconds(entry.stale_until)
        written = await self._run(_WRITE, keys, token, pack(entry), expires, entry.version)
        if written == 2:
            raise OtherVersion(
                f"the cache is for another version of report {report}, "
                "whose supervisor started later: this version's results are not stored"
            )
        if not written:
            raise LeaseLost

    async def claim(self, versions: Mapping[str, str], *, first: bool) -> int:
        """Have the results of these versions of reports kept; how many reports are another deployment's.

        Args:
            versions: the version of each report, by its name.
            first: whether this process has these versions since now, and so takes the place of any other.
        """
        if not versions:
            return 0
        keys = [CLAIM_PREFIX + report for report in versions]
        options = (CLAIM_SECONDS * 1000, "first" if first else "again")
        return int(await self._run(_CLAIM, keys, *options, *versions.values()) or 0)

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
        stale = msgspec.structs.replace(entry, fresh_until=min(entry.fresh_until, self.clock()))
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
