"""A link's states: the pure function that decides them, and the loop that follows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.backoff import Backoff
from holdfast.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    LinkDown,
    LinkLost,
    LinkUnused,
    SettingsError,
)
from holdfast.links.adapter import PoolStatus
from holdfast.links.link import Link
from holdfast.links.mongo import MongoAdapter
from holdfast.links.redis import RedisAdapter
from holdfast.links.state import (
    Action,
    Attempting,
    Event,
    Failed,
    LinkState,
    Lost,
    Opened,
    Phase,
    step,
)
from holdfast.settings import MongoSettings, RedisSettings

TIMES = st.floats(0, 4e9)
ERRORS = st.text(max_size=5)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Attempting, TIMES),
    st.builds(Opened, TIMES),
    st.builds(Failed, TIMES, ERRORS, st.floats(0, 100)),
    st.builds(Lost, TIMES, ERRORS),
)
BURSTS = st.integers(1, 8)


# The pure function


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
def test_a_lost_link_begins_anew(failures: int, burst: int) -> None:
    """A link that was lost after a bad time has a whole burst before it counts as down again."""
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


# The link around it


class Server:
    """A link's adapter over a server in memory, which takes and loses connections when it is told to."""

    name = "memory"

    def __init__(self) -> None:
        self.refuses: BaseException | None = None
        self.opened_at: list[float] = []
        self.late = 0
        self.probed = 0
        self.closed = 0

    async def open(self) -> None:
        """One attempt."""
        self.opened_at.append(asyncio.get_running_loop().time())
        if self.refuses is not None:
            raise self.refuses

    async def probe(self) -> None:
        """One query; the next `late` of them are not answered in time."""
        self.probed += 1
        if self.refuses is not None:
            raise self.refuses
        if self.late:
            self.late -= 1
            raise DeadlineExceeded("late")

    async def close(self) -> None:
        """The end of the connection."""
        self.closed += 1

    def pool(self) -> PoolStatus:
        """No connections to speak of."""
        return PoolStatus(1, 0, 1)

    def endpoint(self) -> tuple[str, int] | None:
        """Nothing to watch."""
        return None


class Exact(Random):
    """Randomness that leaves every delay as it is."""

    def random(self) -> float:
        """The upper end."""
        return 1.0


Leaping = Callable[[Any], Any]


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; on the leaping loop a second of waiting takes no time."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen within 500 seconds of leaping")


def test_a_link_that_is_not_up_fails_at_once_with_the_time_of_its_next_attempt() -> None:
    """Callers learn without waiting that a link is not up, and in how many seconds it is tried again."""
    link = Link(Server(), Backoff(base=1, cap=10), clock=lambda: 1000.0)
    link.state = LinkState(Phase.DOWN, 900.0, 7, 2, "refused", 1004.25)
    with pytest.raises(LinkDown, match=r"^memory is down$") as caught:
        link.check()
    assert caught.value.details == {"link": "memory", "retry_in": 4.25}
    for phase in Phase:
        link.state = LinkState(phase)
        if phase is Phase.UP:
            link.check()
        elif phase is Phase.UNUSED:
            with pytest.raises(LinkUnused, match="MEMORY_URL"):
                link.check()
        else:
            with pytest.raises(LinkDown) as caught:
                link.check()
            assert caught.value.details["retry_in"] == 0


def test_an_unused_link_is_never_opened(run_leaping: Leaping) -> None:
    """A link that is not configured says so once, and touches its adapter neither to open nor to close it."""
    server, told = Server(), list[tuple[str, Phase]]()
    link = Link(
        server,
        Backoff(base=1, cap=10),
        on_change=lambda name, state: told.append((name, state.phase)),
        unused=True,
    )

    async def an_hour() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.run(), 3600)

    run_leaping(an_hour())
    assert told == [("memory", Phase.UNUSED)]
    assert (server.opened_at, server.probed, server.closed) == ([], 0, 0)
    assert link.unused


@given(TIMES, TIMES)
def test_a_clock_that_was_set_back_sends_nobody_away_for_hours(next_retry_at: float, now: float) -> None:
    """However the clock moved since the last attempt, `retry_in` is between nothing and the longest delay."""
    link = Link(Server(), Backoff(base=1, cap=10), clock=lambda: now)
    link.state = LinkState(Phase.BACKING_OFF, now, 1, 0, "refused", next_retry_at)
    with pytest.raises(LinkDown) as caught:
        link.check()
    assert 0 <= caught.value.details["retry_in"] <= 10


def test_use_does_not_touch_a_link_that_is_not_up(run_leaping: Leaping) -> None:
    """Nothing is asked of a connection while its link is not up; the body does not begin."""
    link = Link(Server(), Backoff())

    async def run() -> None:
        async with link.use():
            pytest.fail("the body ran")

    with pytest.raises(LinkDown):
        run_leaping(run())


def test_a_server_that_never_answers_is_tried_for_ever_at_the_cap(run_leaping: Leaping) -> None:
    """Attempts come 1, 2, 4, 8 and then every 10 seconds, without end; after five the link is down."""
    server = Server()
    server.refuses = LinkLost("refused")
    seen: list[Phase] = []
    link = Link(
        server,
        Backoff(base=1, cap=10),
        rng=Exact(),
        on_change=lambda _, state: seen.append(state.phase),
    )

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await until(lambda: len(server.opened_at) == 40)
        assert link.state.phase is Phase.DOWN
        assert link.state.failures == 40
        task.cancel()

    run_leaping(run())
    waits = [b - a for a, b in zip(server.opened_at, server.opened_at[1:], strict=False)]
    assert waits == pytest.approx([1, 2, 4, 8, *[10] * 35], abs=0.2)
    assert seen[:9] == [Phase.CONNECTING, *[Phase.BACKING_OFF] * 8]
    assert set(seen[9:]) == {Phase.DOWN}


def test_a_link_comes_back_and_is_probed(run_leaping: Leaping) -> None:
    """A link opens, is probed every second, is lost after two failed probes, and opens again by itself."""
    server = Server()
    link = Link(server, Backoff(base=1, cap=10), rng=Exact())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        assert link.state.generation == 1
        await until(lambda: server.probed == 30)
        assert link.up
        server.refuses = LinkLost("broke")
        await until(lambda: not link.up)
        assert server.probed == 32
        assert link.state.last_error == "broke"
        server.refuses = None
        await link.wait_up()
        assert link.state.generation == 2
        link.check()
        task.cancel()

    run_leaping(run())
    assert server.closed >= 1


def test_one_late_answer_is_no_loss(run_leaping: Leaping) -> None:
    """A single failed probe changes nothing: a slow network must not make a link flap."""
    server = Server()
    phases: list[Phase] = []
    link = Link(server, Backoff(), on_change=lambda _, state: phases.append(state.phase))

    async def run() -> None:
        task = asyncio.create_task(link.run())
        for probed in range(2, 20, 2):
            await until(lambda wanted=probed: server.probed >= wanted)  # type: ignore[misc]
            server.late = 1
        task.cancel()

    run_leaping(run())
    assert phases == [Phase.CONNECTING, Phase.UP]
    assert link.state.generation == 1


def test_a_refused_password_is_a_loss_at_once(run_leaping: Leaping) -> None:
    """A rotated password needs no second proof: the link reopens, with the settings as they are then."""
    server = Server()
    link = Link(server, Backoff())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        server.refuses = AuthenticationFailed("refused")
        await until(lambda: not link.up)
        task.cancel()

    run_leaping(run())
    assert server.probed == 1


def test_whoever_sees_a_connection_break_has_it_probed_at_once(run_leaping: Leaping) -> None:
    """A call that loses its connection is told so, and the link finds out before its next regular probe."""
    server = Server()
    link = Link(server, Backoff())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        probed = server.probed
        with pytest.raises(LinkLost):
            async with link.use():
                raise LinkLost("broke in use")
        for _ in range(5):
            await asyncio.sleep(0)
        assert server.probed == probed + 1
        assert link.up
        task.cancel()

    run_leaping(run())


def test_a_link_that_is_ended_closes_its_connections(run_leaping: Leaping) -> None:
    """Cancelling a link's life closes what it had open."""
    server = Server()
    link = Link(server, Backoff())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_leaping(run())
    assert server.closed == 1
    assert repr(link) == "<Link memory up in_use=0 size=1 max=1>"


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "mongodb://h:99999",
        "mongodb://h/?tls=true&tlsCAFile=canary",
        "mongodb://u:canary@%zz:1:2",
    ],
)
def test_a_mongo_url_that_the_driver_refuses_is_a_named_error(url: str, run_leaping: Leaping) -> None:
    """What only PyMongo finds wrong with MONGO_URL is a link that does not open, and no crash."""
    settings = MongoSettings.model_validate({"MONGO_URL": url})
    with pytest.raises(SettingsError, match=r"^MONGO_URL: ") as caught:
        run_leaping(MongoAdapter(lambda: settings, []).open())
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://h?db=canary", "redis://h?socket_timeout=canary", "redis://h?canary=1"]
)
def test_a_redis_url_that_the_driver_refuses_is_a_named_error(url: str, run_leaping: Leaping) -> None:
    """What only redis-py finds wrong with REDIS_URL is a link that does not open, and no crash."""
    settings = RedisSettings.model_validate({"REDIS_URL": url})
    with pytest.raises(SettingsError, match=r"^REDIS_URL: ") as caught:
        run_leaping(RedisAdapter(lambda: settings).open())
    assert "canary" not in str(caught.value)
