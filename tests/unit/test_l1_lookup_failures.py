"""The gateway's lookup while Redis or the supervisor fails, and in any order of events."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.lookup import R, World, play, served
from tests.support.memory import bring_down, bring_up

from holdfast.cache.entry import build, pack
from holdfast.errors import ComputeFailed, LinkDown, LinkLost
from holdfast_gateway.l1.lookup import (
    REDIS_SECONDS,
    LookupResult,
    StillComputing,
)
from holdfast_gateway.l1.memory import TRUSTED_SECONDS

# Redis that fails


def test_redis_that_fails_is_a_third_outcome() -> None:
    """While Redis fails, memory is trusted for a second at a time within its times; misses are computed."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1))
        await world.find()
        world.redis.failure = LinkLost("gone", link="redis")
        await asyncio.sleep(TRUSTED_SECONDS)
        assert served(await world.find()) == ("HIT", 1)
        assert world.failed_reads == 1
        assert world.redis_link._suspected.is_set()
        assert served(await world.find()) == ("HIT", 1)
        assert world.failed_reads == 1
        world.lookup.memory.drop(R.key)
        world.offer(world.entry(2))
        assert served(await world.find()) == ("MISS", 2)

    play(scenario)


def test_a_redis_that_hangs_is_left_behind() -> None:
    """A read of Redis without an answer ends after half a second; the result comes from the supervisor."""

    async def scenario(world: World) -> None:
        world.redis.answer = asyncio.Event()
        world.offer(world.entry(2))
        began = asyncio.get_running_loop().time()
        assert served(await world.find()) == ("MISS", 2)
        assert asyncio.get_running_loop().time() - began == pytest.approx(REDIS_SECONDS, abs=0.01)
        assert world.failed_reads == 1

    play(scenario)


def test_redis_is_not_asked_while_its_link_is_down() -> None:
    """A link that is down costs a reader nothing: no call is made and nothing is probed again."""

    async def scenario(world: World) -> None:
        bring_down(world.redis_link)
        world.offer(world.entry(2))
        assert served(await world.find()) == ("MISS", 2)
        assert world.reads == 0
        assert world.failed_reads == 1
        assert not world.redis_link._suspected.is_set()

    play(scenario)


@pytest.mark.parametrize(
    ("stored", "reason"), [(b"HF\x00older schema", "older"), (b"something", "foreign"), (None, "")]
)
def test_what_is_no_entry_is_rejected_and_memory_stays(stored: bytes | None, reason: str) -> None:
    """Bytes that are no entry of the key are counted by reason; what is in memory is as good as before."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1))
        await world.find()
        if stored is None:
            world.redis.values.clear()
        else:
            world.redis.values[R.key.encode()] = stored
        await asyncio.sleep(TRUSTED_SECONDS)
        assert served(await world.find()) == ("HIT", 1)
        assert served(await world.find()) == ("HIT", 1)
        assert world.rejected_entries == ([reason] if reason else [])
        assert world.reads == 2

    play(scenario)


def test_a_reader_is_never_served_what_is_stored_under_another_key() -> None:
    """An entry of another key is rejected, and the result is computed."""

    async def scenario(world: World) -> None:
        wrong = build(
            key="gwcache:/x", report="x", params={}, rows=[], computed_at=world.wall(), ttl=9, max_stale=9
        )
        world.redis.values[R.key.encode()] = pack(wrong)
        world.offer(world.entry(7))
        assert served(await world.find()) == ("MISS", 7)
        assert world.rejected_entries == ["foreign"]

    play(scenario)


# Any order

STEPS = st.lists(
    st.sampled_from(
        ["find", "find", "wait", "long", "write", "redis", "supervisor", "distrust", "flush", "fail"]
    ),
    max_size=25,
)


WAITS = {"wait": 0.6, "long": 30.0}


@given(STEPS)
def test_in_any_order_no_reader_sees_an_older_or_a_dead_result(steps: list[str]) -> None:
    """Whatever fails or is written in between, results never go back in time nor beyond their end."""

    async def scenario(world: World) -> None:
        written, last = 0, 0
        for step in steps:
            if step == "find":
                result = await find_or_none(world, written + 1)
                if result is None:
                    continue
                entry = result.item.representation.entry
                if result.cache == "MISS":
                    written = entry.rows
                assert entry.rows >= last
                assert world.wall() < entry.stale_until
                assert (result.cache == "STALE") is (world.wall() >= entry.fresh_until)
                last = entry.rows
            elif step == "write":
                written += 1
                world.store(world.entry(written))
            elif step in WAITS:
                await asyncio.sleep(WAITS[step])
            else:
                disturb(world, step)

    play(scenario)


async def find_or_none(world: World, rows: int) -> LookupResult | None:
    """What a reader gets while a computation would give so many rows; None for an error."""
    world.offer(world.entry(rows))
    try:
        return await world.find()
    except (LinkDown, StillComputing, ComputeFailed):
        return None


def disturb(world: World, step: str) -> None:
    """Do to the world what that step says."""
    match step:
        case "redis" | "supervisor":
            link = world.redis_link if step == "redis" else world.supervisor_link
            (bring_down if link.up else bring_up)(link)
        case "distrust":
            world.lookup.distrust(R.key)
        case "flush":
            world.redis.values.clear()
        case "fail":
            failing = world.supervisor.failure is None
            world.supervisor.failure = ComputeFailed("no") if failing else None
