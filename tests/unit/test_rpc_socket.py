"""The socket between its client and its server: many calls at once, deadlines, cancels, faults, the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.conditions import until

from holdfast.errors import (
    DeadlineExceeded,
    HoldfastError,
    LinkLost,
    Overloaded,
    ProtocolError,
    ResultTooLarge,
    SupervisorUnavailable,
)
from holdfast.links.adapter import PoolStatus
from holdfast.rpc import frames
from holdfast.rpc.client import Client
from holdfast.rpc.dispatch import Dispatcher, operation
from holdfast.rpc.server import CALLS_PER_CONNECTION, SocketServer, peer_uid


class Owner:
    """Operations that wait, fail, or answer with too much."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = 0
        self.cancelled = 0

    @operation
    async def ping(self) -> dict[str, int]:
        """A pid."""
        return {"pid": 7}

    @operation
    async def wait(self, n: int) -> int:
        """The number, when all may go on."""
        self.running += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return n

    @operation
    async def lose(self) -> None:
        """An error of ours."""
        raise LinkLost("postgres broke", link="postgres")

    @operation
    async def fail(self) -> None:
        """An error that nobody foresaw."""
        raise ZeroDivisionError("secret")

    @operation
    async def huge(self) -> bytes:
        """More than a frame."""
        return bytes(frames.MAX_FRAME)

    @operation
    async def odd(self) -> object:
        """What msgpack has no form for."""
        return object()


class Counts:
    """A meter that keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.clients: list[int] = []

    def called(self, operation: str, error: str) -> None:
        """A call ended."""
        self.calls.append((operation, error))

    def connected(self, clients: int) -> None:
        """So many connections are open."""
        self.clients.append(clients)


class World:
    """A server and a client at a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = Owner()
        self.counts = Counts()
        self.server = SocketServer(path, Dispatcher(self.owner), self.counts)
        self.client = Client(path)

    def wait(self, n: int, *, deadline: float = 30.0) -> asyncio.Task[Any]:
        """Begin a call that waits."""
        return asyncio.create_task(self.client.call("wait", deadline=deadline, n=n))

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection without a client."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            yield reader, writer
        finally:
            writer.close()


Play = Callable[[Callable[[World], Awaitable[None]]], None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Runs a scenario with a server that listens."""

    async def run(scenario: Callable[[World], Awaitable[None]]) -> None:
        world = World(tmp_path / "run" / "s.sock")
        await world.server.start()
        try:
            async with asyncio.timeout(30):
                await scenario(world)
        finally:
            await world.client.aclose()
            await world.server.drain(0)
            world.server.close()
            await until(lambda: world.counts.clients[-1:] in ([], [0]))

    return lambda scenario: asyncio.run(run(scenario))


# Calls


def test_many_calls_share_a_connection_and_each_has_its_own_answer(play: Play) -> None:
    """Calls run at the same time on one connection, and a quick one does not wait for a slow one."""

    async def scenario(world: World) -> None:
        slow = [world.wait(n) for n in range(50)]
        await until(lambda: world.owner.running == 50)
        assert world.client.pool() == PoolStatus(1, 50, 1)
        assert await world.client.ping() == 7
        assert not any(task.done() for task in slow)
        assert repr(world.client) == "<Client s.sock open waiting=50>"
        world.owner.go.set()
        assert await asyncio.gather(*slow) == list(range(50))
        assert world.client.pool() == PoolStatus(1, 0, 1)
        assert world.counts.clients == [1]
        assert world.counts.calls == [("ping", ""), *[("wait", "")] * 50]

    play(scenario)


def test_one_connection_runs_a_bounded_number_of_calls(play: Play) -> None:
    """Beyond the bound a peer's calls wait their turn, and none is lost."""

    async def scenario(world: World) -> None:
        tasks = [world.wait(n) for n in range(CALLS_PER_CONNECTION + 10)]
        await until(lambda: world.owner.running >= 256)
        other = Client(world.path)
        assert await other.ping() == 7
        await other.aclose()
        assert world.owner.running == CALLS_PER_CONNECTION == 256
        world.owner.go.set()
        assert await asyncio.gather(*tasks) == list(range(CALLS_PER_CONNECTION + 10))

    play(scenario)


@pytest.mark.parametrize(
    ("op", "raised", "message", "code"),
    [
        ("lose", LinkLost, "postgres broke", "link_lost"),
        ("fail", HoldfastError, "fail failed; the supervisor's log says why", "error"),
        ("nothing", ProtocolError, "there is no operation 'nothing'", "protocol"),
    ],
)
def test_an_error_arrives_as_what_it_was(
    op: str, raised: type[HoldfastError], message: str, code: str, play: Play
) -> None:
    """Our errors keep their class; what nobody foresaw says where to look and shows nothing of it."""

    async def scenario(world: World) -> None:
        with pytest.raises(HoldfastError) as caught:
            await world.client.call(op, deadline=5)
        assert type(caught.value) is raised
        assert str(caught.value) == message
        assert world.counts.calls == [(op if op != "nothing" else "unknown", code)]
        assert await world.client.ping() == 7

    play(scenario)


@pytest.mark.parametrize(("op", "raised"), [("huge", ResultTooLarge), ("odd", ProtocolError)])
def test_an_answer_that_cannot_be_sent_is_an_error(op: str, raised: type[HoldfastError], play: Play) -> None:
    """An answer that is too large, or of no form that can be sent, fails its own call alone."""

    async def scenario(world: World) -> None:
        waiting = world.wait(1)
        with pytest.raises(raised):
            await world.client.call(op, deadline=20)
        world.owner.go.set()
        assert await waiting == 1

    play(scenario)


# Deadlines and cancels


def test_a_call_ends_at_its_deadline_at_both_ends(play: Play) -> None:
    """The server ends an operation at the deadline of its call, and says so before the client gives up."""

    async def scenario(world: World) -> None:
        with pytest.raises(DeadlineExceeded, match=r"^wait did not end in 0.05 s$"):
            await world.wait(1, deadline=0.05)
        assert world.owner.cancelled == 1
        assert world.counts.calls == [("wait", "deadline")]

    play(scenario)


def test_no_deadline_is_longer_than_five_minutes(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer cannot keep an operation for longer than the server's bound, whatever it asks for."""
    asked: list[float | None] = []
    real = asyncio.timeout

    def noted(seconds: float | None) -> asyncio.Timeout:
        asked.append(seconds)
        return real(seconds)

    async def scenario(world: World) -> None:
        monkeypatch.setattr(asyncio, "timeout", noted)
        await world.server.answer(frames.Call(1, "ping", 3_600_000, {}))
        await world.server.answer(frames.Call(1, "ping", 1500, {}))
        assert asked == [300.0, 1.5]

    play(scenario)


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    """A client waits for a silent supervisor a quarter of a second longer than its deadline."""

    async def run() -> None:
        received: list[frames.Frame | None] = []

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while received[-1:] != [None]:
                received.append(await frames.read(reader))
            writer.close()

        server = await asyncio.start_unix_server(silent, tmp_path / "s")
        client = Client(tmp_path / "s")
        clock = asyncio.get_running_loop().time
        began = clock()
        with pytest.raises(DeadlineExceeded, match=r"did not answer in 0.05 s$"):
            await client.call("ping", deadline=0.05)
        assert 0.3 <= clock() - began < 1.2
        await client.aclose()
        await until(lambda: received[-1:] == [None])
        assert received == [frames.Call(1, "ping", 50, {}), frames.Cancel(1), None]
        server.close()

    asyncio.run(run())


def test_a_caller_who_goes_away_ends_the_operation(play: Play) -> None:
    """A cancelled call is cancelled on the server, and the other calls of its connection go on."""

    async def scenario(world: World) -> None:
        gone, stays = world.wait(1), world.wait(2)
        await until(lambda: world.owner.running == 2)
        gone.cancel()
        await until(lambda: world.owner.cancelled == 1)
        assert gone.cancelled()
        assert world.owner.running == 1
        world.owner.go.set()
        assert await stays == 2

    play(scenario)


def test_a_cancel_of_no_call_is_no_error(play: Play) -> None:
    """A cancel may cross the answer of its call."""

    async def scenario(world: World) -> None:
        async with world.connected() as (reader, writer):
            writer.write(frames.encode(frames.Cancel(5)) + frames.encode(frames.Call(6, "ping", 1000, {})))
            assert await frames.read(reader) == frames.Reply(6, {"pid": 7})

    play(scenario)


def test_an_answer_that_nobody_waits_for_is_dropped(tmp_path: Path) -> None:
    """An answer to a call that was given up, or that was never made, harms no other call."""

    async def run() -> None:
        async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while isinstance(frame := await frames.read(reader), frames.Call):
                for number in (99, frame.id):
                    writer.write(frames.encode(frames.Reply(number, {"pid": frame.id})))
                    writer.write(frames.encode(frames.Failure(number, {"code": "protocol"})))
            writer.close()

        server = await asyncio.start_unix_server(answering, tmp_path / "s")
        client = Client(tmp_path / "s")
        assert [await client.ping() for _ in range(3)] == [1, 2, 3]
        await client.aclose()
        server.close()

    asyncio.run(run())


# Faults


def test_without_a_server_a_call_fails_at_once(tmp_path: Path) -> None:
    """A supervisor that is not there is an error that says so, without the path of its socket."""
    client = Client(tmp_path / "nowhere")
    with pytest.raises(SupervisorUnavailable, match=r"cannot be reached at its socket: no such file$"):
        asyncio.run(client.open())
    assert repr(client) == "<Client nowhere closed waiting=0>"


def test_calls_on_a_connection_that_breaks_fail_and_the_next_one_opens_another(play: Play) -> None:
    """A supervisor that restarts costs the calls that were on their way, and no later one."""

    async def scenario(world: World) -> None:
        waiting = [world.wait(n) for n in range(3)]
        await until(lambda: world.owner.running == 3)
        world.server.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(result) for result in results} == {SupervisorUnavailable}
        assert not world.path.exists()
        await world.server.start()
        assert await world.client.ping() == 7

    play(scenario)


def test_a_client_that_closes_ends_its_calls_and_may_be_used_again(play: Play) -> None:
    """What a client had under way fails at both ends; the connection is opened again when it is needed."""

    async def scenario(world: World) -> None:
        waiting = world.wait(1)
        await until(lambda: world.owner.running == 1)
        await world.client.close()
        with pytest.raises(SupervisorUnavailable):
            await waiting
        await until(lambda: world.owner.cancelled == 1)
        await world.client.probe()
        await until(lambda: world.counts.clients == [1, 0, 1])
        await world.client.close()
        await world.client.close()

    play(scenario)


@pytest.mark.parametrize(
    "sent",
    [
        frames.encode(frames.Reply(1, None)),
        frames.encode(frames.Failure(1, {})),
        b"\x00\x00\x00\x01\xc0",
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_peer_that_breaks_the_protocol_loses_its_own_connection_alone(sent: bytes, play: Play) -> None:
    """Frames that no client sends, and bytes that are no frame, close that connection and end its calls."""

    async def scenario(world: World) -> None:
        waiting = world.wait(1)
        await until(lambda: world.owner.running == 1)
        async with world.connected() as (reader, writer):
            writer.write(frames.encode(frames.Call(1, "wait", 30_000, {"n": 2})))
            await until(lambda: world.owner.running == 2)
            writer.write(sent)
            assert await reader.read() == b""
        await until(lambda: world.owner.cancelled == 1)
        assert world.counts.clients == [1, 2, 1]
        world.owner.go.set()
        assert await waiting == 1

    play(scenario)


def test_only_this_user_is_served(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer of a connection is known by the kernel, and one of another user is refused."""
    one, two = socket.socketpair()
    with one, two:
        assert peer_uid(one) == os.getuid()

    async def scenario(world: World) -> None:
        monkeypatch.setattr(os, "getuid", lambda: 54_321)
        with pytest.raises(SupervisorUnavailable):
            await world.client.ping()
        assert world.counts.calls == []
        assert world.counts.clients == []

    play(scenario)


def test_the_socket_is_for_its_user_alone(play: Play) -> None:
    """The socket's file has mode 0600 in a folder of mode 0700, and new files keep their usual mode."""

    async def scenario(world: World) -> None:
        assert world.path.stat().st_mode & 0o777 == 0o600
        assert world.path.parent.stat().st_mode & 0o777 == 0o700
        umask = os.umask(0o022)
        os.umask(umask)
        assert umask != 0o177

    play(scenario)


@pytest.mark.parametrize("left", ["nothing", "a folder", "a file"])
def test_what_a_killed_server_left_behind_is_replaced(left: str, tmp_path: Path) -> None:
    """A server starts where another was killed, in a folder that is there or not."""

    async def run() -> None:
        path = tmp_path / "a" / "run" / "s"
        if left != "nothing":
            path.parent.mkdir(parents=True)
        if left == "a file":
            path.touch()
        world = World(path)
        await world.server.start()
        assert await world.client.ping() == 7
        await world.client.aclose()
        await world.server.drain(0)
        world.server.close()
        assert not path.exists()
        world.server.close()

    asyncio.run(run())


# The end


def test_a_server_that_stops_finishes_what_it_has_and_takes_no_more(play: Play) -> None:
    """Calls that run have their time to finish; a new one learns that the supervisor stops."""

    async def scenario(world: World) -> None:
        waiting = world.wait(1)
        await until(lambda: world.owner.running == 1)
        drained = asyncio.create_task(world.server.drain(20))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="stopping"):
            await world.client.ping()
        with pytest.raises(SupervisorUnavailable):
            await Client(world.path).ping()
        assert not drained.done()
        world.owner.go.set()
        assert await waiting == 1
        await drained

    play(scenario)


def test_a_server_that_stops_ends_what_does_not_finish(play: Play) -> None:
    """After the time to finish, the calls that are left are cancelled and their connections closed."""

    async def scenario(world: World) -> None:
        waiting = world.wait(1)
        await until(lambda: world.owner.running == 1)
        await world.server.drain(0.01)
        assert world.owner.running == 1
        world.server.close()
        with pytest.raises(SupervisorUnavailable):
            await waiting
        assert world.owner.cancelled == 1

    play(scenario)
