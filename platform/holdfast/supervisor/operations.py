"""What the supervisor does for the other processes of its host: the operations of its socket.

The methods marked `@operation` may be called over the socket, by their own names; their arguments are
checked against their annotations. `Services` is a `refresh.Backend` too, so the supervisor refreshes on
itself by the same code as a worker does over the socket (`client.Client`).
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

import msgspec

from holdfast.cache.entry import Entry, Times, Unusable, enclose, pack, unpack
from holdfast.cache.refresh import Run, Trigger
from holdfast.cache.store import Store
from holdfast.errors import HoldfastError, ProtocolError, QueryFailed
from holdfast.reports import Registry, Row
from holdfast.reports.params import ANALYTICS_PATH, KEY_PREFIX, Scalar
from holdfast.supervisor.metrics import SupervisorMetrics
from holdfast.supervisor.misses import Misses
from holdfast.supervisor.queries import Queries
from holdfast.supervisor.runs import Recorder

CATALOGUE_KEY = KEY_PREFIX + ANALYTICS_PATH
CATALOGUE_TTL = 300.0
CATALOGUE_MAX_STALE = 30 * 86_400.0
MAX_RUNS = 1000

F = TypeVar("F", bound=Callable[..., Any])
Params = dict[str, int | float | str | bool | None]


def operation(method: F) -> F:
    """Mark a method as one that the socket may call."""
    method.__dict__["is_operation"] = True
    return method


class Services:
    """The operations. `default_ttl` is GW_CACHE_TTL in seconds."""

    def __init__(
        self,
        *,
        registry: Registry,
        queries: Queries,
        store: Store,
        recorder: Recorder,
        metrics: SupervisorMetrics,
        default_ttl: float,
    ) -> None:
        self.registry = registry
        self.default_ttl = default_ttl
        self.misses = Misses(self)
        self._queries = queries
        self._store = store
        self._recorder = recorder
        self._metrics = metrics

    # The backend of a refresh.

    async def query(self, name: str, params: Mapping[str, Scalar]) -> list[Row]:
        """The rows of a named query as mappings."""
        result = await self.run_query(name, params)
        return [dict(zip(result["columns"], row, strict=True)) for row in result["rows"]]

    async def run_query(self, name: str, params: Mapping[str, Scalar]) -> dict[str, Any]:
        """The columns and rows of a named query; its time is measured."""
        self.registry.query(name)
        with self._metrics.query_seconds.labels(name).time():
            return await self._queries.run(name, params)

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry in the cache under that key."""
        return await self._store.entry(key)

    async def acquire(self, key: str, seconds: float) -> int:
        """Take the lease of a key."""
        return await self._store.acquire(_cache_key(key), min(seconds, 60.0))

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep a lease."""
        await self._store.renew(_cache_key(key), token, min(seconds, 60.0))

    async def release(self, key: str, token: int) -> None:
        """Give a lease back."""
        await self._store.release(_cache_key(key), token)

    async def write(self, entry: Entry, token: int) -> None:
        """Put an entry in its place."""
        await self._store.write(entry, token)

    async def mark_stale(self, key: str) -> bool:
        """Let an entry count as stale from now on; whether there was one."""
        return await self._store.mark_stale(key)

    async def record(self, run: dict[str, Any]) -> None:
        """Take a run."""
        self._recorder.add(msgspec.to_builtins(msgspec.convert(run, Run)))

    # What else the supervisor itself calls.

    def catalogue_entry(self) -> Entry:
        """The catalogue as an entry: what `GET /api/v1/analytics` answers, and what a gateway starts from."""
        specs = self.registry.catalogue()
        body = msgspec.json.encode(
            {"reports": [{"href": f"{ANALYTICS_PATH}/{s.name}", **msgspec.to_builtins(s)} for s in specs]}
        )
        now = time.time()
        times = Times(now, now + CATALOGUE_TTL, now + CATALOGUE_TTL + CATALOGUE_MAX_STALE)
        return enclose(key=CATALOGUE_KEY, body=body, digest_of=body, rows=len(specs), times=times)

    async def publish_catalogue(self) -> None:
        """Put the catalogue where a gateway finds it while the supervisor is away."""
        await self._store.put(self.catalogue_entry())

    async def report_states(self) -> list[dict[str, Any]]:
        """Every warm variant: report, params, age_s, and state fresh, stale, missing or unknown."""
        wanted = [(report, params) for report in self.registry for params in report.warm]
        try:
            times = await self._store.times([report.reader.key(params) for report, params in wanted])
        except HoldfastError:
            return [_state(report.name, params, None, None) for report, params in wanted]
        now = time.time()
        return [_state(r.name, p, found, now) for (r, p), found in zip(wanted, times, strict=True)]

    # The operations of the socket.

    @operation
    async def op_ping(self) -> dict[str, Any]:
        """The supervisor's pid."""
        return {"pid": os.getpid()}

    @operation
    async def op_query(self, name: str, params: Params) -> dict[str, Any]:
        """Run a named query: `{"columns", "rows"}`."""
        return await self.run_query(name, params)

    @operation
    async def op_entry(self, key: str) -> bytes | None:
        """The stored bytes under a cache key."""
        return await self._store.packed(_cache_key(key))

    @operation
    async def op_acquire(self, key: str, seconds: float) -> int:
        """Take the lease of a key: its fencing token."""
        return await self.acquire(key, seconds)

    @operation
    async def op_renew(self, key: str, token: int, seconds: float) -> None:
        """Keep a lease."""
        await self.renew(key, token, seconds)

    @operation
    async def op_release(self, key: str, token: int) -> None:
        """Give a lease back."""
        await self.release(key, token)

    @operation
    async def op_write(self, key: str, packed: bytes, token: int) -> None:
        """Put an entry in its place; bytes that are no entry for that key are refused."""
        entry = unpack(_cache_key(key), packed)
        if isinstance(entry, Unusable):
            raise QueryFailed(f"what was to be written is {entry.value}")
        await self.write(entry, token)

    @operation
    async def op_record(self, run: dict[str, Any]) -> None:
        """Take a run."""
        await self.record(run)

    @operation
    async def op_runs(self, report: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest runs first."""
        return await self._recorder.latest(report=report, limit=max(1, min(limit, MAX_RUNS)))

    @operation
    async def op_report_states(self) -> list[dict[str, Any]]:
        """Every warm variant and how fresh it is."""
        return await self.report_states()

    @operation
    async def op_catalogue(self) -> bytes:
        """The catalogue, packed as an entry."""
        return pack(self.catalogue_entry())

    @operation
    async def op_compute(self, report: str, params: Params, trigger: Trigger) -> bytes:
        """Compute a result that was not found, or is stale, and store it: the packed entry."""
        found = self.registry.get(report)
        entry = await self.misses.compute(found, found.reader.parse(params), trigger)
        return pack(entry)

    @operation
    async def op_mark_stale(self, report: str, params: Params) -> bool:
        """Mark a result stale and begin to compute it anew; whether there was one to mark."""
        found = self.registry.get(report)
        checked = found.reader.parse(params)
        since = time.time()
        marked = await self.mark_stale(found.reader.key(checked))
        self.misses.renew(found, checked, since)
        return marked


class Dispatcher:
    """Finds the operation of a name and checks its arguments."""

    def __init__(self, services: Services) -> None:
        self._operations: dict[str, tuple[Callable[..., Any], type[msgspec.Struct]]] = {}
        for attribute, method in inspect.getmembers(services, inspect.ismethod):
            if getattr(method, "is_operation", False):
                name = attribute.removeprefix("op_")
                self._operations[name] = (method, _arguments(name, method))

    def __contains__(self, op: str) -> bool:
        return op in self._operations

    async def call(self, op: str, args: dict[str, Any]) -> Any:
        """Do an operation.

        Raises:
            ProtocolError: there is no such operation, or its arguments are not of its types.
            HoldfastError: what the operation raised.
        """
        if op not in self._operations:
            raise ProtocolError(f"there is no operation {op[:40]!r}")
        method, arguments = self._operations[op]
        try:
            checked = msgspec.convert(args, arguments)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"{op}: {error}") from None
        return await method(**{name: getattr(checked, name) for name in checked.__struct_fields__})


def _arguments(name: str, method: Callable[..., Any]) -> type[msgspec.Struct]:
    hints = get_type_hints(method)
    fields = [(p, hints[p]) for p in inspect.signature(method).parameters]
    return msgspec.defstruct(f"{name}_arguments", fields, forbid_unknown_fields=True, kw_only=True)


def _cache_key(key: str) -> str:
    if not key.startswith(KEY_PREFIX) or len(key) > 2048:
        raise ProtocolError(f"a cache key starts with {KEY_PREFIX} and has 2048 characters at the most")
    return key


def _state(
    report: str, params: Mapping[str, Scalar], times: Times | None, now: float | None
) -> dict[str, Any]:
    given = {name: value for name, value in params.items() if value is not None}
    state, age = "unknown", None
    if now is not None:
        state = "missing"
        if times is not None and now < times.stale_until:
            state = "fresh" if now < times.fresh_until else "stale"
            age = round(now - times.computed_at, 1)
    return {"report": report, "params": given, "age_s": age, "state": state}
