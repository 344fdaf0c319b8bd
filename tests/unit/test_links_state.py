"""A link's states: the pure function that decides them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.links.state import Action, Attempting, Event, Failed, LinkState, Lost, Opened, Phase, step

TIMES = st.floats(0, 4e9)
ERRORS = st.text(max_size=5)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Attempting, TIMES),
    st.builds(Opened, TIMES),
    st.builds(Failed, TIMES, ERRORS, st.floats(0, 100)),
    st.builds(Lost, TIMES, ERRORS),
)
BURSTS = st.integers(1, 8)


@given(st.lists(EVENTS, max_size=30), BURSTS)
def test_a_link_is_up_only_while_the_last_thing_that_happened_is_that_it_opened(
    events: list[Event], burst: int
) -> None:
    """In whatever order events come, nothing but an answered query makes a link up."""
    state = LinkState()
    for event in events:
        state, _ = step(state, event, burst=burst)
        assert (state.phase is Phase.UP) is isinstance(event, Opened)


@given(st.lists(EVENTS, max_size=30), BURSTS)
def test_the_generation_counts_the_openings(events: list[Event], burst: int) -> None:
    """The generation grows by one with every opening and with nothing else, so what is older can be told."""
    state = LinkState()
    for event in events:
        before = state.generation
        state, _ = step(state, event, burst=burst)
        assert state.generation == before + isinstance(event, Opened)


@given(st.lists(EVENTS, max_size=30), BURSTS)
def test_what_is_broken_is_discarded(events: list[Event], burst: int) -> None:
    """After a failed attempt and after a loss the connections are closed; at no other time."""
    state = LinkState()
    for event in events:
        state, actions = step(state, event, burst=burst)
        assert (Action.DISCARD in actions) is isinstance(event, Failed | Lost)


@given(st.lists(EVENTS, max_size=30), BURSTS)
def test_a_next_attempt_is_announced_only_while_one_is_awaited(events: list[Event], burst: int) -> None:
    """`next_retry_at` is set from a failure until the next attempt begins, and the last error is kept."""
    state = LinkState()
    for event in events:
        state, _ = step(state, event, burst=burst)
        if isinstance(event, Failed):
            assert state.next_retry_at == event.at + event.delay
            assert state.last_error == event.error
        else:
            assert state.next_retry_at is None


@given(st.integers(0, 20), BURSTS, st.floats(1, 100))
def test_a_burst_of_failures_is_backing_off_and_more_are_down(
    failures: int, burst: int, delay: float
) -> None:
    """Fewer failures in a row than the burst are backing off; then the link is down until it opens."""
    state, now = LinkState(since=1.0), 2.0
    for failure in range(1, failures + 1):
        before = state
        state, _ = step(state, Attempting(now), burst=burst)
        assert (state.phase, state.since) == (before.phase, before.since)
        assert state.next_retry_at is None
        state, _ = step(state, Failed(now + 0.5, "refused", delay), burst=burst)
        assert state.phase is (Phase.BACKING_OFF if failure < burst else Phase.DOWN)
        assert state.failures == failure
        now += 0.5 + delay
    state, _ = step(state, Attempting(now), burst=burst)
    state, actions = step(state, Opened(now + 0.5), burst=burst)
    assert (state.phase, state.since, state.failures) == (Phase.UP, now + 0.5, 0)
    assert Action.ANNOUNCE in actions


@given(st.integers(1, 20), BURSTS)
def test_a_lost_link_begins_again(failures: int, burst: int) -> None:
    """A link that was lost after many failures has a full burst before it counts as down again."""
    state = LinkState(Phase.DOWN, 1.0, failures, 3, "refused")
    for event in (Opened(2.0), Lost(3.0, "broke")):
        state, actions = step(state, event, burst=burst)
        assert Action.ANNOUNCE in actions
    assert (state.phase, state.since, state.failures, state.generation) == (Phase.CONNECTING, 3.0, 0, 4)
    state, _ = step(state, Failed(4.0, "refused", 1.0), burst=burst)
    assert state.failures == 1


@given(st.lists(EVENTS, max_size=30), BURSTS)
def test_a_change_of_phase_is_announced_and_staying_down_is_not(events: list[Event], burst: int) -> None:
    """A log has a line when a link goes up or down, and none for each attempt while it stays down."""
    state = LinkState()
    for event in events:
        before = state
        state, actions = step(state, event, burst=burst)
        if isinstance(event, Opened | Lost):
            assert Action.ANNOUNCE in actions
        if before.phase is state.phase is Phase.DOWN and before.failures:
            assert Action.ANNOUNCE not in actions
            assert state.since == before.since


AN = Action.ANNOUNCE
DI = Action.DISCARD


@pytest.mark.parametrize(
    ("before", "event", "after", "actions"),
    [
        (LinkState(), Attempting(9.0), LinkState(), ()),
        (
            LinkState(Phase.UP, 1.0, 0, 3, "old"),
            Attempting(9.0),
            LinkState(Phase.CONNECTING, 9.0, 0, 3, "old"),
            (),
        ),
        (
            LinkState(Phase.DOWN, 1.0, 7, 3, "old", 8.0),
            Attempting(9.0),
            LinkState(Phase.DOWN, 1.0, 7, 3, "old", None),
            (),
        ),
        (
            LinkState(Phase.DOWN, 1.0, 7, 3, "old", 8.0),
            Opened(9.0),
            LinkState(Phase.UP, 9.0, 0, 4, "old", None),
            (AN,),
        ),
        (
            LinkState(Phase.UP, 1.0, 0, 3, None),
            Lost(9.0, "new"),
            LinkState(Phase.CONNECTING, 9.0, 0, 3, "new", None),
            (AN, DI),
        ),
        (
            LinkState(Phase.CONNECTING, 1.0, 0, 3, "old"),
            Failed(9.0, "new", 2.0),
            LinkState(Phase.BACKING_OFF, 9.0, 1, 3, "new", 11.0),
            (AN, DI),
        ),
        (
            LinkState(Phase.BACKING_OFF, 1.0, 1, 3, "old", 8.0),
            Failed(9.0, "new", 2.0),
            LinkState(Phase.BACKING_OFF, 1.0, 2, 3, "new", 11.0),
            (DI,),
        ),
        (
            LinkState(Phase.BACKING_OFF, 1.0, 4, 3, "old", 8.0),
            Failed(9.0, "new", 2.0),
            LinkState(Phase.DOWN, 9.0, 5, 3, "new", 11.0),
            (AN, DI),
        ),
        (
            LinkState(Phase.DOWN, 1.0, 5, 3, "old", 8.0),
            Failed(9.0, "new", 2.0),
            LinkState(Phase.DOWN, 1.0, 6, 3, "new", 11.0),
            (DI,),
        ),
    ],
)
def test_each_step_is_the_one_of_the_diagram(
    before: LinkState, event: Event, after: LinkState, actions: tuple[Action, ...]
) -> None:
    """Every arrow of the module's diagram, with each field of the state after it, for a burst of five."""
    assert step(before, event, burst=5) == (after, actions)
