"""The client of the supervisor's socket: what workers and the gateway call.

One connection carries many calls at once. It is opened when a call needs it; when it breaks, the calls
that were on it fail with SupervisorUnavailable and the next call opens a new one. Opening is cheap and
local, so there is no delay schedule here: the gateway puts a `Link` in front instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.cache.entry import Entry, Unusable, pack, unpack
from holdfast.errors import DeadlineExceeded, HoldfastError, ProtocolError, SupervisorUnavailable, from_wire
from holdfast.links.link import PoolStatus
from holdfast.reports.params import Scalar
from holdfast.rpc import frames as wire
from holdfast.settings import SupervisorSettings

CONNECT_TIMEOUT = 1.0
DEFAULT_DEADLINE = 35.0
"""Seconds that a call may take where its caller sets no deadline: above PG_STATEMENT_TIMEOUT."""


class Client:
    """Calls to the supervisor; one per event loop, closed with `aclose()`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    def __repr__(self) -> str:
        state = "open" if self._writer else "closed"
        return f"<Client {self._path.name} {state} waiting={len(self._waiting)}>"

    @property
    def in_flight(self) -> int:
        """How many calls wait for their answer."""
        return len(self._waiting)

    async def call(self, op: str, *, deadline: float = DEFAULT_DEADLINE, **args: Any) -> Any:
        """Have the supervisor do `op`, within `deadline` seconds.

        Raises:
            SupervisorUnavailable: it cannot be reached, or the connection broke before the answer.
            DeadlineExceeded: no answer in time; the supervisor was told to stop.
            HoldfastError: what the supervisor raised, as the same class.
        """
        number = next(self._ids)
        frame = wire.encode(wire.Call(number, op, int(deadline * 1000), args))
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
            self._writer.write(wire.encode(wire.Cancel(number)))

    async def _connection(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is not None and not self._writer.is_closing():
                return self._writer
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    reader, self._writer = await asyncio.open_unix_connection(self._path)
            except (OSError, TimeoutError) as error:
                raise SupervisorUnavailable(
                    f"the supervisor cannot be reached at its socket: {type(error).__name__}"
                ) from None
            self._reader_task = asyncio.create_task(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (frame := await wire.read(reader)) is not None:
                match frame:
                    case wire.Reply(number, value):
                        if future := self._unsettled(number):
                            future.set_result(value)
                    case wire.Failure(number, error):
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

    async def aclose(self) -> None:
        """Close the connection; calls under way fail."""
        if self._writer is not None:
            self._writer.close()
        if self._reader_task is not None:
            self._reader_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader_task

    # The calls, typed. `holdfast.supervisor.operations.Services` does the same without a socket.

    async def query(self, name: str, params: Mapping[str, Scalar]) -> list[dict[str, Any]]:
        """Run a named query: its rows as mappings."""
        result = await self.call("query", name=name, params=dict(params))
        return [dict(zip(result["columns"], row, strict=True)) for row in result["rows"]]

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry in the cache under that key."""
        return unpack(key, await self.call("entry", key=key, deadline=5))

    async def acquire(self, key: str, seconds: float) -> int:
        """Take the lease of a key: its fencing token. Raises LeaseHeld."""
        return int(await self.call("acquire", key=key, seconds=seconds, deadline=5))

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep the lease for so many seconds more. Raises LeaseLost."""
        await self.call("renew", key=key, token=token, seconds=seconds, deadline=5)

    async def release(self, key: str, token: int) -> None:
        """Give the lease back; one that is lost already is no error."""
        await self.call("release", key=key, token=token, deadline=5)

    async def write(self, entry: Entry, token: int) -> None:
        """Put an entry in its place. Raises LeaseLost unless the token still holds the lease."""
        await self.call("write", key=entry.key, packed=pack(entry), token=token, deadline=10)

    async def record(self, run: dict[str, Any]) -> None:
        """Note a run (`refresh.Run` as a mapping) for `holdfast runs`."""
        await self.call("record", run=run, deadline=5)


def connect() -> Client:
    """A client of this host's supervisor, by the settings."""
    return Client(SupervisorSettings.load().path)


class ClientAdapter:
    """The supervisor as a link's backend: open and probe are a ping."""

    name = "supervisor"

    def __init__(self, client: Client) -> None:
        self._client = client

    async def open(self) -> None:
        """Connect and have a ping answered."""
        await self.probe()

    async def probe(self) -> None:
        """Have a ping answered within a second."""
        await self._client.call("ping", deadline=1)

    async def close(self) -> None:
        """Drop the connection."""
        with contextlib.suppress(HoldfastError, OSError):
            await self._client.aclose()

    def pool(self) -> PoolStatus:
        """One connection, and the calls on it."""
        return PoolStatus(1, self._client.in_flight, 1)

    def endpoint(self) -> tuple[str, int] | None:
        """None: it is a Unix socket."""
        return None
