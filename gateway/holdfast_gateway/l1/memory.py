"""The results in this process's memory, and how they age there."""

from __future__ import annotations

from holdfast_gateway.http import Representation

TRUSTED_SECONDS = 1.0
"""How long an item counts as current before Redis is asked again."""
_BOOKKEEPING = 1024
"""Bytes that an item costs beside its bodies, about."""


class Item:
    """An entry in memory. Its times are on the monotonic clock.

    `hit_until` is the end of the time in which it may be served without any further look: while it is both
    fresh and trusted.
    """

    __slots__ = (
        "computed_at",
        "fresh_until",
        "hit_until",
        "representation",
        "size",
        "stale_until",
        "trusted_until",
    )

    def __init__(self, representation: Representation, now: float, wall: float) -> None:
        entry = representation.entry
        # Computed in the future: the clock was set back since, and must not make the entry fresh for longer.
        wall = max(wall, entry.computed_at)
        self.representation = representation
        self.computed_at = now + entry.computed_at - wall
        self.fresh_until = now + entry.fresh_until - wall
        self.stale_until = now + entry.stale_until - wall
        self.size = len(entry.body) + len(entry.gzip) + len(entry.zstd) + _BOOKKEEPING
        self.trust(now)

    def trust(self, now: float) -> None:
        """Count as current for TRUSTED_SECONDS from now."""
        self.trusted_until = now + TRUSTED_SECONDS
        self.hit_until = min(self.trusted_until, self.fresh_until)

    def distrust(self) -> None:
        """Have Redis asked at the next read."""
        self.trusted_until = self.hit_until = 0.0

    def __repr__(self) -> str:
        return f"<Item {self.representation.entry.key} fresh_until={self.fresh_until:.3f} bytes={self.size}>"


class Memory:
    """The items by key, at most `max_bytes` of them; the one stored longest ago goes first."""

    def __init__(self, max_bytes: int) -> None:
        self.items: dict[str, Item] = {}
        self.bytes = 0
        self._max = max_bytes

    def __repr__(self) -> str:
        return f"<Memory items={len(self.items)} bytes={self.bytes} max={self._max}>"

    def hit(self, key: str, now: float) -> Item | None:
        """The item, if it may be served without any further look."""
        item = self.items.get(key)
        return item if item is not None and now < item.hit_until else None

    def put(self, key: str, item: Item) -> None:
        """Store an item as the newest one."""
        self.drop(key)
        self.items[key] = item
        self.bytes += item.size
        while self.bytes > self._max and len(self.items) > 1:
            self.drop(next(iter(self.items)))

    def drop(self, key: str) -> None:
        """Remove an item."""
        if item := self.items.pop(key, None):
            self.bytes -= item.size
