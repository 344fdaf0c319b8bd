"""A `holdfast.testing.MemoryBackend` whose steps fail, wait or do something else, as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from holdfast.cache.entry import Entry, Unusable, build, pack, unpack
from holdfast.cache.refresh import LEASE_SECONDS
from holdfast.cache.run import Run
from holdfast.errors import HoldfastError
from holdfast.reports import Report, Row
from holdfast.reports.canonical import Scalar
from holdfast.testing import MemoryBackend, QueryRows

Hook = HoldfastError | Callable[[], Awaitable[None]]
"""An error to raise, or what to do."""


def loop_time() -> float:
    """The clock of the event loop that runs, in seconds: on a leaping loop it leaps."""
    return asyncio.get_running_loop().time()


class ScriptedBackend(MemoryBackend):
    """A backend of one report, on the loop's clock.

    `before` and `after` are hooks by step: by the name of a method (`write`), or of its nth call (`entry 2`).
    """

    def __init__(self, report: Report, **rows: QueryRows) -> None:
        super().__init__(
            report, {f"{report.name}.{name}": r for name, r in rows.items()}, monotonic=loop_time
        )
        self.key = report.reader.key(report.reader.parse({}))
        """The key of the result without parameters."""
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.calls: list[str] = []
        self.written: list[int] = []
        """The token of every write that was taken, in order."""
        self.keeps = True
        """Whether writes are kept."""

    def beside(self) -> ScriptedBackend:
        """What another process has: the same store and the same rows, with hooks of its own."""
        other = ScriptedBackend.__new__(ScriptedBackend)
        other.__dict__ = {**self.__dict__, "before": {}, "after": {}, "calls": [], "runs": []}
        return other

    @contextlib.asynccontextmanager
    async def _step(self, name: str) -> AsyncIterator[None]:
        self.calls.append(name)
        nth = f"{name} {self.calls.count(name)}"
        await _act(self.before, name, nth)
        yield
        await _act(self.after, name, nth)

    async def query(self, name: str, params: Mapping[str, Scalar]) -> list[Row]:
        """The rows of a query."""
        async with self._step("query"):
            return await super().query(name, params)

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry in place."""
        async with self._step("entry"):
            return await super().entry(key)

    async def acquire(self, key: str, seconds: float) -> int:
        """Take the lease."""
        async with self._step("acquire"):
            return await super().acquire(key, seconds)

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep the lease."""
        async with self._step("renew"):
            await super().renew(key, token, seconds)

    async def release(self, key: str, token: int) -> None:
        """Give the lease back."""
        async with self._step("release"):
            await super().release(key, token)

    async def write(self, entry: Entry, token: int) -> None:
        """Put the entry in place, unless writes are not kept."""
        async with self._step("write"):
            before = self.stored.get(entry.key)
            await super().write(entry, token)
            self.written.append(token)
            if not self.keeps:
                self.stored.pop(entry.key)
                if before is not None:
                    self.stored[entry.key] = before

    async def record(self, run: Run) -> None:
        """Note the run."""
        async with self._step("record"):
            await super().record(run)

    def put(self, rows: list[Row], *, age: float, ttl: float = 60, max_stale: float = 600) -> bytes:
        """Put an entry in place that is `age` seconds old, without a lease: its bytes."""
        entry = build(
            key=self.key,
            report="r",
            params={},
            rows=rows,
            computed_at=time.time() - age,
            ttl=ttl,
            max_stale=max_stale,
        )
        self.stored[self.key] = pack(entry)
        return self.stored[self.key]

    def take_over(self, rows: list[Row]) -> None:
        """What another process does whose lease came after ours had ended: it computes and writes."""
        self.leases[self.key] = (next(self._tokens), loop_time() + LEASE_SECONDS)
        self.put(rows, age=0)

    def held(self) -> bool:
        """Whether anybody holds the lease now."""
        return self._token(self.key) is not None

    def in_place(self) -> Entry:
        """The entry in place."""
        found = unpack(self.key, self.stored[self.key])
        assert isinstance(found, Entry)
        return found


async def _act(hooks: Mapping[str, Hook], *names: str) -> None:
    for name in names:
        hook: Any = hooks.get(name)
        if isinstance(hook, HoldfastError):
            raise hook
        if hook is not None:
            await hook()
