"""What the supervisor does for the other processes of its host: the operations of its socket.

To add one, write a method here, marked `@operation`, and the method of the same name in
`rpc.client.Client`. Only names and values cross the socket: the annotations say which, and calls that do
not fit are refused.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol

import msgspec

from holdfast.cache.entry import Entry, Unusable, pack, same_version, unpack
from holdfast.cache.run import Run, Trigger
from holdfast.cache.store import Store
from holdfast.errors import OtherVersion, QueryFailed
from holdfast.reports import Registry
from holdfast.reports.canonical import KEY_PREFIX, MAX_KEY, Scalar, report_of
from holdfast.rpc.dispatch import operation
from holdfast.rpc.exact import exact
from holdfast.supervisor.misses import Misses
from holdfast.supervisor.queries import QueryResult

MAX_RUNS = 1000

ParamValues = dict[str, Scalar]
CacheKey = Annotated[str, msgspec.Meta(pattern=f"^{KEY_PREFIX}", max_length=MAX_KEY)]
LeaseSeconds = Annotated[float, msgspec.Meta(gt=0, le=60)]


class Queries(Protocol):
    """Runs named queries (`supervisor.queries.Queries`)."""

    async def run(self, name: str, params: ParamValues) -> QueryResult:
        """Columns and rows of a query."""


class RunRecords(Protocol):
    """Keeps the record of runs (`supervisor.runs.Recorder`)."""

    def add(self, run: Run) -> None:
        """Take a run."""

    def after(self, number: int) -> tuple[int, list[Run]]:
        """How many runs were taken, and those after the `number`-th."""

    async def latest(self, *, report: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest runs first."""


class Operations:
    """The operations, each by its own name."""

    def __init__(
        self,
        *,
        registry: Registry,
        queries: Queries,
        store: Store,
        runs: RunRecords,
        misses: Misses,
        catalogue: Callable[[], Entry],
        report_states: Callable[[], Awaitable[list[dict[str, Any]]]],
        reload: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._registry = registry
        self._queries = queries
        self._store = store
        self._runs = runs
        self._misses = misses
        self._catalogue = catalogue
        self._report_states = report_states
        self._reload = reload
        self._leased: dict[str, float] = {}

    @operation
    async def ping(self) -> dict[str, float]:
        """The supervisor's pid, and the time by the clock that dates entries."""
        return {"pid": os.getpid(), "time": await self._store.now()}

    @operation
    async def now(self) -> float:
        """The time by the clock that dates entries, in seconds since the epoch."""
        return await self._store.now()

    @operation
    async def unstored_token(self) -> int:
        """A token for a result without a lease."""
        return await self._store.unstored_token()

    @operation
    async def check_version(self, report: str, version: str) -> None:
        """Refuse a process whose report differs from the supervisor's."""
        self._refuse_other(report, version)

    @operation
    async def query(self, name: str, params: ParamValues) -> QueryResult:
        """Run a named query: its columns and rows."""
        result = await self._queries.run(name, params)
        return {"columns": result["columns"], "rows": exact(result["rows"])}

    @operation
    async def entry(self, key: CacheKey) -> bytes | None:
        """The stored bytes under a cache key."""
        return await self._store.packed(key)

    @operation
    async def acquire(self, key: CacheKey, seconds: LeaseSeconds) -> int:
        """Take the lease of a key: its fencing token."""
        token = await self._store.acquire(key, seconds)
        self._leased[key] = time.monotonic() + seconds
        return token

    @operation
    async def renew(self, key: CacheKey, token: int, seconds: LeaseSeconds) -> None:
        """Keep a lease for so many seconds from now."""
        await self._store.renew(key, token, seconds)
        self._leased[key] = time.monotonic() + seconds

    @operation
    async def release(self, key: CacheKey, token: int) -> None:
        """Give a lease back."""
        self._leased.pop(key, None)
        await self._store.release(key, token)

    @operation
    async def write(self, key: CacheKey, packed: bytes, token: int) -> None:
        """Put an entry in its place; bytes that are no entry of that key are refused."""
        entry = unpack(key, packed)
        if isinstance(entry, Unusable):
            raise QueryFailed(f"the entry to be written is {entry.value}")
        # Again: the supervisor may have started with other code since the computation began.
        self._refuse_other(report_of(key), entry.version)
        await self._store.write(entry, token)

    def _refuse_other(self, report: str, version: str) -> None:
        found = self._registry.reports.get(report)
        if found is not None and not same_version(found.version, version):
            raise OtherVersion(
                f"report {report} differs between this process and the supervisor: "
                "restart the one whose code is older"
            )

    @operation
    async def record(self, run: Run) -> None:
        """Take a run."""
        self._runs.add(run)

    @operation
    async def runs(self, report: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest runs first; `limit` is brought into 1 to MAX_RUNS."""
        return await self._runs.latest(report=report, limit=max(1, min(limit, MAX_RUNS)))

    @operation
    async def progress(self, after: int) -> dict[str, Any]:
        """What has run since the `after`-th run, how many have, and the keys that other processes compute."""
        taken, runs = self._runs.after(after)
        now = time.monotonic()
        self._leased = {key: until for key, until in self._leased.items() if until > now}
        fields = ("report", "key", "outcome", "error", "retryable")
        ended = [{field: getattr(run, field) for field in fields} for run in runs]
        return {"taken": taken, "runs": ended, "computing": list(self._leased)}

    @operation
    async def reload(self) -> dict[str, Any]:
        """Load the reports again: which were added, changed or removed, and which are broken."""
        return await self._reload()

    @operation
    async def report_states(self) -> list[dict[str, Any]]:
        """Every warm variant and how fresh it is."""
        return await self._report_states()

    @operation
    async def catalogue(self) -> bytes:
        """The catalogue, packed as an entry."""
        return pack(self._catalogue())

    @operation
    async def compute(self, report: str, params: ParamValues, trigger: Trigger) -> bytes:
        """Compute a result that was not found, or is stale, and store it: the packed entry."""
        found = self._registry.get(report)
        entry = await self._misses.compute(found, found.reader.parse(params), trigger)
        return pack(entry)

    @operation
    async def mark_stale(self, report: str, params: ParamValues) -> bool:
        """Mark a result stale and begin to compute it again; whether there was one to mark."""
        found = self._registry.get(report)
        checked = found.reader.parse(params)
        since = await self._store.next_token()
        marked = await self._store.mark_stale(found.reader.key(checked))
        self._misses.renew(found, checked, since)
        return marked
