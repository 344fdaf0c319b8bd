"""What a worker's tasks run on: one loop and one client for all tasks of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from holdfast.rpc.client import Client
from holdfast_workers.runtime import TaskRuntime


@pytest.fixture
def runtime() -> Iterator[TaskRuntime]:
    """A runtime, closed at the end."""
    made = TaskRuntime()
    yield made
    made.close()


def test_every_task_has_the_same_client_and_loop(runtime: TaskRuntime) -> None:
    """Two tasks of one process share its connection to the supervisor."""

    async def task(client: Client) -> tuple[Client, asyncio.AbstractEventLoop]:
        return client, asyncio.get_running_loop()

    assert runtime.run(task) == runtime.run(task)


def test_an_error_is_the_tasks_own(runtime: TaskRuntime) -> None:
    """What a coroutine raises reaches the task, and the next task runs."""

    async def fails(_: Client) -> None:
        raise ValueError("wrong")

    async def works(_: Client) -> str:
        return "done"

    with pytest.raises(ValueError, match="wrong"):
        runtime.run(fails)
    assert runtime.run(works) == "done"


def test_a_task_that_took_too_long_leaves_nothing_behind(runtime: TaskRuntime) -> None:
    """Celery's time limit interrupts the loop anywhere: what the task had started is cancelled."""
    started: list[asyncio.Task[bool]] = []

    async def too_long(_: Client) -> None:
        started.append(asyncio.create_task(asyncio.Event().wait()))
        await asyncio.sleep(0)
        raise SoftTimeLimitExceeded

    async def works(_: Client) -> str:
        return "done"

    with pytest.raises(SoftTimeLimitExceeded):
        runtime.run(too_long)
    assert [task.cancelled() for task in started] == [True]
    assert runtime.run(works) == "done"
