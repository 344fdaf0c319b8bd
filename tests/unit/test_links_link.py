"""A link's loop: when it opens, probes, loses and opens again, and how its adapter is reached through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.conditions import until
from tests.support.link_adapter import Exact, Server

from holdfast.backoff import Backoff
from holdfast.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    LinkDown,
    LinkLost,
    LinkUnused,
    PoolExhausted,
    QueryFailed,
)
from holdfast.links.link import Link
from holdfast.links.state import LinkState, Phase

TIMES = st.floats(0, 4e9)


Leaping = Callable[[Any], Any]


def test_a_link_that_is_not_up_fails_at_once_with_the_time_of_its_next_attempt() -> None:
    """Callers learn without waiting that a link is not up, and in how many seconds it is tried again."""
    link = Link(Server(), Backoff(base=1, cap=10), clock=lambda: 1000.0)
    link.state = LinkState(Phase.DOWN, 900.0, 7, 2, "refused", 1004.25)
    with pytest.raises(LinkDown, match=r"^memory is down$") as caught:
        link.check()
    assert caught.value.details == {"link": "memory", "retry_in": 4.25}


@pytest.mark.parametrize("phase", Phase)
def test_calls_pass_only_while_a_link_is_up(phase: Phase) -> None:
    """In every other phase they fail, and may be tried again at once where no next attempt is planned."""
    link = Link(Server(), Backoff())
    link.state = LinkState(phase)
    assert link.up is (phase is Phase.UP)
    if phase is Phase.UP:
        link.check()
        return
    if phase is Phase.UNUSED:
        with pytest.raises(LinkUnused, match="MEMORY_URL"):
            link.check()
        return
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


def test_a_server_that_never_answers_is_tried_forever_at_the_cap(run_leaping: Leaping) -> None:
    """Attempts come after 1, 2, 4, 8 and then every 10 seconds; after five the link is down."""
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
        await until(lambda: len(server.opened_at) == 40, within=1000, every=0.05)
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
        await until(lambda: server.probed == 30, within=100, every=0.05)
        assert link.up
        server.refuses = LinkLost("broke")
        await until(lambda: not link.up, within=100, every=0.05)
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
        for _ in range(9):
            server.late = 1
            await asyncio.sleep(2.5)
        assert server.late == 0
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
        await until(lambda: not link.up, within=100, every=0.05)
        task.cancel()

    run_leaping(run())
    assert server.probed == 1


def test_whoever_sees_a_connection_break_has_it_probed_at_once(run_leaping: Leaping) -> None:
    """A call that loses its connection is an error, and the link finds out before its next regular probe."""
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


def test_a_link_says_when_it_is_tried_again(run_leaping: Leaping) -> None:
    """After a failed attempt the state has the time of the next one, by the link's own clock."""
    server = Server()
    server.refuses = LinkLost("refused")
    link = Link(server, Backoff(base=4, cap=10), rng=Exact(), clock=lambda: 1000.0)

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await until(lambda: link.state.failures == 1, every=0.05)
        assert link.state.next_retry_at == 1004.0
        with pytest.raises(LinkDown) as caught:
            link.check()
        assert caught.value.details["retry_in"] == 4.0
        task.cancel()

    run_leaping(run())


# How its adapter is reached


def test_the_adapter_is_reached_through_use(run_leaping: Leaping) -> None:
    """`use()` gives the adapter itself, with its own type; `adapter` is the same, in whatever state."""
    server = Server()
    link = Link(server, Backoff())
    assert link.adapter is server
    assert link.name == "memory"

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        async with link.use() as adapter:
            found: Server = adapter
            assert found is server
        task.cancel()

    run_leaping(run())


@pytest.mark.parametrize(
    ("error", "probes"),
    [
        (LinkLost("broke"), 1),
        (DeadlineExceeded("late"), 1),
        (QueryFailed("syntax"), 0),
        (PoolExhausted("busy"), 0),
        (ValueError("ours"), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_may_be_the_connections_fault_is_probed(
    error: Exception, probes: int, run_leaping: Leaping
) -> None:
    """A broken or silent connection is looked at before the next regular probe; a refused query is not."""
    server = Server()
    link = Link(server, Backoff())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        with pytest.raises(type(error)) as caught:
            async with link.use():
                raise error
        assert caught.value is error
        await asyncio.sleep(0.5)
        assert server.probed == probes
        task.cancel()

    run_leaping(run())


def test_a_suspicion_is_probed_once(run_leaping: Leaping) -> None:
    """Many callers who see one break are one probe, and the regular ones go on a second later."""
    server = Server()
    link = Link(server, Backoff())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        for _ in range(10):
            link.suspect()
        await asyncio.sleep(0.9)
        assert server.probed == 1
        await asyncio.sleep(0.2)
        assert server.probed == 2
        task.cancel()

    run_leaping(run())


# Waiting for it to open again


def test_whoever_saw_an_older_opening_need_not_wait(run_leaping: Leaping) -> None:
    """`reopened` returns at once where the link was opened since."""
    link = Link(Server(), Backoff())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        began = asyncio.get_running_loop().time()
        await link.reopened(0, within=100)
        assert asyncio.get_running_loop().time() - began < 0.5
        task.cancel()

    run_leaping(run())


@pytest.mark.parametrize(("lost_after", "returns_after"), [(None, 60.0), (20.0, 22.0), (200.0, 60.0)])
def test_reopened_returns_at_the_next_opening_or_after_its_time(
    lost_after: float | None, returns_after: float, run_leaping: Leaping
) -> None:
    """A link that stays up makes nobody wait longer than `within`; a new opening is seen when it is there."""
    server = Server()
    link = Link(server, Backoff(base=1, cap=1), rng=Exact())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        loop = asyncio.get_running_loop()
        if lost_after is not None:
            loop.call_later(lost_after, setattr, server, "refuses", LinkLost("broke"))
            loop.call_later(lost_after + 1.5, setattr, server, "refuses", None)
        began = loop.time()
        await link.reopened(1, within=60)
        assert loop.time() - began == pytest.approx(returns_after, abs=1.5)
        assert link.state.generation == (2 if lost_after == 20.0 else 1)
        task.cancel()

    run_leaping(run())


# Time-outs


def test_an_attempt_that_hangs_is_given_up(run_leaping: Leaping) -> None:
    """A server that takes the connection and says nothing costs ten seconds for each attempt, no more."""
    server = Server()
    server.hangs = True
    link = Link(server, Backoff(base=1, cap=10), rng=Exact())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await until(lambda: len(server.opened_at) == 3, within=100, every=0.05)
        assert link.state.last_error == "no answer from memory in 10 s"
        task.cancel()

    run_leaping(run())
    waits = [b - a for a, b in zip(server.opened_at, server.opened_at[1:], strict=False)]
    assert waits == [pytest.approx(11, abs=0.3), pytest.approx(12, abs=0.3)]


def test_a_connection_that_hangs_is_lost_within_three_seconds(run_leaping: Leaping) -> None:
    """A probe has one second; the second one follows the first at once, and then the link is lost."""
    server = Server()
    link = Link(server, Backoff())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        up_at = asyncio.get_running_loop().time()
        server.hangs = True
        await until(lambda: not link.up, within=100, every=0.01)
        assert asyncio.get_running_loop().time() - up_at == pytest.approx(3, abs=0.3)
        assert [at - up_at for at in server.probed_at] == [
            pytest.approx(1, abs=0.2),
            pytest.approx(2, abs=0.2),
        ]
        assert link.state.last_error == "no answer from memory in 1 s"
        assert server.closed == 1
        task.cancel()

    run_leaping(run())


def test_a_link_that_ends_lets_nobody_think_it_is_up(run_leaping: Leaping) -> None:
    """After a link's life has ended `wait_up` does not return."""
    link = Link(Server(), Backoff())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.wait_up(), 100)

    run_leaping(run())


def test_every_change_is_reported_with_the_links_name(run_leaping: Leaping) -> None:
    """Metrics and logs see each state: connecting, up, lost, and what the attempts end in."""
    server = Server()
    seen: list[tuple[str, Phase, str | None]] = []
    link = Link(
        server,
        Backoff(),
        clock=lambda: 5.0,
        on_change=lambda name, state: seen.append((name, state.phase, state.last_error)),
    )
    assert link.state == LinkState(since=5.0)

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await link.wait_up()
        server.refuses = LinkLost("broke")
        await until(lambda: link.state.phase is Phase.BACKING_OFF, within=100, every=0.05)
        task.cancel()

    run_leaping(run())
    assert seen == [
        ("memory", Phase.CONNECTING, None),
        ("memory", Phase.UP, None),
        ("memory", Phase.CONNECTING, "broke"),
        ("memory", Phase.CONNECTING, "broke"),
        ("memory", Phase.BACKING_OFF, "broke"),
    ]
