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
