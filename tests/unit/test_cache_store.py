"""The store of entries and leases: its own Lua scripts on a dictionary, and a clock that is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory import MemoryRedis, bring_down, bring_up, link_to

from holdfast.cache.entry import Entry, Unusable, build, pack, unpack
from holdfast.cache.store import CLAIM_SECONDS, LEASE_PREFIX, Store
from holdfast.errors import (
    AuthenticationFailed,
    HoldfastError,
    LeaseHeld,
    LeaseLost,
    LinkLost,
    OtherVersion,
    PoolExhausted,
    QueryFailed,
    StoreUnavailable,
)

KEY = "gwcache:/api/v1/analytics/r"
BEGIN = 1_700_000_000.25


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    now: float = BEGIN

    def __call__(self) -> float:
        """The time."""
        return self.now


@dataclass
class World:
    """A store on a Redis in memory."""

    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.redis = MemoryRedis(self.clock)
        self.link = link_to(self.redis)
        self.store = Store(self.link, clock=self.clock)

    def do(self, work: Awaitable[Any]) -> Any:
        """Run one call to its end."""

        async def run() -> Any:
            return await work

        return asyncio.run(run())


@pytest.fixture
def world() -> World:
    """A store with nothing in it."""
    return World()


def entry(
    rows: int = 1, *, key: str = KEY, at: float = BEGIN, ttl: float = 60, max_stale: float = 600
) -> Entry:
    """An entry computed at that time."""
    return build(
        key=key,
        report="r",
        params={},
        rows=[{"n": n} for n in range(rows)],
        computed_at=at,
        ttl=ttl,
        max_stale=max_stale,
    )


# Leases


def test_a_lease_is_held_by_one(world: World) -> None:
    """While a key's lease is held nobody else gets it, and the lease of another key is free."""
    world.do(world.store.acquire(KEY, 10))
    with pytest.raises(LeaseHeld, match="computed by another"):
        world.do(world.store.acquire(KEY, 10))
    world.do(world.store.acquire(KEY + "?month=1", 10))


@pytest.mark.parametrize(("later", "free"), [(9.999, False), (10.0, True)])
def test_a_lease_ends_to_the_millisecond(world: World, later: float, free: bool) -> None:
    """A lease of ten seconds is held for ten seconds, and not for a millisecond more or less."""
    world.do(world.store.acquire(KEY, 10))
    world.clock.now += later
    if free:
        world.do(world.store.acquire(KEY, 10))
    else:
        with pytest.raises(LeaseHeld):
            world.do(world.store.acquire(KEY, 10))


@pytest.mark.parametrize(("later", "lost"), [(3.999, False), (4.0, True)])
def test_a_renewed_lease_lasts_from_then(world: World, later: float, lost: bool) -> None:
    """A renewal counts from when it is made, also where it shortens the lease."""
    token = world.do(world.store.acquire(KEY, 10))
    world.clock.now += 8
    world.do(world.store.renew(KEY, token, 4))
    world.clock.now += later
    if lost:
        with pytest.raises(LeaseLost):
            world.do(world.store.renew(KEY, token, 4))
    else:
        world.do(world.store.renew(KEY, token, 4))


def test_only_the_token_renews_and_releases(world: World) -> None:
    """Another token than the holder's neither keeps the lease nor gives it back."""
    token = world.do(world.store.acquire(KEY, 10))
    with pytest.raises(LeaseLost):
        world.do(world.store.renew(KEY, token + 1, 10))
    world.do(world.store.release(KEY, token + 1))
    with pytest.raises(LeaseHeld):
        world.do(world.store.acquire(KEY, 10))


def test_a_released_lease_is_free_and_is_released_twice_without_harm(world: World) -> None:
    """A lease that was given back is free at once; giving it back again does not end the next one."""
    first = world.do(world.store.acquire(KEY, 10))
    world.do(world.store.release(KEY, first))
    second = world.do(world.store.acquire(KEY, 10))
    world.do(world.store.release(KEY, first))
    world.do(world.store.renew(KEY, second, 10))


@given(st.lists(st.sampled_from(["acquire", "flush", "back", "forward"]), min_size=2, max_size=20))
def test_tokens_only_grow(steps: list[str]) -> None:
    """However the clock moves each token is larger than all before, and after a flush by the clock alone."""
    world, tokens = World(), [0]
    for step in steps:
        match step:
            case "acquire":
                # A key of its own: the token counts over all keys.
                token = world.do(world.store.acquire(f"{KEY}?n={len(tokens)}", 10))
                assert token > tokens[-1]
                tokens.append(token)
            case "flush":
                world.redis.values.clear()
                # By then the server's clock has passed every token that was made from it.
                world.clock.now = max(world.clock.now, tokens[-1] / 1e6) + 1
            case "back" if world.redis.values:
                # Not between a flush and the next token, when the clock is all that is left.
                world.clock.now -= 3600
            case "forward":
                world.clock.now += 3600


def test_tokens_grow_also_when_redis_was_emptied_and_its_clock_set_back(world: World) -> None:
    """A store that goes on gives larger tokens than before to whatever Redis is there."""
    before = world.do(world.store.acquire(KEY, 10))
    world.redis.values.clear()
    world.clock.now -= 7200
    assert world.do(world.store.acquire(KEY, 10)) > before
    assert world.do(world.store.next_token()) > before + 1


@pytest.mark.parametrize("ahead", [0, 1, 7200, 86_400 * 365])
def test_a_token_is_larger_than_that_of_the_entry_in_place(world: World, ahead: float) -> None:
    """However far ahead an entry in place is, what is computed next is newer; so is what is computed then."""
    placed = round((BEGIN + ahead) * 1e6)
    world.do(world.store.put(msgspec.structs.replace(entry(at=BEGIN + ahead), token=placed)))
    first = world.do(world.store.acquire(KEY, 10))
    assert first > placed
    assert world.do(world.store.acquire(KEY + "?month=1", 10)) > first


@pytest.mark.parametrize(
    "stored", [b"", b"HF", b"HF\x01" + b"\xff" * 80, b"foreign" * 20, b"HF\x02" + b"\xff" * 80]
)
def test_what_is_no_entry_does_not_move_the_tokens(world: World, stored: bytes) -> None:
    """Bytes that are no entry, and a token that no lease can have, are passed over."""
    world.redis.values[KEY.encode()] = stored
    assert world.do(world.store.acquire(KEY, 10)) == round(BEGIN * 1e6)


def test_a_token_without_a_lease_lies_between_those_before_and_after(world: World) -> None:
    """What was begun before a moment has a smaller token, and what is begun later a larger one."""
    tokens = [
        world.do(world.store.acquire(KEY, 10)),
        world.do(world.store.next_token()),
        world.do(world.store.unstored_token()),
        world.do(world.store.acquire(KEY + "?month=1", 10)),
        world.do(world.store.next_token()),
    ]
    assert tokens == sorted(set(tokens))


def test_an_unstored_result_has_a_token_while_redis_is_down(world: World) -> None:
    """A result computed without Redis is newer than those before, and older than what is stored next."""
    before = world.do(world.store.acquire(KEY, 10))
    bring_down(world.link)
    world.clock.now -= 7200
    without = world.do(world.store.unstored_token())
    bring_up(world.link)
    assert before < without < world.do(world.store.acquire(KEY + "?month=1", 10))


def test_a_first_token_is_the_clock_in_microseconds(world: World) -> None:
    """Tokens begin at the server's clock, so that they grow also after everything was flushed."""
    assert world.do(world.store.acquire(KEY, 10)) == round(BEGIN * 1e6)


# Entries


def test_a_write_needs_the_lease(world: World) -> None:
    """Only who holds the lease now may write; what is refused changes nothing."""
    token = world.do(world.store.acquire(KEY, 10))
    world.do(world.store.write(entry(1), token))
    world.clock.now += 10
    for attempt in (token, world.do(world.store.acquire(KEY, 10)) + 1):
        with pytest.raises(LeaseLost):
            world.do(world.store.write(entry(2), attempt))
    assert world.do(world.store.entry(KEY)) == entry(1)


def test_a_lease_of_another_key_does_not_count(world: World) -> None:
    """The lease of one key gives no right to write another."""
    token = world.do(world.store.acquire(KEY, 10))
    with pytest.raises(LeaseLost):
        world.do(world.store.write(entry(key=KEY + "?month=1"), token))


@pytest.mark.parametrize(("later", "there"), [(659.999, True), (660.0, False)])
@pytest.mark.parametrize("how", ["write", "put", "mark_stale"])
def test_an_entry_leaves_at_its_stale_until(world: World, how: str, later: float, there: bool) -> None:
    """Redis drops an entry at its `stale_until`, however it was put there."""
    if how == "put":
        world.do(world.store.put(entry()))
    else:
        world.do(world.store.write(entry(), world.do(world.store.acquire(KEY, 10))))
    if how == "mark_stale":
        assert world.do(world.store.mark_stale(KEY))
    world.clock.now += later
    assert isinstance(world.do(world.store.entry(KEY)), Entry) is there


def test_what_is_no_entry_has_a_reason(world: World) -> None:
    """Nothing, damaged bytes and an entry of another key are each reported as what they are."""
    assert world.do(world.store.entry(KEY)) is Unusable.MISSING
    packed = pack(entry())
    world.redis.values[KEY.encode()] = packed[:-1] + bytes([packed[-1] ^ 1])
    assert world.do(world.store.entry(KEY)) is Unusable.CORRUPT
    world.redis.values[KEY.encode()] = pack(entry(key="gwcache:/other"))
    assert world.do(world.store.entry(KEY)) is Unusable.FOREIGN
    assert world.do(world.store.packed(KEY)) == pack(entry(key="gwcache:/other"))


def test_times_are_read_without_the_bodies(world: World) -> None:
    """The times of many entries come in one call; what is no entry has none."""
    world.do(world.store.put(entry()))
    world.redis.values[b"gwcache:/foreign"] = b"something else that is long enough to be an entry's head"
    found = world.do(world.store.headers([KEY, "gwcache:/missing", "gwcache:/foreign"]))
    assert found == [((BEGIN, BEGIN + 60, BEGIN + 660), 0, ""), None, None]
    assert world.redis.calls[-1] == "heads 3"


# Versions

V1, V2, V3 = "1" * 16, "2" * 16, "3" * 16


def write(world: World, version: str) -> None:
    """Compute and write the one result, as a process with that version of the report does."""
    token = world.do(world.store.acquire(KEY, 10))
    try:
        made = msgspec.structs.replace(entry(), version=version, token=token)
        world.do(world.store.write(made, token))
    finally:
        world.do(world.store.release(KEY, token))


@pytest.mark.parametrize("version", [V1, V2, ""])
def test_without_a_claim_every_version_is_stored(world: World, version: str) -> None:
    """A cache that no supervisor has claimed keeps what comes."""
    write(world, version)
    assert world.do(world.store.entry(KEY)).version == version


def test_the_results_of_another_version_are_refused(world: World) -> None:
    """While a version is claimed, the results of another one replace nothing, however often they come."""
    assert world.do(world.store.claim({"r": V2, "s": V3}, first=True)) == 0
    write(world, V2)
    stored = world.redis.values[KEY.encode()]
    for _ in range(3):
        with pytest.raises(OtherVersion, match="another version of report r"):
            write(world, V1)
    assert world.redis.values[KEY.encode()] == stored
    write(world, "")


def test_who_came_last_has_the_claim(world: World) -> None:
    """A supervisor that starts takes the place of every other; one that only goes on does not."""
    world.do(world.store.claim({"r": V1, "s": V1}, first=True))
    world.do(world.store.claim({"r": V2}, first=True))
    assert world.do(world.store.claim({"r": V1, "s": V1}, first=False)) == 1
    with pytest.raises(OtherVersion):
        write(world, V1)
    world.redis.values.clear()
    assert world.do(world.store.claim({"r": V1}, first=False)) == 0
    write(world, V1)
    assert world.do(world.store.claim({}, first=False)) == 0


def test_a_claim_ends_when_nobody_renews_it(world: World) -> None:
    """A report that is served by nobody any more is claimed by nobody after a month."""
    world.do(world.store.claim({"r": V2}, first=True))
    world.clock.now += CLAIM_SECONDS - 1
    world.do(world.store.claim({"r": V2}, first=False))
    world.clock.now += CLAIM_SECONDS - 1
    with pytest.raises(OtherVersion):
        write(world, V1)
    world.clock.now += 1
    write(world, V1)


# Marking stale


def test_a_marked_entry_is_stale_from_now(world: World) -> None:
    """The body and the other times stay as they are; only the freshness ends."""
    world.do(world.store.put(entry(3)))
    world.clock.now += 20
    assert world.do(world.store.mark_stale(KEY)) is True
    found = world.do(world.store.entry(KEY))
    assert (found.fresh_until, found.stale_until) == (BEGIN + 20, BEGIN + 660)
    assert (found.body, found.computed_at) == (entry(3).body, BEGIN)


@pytest.mark.parametrize("ahead", [60.0, 7200.0])
def test_a_marked_entry_that_is_dated_ahead_is_stale(world: World, ahead: float) -> None:
    """Its freshness ends now, by the clock of Redis, although its date is still to come."""
    world.do(world.store.put(entry(at=BEGIN + ahead)))
    assert world.do(world.store.mark_stale(KEY)) is True
    assert world.do(world.store.entry(KEY)).fresh_until == BEGIN


def test_what_is_stale_already_does_not_become_fresher(world: World) -> None:
    """Marking an entry whose freshness ended earlier does not move its end."""
    world.do(world.store.put(entry()))
    world.clock.now += 100
    assert world.do(world.store.mark_stale(KEY)) is True
    assert world.do(world.store.entry(KEY)).fresh_until == BEGIN + 60


@pytest.mark.parametrize("stored", [None, b"", b"HF\x00 an older schema", b"foreign"])
def test_nothing_to_mark_is_reported(world: World, stored: bytes | None) -> None:
    """Where there is no entry nothing is marked, and nothing is changed."""
    if stored is not None:
        world.redis.values[KEY.encode()] = stored
    assert world.do(world.store.mark_stale(KEY)) is False
    assert world.redis.values.get(KEY.encode()) == stored


def test_a_newer_result_that_came_in_meanwhile_stays(world: World) -> None:
    """An entry that is written between the reading and the marking is not replaced by the older one."""
    world.do(world.store.put(entry(1)))
    newer = entry(2, at=BEGIN + 5)

    def another_process_writes() -> None:
        world.redis.values[KEY.encode()] = pack(newer)

    world.redis.after_get = another_process_writes
    world.clock.now += 20
    assert world.do(world.store.mark_stale(KEY)) is True
    assert unpack(KEY, world.redis.values[KEY.encode()]) == newer


# Redis that cannot be used

CALLS: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "entry": lambda store: store.entry(KEY),
    "packed": lambda store: store.packed(KEY),
    "headers": lambda store: store.headers([KEY]),
    "acquire": lambda store: store.acquire(KEY, 10),
    "renew": lambda store: store.renew(KEY, 1, 10),
    "release": lambda store: store.release(KEY, 1),
    "write": lambda store: store.write(entry(), 1),
    "put": lambda store: store.put(entry()),
    "next_token": lambda store: store.next_token(),
    "claim": lambda store: store.claim({"r": "1" * 16}, first=True),
    "mark_stale": lambda store: store.mark_stale(KEY),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_link_that_is_down_fails_at_once(world: World, call: str) -> None:
    """While the link is down nothing is asked of Redis, and the error says when it is tried again."""
    bring_down(world.link)
    with pytest.raises(StoreUnavailable) as raised:
        world.do(CALLS[call](world.store))
    assert world.redis.calls == []
    assert raised.value.retryable
    assert raised.value.details["link"] == "redis"
    assert raised.value.details["retry_in"] >= 0


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("cause", [LinkLost, QueryFailed, AuthenticationFailed, PoolExhausted])
def test_whatever_redis_does_it_is_the_store_that_fails(
    world: World, call: str, cause: type[HoldfastError]
) -> None:
    """A broken connection, a refusal and a full pool are all StoreUnavailable, each with its sentence."""
    world.redis.failure = cause("Redis said no", link="redis")
    with pytest.raises(StoreUnavailable, match="Redis said no") as raised:
        world.do(CALLS[call](world.store))
    assert isinstance(raised.value.__cause__, cause)


def test_leases_and_entries_have_keys_of_their_own(world: World) -> None:
    """A lease lies beside its entry and never in its place."""
    token = world.do(world.store.acquire(KEY, 10))
    world.do(world.store.write(entry(), token))
    assert {LEASE_PREFIX + KEY, KEY} <= {key.decode() for key in world.redis.values}
    assert world.redis.values[(LEASE_PREFIX + KEY).encode()] == str(token).encode()
