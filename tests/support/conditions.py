"""Waiting in a coroutine for what other tasks do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], within: float = 10.0, every: float = 0.001) -> None:
    """Return once the condition holds, and fail after `within` seconds of the loop's clock."""
    async with asyncio.timeout(within):
        # What is awaited is a state of the code under test, which sets no event for it.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(every)
