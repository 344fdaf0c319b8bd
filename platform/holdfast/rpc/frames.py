"""The frames of the supervisor's socket: a 4-byte big-endian length, then one msgpack array.

One connection carries many calls, each with its own id. A call has a deadline in milliseconds; its
caller may take it back with a cancel frame. A length above MAX_FRAME is a protocol error, found before
anything of the frame is kept, so a broken peer cannot fill the memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from holdfast.errors import ProtocolError, ResultTooLarge
from holdfast.rpc.exact import restored

MAX_FRAME = 32 * 2**20
"""Bytes of one frame at most."""
_HEADER = 4


class Call(msgspec.Struct, array_like=True, tag=0, frozen=True):
    """A request: do `op` within `deadline` milliseconds."""

    id: int
    op: str
    deadline: int
    args: dict[str, Any]


class Reply(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """The value of call `id`."""

    id: int
    value: Any


class Failure(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """Call `id` failed; `error` is `HoldfastError.to_wire()`."""

    id: int
    error: dict[str, Any]


class Cancel(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """Nobody waits for call `id` any more."""

    id: int


Frame = Call | Reply | Failure | Cancel
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame, ext_hook=restored)


def encode(frame: Frame) -> bytes:
    """The frame with its length in front.

    Raises:
        ResultTooLarge: it is longer than MAX_FRAME.
        ProtocolError: it holds a value that msgpack has no type for.
    """
    try:
        payload = msgspec.msgpack.encode(frame)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"a value cannot be sent: {error}") from None
    if len(payload) > MAX_FRAME:
        raise ResultTooLarge(f"{len(payload):,} bytes is more than a frame's {MAX_FRAME:,}")
    return len(payload).to_bytes(_HEADER, "big") + payload


async def read(stream: asyncio.StreamReader) -> Frame | None:
    """The next frame; None where the peer closed between two frames.

    Raises:
        ProtocolError: the frame is too long, cut off, or not msgpack of the expected shape.
    """
    try:
        header = await stream.readexactly(_HEADER)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ProtocolError("the connection ended within a frame's length") from None
        return None
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME:
        raise ProtocolError(f"a frame of {length:,} bytes is more than {MAX_FRAME:,}")
    try:
        return _decoder.decode(await stream.readexactly(length))
    except asyncio.IncompleteReadError:
        raise ProtocolError("the connection ended within a frame") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"not a frame: {error}") from None
