"""How fresh the warm variants are shown: by the clock of the cache, and by the version of their report."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from holdfast.cache.entry import Header, Times
from holdfast.errors import StoreUnavailable
from holdfast.reports import Params, Registry, Report
from holdfast.supervisor.warming import report_states

NOW = 1_700_000_000.0


def registry() -> Registry:
    """One report with one warm variant."""
    report = Report("r", warm=[{}])

    @report.postgres
    def rows(p: Params) -> str:
        return f"{p}"

    return Registry([report])


REGISTRY = registry()
VERSION = REGISTRY.versions["r"]


class Headers:
    """A store that has one header, or cannot be reached, and whose clock is not this machine's."""

    def __init__(self, header: Header | StoreUnavailable | None) -> None:
        self._header = header

    async def now(self) -> float:
        """The store's clock."""
        return NOW

    async def headers(self, keys: Sequence[str]) -> list[Header | None]:
        """The header."""
        if isinstance(self._header, StoreUnavailable):
            raise self._header
        return [self._header for _ in keys]


def header(*, age: float, version: str = VERSION) -> Header:
    """The header of an entry of that age, which is fresh for a minute and stale for ten."""
    at = NOW - age
    return Header(Times(at, at + 60, at + 660), 7, version)


@pytest.mark.parametrize(
    ("found", "state", "age"),
    [
        (header(age=5), "fresh", 5.0),
        (header(age=5, version=""), "fresh", 5.0),
        (header(age=5, version="f" * 16), "stale", 5.0),
        (header(age=61), "stale", 61.0),
        (header(age=661), "missing", None),
        (header(age=661, version="f" * 16), "missing", None),
        (header(age=-1), "fresh", 0.0),
        (header(age=-7200), "stale", 0.0),
        (None, "missing", None),
        (StoreUnavailable(), "unknown", None),
    ],
)
def test_a_variant_is_fresh_by_its_times_and_its_version(
    found: Header | StoreUnavailable | None, state: str, age: float | None
) -> None:
    """A changed report's result is stale, so is one that is dated ahead; no age is below zero."""
    states = asyncio.run(report_states(REGISTRY, Headers(found)))
    assert states == [{"report": "r", "params": {}, "age_s": age, "state": state}]
