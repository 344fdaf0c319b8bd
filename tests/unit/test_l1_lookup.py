"""The gateway's lookup: memory, then Redis, then the supervisor, on a clock that leaps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.lookup import MISS_TIMEOUT, R, World, build_stale, play, served
from tests.support.memory import bring_down, bring_up

from holdfast.errors import ComputeFailed, LinkDown, Overloaded, SupervisorUnavailable
from holdfast_gateway.l1.lookup import (
    RETRY_STALE_SECONDS,
    StillComputing,
)
from holdfast_gateway.l1.memory import TRUSTED_SECONDS

# The three tiers


def test_memory_is_asked_before_redis_and_redis_before_the_supervisor() -> None:
    """A result is taken from the nearest tier that has it, and is then in every nearer one."""

    async def scenario(world: World) -> None:
        world.offer(world.entry(1))
        assert served(await world.find()) == ("MISS", 1)
        assert (world.reads, world.computations) == (1, ["miss"])
        assert served(await world.find()) == ("HIT", 1)
        assert (world.reads, world.computations) == (1, ["miss"])
        world.lookup.memory.drop(R.key)
        world.store(world.entry(2))
        assert served(await world.find()) == ("HIT", 2)
        assert (world.reads, world.computations) == (2, ["miss"])

    play(scenario)


@pytest.mark.parametrize(("later", "reads"), [(TRUSTED_SECONDS - 0.01, 1), (TRUSTED_SECONDS + 0.01, 2)])
def test_redis_is_asked_again_when_trust_ends(later: float, reads: int) -> None:
    """What is in memory is served without a look at Redis for a second, and not for longer."""

    async def scenario(world: World) -> None:
        world.store(world.entry())
        await world.find()
        await asyncio.sleep(later)
        assert served(await world.find()) == ("HIT", 1)
        assert world.reads == reads

    play(scenario)


def test_a_newer_entry_in_redis_takes_the_place_of_the_older_one() -> None:
    """What another process wrote is served once memory asks Redis again; an older entry never comes back."""

    async def scenario(world: World) -> None:
        older = world.store(world.entry(1, ago=3))
        await world.find()
        world.store(world.entry(2))
        world.lookup.distrust(R.key)
        assert served(await world.find()) == ("HIT", 2)
        world.store(older)
        world.lookup.distrust(R.key)
        assert served(await world.find()) == ("HIT", 2)
        assert await world.find() == await world.find()

    play(scenario)


def test_the_same_entry_is_not_made_again() -> None:
    """An entry that is in memory already keeps its item, with what was prepared for it."""

    async def scenario(world: World) -> None:
        world.store(world.entry())
        first = (await world.find()).item
        await asyncio.sleep(TRUSTED_SECONDS)
        assert (await world.find()).item is first
        assert first.trusted_until > asyncio.get_running_loop().time()

    play(scenario)


def test_an_entry_marked_stale_takes_the_place_of_the_fresh_one() -> None:
    """A result whose freshness was ended is another entry: the reader gets STALE and a refresh begins."""

    async def scenario(world: World) -> None:
        fresh = world.store(world.entry(1, ago=1))
        assert served(await world.find()) == ("HIT", 1)
        world.store(build_stale(world, fresh))
        world.offer(world.entry(2))
        world.lookup.distrust(R.key)
        assert served(await world.find()) == ("STALE", 1)
        await asyncio.sleep(0)
        assert served(await world.find()) == ("HIT", 2)

    play(scenario)


@pytest.mark.parametrize(
    ("later", "cache"), [(9.99, "HIT"), (10.0, "STALE"), (109.99, "STALE"), (110.0, "MISS"), (111.0, "MISS")]
)
@pytest.mark.parametrize("redis_is_up", [True, False])
def test_nothing_is_served_beyond_its_times(later: float, cache: str, redis_is_up: bool) -> None:
    """A result is HIT up to `fresh_until`, STALE up to `stale_until` and then gone, also without Redis."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1))
        await world.find()
        if not redis_is_up:
            bring_down(world.redis_link)
        await asyncio.sleep(later)
        world.offer(world.entry(2))
        result = await world.find()
        assert served(result) == (cache, 2 if cache == "MISS" else 1)

    play(scenario)


# Stale


def test_a_stale_result_is_served_while_one_refresh_runs_behind_it() -> None:
    """However many ask for a stale result, each is answered at once and one computation is begun."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1, ago=20))
        world.offer(world.entry(2))
        world.supervisor.answer = asyncio.Event()
        results = await asyncio.gather(*(world.find() for _ in range(50)))
        assert {served(result) for result in results} == {("STALE", 1)}
        assert world.computations == ["stale"]
        world.supervisor.answer.set()
        await asyncio.sleep(0.01)
        assert served(await world.find()) == ("HIT", 2)

    play(scenario)


@pytest.mark.parametrize(("later", "begun"), [(RETRY_STALE_SECONDS - 0.01, 1), (RETRY_STALE_SECONDS, 2)])
def test_a_failed_refresh_is_not_tried_by_every_reader(later: float, begun: int) -> None:
    """A refresh that failed is begun again after a second, not by each of the readers before."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1, ago=20))
        world.supervisor.failure = ComputeFailed("no")
        assert served(await world.find()) == ("STALE", 1)
        await asyncio.sleep(later)
        assert served(await world.find()) == ("STALE", 1)
        await asyncio.sleep(0)
        assert len(world.computations) == begun

    play(scenario)


def test_a_refresh_that_succeeded_lets_the_next_one_begin_at_once() -> None:
    """A result that goes stale right after its refresh is refreshed again without a wait."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1, ago=20))
        world.offer(world.entry(2, ttl=0.01))
        await world.find()
        await asyncio.sleep(0.02)
        world.redis.values.clear()
        assert served(await world.find()) == ("STALE", 2)
        await asyncio.sleep(0)
        assert world.computations == ["stale", "stale"]

    play(scenario)


def test_no_refresh_is_begun_while_the_supervisor_is_away() -> None:
    """A stale result is served as it is while nobody can compute a new one."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1, ago=20))
        bring_down(world.supervisor_link)
        assert served(await world.find()) == ("STALE", 1)
        await asyncio.sleep(0)
        assert world.computations == []
        bring_up(world.supervisor_link)
        world.offer(world.entry(2))
        await world.find()
        await asyncio.sleep(0.01)
        assert served(await world.find()) == ("HIT", 2)

    play(scenario)


# Misses


def test_a_thousand_readers_of_one_key_are_one_read_and_one_computation() -> None:
    """Concurrent readers of a cold key share what is asked of Redis and of the supervisor."""

    async def scenario(world: World) -> None:
        world.offer(world.entry(3))
        results = await asyncio.gather(*(world.find() for _ in range(1000)))
        assert {served(result) for result in results} == {("MISS", 3)}
        assert (world.reads, world.computations) == (1, ["miss"])

    play(scenario)


def test_a_slow_computation_is_202_and_goes_on() -> None:
    """Who waited for the miss time-out learns that the result is being computed, and finds it later."""

    async def scenario(world: World) -> None:
        world.supervisor.answer = asyncio.Event()
        began = asyncio.get_running_loop().time()
        with pytest.raises(StillComputing):
            await world.find()
        assert asyncio.get_running_loop().time() - began == pytest.approx(MISS_TIMEOUT, abs=0.01)
        with pytest.raises(StillComputing):
            await world.find()
        assert world.computations == ["miss"]
        world.offer(world.entry(4))
        world.supervisor.answer.set()
        await asyncio.sleep(0.01)
        assert served(await world.find()) == ("HIT", 4)
        assert world.computations == ["miss"]

    play(scenario)


def test_a_reader_who_goes_away_ends_nothing() -> None:
    """A computation goes on when the one who asked for it has gone, for all the others."""

    async def scenario(world: World) -> None:
        world.supervisor.answer = asyncio.Event()
        first = asyncio.create_task(world.find())
        await asyncio.sleep(1)
        second = asyncio.create_task(world.find())
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.sleep(0.1)
        world.offer(world.entry(5))
        world.supervisor.answer.set()
        assert served(await second) == ("MISS", 5)
        assert world.computations == ["miss"]

    play(scenario)


@pytest.mark.parametrize("error", [ComputeFailed("no"), Overloaded(), SupervisorUnavailable()])
def test_a_failed_computation_is_the_readers_error_and_is_not_kept(error: Exception) -> None:
    """A miss that cannot be computed raises why, and the next reader's attempt is a new one."""

    async def scenario(world: World) -> None:
        world.supervisor.failure = error  # type: ignore[assignment] # each is a HoldfastError
        with pytest.raises(type(error)):
            await world.find()
        world.supervisor.failure = None
        world.offer(world.entry(6))
        assert served(await world.find()) == ("MISS", 6)

    play(scenario)


def test_a_miss_fails_at_once_while_the_supervisor_is_down() -> None:
    """Nothing waits for a supervisor that is known to be away; the error says when it is tried again."""

    async def scenario(world: World) -> None:
        bring_down(world.supervisor_link)
        with pytest.raises(LinkDown) as raised:
            await world.find()
        assert raised.value.details["link"] == "supervisor"
        assert world.computations == []

    play(scenario)


@pytest.mark.parametrize(
    ("error", "suspected"),
    [(SupervisorUnavailable(), True), (ComputeFailed("no"), False), (LinkDown(), False)],
)
def test_a_lost_supervisor_is_probed(error: Any, suspected: bool) -> None:
    """Only an answer that did not come makes the link to the supervisor be probed at once."""

    async def scenario(world: World) -> None:
        world.supervisor.failure = error
        with pytest.raises(type(error)):
            await world.find()
        await asyncio.sleep(0)
        assert world.supervisor_link._suspected.is_set() is suspected

    play(scenario)
