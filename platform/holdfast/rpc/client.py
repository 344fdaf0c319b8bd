"""The client of the supervisor's socket: what workers, the gateway and the command line call.

One connection carries many calls at once. It is opened when a call needs it; when it breaks, the calls that
were on it fail with SupervisorUnavailable, and the next call opens a new one. Opening is cheap and local,
so there is no backoff here. A gateway puts a `Link` in front: the client is an adapter (`links.adapter`)
too.

Each operation of the supervisor is one typed method here, of the operation's own name.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from holdfast.cache.clock import StoreClock
from holdfast.cache.entry import Entry, Unusable, pack, unpack
from holdfast.cache.run import Run, Trigger
from holdfast.errors import DeadlineExceeded, ProtocolError, SupervisorUnavailable, from_wire
from holdfast.links.adapter import PoolStatus
from holdfast.reasons import outage
from holdfast.reports.canonical import CATALOGUE_KEY, Scalar
from holdfast.reports.outcome import ReloadedReports
from holdfast.rpc import frames
from holdfast.settings import SupervisorSettings

CONNECT_TIMEOUT = 1.0
DEFAULT_DEADLINE = 35.0
"""Seconds that a query may take where its caller sets no deadline: above PG_STATEMENT_TIMEOUT."""
STORE_DEADLINE = 5.0
"""Seconds that a lookup in Redis or MongoDB may take."""
WRITE_DEADLINE = 10.0


class EndedRun(msgspec.Struct):
    """How one refresh ended; `retryable` where a worker tries again after its error."""

    report: str
    key: str
    outcome: str
    error: str | None
    retryable: bool


class Progress(msgspec.Struct):
    """Runs that have ended, how many have since the supervisor's start, and the keys that workers compute."""

    taken: int
    runs: list[EndedRun]
    computing: list[str]


class Client:
    """Calls to the supervisor; one per event loop, closed with `aclose()`. Its pings set `clock`."""

    name = "supervisor"

    def __init__(self, path: Path, *, clock: StoreClock | None = None) -> None:
        self._path = path
        self._clock = clock
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    def __repr__(self) -> str:
        state = "open" if self._writer else "closed"
        return f"<Client {self._path.name} {state} waiting={len(self._waiting)}>"

    async def call(self, op: str, *, deadline: float, **args: Any) -> Any:
        """Have the supervisor do `op` within `deadline` seconds; callers use the typed methods below.

        Raises:
            SupervisorUnavailable: it cannot be reached, or the connection broke before the answer.
            DeadlineExceeded: no answer in time; the call was cancelled.
            HoldfastError: what the supervisor raised, as the same class.
        """
        number = next(self._ids)
        frame = frames.encode(frames.Call(number, op, int(deadline * 1000), args))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(deadline + 0.25):
                writer = await self._connection()
                self._waiting[number] = answer
                try:
                    writer.write(frame)
                    await writer.drain()
                except OSError:
                    raise SupervisorUnavailable from None
                return await answer
        except TimeoutError:
            self._cancel(number)
            raise DeadlineExceeded(f"the supervisor did not answer in {deadline:g} s") from None
        except asyncio.CancelledError:
            self._cancel(number)
            raise
        finally:
            self._waiting.pop(number, None)

    def _cancel(self, number: int) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames.encode(frames.Cancel(number)))

    async def _connection(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is not None and not self._writer.is_closing():
                return self._writer
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    reader, self._writer = await asyncio.open_unix_connection(self._path)
            except (OSError, TimeoutError) as error:
                raise SupervisorUnavailable(
                    f"the supervisor cannot be reached at its socket: {outage(error)}"
                ) from None
            self._reader_task = asyncio.create_task(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (frame := await frames.read(reader)) is not None:
                match frame:
                    case frames.Reply(number, value):
                        if future := self._unsettled(number):
                            future.set_result(value)
                    case frames.Failure(number, error):
                        if future := self._unsettled(number):
                            future.set_exception(from_wire(error))
        except (OSError, ProtocolError):
            pass
        finally:
            writer.close()
            if self._writer is writer:
                self._writer = None
                for number in list(self._waiting):
                    if future := self._unsettled(number):
                        future.set_exception(SupervisorUnavailable())

    def _unsettled(self, number: int) -> asyncio.Future[Any] | None:
        """The future of a call that still waits; its caller may have gone in the meantime."""
        future = self._waiting.get(number)
        return None if future is None or future.done() else future

    # The operations.

    async def ping(self, *, deadline: float = 1.0) -> int:
        """Have the supervisor answer: its pid. Its answer sets the clock of this client, if it has one."""
        asked_at = time.monotonic()
        answer = await self.call("ping", deadline=deadline)
        if self._clock is not None and "time" in answer:
            self._clock.observe_second_hand(answer["time"], asked_at)
        return int(answer["pid"])

    async def query(
        self, name: str, params: Mapping[str, Scalar], *, deadline: float = DEFAULT_DEADLINE
    ) -> list[dict[str, Any]]:
        """Run a named query: its rows as mappings."""
        result = await self.call("query", deadline=deadline, name=name, params=dict(params))
        return [dict(zip(result["columns"], row, strict=True)) for row in result["rows"]]

    async def now(self) -> float:
        """The time by the clock that dates entries, in seconds since the epoch."""
        return float(await self.call("now", deadline=STORE_DEADLINE))

    async def unstored_token(self) -> int:
        """A token for a result without a lease: larger than all that the supervisor has seen."""
        return int(await self.call("unstored_token", deadline=STORE_DEADLINE))

    async def check_version(self, report: str, version: str) -> None:
        """Raise OtherVersion where the supervisor has another version of that report than this process."""
        await self.call("check_version", deadline=STORE_DEADLINE, report=report, version=version)

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry in the cache under that key, or why there is none."""
        return unpack(key, await self.call("entry", deadline=STORE_DEADLINE, key=key))

    async def acquire(self, key: str, seconds: float) -> int:
        """Take the lease of a key: its fencing token. Raises LeaseHeld."""
        return int(await self.call("acquire", deadline=STORE_DEADLINE, key=key, seconds=seconds))

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep the lease for so many seconds from now. Raises LeaseLost."""
        await self.call("renew", deadline=STORE_DEADLINE, key=key, token=token, seconds=seconds)

    async def release(self, key: str, token: int) -> None:
        """Give the lease back; one that is lost already is no error."""
        await self.call("release", deadline=STORE_DEADLINE, key=key, token=token)

    async def write(self, entry: Entry, token: int) -> None:
        """Put an entry in its place. Raises LeaseLost and OtherVersion."""
        packed = pack(entry)
        await self.call("write", deadline=WRITE_DEADLINE, key=entry.key, packed=packed, token=token)

    async def record(self, run: Run) -> None:
        """Note a run for `holdfast runs`."""
        await self.call("record", deadline=STORE_DEADLINE, run=msgspec.to_builtins(run))

    async def runs(self, report: str | None = None, *, limit: int = 20) -> list[dict[str, Any]]:
        """The newest runs first, of one report or of all: the fields of `cache.run.Run` as mappings."""
        runs = await self.call("runs", deadline=DEFAULT_DEADLINE, report=report, limit=limit)
        return list(runs)

    async def progress(self, after: int) -> Progress:
        """What has run since the `after`-th run of this supervisor, and what is being computed."""
        answer = await self.call("progress", deadline=STORE_DEADLINE, after=after)
        return msgspec.convert(answer, Progress)

    async def reload(self) -> ReloadedReports:
        """Have the supervisor load its reports again: what has changed, and what is broken."""
        return msgspec.convert(await self.call("reload", deadline=DEFAULT_DEADLINE), ReloadedReports)

    async def report_states(self) -> list[dict[str, Any]]:
        """Each warm variant: report, params, age_s, and state fresh, stale, missing or unknown."""
        return list(await self.call("report_states", deadline=DEFAULT_DEADLINE))

    async def catalogue(self) -> Entry | Unusable:
        """The catalogue of reports, as an entry."""
        return unpack(CATALOGUE_KEY, await self.call("catalogue", deadline=2.0))

    async def compute(
        self, key: str, report: str, params: Mapping[str, Scalar], trigger: Trigger, *, deadline: float
    ) -> Entry:
        """Compute a result and store it: its entry, whose key must be that one.

        Raises:
            ProtocolError: the answer is no entry of that key.
        """
        packed = await self.call(
            "compute", deadline=deadline, report=report, params=dict(params), trigger=trigger
        )
        entry = unpack(key, packed)
        if isinstance(entry, Unusable):
            raise ProtocolError(f"the supervisor's answer is {entry.value}")
        return entry

    async def mark_stale(self, report: str, params: Mapping[str, Scalar]) -> bool:
        """Mark a result stale and begin to compute it again; whether there was one to mark."""
        marked = await self.call("mark_stale", deadline=STORE_DEADLINE, report=report, params=dict(params))
        return bool(marked)

    # The adapter of a link.

    async def open(self) -> None:
        """Connect, and have a ping answered."""
        await self.ping()

    async def probe(self) -> None:
        """Have a ping answered within a second."""
        await self.ping()

    async def close(self) -> None:
        """Drop the connection; calls that run fail. A later call opens a new one."""
        if self._writer is not None:
            self._writer.close()
        if self._reader_task is not None:
            self._reader_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader_task

    aclose = close

    def pool(self) -> PoolStatus:
        """One connection, and the calls on it."""
        return PoolStatus(1, len(self._waiting), 1)

    def endpoint(self) -> None:
        """No TCP address: it is a Unix socket."""
        return


def connect() -> Client:
    """A client of this host's supervisor, by the settings."""
    return Client(SupervisorSettings.load().path)
