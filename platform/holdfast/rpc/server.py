"""The server of the Unix socket: frames in, operations done, frames out. It knows no operation itself.

Each connection has one reader. Each call on it is a task with the call's own deadline, ended early by a
cancel frame or by the end of the connection. A peer of another user is refused, and so is a frame that is
not of the protocol: that connection closes, and the others are not affected. The server waits for a peer
that does not read its answers (drain), so these do not fill the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Protocol

import structlog

from holdfast.errors import DeadlineExceeded, HoldfastError, Overloaded, ProtocolError
from holdfast.rpc import frames
from holdfast.rpc.dispatch import Dispatcher

CALLS_PER_CONNECTION = 256
LONGEST_DEADLINE = 300.0


class Meter(Protocol):
    """Counts what the server does."""

    def called(self, operation: str, error: str) -> None:
        """A call ended, in the error of that code (empty for none)."""

    def connected(self, clients: int) -> None:
        """So many connections are open now."""


class SocketServer:
    """Serves the operations at a path; `start`, then `drain` and `close`."""

    def __init__(self, path: Path, dispatcher: Dispatcher, meter: Meter) -> None:
        self._path = path
        self._dispatcher = dispatcher
        self._meter = meter
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._draining = False
        self._log = structlog.get_logger("socket")

    async def start(self) -> None:
        """Listen, with mode 0600 in a folder of mode 0700."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.unlink(missing_ok=True)
        umask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, backlog=512)
        finally:
            os.umask(umask)

    async def drain(self, seconds: float) -> None:
        """Take no new calls, and let those that run finish for so many seconds."""
        self._draining = True
        if self._server is not None:
            self._server.close()
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)

    def close(self) -> None:
        """End what is left."""
        for task in self._calls:
            task.cancel()
        for writer in self._writers:
            writer.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = peer_uid(writer.get_extra_info("socket"))
        if uid not in {os.getuid(), None}:
            self._log.warning("Refused a connection of another user.", action="peer_refused", uid=uid)
            writer.close()
            return
        connection = _Connection(self, reader, writer)
        self._writers.add(writer)
        self._meter.connected(len(self._writers))
        try:
            await connection.run()
        except ProtocolError as error:
            self._log.warning("Closed a connection.", action="connection_closed", error=str(error))
        except OSError:
            pass
        finally:
            connection.end()
            self._writers.discard(writer)
            self._meter.connected(len(self._writers))
            writer.close()

    async def answer(self, call: frames.Call) -> frames.Reply | frames.Failure:
        """Do a call within its deadline; every error becomes a failure frame."""
        code = ""
        op = call.op if call.op in self._dispatcher.names else "unknown"
        try:
            if self._draining:
                raise Overloaded("the supervisor is stopping")
            seconds = min(call.deadline / 1000, LONGEST_DEADLINE)
            try:
                async with asyncio.timeout(seconds):
                    return frames.Reply(call.id, await self._dispatcher.call(call.op, call.args))
            except TimeoutError:
                raise DeadlineExceeded(f"{op} did not end in {seconds:g} s") from None
        except HoldfastError as error:
            code = error.code
            return frames.Failure(call.id, error.to_wire())
        except Exception:
            code = "error"
            self._log.exception("An operation failed.", action="operation_failed", op=op)
            return frames.Failure(
                call.id, HoldfastError(f"{op} failed; the supervisor's log says why").to_wire()
            )
        finally:
            self._meter.called(op, code)

    def own(self, task: asyncio.Task[None]) -> None:
        """Keep a call's task until it is done, so that `drain` can wait for it."""
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)


class _Connection:
    def __init__(
        self, server: SocketServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._free = asyncio.Semaphore(CALLS_PER_CONNECTION)
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        while (frame := await frames.read(self._reader)) is not None:
            match frame:
                case frames.Call():
                    # Beyond the limit the reader waits, and with it the peer.
                    await self._free.acquire()
                    task = asyncio.create_task(self._one(frame))
                    self._tasks[frame.id] = task
                    # Not by the task itself: cancelled before its first step, it runs no line of its own.
                    task.add_done_callback(functools.partial(self._ended, frame.id))
                    self._server.own(task)
                case frames.Cancel(number):
                    if cancelled := self._tasks.get(number):
                        cancelled.cancel()
                case _:
                    raise ProtocolError("a client sends calls and cancels only")

    async def _one(self, call: frames.Call) -> None:
        answer = await self._server.answer(call)
        try:
            frame = frames.encode(answer)
        except HoldfastError as error:
            frame = frames.encode(frames.Failure(call.id, error.to_wire()))
        with contextlib.suppress(OSError):
            async with self._writing:
                self._writer.write(frame)
                await self._writer.drain()

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        self._free.release()
        if self._tasks.get(number) is task:
            del self._tasks[number]

    def end(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()


def peer_uid(connection: socket.socket) -> int | None:
    """The user of the process at the other end (SO_PEERCRED, unix(7)); None where the system cannot say."""
    if sys.platform != "linux":
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)
