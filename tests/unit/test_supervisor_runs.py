"""The record of runs: taken at once, written when MongoDB takes them, on a MongoDB in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.support.clock import run_leaping
from tests.support.memory import MemoryMongo, bring_down, bring_up, link_to

from holdfast.cache.run import Run
from holdfast.errors import (
    AuthenticationFailed,
    HoldfastError,
    LinkDown,
    LinkLost,
    NotStorable,
    QueryFailed,
)
from holdfast.supervisor.runs import BATCH, EVERY, QUEUE, Recorder


def run_of(report: str = "r", at: float = 1000.0) -> Run:
    """A run that began at that time."""
    return Run(report=report, key="gwcache:/r", params={}, trigger="miss", started_at=at)


class World:
    """A recorder with its link, and what it counted."""

    def __init__(self) -> None:
        self.mongo = MemoryMongo()
        self.link = link_to(self.mongo)
        self.counted = 0
        self.given_up = 0
        self.recorder = Recorder(self.link, self)

    def ran(self, run: Run) -> None:
        """Count a run."""
        self.counted += 1

    def dropped(self, runs: int) -> None:
        """Count runs that were given up."""
        self.given_up += runs

    @property
    def written(self) -> list[float]:
        """When the written runs began."""
        return [document["started_at"].timestamp() for document in self.mongo.documents]


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario on a leaping clock."""

    async def run() -> None:
        await scenario(World())

    run_leaping(run())


def test_runs_are_counted_at_once_and_written_in_order() -> None:
    """A run counts when it is taken; a flush writes all that wait, in batches and in order."""

    async def scenario(world: World) -> None:
        for n in range(2 * BATCH + 1):
            world.recorder.add(run_of(at=float(n)))
        assert (world.counted, world.written) == (2 * BATCH + 1, [])
        await world.recorder.flush()
        assert world.written == [float(n) for n in range(2 * BATCH + 1)]
        inserts = [call for call in world.mongo.calls if call.startswith("insert")]
        assert inserts == [f"insert {BATCH}", f"insert {BATCH}", "insert 1"]

    play(scenario)


def test_the_loop_writes_within_half_a_second() -> None:
    """Whoever looks at the runs a moment later finds them."""

    async def scenario(world: World) -> None:
        loop = asyncio.create_task(world.recorder.run())
        world.recorder.add(run_of())
        await asyncio.sleep(EVERY + 0.01)
        assert len(world.written) == 1
        loop.cancel()

    play(scenario)


def test_while_mongodb_is_away_runs_wait_and_the_oldest_are_given_up_in_the_end() -> None:
    """A bounded number waits; each one beyond it costs the oldest, and is counted."""

    async def scenario(world: World) -> None:
        bring_down(world.link)
        for n in range(QUEUE + 3):
            world.recorder.add(run_of(at=float(n)))
        await world.recorder.flush()
        assert world.mongo.calls == []
        assert world.given_up == 3
        bring_up(world.link)
        await world.recorder.flush()
        assert world.written == [float(n) for n in range(3, QUEUE + 3)]

    play(scenario)


@pytest.mark.parametrize("error", [LinkLost("gone"), QueryFailed("refused"), AuthenticationFailed()])
def test_a_failed_write_loses_nothing_and_keeps_the_order(error: HoldfastError) -> None:
    """Runs that could not be written are written by the next flush, in order; a flush ends at a failure."""

    async def scenario(world: World) -> None:
        for n in range(BATCH + 2):
            world.recorder.add(run_of(at=float(n)))
        await world.recorder.flush()
        world.mongo.documents.clear()
        for n in range(BATCH + 2):
            world.recorder.add(run_of(at=float(n)))
        before = len(world.mongo.calls)
        world.mongo.failure = error
        await world.recorder.flush()
        assert len(world.mongo.calls) == before + 1
        world.mongo.failure = None
        await world.recorder.flush()
        assert world.written == [float(n) for n in range(BATCH + 2)]
        assert world.given_up == 0

    play(scenario)


def test_runs_that_can_never_be_written_hold_up_no_other() -> None:
    """A batch with a value that BSON cannot hold is given up and counted; the next batch is written."""

    async def scenario(world: World) -> None:
        await world.recorder.flush()
        for n in range(BATCH + 1):
            world.recorder.add(run_of(at=float(n)))
        insert = world.mongo.insert

        async def first_fails(*args: object) -> None:
            world.mongo.insert = insert  # type: ignore[method-assign] # only the first call fails
            raise NotStorable("too large")

        world.mongo.insert = first_fails  # type: ignore[method-assign, assignment] # only the first call fails
        await world.recorder.flush()
        assert world.given_up == BATCH
        assert world.written == [float(BATCH)]

    play(scenario)


def test_indexes_are_made_once_for_each_opening() -> None:
    """Indexes are asked for before the first write of each opening of the link, and not at every write."""

    async def scenario(world: World) -> None:
        for _ in range(3):
            world.recorder.add(run_of())
            await world.recorder.flush()
        assert world.mongo.calls.count("create_indexes 2") == 1
        assert world.mongo.calls[0] == "create_indexes 2"
        bring_up(world.link)
        world.recorder.add(run_of())
        await world.recorder.flush()
        assert world.mongo.calls.count("create_indexes 2") == 2

    play(scenario)


@pytest.mark.parametrize("error", [QueryFailed("refused"), AuthenticationFailed("not allowed")])
def test_a_user_who_may_not_make_indexes_loses_no_run(error: HoldfastError) -> None:
    """Runs are written without indexes, and the refusal is not asked for again at every write."""

    async def scenario(world: World) -> None:
        world.mongo.refuses_indexes = error
        for _ in range(2):
            world.recorder.add(run_of())
            await world.recorder.flush()
        assert len(world.written) == 2
        assert world.mongo.calls.count("create_indexes 2") == 1

    play(scenario)


def test_a_lost_connection_while_indexes_are_made_loses_no_run() -> None:
    """Runs wait while the connection is lost, and the indexes are asked for again."""

    async def scenario(world: World) -> None:
        world.recorder.add(run_of())
        world.mongo.refuses_indexes = LinkLost("gone")
        await world.recorder.flush()
        assert world.written == []
        world.mongo.refuses_indexes = None
        await world.recorder.flush()
        assert len(world.written) == 1
        assert world.mongo.calls.count("create_indexes 2") == 2

    play(scenario)


def test_the_newest_runs_come_first_with_those_that_waited() -> None:
    """`holdfast runs` shows the newest first, of one report or of all, and what was not yet written too."""

    async def scenario(world: World) -> None:
        for report, at in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
            world.recorder.add(run_of(report, at))
        found = await world.recorder.latest(report="a", limit=10)
        assert [(run["report"], run["started_at"]) for run in found] == [("a", 3.0), ("a", 1.0)]
        assert [run["started_at"] for run in await world.recorder.latest(report=None, limit=2)] == [3.0, 2.0]
        assert "id" not in found[0]
        assert found[0]["outcome"] == "failed"

    play(scenario)


def test_runs_cannot_be_shown_while_mongodb_is_down() -> None:
    """The error is the link's, with the time of its next attempt."""

    async def scenario(world: World) -> None:
        bring_down(world.link)
        with pytest.raises(LinkDown) as raised:
            await world.recorder.latest(report=None, limit=1)
        assert raised.value.details["link"] == "mongo"

    play(scenario)
