"""How the gateway's memory ages what it holds."""

from __future__ import annotations

from holdfast.cache.entry import build
from holdfast_gateway.http import Representation
from holdfast_gateway.l1.lookup import Item, Memory

TTL, MAX_STALE = 30.0, 600.0


def item(*, wall: float, now: float = 1000.0, key: str = "gwcache:/r") -> Item:
    """An entry computed at 50,000 that is put in memory at that time of the wall clock."""
    entry = build(
        key=key, report="r", params={}, rows=[{"n": 1}], computed_at=50_000.0, ttl=TTL, max_stale=MAX_STALE
    )
    return Item(Representation(entry, private=False), now, wall)


def test_an_entry_ages_from_when_it_was_computed() -> None:
    """An entry that lay in Redis for ten seconds has so many seconds less to be fresh, and to be served."""
    held = item(wall=50_010.0)
    assert (held.fresh_until, held.stale_until) == (1000 + TTL - 10, 1000 + TTL - 10 + MAX_STALE)
    assert 1000 - held.computed_at == 10


def test_a_clock_that_was_set_back_makes_nothing_fresh_for_longer() -> None:
    """With the clock two hours behind the entry, it is as good as new and not a moment better."""
    held = item(wall=50_000.0 - 7200)
    assert held.fresh_until == 1000 + TTL
    assert held.stale_until == 1000 + TTL + MAX_STALE
    assert held.computed_at == 1000


def test_memory_keeps_within_its_bytes_and_lets_the_oldest_go() -> None:
    """Memory holds no more bytes than it may; what was stored longest ago goes first."""
    one = item(wall=50_000.0).size
    memory = Memory(one * 3)
    for number in range(10):
        memory.put(f"k{number}", item(wall=50_000.0))
        assert memory.bytes <= one * 3
    assert list(memory.items) == ["k7", "k8", "k9"]
    memory.put("k7", item(wall=50_000.0))
    memory.put("k10", item(wall=50_000.0))
    assert list(memory.items) == ["k9", "k7", "k10"]
