"""What the unit tests share: a working folder without a `.env`, and a clock that need not be waited for."""

from __future__ import annotations

import asyncio
import os
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import hypothesis
import pytest

T = TypeVar("T")

# The machine may be busy: a slow example is no wrong one. HYPOTHESIS_PROFILE=thorough looks for longer.
hypothesis.settings.register_profile("unit", deadline=None, max_examples=50)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))


class _Leaping(asyncio.SelectorEventLoop):
    """An event loop whose clock leaps to the next timer whenever nothing is ready.

    For code without threads or sockets: the leap does not wait for these.
    """

    def __init__(self) -> None:
        self._skipped = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return super().time() + self._skipped

    def leap(self, seconds: float) -> None:
        self._skipped += seconds


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: _Leaping) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("nothing is ready, and no timer is set: this would wait for ever")
        self._loop.leap(max(timeout, 0.0))
        return super().select(0)


@pytest.fixture
def run_leaping() -> Callable[[Coroutine[Any, Any, T]], T]:
    """`asyncio.run` on a loop that leaps over every wait: hours of backoff pass at once, and in order."""

    def run(work: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=_Leaping) as runner:
            return runner.run(work)

    return run
