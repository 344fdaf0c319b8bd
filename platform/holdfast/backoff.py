"""Delay schedules: pure functions of the attempt, with the randomness passed in.

Used by the links, by the supervisor's clients and by `holdfast up` for the processes it restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


def exponential(attempt: int, *, base: float, cap: float, rng: Random | None = None) -> float:
    """Seconds to wait after the `attempt`-th failure in a row (counted from 1).

    `base · 2^(attempt-1)`, at most `cap`. With `rng` the delay is drawn from its upper half ("equal jitter"):
    many clients do not return at the same moment, and none returns at once.
    """
    if attempt < 1:
        raise ValueError(f"attempt counts from 1, not {attempt}")
    delay = min(cap, base * 2.0 ** min(attempt - 1, 63))
    return delay if rng is None else delay / 2 + rng.random() * delay / 2


@dataclass(frozen=True, slots=True)
class Backoff:
    """One link's delays: `base` and `cap` in seconds, and how many attempts make the first burst.

    During the burst the link is backing off. After it the link is down, and attempts go on forever at the
    cap.
    """

    base: float = 1.0
    cap: float = 10.0
    burst: int = 5

    def delay(self, attempt: int, rng: Random | None = None) -> float:
        """Seconds to wait after the `attempt`-th failure in a row; the cap once the burst is over."""
        if attempt > self.burst:
            return exponential(64, base=self.base, cap=self.cap, rng=rng)
        return exponential(attempt, base=self.base, cap=self.cap, rng=rng)
