"""Adapters in this process's memory: what the links lead to, for tests of the logic above them.

`MemoryRedis` runs the store's own Lua scripts, by Lua 5.1 (lupa) as Redis does, on a dictionary with expiry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from beanie import Document
from lupa.lua51 import LuaRuntime
from pymongo import IndexModel

from holdfast.backoff import Backoff
from holdfast.cache.entry import Entry, Unusable, unpack
from holdfast.cache.run import Trigger
from holdfast.errors import HoldfastError
from holdfast.links.adapter import Adapter, PoolStatus
from holdfast.links.link import Link
from holdfast.links.state import LinkState, Phase
from holdfast.reports.canonical import CATALOGUE_KEY, Scalar

A = TypeVar("A", bound=Adapter)


def link_to(adapter: A, *, up: bool = True) -> Link[A]:
    """A link to an adapter, in that state; nobody runs it, so it stays there."""
    link = Link(adapter, Backoff())
    if up:
        bring_up(link)
    return link


def bring_up(link: Link[Adapter]) -> None:
    """Let a link be up, opened once more."""
    link.state = LinkState(Phase.UP, generation=link.state.generation + 1)


def bring_down(link: Link[Adapter]) -> None:
    """Let a link be down."""
    link.state = LinkState(Phase.DOWN, generation=link.state.generation, failures=6, last_error="refused")


class MemoryAdapter:
    """What every adapter has.

    `failure` is raised by every call while it is set; `calls` names the calls in order.
    """

    name = "memory"

    def __init__(self) -> None:
        self.failure: HoldfastError | None = None
        self.calls: list[str] = []
        self.answer: asyncio.Event | None = None
        """While set to an event, calls wait for it."""

    async def called(self, call: str) -> None:
        """Note a call, wait where calls wait, and fail where calls fail."""
        self.calls.append(call)
        if self.answer is not None:
            await self.answer.wait()
        if self.failure is not None:
            raise self.failure

    async def open(self) -> None:
        """Nothing to open."""

    async def probe(self) -> None:
        """Nothing to probe."""

    async def close(self) -> None:
        """Nothing to close."""

    def pool(self) -> PoolStatus:
        """One connection."""
        return PoolStatus(1, 0, 1)

    def endpoint(self) -> tuple[str, int] | None:
        """No address."""
        return None


class MemoryRedis(MemoryAdapter):
    """A `cache.store.KeyValues`: bytes by key, with expiry by `now` in seconds since the epoch."""

    name = "redis"

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.now = now
        self.values: dict[bytes, bytes] = {}
        self.expires_ms: dict[bytes, float] = {}
        self.after_get: Callable[[], None] | None = None
        """Called once after the next `get`: what another process does in between."""

    async def get(self, key: str) -> bytes | None:
        """The bytes under a key."""
        await self.called(f"get {key}")
        found = self._get(key.encode())
        if self.after_get is not None:
            between, self.after_get = self.after_get, None
            between()
        return found

    async def heads(self, keys: Sequence[str], length: int) -> list[bytes]:
        """The first bytes under each key."""
        await self.called(f"heads {len(keys)}")
        return [(self._get(key.encode()) or b"")[:length] for key in keys]

    async def set(self, key: str, value: bytes, *, expires_at_ms: int) -> None:
        """Put bytes under a key until that time."""
        await self.called(f"set {key}")
        self.values[key.encode()] = value
        self.expires_ms[key.encode()] = expires_at_ms

    async def run(self, script: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """Run a Lua script, by the rules of Redis' EVAL."""
        await self.called("run")
        # Bytes pass through unchanged: encoding None makes every Lua string a bytes object.
        lua = LuaRuntime(encoding=None, unpack_returned_tuples=True)
        table = lua.globals()
        table[b"redis"] = lua.table_from({b"call": self._call_from(lua)})
        table[b"KEYS"] = lua.table_from([key.encode() for key in keys])
        table[b"ARGV"] = lua.table_from([a if isinstance(a, bytes) else str(a).encode() for a in args])
        result = lua.execute(script.encode())
        if result is None or result is False:
            return None
        return int(result) if isinstance(result, float | int) else result

    def _call_from(self, lua: LuaRuntime) -> Callable[..., Any]:
        def call(command: bytes, *args: Any) -> Any:
            given = [a if isinstance(a, bytes) else b"%d" % a for a in args]
            found = getattr(self, f"_{command.decode().lower()}")(*given)
            if isinstance(found, list):
                return lua.table_from(found)
            # Redis answers a missing value as false, and OK as a table.
            return False if found is None else found

        return call

    def _get(self, key: bytes) -> bytes | None:
        if self.now() * 1000 >= self.expires_ms.get(key, float("inf")):
            self._del(key)
        return self.values.get(key)

    def _getrange(self, key: bytes, start: bytes, end: bytes) -> bytes:
        return (self._get(key) or b"")[int(start) : int(end) + 1]

    def _set(self, key: bytes, value: bytes, *options: bytes) -> bool | None:
        if b"NX" in options and self._get(key) is not None:
            return None
        self.values[key] = value
        self.expires_ms.pop(key, None)
        if b"PX" in options:
            self.expires_ms[key] = self.now() * 1000 + int(options[options.index(b"PX") + 1])
        if b"PXAT" in options:
            self.expires_ms[key] = int(options[options.index(b"PXAT") + 1])
        return True

    def _pexpire(self, key: bytes, milliseconds: bytes) -> int:
        if self._get(key) is None:
            return 0
        self.expires_ms[key] = self.now() * 1000 + int(milliseconds)
        return 1

    def _del(self, key: bytes) -> int:
        self.expires_ms.pop(key, None)
        return int(self.values.pop(key, None) is not None)

    def _time(self) -> list[bytes]:
        now = self.now()
        return [b"%d" % int(now), b"%d" % int(now % 1 * 1_000_000)]


class MemoryMongo(MemoryAdapter):
    """A `supervisor.runs.RunStore`: documents in a list, as mappings."""

    name = "mongo"

    def __init__(self) -> None:
        super().__init__()
        self.documents: list[dict[str, Any]] = []
        self.refuses_indexes: HoldfastError | None = None

    async def insert(self, document: type[Document], values: Sequence[Mapping[str, Any]]) -> None:
        """Insert documents."""
        await self.called(f"insert {len(values)}")
        self.documents.extend(dict(value) for value in values)

    async def create_indexes(self, document: type[Document], indexes: Sequence[IndexModel]) -> None:
        """Note that indexes were asked for."""
        await self.called(f"create_indexes {len(indexes)}")
        if self.refuses_indexes is not None:
            raise self.refuses_indexes

    async def newest(
        self, document: type[Any], wanted: Mapping[str, Any], *, by: str, limit: int
    ) -> list[Any]:
        """The documents with those values, the largest `by` first."""
        await self.called(f"newest {limit}")
        found = [d for d in self.documents if all(d[k] == v for k, v in wanted.items())]
        return [
            document.model_construct(**d) for d in sorted(found, key=lambda d: d[by], reverse=True)[:limit]
        ]


class MemorySupervisor(MemoryAdapter):
    """The supervisor as a gateway sees it: `entries` are what it computes, by key."""

    name = "supervisor"

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = {}
        self.packed_catalogue: bytes | None = None

    async def compute(
        self, key: str, report: str, params: Mapping[str, Scalar], trigger: Trigger, *, deadline: float
    ) -> Entry:
        """The entry of that key."""
        await self.called(f"compute {key} {trigger}")
        return self.entries[key]

    async def catalogue(self) -> Entry | Unusable:
        """The catalogue, where there is one."""
        await self.called("catalogue")
        return unpack(CATALOGUE_KEY, self.packed_catalogue)
