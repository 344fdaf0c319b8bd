"""A Redis that answers what no Redis would."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.errors import LinkLost
from holdfast.links.redis import RedisAdapter
from holdfast.settings import RedisSettings


def test_a_reply_that_is_none_is_a_lost_link() -> None:
    """Bytes that are no Redis reply end in LinkLost, which is tried again, and in nothing else."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        settings = RedisSettings.model_validate({"REDIS_URL": f"redis://127.0.0.1:{port}/0"})
        adapter = RedisAdapter(lambda: settings)
        try:
            with pytest.raises(LinkLost):
                await adapter.open()
        finally:
            await adapter.close()
            server.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"*2\r\n$10\r\n1700000000\r\n$6\r\n250000\r\n", [1_700_000_000.25]),
        (b"-NOPERM this user has no permissions to run 'time'\r\n", []),
    ],
    ids=["the time", "no permission"],
)
def test_a_probe_asks_for_the_time_where_it_may(answer: bytes, told: list[float]) -> None:
    """A probe brings the server's clock; a user who may not ask for it is as well connected as any other."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = [(await reader.readline(), await reader.readline())[1] for _ in range(int(line[1:]))]
            known = {b"PING": b"+PONG\r\n", b"TIME": answer}
            writer.write(known.get(words[0].strip().upper(), b"+OK\r\n"))
            await writer.drain()
        writer.close()

    async def run() -> list[float]:
        heard: list[float] = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        settings = RedisSettings.model_validate({"REDIS_URL": f"redis://127.0.0.1:{port}/0"})
        adapter = RedisAdapter(lambda: settings, on_time=lambda time, _: heard.append(time))
        try:
            await adapter.open()
        finally:
            await adapter.close()
            server.close()
        return heard

    assert asyncio.run(run()) == told
