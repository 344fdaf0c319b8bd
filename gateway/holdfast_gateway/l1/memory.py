"""The results in this process's memory, and how they age there."""

from __future__ import annotations

from holdfast.cache.entry import Entry, dated_ahead, newer, same_version
from holdfast_gateway.http import Representation

TRUSTED_SECONDS = 1.0
"""How long an item counts as current before Redis is asked again."""
_BOOKKEEPING = 1024
"""Bytes that an item costs beside its bodies, about."""


class Item:
    """An entry in memory. Its times are on the monotonic clock.

    `hit_until` is the end of the time in which it may be served without any further look: while it is both
    fresh and trusted. `version` is that of the report in the catalogue: the result of another one is stale.
    """

    __slots__ = (
        "_ahead",
        "_good_until",
        "computed_at",
        "fresh_until",
        "hit_until",
        "representation",
        "size",
        "stale_until",
        "trusted_until",
        "version",
    )

    def __init__(self, representation: Representation, now: float, wall: float, *, version: str = "") -> None:
        entry = representation.entry
        self._ahead = dated_ahead(entry.computed_at, wall)
        # Computed in the future: the clock was set back since, and must not make the entry fresh for longer.
        wall = max(wall, entry.computed_at)
        self.representation = representation
        self.computed_at = now + entry.computed_at - wall
        self._good_until = self.fresh_until = now + entry.fresh_until - wall
        self.stale_until = now + entry.stale_until - wall
        self.size = len(entry.body) + len(entry.gzip) + len(entry.zstd) + _BOOKKEEPING
        self.compare(version, now)
        self.trust(now)

    def compare(self, version: str, now: float) -> None:
        """Be stale if the entry is of another version than that of the report, else as fresh as it was."""
        self.version = version
        same = same_version(self.representation.entry.version, version)
        self.fresh_until = self._good_until if same else min(self._good_until, now)

    def is_of(self, entry: Entry) -> bool:
        """Whether it holds this very entry: the same computation with the same times."""
        here = self.representation.entry
        times = (here.computed_at, here.fresh_until, here.stale_until)
        return (here.token, here.digest, *times) == (
            entry.token,
            entry.digest,
            entry.computed_at,
            entry.fresh_until,
            entry.stale_until,
        )

    def newer_than(self, entry: Entry) -> bool:
        """Whether it was written after that entry. What was dated ahead when it came is never newer."""
        return not self._ahead and newer(self.representation.entry, entry)

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
