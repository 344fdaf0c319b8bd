"""Delays: they double, stay within their bounds, and are spread."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.backoff import Backoff, exponential

BASES = st.floats(0.001, 10)
CAPS = st.floats(0.001, 100)
ATTEMPTS = st.integers(1, 10_000)


@given(ATTEMPTS, BASES, CAPS, st.integers())
def test_a_delay_is_spread_over_its_upper_half(attempt: int, base: float, cap: float, seed: int) -> None:
    """With randomness a delay is between half of the exact one and all of it: never at once, never beyond."""
    exact = exponential(attempt, base=base, cap=cap)
    drawn = exponential(attempt, base=base, cap=cap, rng=Random(seed))
    assert exact / 2 <= drawn <= exact <= cap


@given(ATTEMPTS, BASES, CAPS)
def test_delays_double_up_to_the_cap(attempt: int, base: float, cap: float) -> None:
    """Each delay is twice the one before it until the cap, which holds for any number of failures."""
    now, then = (exponential(n, base=base, cap=cap) for n in (attempt, attempt + 1))
    assert then == min(cap, now * 2)
    assert exponential(1, base=base, cap=cap) == min(base, cap)


def test_many_clients_do_not_return_in_step() -> None:
    """A hundred clients that lost the same server at once come back at a hundred different moments."""
    rng = Random(7)
    assert len({exponential(3, base=1, cap=10, rng=rng) for _ in range(100)}) == 100


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_count_from_one(attempt: int) -> None:
    """The delay before any failure is a mistake of the caller, and is an error."""
    with pytest.raises(ValueError, match="counts from 1"):
        exponential(attempt, base=1, cap=10)


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (Backoff(base=1, cap=10), [1, 2, 4, 8, 10, 10, 10]),
        (Backoff(base=1, cap=15), [1, 2, 4, 8, 15, 15, 15]),
        (Backoff(base=1, cap=100, burst=3), [1, 2, 4, 100, 100]),
    ],
)
def test_a_link_is_tried_at_the_cap_once_its_burst_is_over(backoff: Backoff, delays: list[float]) -> None:
    """Five attempts with doubling delays, then the cap forever, as the documentation's table says."""
    assert [backoff.delay(attempt) for attempt in range(1, len(delays) + 1)] == delays
    assert backoff.delay(10**9) == backoff.cap
    assert backoff.cap / 2 <= backoff.delay(10**9, Random(1)) <= backoff.cap


def test_the_documented_backoff_is_the_default() -> None:
    """One second, doubled up to ten, five attempts in the first burst."""
    assert Backoff() == Backoff(base=1.0, cap=10.0, burst=5)


def test_a_delay_is_drawn_from_all_of_its_upper_half() -> None:
    """The smallest and the largest random number give half of the delay and all of it."""

    class Fixed(Random):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def random(self) -> float:
            return self.value

    drawn = [exponential(3, base=1, cap=10, rng=Fixed(value)) for value in (0.0, 0.5, 1.0)]
    assert drawn == [2.0, 3.0, 4.0]
