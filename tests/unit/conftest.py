"""What the unit tests share: how long Hypothesis looks, and a clock that need not be waited for."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import hypothesis
import pytest
from tests.support import clock

T = TypeVar("T")

# The machine may be busy: a slow example is not a wrong one. HYPOTHESIS_PROFILE=thorough looks for longer.
hypothesis.settings.register_profile("unit", deadline=None, max_examples=50)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))


@pytest.fixture
def run_leaping() -> Callable[[Coroutine[Any, Any, T]], T]:
    """`asyncio.run` on a loop that leaps over every wait: hours of backoff pass at once, and in order."""
    return clock.run_leaping
