"""The clock by which entries are dated: Redis', as far as this process knows it.

The machines that share a cache rarely agree on the time to the second, and any one clock may be hours off. So
`computed_at`, `fresh_until` and `stale_until` are times of Redis' clock, in whose data they lie. Each process
that has a link to Redis reads that clock at each probe, once a second, and goes on by its own monotonic clock
in between and while Redis is away. Until Redis has answered once, this machine's clock counts.

Cristian's algorithm (F. Cristian, "Probabilistic clock synchronization", 1989): an answer says what the time
was somewhere between the question and the answer, so a clock that differs by less than that is right.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

SLACK_SECONDS = 0.05
"""A difference that is not worth a correction: the clock must not jitter with each answer."""
FIRST_HAND_SECONDS = 10.0
"""For how long what Redis itself said counts more than what the supervisor says."""


class StoreClock:
    """Redis' clock, in seconds since the epoch. `wall` and `monotonic` are this machine's."""

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._ahead: float | None = None
        """By how much Redis' clock is ahead of the monotonic one."""
        self._first_hand_at = -math.inf

    def __repr__(self) -> str:
        return f"<StoreClock differs_by={self.now() - self._wall():.3f}>"

    def now(self) -> float:
        """The time."""
        return self._wall() if self._ahead is None else self._monotonic() + self._ahead

    def observe(self, told: float, asked_at: float) -> None:
        """Take what Redis' clock said to a question of that time of the monotonic clock."""
        self._first_hand_at = self._monotonic()
        self._correct(told, asked_at)

    def observe_second_hand(self, told: float, asked_at: float) -> None:
        """Take what another process says that Redis' clock is, unless Redis itself has said it lately."""
        if self._monotonic() - self._first_hand_at >= FIRST_HAND_SECONDS:
            self._correct(told, asked_at)

    def _correct(self, told: float, asked_at: float) -> None:
        answered_at = self._monotonic()
        least, most = told - answered_at - SLACK_SECONDS, told - asked_at + SLACK_SECONDS
        if self._ahead is not None and least <= self._ahead <= most:
            return
        # This machine's clock is more even than our answers: where it agrees with Redis', it is taken.
        local = self._wall() - answered_at
        self._ahead = local if least <= local <= most else (least + most) / 2
