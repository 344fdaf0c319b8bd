"""The frames of the supervisor's socket: what is sent arrives, and what is no frame is refused in time."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.errors import ProtocolError, ResultTooLarge
from holdfast.rpc import frames

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | TEXT | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
IDS = st.integers(0, 2**53)
FRAMES = st.one_of(
    st.builds(frames.Call, IDS, TEXT, st.integers(0, 300_000), st.dictionaries(TEXT, VALUES, max_size=4)),
    st.builds(frames.Reply, IDS, VALUES),
    st.builds(frames.Failure, IDS, st.dictionaries(TEXT, VALUES, max_size=4)),
    st.builds(frames.Cancel, IDS),
)


def read_all(*chunks: bytes, closed: bool = True) -> list[frames.Frame]:
    """The frames of a connection on which those chunks arrive; waiting for more than arrives is an error."""

    async def run() -> list[frames.Frame]:
        stream = asyncio.StreamReader()
        received: list[frames.Frame] = []

        async def read() -> None:
            while (frame := await frames.read(stream)) is not None:
                received.append(frame)

        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(read())
            for chunk in chunks:
                stream.feed_data(chunk)
                await asyncio.sleep(0)
            if closed:
                stream.feed_eof()
        return received

    try:
        return asyncio.run(run())
    except* ProtocolError as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        problem = first
    raise problem


def framed(payload: bytes) -> bytes:
    """A payload with its length in front."""
    return len(payload).to_bytes(4, "big") + payload


@given(st.lists(FRAMES, max_size=4), st.lists(st.integers(1, 40), max_size=20))
def test_frames_arrive_as_they_were_sent(sent_frames: list[frames.Frame], cuts: list[int]) -> None:
    """Whatever pieces the connection delivers them in, the same frames come out, in order."""
    sent = b"".join(frames.encode(frame) for frame in sent_frames)
    chunks, rest = [], sent
    for cut in cuts:
        chunks.append(rest[:cut])
        rest = rest[cut:]
    assert read_all(*[chunk for chunk in chunks if chunk], rest) == sent_frames


@given(FRAMES, st.data())
def test_a_cut_off_frame_is_an_error(frame: frames.Frame, data: st.DataObject) -> None:
    """A connection that ends within a frame is a protocol error; one that ends between two is the end."""
    sent = frames.encode(frame)
    cut = data.draw(st.integers(1, len(sent) - 1))
    with pytest.raises(ProtocolError, match="ended within"):
        read_all(sent + sent[:cut])
    assert read_all(sent) == [frame]
    assert read_all(b"") == []


@pytest.mark.parametrize("length", [frames.MAX_FRAME + 1, 2**31, 2**32 - 1])
def test_an_oversized_frame_is_refused_by_its_length(length: int) -> None:
    """A length beyond the limit is refused at once, before anything of the frame has arrived."""
    with pytest.raises(ProtocolError, match="more than"):
        read_all(length.to_bytes(4, "big"), closed=False)


def test_a_length_within_the_limit_waits_for_its_frame() -> None:
    """The longest length that is allowed is no error: only the missing bytes are."""
    with pytest.raises(ProtocolError, match="ended within a frame"):
        read_all(frames.MAX_FRAME.to_bytes(4, "big") + b"x")


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc0")
@example(bytes([0x93, 1, 1]) + b"\xa1\xff")
@example(bytes([0x95, 0, 1, 0xA1, 0xFF, 5, 0x80]))
@example(bytes([0x93, 1, 1]) + b"\x91" * 5000 + b"\x00")
@example(bytes([0x93, 1, 1, 0xDD]) + b"\xff" * 4)
@example(bytes([0x93, 1, 1, 0xD7, 0xFF]) + b"\xff" * 8)
@example(bytes([0x93, 1, 1, 0x81, 0x80, 0]))
@example(bytes([0x92, 9, 1]))
@example(b"\x80\x04\x95\x00.")
def test_garbage_is_a_protocol_error_or_a_frame(payload: bytes) -> None:
    """Bytes of any kind end as a frame or as a ProtocolError: never as another exception."""
    try:
        received = read_all(framed(payload))
    except ProtocolError:
        return
    assert isinstance(received[0], frames.Frame)


@given(FRAMES, st.data())
def test_a_damaged_frame_harms_nobody_else(frame: frames.Frame, data: st.DataObject) -> None:
    """A changed byte within a frame gives a frame or a ProtocolError, and nothing worse."""
    payload = bytearray(frames.encode(frame)[4:])
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        received = read_all(framed(bytes(payload)))
    except ProtocolError:
        return
    assert isinstance(received[0], frames.Frame)


@pytest.mark.parametrize(
    "fields",
    [
        [0, "1", "op", 5, {}],
        [0, 1, 2, 5, {}],
        [0, 1, "op", 5, []],
        [0, 1],
        [4, 1],
        {"0": 1},
        7,
        [],
    ],
)
def test_a_frame_of_another_type_of_value_is_refused(fields: object) -> None:
    """A frame whose fields are of other types, or that has too few, is not of the protocol."""
    with pytest.raises(ProtocolError, match="not a frame"):
        read_all(framed(msgspec.msgpack.encode(fields)))


@pytest.mark.parametrize(
    ("frame", "fields"),
    [
        (frames.Call(7, "ping", 1500, {"x": 1}), [0, 7, "ping", 1500, {"x": 1}]),
        (frames.Reply(7, [1, None]), [1, 7, [1, None]]),
        (frames.Failure(7, {"code": "c"}), [2, 7, {"code": "c"}]),
        (frames.Cancel(7), [3, 7]),
    ],
)
def test_a_frame_is_an_array_that_begins_with_its_kind(frame: frames.Frame, fields: list[object]) -> None:
    """Processes of two releases talk during an upgrade: the form on the wire stays as it is."""
    assert frames.encode(frame) == framed(msgspec.msgpack.encode(fields))


def test_the_longest_frame_may_be_sent_and_no_longer_one() -> None:
    """What is too large for a frame is an error of its sender, with the sizes, and nothing is sent."""
    overhead = len(frames.encode(frames.Reply(1, b"x" * 2**17))) - 4 - 2**17
    largest = frames.Reply(1, bytes(frames.MAX_FRAME - overhead))
    assert len(frames.encode(largest)) == 4 + frames.MAX_FRAME
    with pytest.raises(ResultTooLarge, match="33,554,433 bytes is more than a frame's 33,554,432"):
        frames.encode(frames.Reply(1, bytes(frames.MAX_FRAME - overhead + 1)))


def circular() -> list[Any]:
    """A list that holds itself."""
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("value", [object(), 2**64, -(2**63) - 1, "\ud800", circular(), {1.5: object()}])
def test_a_value_that_cannot_be_sent_is_a_protocol_error(value: object) -> None:
    """What msgpack has no form for is one kind of error, whatever the encoder calls it."""
    with pytest.raises(ProtocolError, match="cannot be sent"):
        frames.encode(frames.Reply(1, value))
