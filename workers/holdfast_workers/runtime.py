"""What one worker process holds: an event loop and a client of the supervisor's socket.

Both are made at the first task, which is after the fork, so no child shares a connection with another.
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
from holdfast_workers.schedule import registry

T = TypeVar("T")


class Child:
    """Runs coroutines of a task on this process's own loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._client = connect()

    def run(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Run one coroutine to its end, with the client."""
        try:
            return self._runner.run(work(self._client))
        except SoftTimeLimitExceeded:
            # It broke out of the loop in mid-task: without this, the next task would carry the rest along.
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
def child() -> Child:
    """This process's loop and client."""
    return Child()


@worker_init.connect
def _load_reports(**_: Any) -> None:
    """Before the fork: a wrong report is told at the start, and the children share the modules' memory."""
    with exit_on_error():
        registry()


@worker_process_shutdown.connect
def _close(**_: Any) -> None:
    if child.cache_info().currsize:
        child().close()
