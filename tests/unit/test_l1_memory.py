"""The gateway's memory: how what it holds ages, when it may be served at once, and what goes first."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cache.entry import build
from holdfast_gateway.http import Representation
from holdfast_gateway.l1.memory import TRUSTED_SECONDS, Item, Memory

TTL, MAX_STALE = 30.0, 600.0
NOW, WALL = 1000.0, 50_000.0


def item(*, wall: float = WALL, now: float = NOW, key: str = "gwcache:/r", ttl: float = TTL) -> Item:
    """An entry computed at 50,000 that is put in memory at that time of the wall clock."""
    entry = build(
        key=key, report="r", params={}, rows=[{"n": 1}], computed_at=WALL, ttl=ttl, max_stale=MAX_STALE
    )
    return Item(Representation(entry, private=False), now, wall)


def test_an_entry_ages_from_when_it_was_computed() -> None:
    """An entry that lay in Redis for ten seconds has ten seconds less to be fresh, and to be served."""
    held = item(wall=WALL + 10)
    assert (held.fresh_until, held.stale_until) == (NOW + TTL - 10, NOW + TTL - 10 + MAX_STALE)
    assert NOW - held.computed_at == 10


def test_a_clock_that_was_set_back_makes_nothing_fresh_for_longer() -> None:
    """With the clock two hours behind the entry, it is as good as new and no better."""
    held = item(wall=WALL - 7200)
    assert held.fresh_until == NOW + TTL
    assert held.stale_until == NOW + TTL + MAX_STALE
    assert held.computed_at == NOW


@pytest.mark.parametrize(
    ("ttl", "later", "hit"),
    [
        (TTL, 0.0, True),
        (TTL, TRUSTED_SECONDS - 0.001, True),
        (TTL, TRUSTED_SECONDS, False),
        (0.5, 0.499, True),
        (0.5, 0.5, False),
    ],
)
def test_a_hit_is_fresh_and_trusted(ttl: float, later: float, hit: bool) -> None:
    """An item may be served at once while it is both fresh and trusted, and to the end of neither longer."""
    memory = Memory(10_000)
    held = item(ttl=ttl)
    memory.put("k", held)
    assert memory.hit("k", NOW + later) is (held if hit else None)
    assert memory.hit("other", NOW + later) is None


def test_trust_is_given_again_and_taken_away() -> None:
    """Renewed trust lasts from then on, but never beyond freshness; a distrusted item is never a hit."""
    memory, held = Memory(10_000), item(ttl=5)
    memory.put("k", held)
    held.trust(NOW + 3)
    assert memory.hit("k", NOW + 3.9) is held
    held.trust(NOW + 4.5)
    assert held.trusted_until == NOW + 4.5 + TRUSTED_SECONDS
    assert memory.hit("k", NOW + 4.999) is held
    assert memory.hit("k", NOW + 5) is None
    held.distrust()
    assert memory.hit("k", NOW) is None
    assert held.trusted_until == 0.0


def test_memory_keeps_within_its_bytes_and_lets_the_oldest_go() -> None:
    """Memory holds at most its bytes; what was stored longest ago goes first."""
    one = item().size
    memory = Memory(one * 3)
    for number in range(10):
        memory.put(f"k{number}", item())
    assert list(memory.items) == ["k7", "k8", "k9"]
    assert memory.bytes == one * 3
    memory.put("k7", item())
    memory.put("k10", item())
    assert list(memory.items) == ["k9", "k7", "k10"]


def test_an_item_costs_its_bodies_and_its_bookkeeping() -> None:
    """The size counts every body that is kept, and what an item needs beside them."""
    entry = item().representation.entry
    assert item().size == len(entry.body) + len(entry.gzip) + len(entry.zstd) + 1024


def test_a_single_item_is_kept_however_large() -> None:
    """An item larger than the memory is kept until the next one: it was asked for a moment ago."""
    memory = Memory(1)
    memory.put("k", item())
    assert list(memory.items) == ["k"]
    memory.put("l", item())
    assert list(memory.items) == ["l"]


@given(st.lists(st.tuples(st.sampled_from(["put", "drop"]), st.sampled_from("abcde")), max_size=40))
def test_the_bytes_are_those_of_the_items(steps: list[tuple[str, str]]) -> None:
    """Whatever comes and goes, the count of bytes is the sum over the items."""
    memory = Memory(item().size * 3)
    for step, key in steps:
        if step == "put":
            memory.put(key, item())
        else:
            memory.drop(key)
    assert memory.bytes == sum(held.size for held in memory.items.values())
    assert memory.bytes <= item().size * 3


@pytest.mark.parametrize(
    ("made", "catalogue", "hit"),
    [("1" * 16, "1" * 16, True), ("1" * 16, "2" * 16, False), ("", "2" * 16, True), ("1" * 16, "", True)],
)
def test_an_item_of_another_version_is_no_hit(made: str, catalogue: str, hit: bool) -> None:
    """The version is compared once, when an item is made; the hot path sees a time that is over."""
    entry = msgspec.structs.replace(item().representation.entry, version=made)
    memory = Memory(10_000)
    memory.put("k", Item(Representation(entry, private=False), NOW, WALL, version=catalogue))
    assert (memory.hit("k", NOW) is not None) is hit


@pytest.mark.parametrize(("token", "ahead", "newer"), [(8, 0.0, True), (6, 0.0, False), (8, 7200.0, False)])
def test_what_was_dated_ahead_is_newer_than_nothing(token: int, ahead: float, newer: bool) -> None:
    """The token decides; an item whose date was still to come when it came gives way to everything."""
    entry = msgspec.structs.replace(item().representation.entry, token=token)
    held = Item(Representation(entry, private=False), NOW, WALL - ahead)
    assert held.newer_than(msgspec.structs.replace(entry, token=7)) is newer
