"""The gateway's lookup with entries of a wrong date, and of another version of their report."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.lookup import R, World, build_stale, play, served
from tests.support.memory import bring_down, bring_up

from holdfast.errors import ComputeFailed
from holdfast_gateway.l1.memory import TRUSTED_SECONDS

# Entries with a wrong date

AHEAD = [3.0, 61.0, 7200.0, 86_400.0 * 365]


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 2), (0, 2), (2, 0)], ids=str)
@pytest.mark.parametrize("way", ["schedule", "refresh", "delete"])
def test_a_newer_write_replaces_an_entry_dated_ahead(ahead: float, first: int, second: int, way: str) -> None:
    """What a clock that was ahead left is replaced within two seconds of the next write, and by a DELETE."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1, ago=-ahead, token=first))
        assert served(await world.find()) == ("HIT", 1)
        newer = world.store(world.entry(2, token=second))
        if way == "refresh":
            world.offer(newer)
            assert (await world.lookup._ask(R, "stale")).representation.entry == newer
        if way == "delete":
            world.lookup.distrust(R.key)
        else:
            await asyncio.sleep(TRUSTED_SECONDS)
        assert served(await world.find()) == ("HIT", 2)

    play(scenario)


@pytest.mark.parametrize("ahead", AHEAD)
def test_an_entry_dated_ahead_that_was_marked_stale_is_stale(ahead: float) -> None:
    """A DELETE ends the freshness of such an entry too; it has no age below zero."""

    async def scenario(world: World) -> None:
        placed = world.store(world.entry(1, ago=-ahead, token=1))
        await world.find()
        world.store(build_stale(world, placed))
        world.supervisor.failure = ComputeFailed("no")
        world.lookup.distrust(R.key)
        result = await world.find()
        assert served(result) == ("STALE", 1)
        assert result.item.computed_at <= asyncio.get_running_loop().time()

    play(scenario)


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0], ids=["behind", "ahead"])
def test_the_token_decides_whatever_the_dates_are(ahead: float) -> None:
    """The entry with the larger token stays; only what is dated ahead gives way to a smaller one too."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1, token=5, ttl=9000, max_stale=9000))
        await world.find()
        world.store(world.entry(2, ago=-ahead, token=6, ttl=9000, max_stale=9000))
        world.lookup.distrust(R.key)
        assert served(await world.find()) == ("HIT", 2)
        world.store(world.entry(3, token=4, ttl=9000, max_stale=9000))
        world.lookup.distrust(R.key)
        assert served(await world.find())[1] == (3 if ahead > 0 else 2)

    play(scenario)


def test_an_unstored_result_is_not_replaced_by_the_older_one_in_redis() -> None:
    """What was computed while Redis was down stays in memory when Redis comes back with an older result."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1, ago=5, ttl=1, token=5))
        await world.find()
        bring_down(world.redis_link)
        world.offer(world.entry(2, token=6))
        assert served(await world.find()) == ("STALE", 1)
        await asyncio.sleep(0)
        assert served(await world.find()) == ("HIT", 2)
        bring_up(world.redis_link)
        await asyncio.sleep(TRUSTED_SECONDS)
        assert served(await world.find()) == ("HIT", 2)
        world.store(world.entry(3, token=7))
        await asyncio.sleep(TRUSTED_SECONDS)
        assert served(await world.find()) == ("HIT", 3)

    play(scenario)


def test_what_the_supervisor_answers_is_newer_than_what_was_there_when_it_was_asked() -> None:
    """Also where Redis was emptied and its clock set back, so that tokens began again below the old ones."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1, ago=20, token=1000))
        world.offer(world.entry(2, ago=7, token=3))
        assert served(await world.find()) == ("STALE", 1)
        await asyncio.sleep(0)
        assert served(await world.find()) == ("HIT", 2)

    play(scenario)


def test_a_late_answer_does_not_replace_what_came_in_meanwhile() -> None:
    """An answer of the supervisor that is older than what was read from Redis meanwhile is not kept."""

    async def scenario(world: World) -> None:
        world.store(world.entry(1, ago=20, token=1))
        world.offer(world.entry(2, token=2))
        world.supervisor.answer = asyncio.Event()
        assert served(await world.find()) == ("STALE", 1)
        await asyncio.sleep(TRUSTED_SECONDS)
        world.store(world.entry(3, token=3))
        assert served(await world.find()) == ("HIT", 3)
        world.supervisor.answer.set()
        await asyncio.sleep(0.01)
        assert served(await world.find()) == ("HIT", 3)

    play(scenario)


# A report that was changed

V1, V2 = "1" * 16, "2" * 16


def change(world: World, version: str) -> None:
    """Let the catalogue have that version of the report."""
    world.version = version
    world.lookup.compare_versions()


def test_the_result_of_another_version_is_stale_while_the_new_one_is_computed() -> None:
    """When the catalogue changes, what is in memory is STALE at once, and one refresh runs behind it."""

    async def scenario(world: World) -> None:
        world.version = V1
        world.store(world.entry(1, version=V1, token=1))
        assert served(await world.find()) == ("HIT", 1)
        change(world, V2)
        world.offer(world.entry(2, version=V2, token=2))
        assert world.lookup.memory.hit(R.key, asyncio.get_running_loop().time()) is None
        assert served(await world.find()) == ("STALE", 1)
        await asyncio.sleep(0)
        assert served(await world.find()) == ("HIT", 2)
        assert world.computations == ["stale"]

    play(scenario)


@pytest.mark.parametrize(
    ("entry", "catalogue", "cache"),
    [(V1, V2, "STALE"), (V2, V2, "HIT"), ("", V2, "HIT"), (V1, "", "HIT"), (V2, V1, "STALE")],
)
def test_a_hit_is_never_from_another_version(entry: str, catalogue: str, cache: str) -> None:
    """What Redis has is compared with the catalogue when it is put in memory."""

    async def scenario(world: World) -> None:
        world.version = catalogue
        world.store(world.entry(1, version=entry))
        world.supervisor.failure = ComputeFailed("no")
        assert served(await world.find()) == (cache, 1)
        await asyncio.sleep(0.1)
        assert served(await world.find()) == (cache, 1)

    play(scenario)


def test_a_version_that_comes_back_is_a_hit_again() -> None:
    """After a change was taken back, the result of before is as fresh as it was, and no fresher."""

    async def scenario(world: World) -> None:
        world.version = V1
        world.store(world.entry(1, version=V1))
        await world.find()
        world.supervisor.failure = ComputeFailed("no")
        change(world, V2)
        assert served(await world.find()) == ("STALE", 1)
        change(world, V1)
        assert served(await world.find()) == ("HIT", 1)
        await asyncio.sleep(10)
        assert served(await world.find()) == ("STALE", 1)

    play(scenario)


def test_another_deployments_result_does_not_replace_ours() -> None:
    """While two deployments share Redis, a gateway keeps serving its own version from memory as HIT."""

    async def scenario(world: World) -> None:
        world.version = V1
        world.offer(world.entry(1, version=V1, token=5))
        assert served(await world.find()) == ("MISS", 1)
        world.store(world.entry(2, version=V2, token=6))
        for _ in range(3):
            await asyncio.sleep(TRUSTED_SECONDS)
            assert served(await world.find()) == ("HIT", 1)
        assert world.computations == ["miss"]
        change(world, V2)
        assert served(await world.find()) == ("HIT", 2)

    play(scenario)


def test_the_answer_of_a_supervisor_that_is_newer_than_the_catalogue_is_served() -> None:
    """What a supervisor with new code answers is a HIT as soon as its catalogue is there."""

    async def scenario(world: World) -> None:
        world.version = V1
        world.offer(world.entry(2, version=V2))
        assert served(await world.find()) == ("MISS", 2)
        change(world, V2)
        world.store(world.supervisor.entries[R.key])
        assert served(await world.find()) == ("HIT", 2)

    play(scenario)
