"""A clock that need not be waited for: an event loop that leaps over every wait."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still, and leaps to the next timer whenever nothing is ready.

    For code without sockets: the leap does not wait for these. What would run in a thread runs at once.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_LeapingSelector(self))

    def time(self) -> float:
        """The loop's clock: all that was leapt over, in seconds. However slow the machine is, no more."""
        return self._now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run the function now, in this thread: a leap would not wait for another one."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def leap(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now += seconds


class _LeapingSelector(selectors.DefaultSelector):
    def __init__(self, loop: LeapingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("nothing is ready, and no timer is set: this would wait forever")
        self._loop.leap(max(timeout, 0.0))
        return super().select(0)


def run_leaping(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on a LeapingLoop: hours of backoff pass at once, and in order."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(work)
