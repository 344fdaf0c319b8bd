"""What the tasks of a worker run on: an event loop and a client of the supervisor's socket.

Both are made by the first task of a thread, which is after the fork, so no two processes or threads share a
connection. In the pools `prefork` and `solo` there is one such thread in a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_init, worker_process_shutdown, worker_shutdown

from holdfast import logs
from holdfast.errors import exit_on_error
from holdfast.processes.programs import check_pool
from holdfast.reports.broken import warn_of
from holdfast.rpc.client import Client, connect
from holdfast.settings import CacheSettings, SupervisorSettings
from holdfast.settings.unknown import warn_of_unknown
from holdfast_workers.environment import pool_name
from holdfast_workers.registry import registry

T = TypeVar("T")
TASK_SECONDS = 125.0
"""The longest that a task may run: a little above Celery's own limit, which only the pool prefork keeps."""
_OF_THREAD = threading.local()
_MADE: list[TaskRuntime] = []
"""Those of every thread: a pool's threads are not told of the end, so the process closes them."""


class TaskRuntime:
    """The loop and the client of one process; a task runs its coroutine here."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._client = connect()

    def run(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Run one coroutine to its end, and return its result.

        Raises:
            SoftTimeLimitExceeded: the task took too long; whatever it started is cancelled.
        """
        try:
            return self._runner.run(self._bounded(work))
        except SoftTimeLimitExceeded:
            # Celery raised it in the middle of the loop: what is left there would go on in the next task.
            self._runner.run(_cancel_others())
            raise

    async def _bounded(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        try:
            async with asyncio.timeout(TASK_SECONDS):
                return await work(self._client)
        except TimeoutError:
            raise SoftTimeLimitExceeded(TASK_SECONDS) from None

    def close(self) -> None:
        """Close the client and the loop."""
        self._runner.run(self._client.aclose())
        self._runner.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def runtime() -> TaskRuntime:
    """The runtime of this thread, made at the first call."""
    made: TaskRuntime | None = getattr(_OF_THREAD, "runtime", None)
    if made is None:
        made = _OF_THREAD.runtime = TaskRuntime()
        _MADE.append(made)
    return made


@worker_init.connect
def _prepare(sender: Any = None, **_: Any) -> None:
    # Before the fork: what is wrong ends the worker at its start, and the children share the modules' memory.
    logs.configure("worker")
    with exit_on_error():
        _check_pool(sender)
        warn_of_unknown()
        SupervisorSettings.load()
        CacheSettings.load()
        warn_of(registry().broken)


def _check_pool(worker: Any) -> None:
    pool = pool_name(getattr(worker, "pool_cls", None) or "prefork")
    check_pool(pool)
    if pool != "prefork":
        # Celery cancels a task by ending its process, which threads do not have.
        worker.app.conf.worker_cancel_long_running_tasks_on_connection_loss = False


@worker_process_shutdown.connect
@worker_shutdown.connect
def _close(**_: Any) -> None:
    while _MADE:
        # A thread that still runs a task has its loop to itself: it ends with the process.
        with contextlib.suppress(RuntimeError):
            _MADE.pop().close()
