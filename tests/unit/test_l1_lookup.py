"""The gateway's lookup: memory, then Redis, then the supervisor, on a clock that leaps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.clock import run_leaping
from tests.support.memory import MemoryRedis, MemorySupervisor, bring_down, bring_up, link_to

from holdfast.cache.entry import Entry, build, pack
from holdfast.errors import ComputeFailed, LinkDown, LinkLost, Overloaded, SupervisorUnavailable
from holdfast.reports.canonical import KEY_PREFIX
from holdfast_gateway.l1.lookup import (
    REDIS_SECONDS,
    RETRY_STALE_SECONDS,
    Lookup,
    LookupResult,
    ResultRequest,
    StillComputing,
)
from holdfast_gateway.l1.memory import TRUSTED_SECONDS

BEGIN = 1_700_000_000.0
MISS_TIMEOUT = 5.0
R = ResultRequest(f"{KEY_PREFIX}/api/v1/analytics/r", "r", {})


class World:
    """A lookup between a Redis and a supervisor in memory, by the clock of a leaping loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._origin = loop.time()
        self.redis = MemoryRedis(self.wall)
        self.supervisor = MemorySupervisor()
        self.redis_link, self.supervisor_link = link_to(self.redis), link_to(self.supervisor)
        self.version = ""
        """The version of the report in the catalogue."""
        self.failed_reads = 0
        self.rejected_entries: list[str] = []
        self.lookup = Lookup(
            redis=self.redis_link,
            supervisor=self.supervisor_link,
            meter=self,
            max_bytes=2**20,
            miss_timeout=MISS_TIMEOUT,
            private=False,
            version=lambda _: self.version,
            monotonic=loop.time,
            wall=self.wall,
        )

    def wall(self) -> float:
        """Seconds since the epoch."""
        return BEGIN + asyncio.get_running_loop().time() - self._origin

    def redis_failed(self) -> None:
        """Count a failed read."""
        self.failed_reads += 1

    def rejected(self, reason: str) -> None:
        """Note why an entry was rejected."""
        self.rejected_entries.append(reason)

    def entry(
        self,
        rows: int = 1,
        *,
        ttl: float = 10,
        max_stale: float = 100,
        ago: float = 0,
        token: int = 0,
        version: str = "",
    ) -> Entry:
        """An entry computed so many seconds ago."""
        return build(
            key=R.key,
            report="r",
            params={},
            rows=[{"n": n} for n in range(rows)],
            computed_at=self.wall() - ago,
            ttl=ttl,
            max_stale=max_stale,
            token=token,
            version=version,
        )

    def store(self, entry: Entry) -> Entry:
        """Put an entry in Redis, as another process does."""
        self.redis.values[entry.key.encode()] = pack(entry)
        return entry

    def offer(self, entry: Entry) -> Entry:
        """Let the supervisor's next computation give this entry."""
        self.supervisor.entries[entry.key] = entry
        return entry

    @property
    def reads(self) -> int:
        """How often Redis was read."""
        return sum(call.startswith("get") for call in self.redis.calls)

    @property
    def computations(self) -> list[str]:
        """The triggers of the computations that the supervisor was asked for."""
        return [call.split()[-1] for call in self.supervisor.calls]

    async def find(self) -> LookupResult:
        """Look the one result up."""
        return await self.lookup.find(R)


Scenario = Callable[[World], Awaitable[None]]


def play(scenario: Scenario) -> None:
    """Run a scenario on a leaping clock."""

    async def run() -> None:
        await scenario(World())

    run_leaping(run())


def served(result: LookupResult) -> tuple[str, int]:
    """What a caller sees: X-Cache and the number of rows."""
    return result.cache, result.item.representation.entry.rows


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


def build_stale(world: World, entry: Entry) -> Entry:
    """The entry, stale from now on."""
    return Entry(
        entry.key,
        entry.computed_at,
        world.wall(),
        entry.stale_until,
        entry.digest,
        entry.rows,
        entry.body,
        entry.gzip,
        entry.zstd,
    )


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
    """Who waited for the miss time-out is told that the result is being computed, and finds it later."""

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
