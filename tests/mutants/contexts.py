"""A pytest plugin for `coverage run`: which test reaches which line."""

from __future__ import annotations

from collections.abc import Iterator

import coverage
import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Count the lines of a test, its fixtures included, under its name without parameters."""
    measured = coverage.Coverage.current()
    assert measured is not None
    measured.switch_context(item.nodeid.partition("[")[0])
    try:
        return (yield)
    finally:
        measured.switch_context("")
