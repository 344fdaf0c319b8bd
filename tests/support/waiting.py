"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def eventually(what: str, condition: Callable[[], T | None], within: float = 15.0, every: float = 0.05) -> T:
    """Call `condition` until it returns something true, and return that; fail with what was awaited.

    Args:
        what: a noun phrase for the message of the failure.
        condition: an OSError or a failed assertion in it means: not yet.
        within: seconds to wait at most.
        every: seconds between two calls.
    """
    deadline = time.monotonic() + within
    last: object = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except (OSError, AssertionError) as error:
            last = error
        if time.monotonic() >= deadline:
            pytest.fail(f"waited {within:g} s for {what}; last: {last!r}")
        time.sleep(every)


def took(began: float) -> float:
    """Seconds since `began`, a reading of the monotonic clock."""
    return time.monotonic() - began
