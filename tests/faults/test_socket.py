"""The supervisor's socket under callers who change their mind."""

from __future__ import annotations

import asyncio

from tests.integration.processes import Background, Platform

from holdfast.rpc import frames as wire
from holdfast.rpc.server import CALLS_PER_CONNECTION


def test_calls_cancelled_at_once_leave_the_connection_usable() -> None:
    """However many calls are cancelled in the same breath, the connection answers the next one."""

    async def hasty(path: str) -> wire.Frame | None:
        reader, writer = await asyncio.open_unix_connection(path)
        for number in range(1, 3 * CALLS_PER_CONNECTION):
            writer.write(wire.encode(wire.Call(number, "ping", 1000, {})) + wire.encode(wire.Cancel(number)))
        last = 10_000
        writer.write(wire.encode(wire.Call(last, "ping", 5000, {})))
        try:
            async with asyncio.timeout(10):
                while (frame := await wire.read(reader)) is not None and frame.id != last:
                    pass
        finally:
            writer.close()
        return frame

    with Platform() as platform, Background() as background:
        supervisor = platform.start("supervisor")
        platform.answers(supervisor, platform.port, "livez")
        frame = background.run(hasty(str(platform.socket)))
    assert isinstance(frame, wire.Reply)
