"""The supervisor's socket under callers who change their mind."""

from __future__ import annotations

import asyncio

from tests.support.stack import Stack

from holdfast.rpc import frames
from holdfast.rpc.server import CALLS_PER_CONNECTION


def test_calls_cancelled_at_once_leave_the_connection_usable() -> None:
    """However many calls are cancelled as soon as they are made, the connection answers the next one."""

    async def hasty(path: str) -> frames.Frame | None:
        reader, writer = await asyncio.open_unix_connection(path)
        for number in range(1, 3 * CALLS_PER_CONNECTION):
            call, cancel = frames.Call(number, "ping", 1000, {}), frames.Cancel(number)
            writer.write(frames.encode(call) + frames.encode(cancel))
        last = 10_000
        writer.write(frames.encode(frames.Call(last, "ping", 5000, {})))
        try:
            async with asyncio.timeout(10):
                while (frame := await frames.read(reader)) is not None and frame.id != last:
                    pass
        finally:
            writer.close()
        return frame

    with Stack() as stack:
        stack.supervisor(until="livez")
        frame = stack.run(hasty(str(stack.socket)))
    assert isinstance(frame, frames.Reply)
