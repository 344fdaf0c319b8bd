"""The clock that dates entries: Redis' own, whatever the clocks of the machines around it say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cache.clock import FIRST_HAND_SECONDS, SLACK_SECONDS, StoreClock
from holdfast.rpc.client import Client

BEGIN = 1_700_000_000.0
HOURS = 3600.0


class Machine:
    """A machine whose clock differs from Redis' by so many seconds, and may be set."""

    def __init__(self, differs: float = 0.0) -> None:
        self.passed = 0.0
        self.differs = differs
        self.redis_differs = 0.0
        self.clock = StoreClock(wall=lambda: self.redis + self.differs, monotonic=lambda: self.passed)

    @property
    def redis(self) -> float:
        """What Redis' clock shows."""
        return BEGIN + self.passed + self.redis_differs

    def ask(self, *, there: float = 0.0, back: float = 0.0) -> None:
        """Ask Redis for its time, by a network that takes so long."""
        asked_at = self.passed
        self.passed += there
        told = self.redis
        self.passed += back
        self.clock.observe(told, asked_at)


@pytest.mark.parametrize("differs", [-2 * HOURS, -1.0, 1.0, 2 * HOURS, 86_400 * 365.0])
def test_a_wrong_clock_is_corrected_by_the_first_answer(differs: float) -> None:
    """A machine hours ahead or behind dates entries as Redis does, and goes on so while Redis is away."""
    machine = Machine(differs)
    assert machine.clock.now() == machine.redis + differs
    machine.ask()
    assert machine.clock.now() == pytest.approx(machine.redis, abs=1e-3)
    machine.passed += 5 * HOURS
    assert machine.clock.now() == pytest.approx(machine.redis, abs=1e-3)


@pytest.mark.parametrize("differs", [-0.9 * SLACK_SECONDS, 0.0, 0.9 * SLACK_SECONDS])
def test_a_clock_that_agrees_with_redis_is_taken_as_it_is(differs: float) -> None:
    """Machines that are in step date entries by their own clock, which is more even than any answer."""
    machine = Machine(differs)
    machine.ask()
    assert machine.clock.now() == pytest.approx(machine.redis + differs, abs=1e-4)


@pytest.mark.parametrize("by", [-2 * HOURS, 2 * HOURS])
def test_a_clock_of_redis_that_is_set_is_followed(by: float) -> None:
    """After Redis' clock was set back or forward, the next answer corrects ours."""
    machine = Machine()
    machine.ask()
    machine.redis_differs = by
    machine.differs = -by
    machine.ask()
    assert machine.clock.now() == pytest.approx(machine.redis, abs=1e-3)


@pytest.mark.parametrize("by", [-2 * HOURS, 2 * HOURS])
def test_a_clock_of_this_machine_that_is_set_changes_nothing(by: float) -> None:
    """Between two answers time goes on by the monotonic clock."""
    machine = Machine()
    machine.ask()
    machine.differs = by
    assert machine.clock.now() == pytest.approx(machine.redis, abs=1e-3)
    machine.ask()
    assert machine.clock.now() == pytest.approx(machine.redis, abs=1e-3)


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 60)), min_size=1, max_size=10),
)
def test_the_clock_is_never_further_off_than_an_answer_takes(
    differs: float, answers: list[tuple[float, float, float]]
) -> None:
    """However slow the network is, the time lies between the question and the answer, and a slack."""
    machine = Machine(differs)
    for there, back, later in answers:
        machine.ask(there=there, back=back)
        assert abs(machine.clock.now() - machine.redis) <= max(there, back) + 2 * SLACK_SECONDS
        machine.passed += later


def test_the_supervisor_is_believed_while_redis_has_said_nothing_lately() -> None:
    """Redis' own answer counts more than the supervisor's, while there is one of the last seconds."""
    machine = Machine(2 * HOURS)
    machine.clock.observe_second_hand(machine.redis, machine.passed)
    assert machine.clock.now() == pytest.approx(machine.redis, abs=1e-3)
    machine.ask()
    machine.clock.observe_second_hand(machine.redis + HOURS, machine.passed)
    assert machine.clock.now() == pytest.approx(machine.redis, abs=1e-3)
    machine.passed += FIRST_HAND_SECONDS
    machine.clock.observe_second_hand(machine.redis + HOURS, machine.passed)
    assert machine.clock.now() == pytest.approx(machine.redis + HOURS, abs=1e-3)


@pytest.mark.parametrize(("answer", "differs"), [({"pid": 7, "time": BEGIN}, 0.0), ({"pid": 7}, HOURS)])
def test_a_ping_of_the_supervisor_sets_the_clock(answer: dict[str, Any], differs: float) -> None:
    """A gateway that cannot ask Redis goes by the supervisor's clock; an older supervisor does not say it."""

    class Answering(Client):
        async def call(self, op: str, *, deadline: float, **args: Any) -> Any:
            return answer

    clock = StoreClock(wall=lambda: BEGIN + HOURS)
    assert asyncio.run(Answering(Path("unused"), clock=clock).ping()) == 7
    assert clock.now() == pytest.approx(BEGIN + differs, abs=1)
