"""What the tasks of one worker process run on: an event loop and a client of the supervisor's socket.

Both are made by the first task, which is after the fork, so no two processes share a connection.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_init, worker_process_shutdown

from holdfast.errors import exit_on_error
from holdfast.rpc.client import Client, connect
from holdfast.settings import CacheSettings, SupervisorSettings
from holdfast_workers.registry import registry

T = TypeVar("T")


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
            return self._runner.run(work(self._client))
        except SoftTimeLimitExceeded:
            # Celery raised it in the middle of the loop: what is left there would go on in the next task.
            self._runner.run(_cancel_others())
            raise

    def close(self) -> None:
        """Close the client and the loop."""
        self._runner.run(self._client.aclose())
        self._runner.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@functools.cache
def runtime() -> TaskRuntime:
    """The runtime of this process, made at the first call."""
    return TaskRuntime()


@worker_init.connect
def _prepare(**_: Any) -> None:
    # Before the fork: what is wrong ends the worker at its start, and the children share the modules' memory.
    with exit_on_error():
        SupervisorSettings.load()
        CacheSettings.load()
        registry()


@worker_process_shutdown.connect
def _close(**_: Any) -> None:
    if runtime.cache_info().currsize:
        runtime().close()
