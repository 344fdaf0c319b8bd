"""The warm variants: which there are, and how fresh each of them is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from holdfast.cache.entry import Times
from holdfast.errors import StoreUnavailable
from holdfast.reports import Registry
from holdfast.reports.canonical import Scalar


class EntryTimes(Protocol):
    """Reads the times of entries (`cache.store.Store`)."""

    async def times(self, keys: Sequence[str]) -> list[Times | None]:
        """The times of each entry, None where there is none."""


async def report_states(registry: Registry, store: EntryTimes) -> list[dict[str, Any]]:
    """Every warm variant: report, params, age_s (seconds), and state fresh, stale, missing or unknown."""
    variants = [(report, params) for report in registry for params in report.warm]
    try:
        times = await store.times([report.reader.key(params) for report, params in variants])
    except StoreUnavailable:
        return [_described(report.name, params, "unknown", None) for report, params in variants]
    now = time.time()
    return [
        _described(report.name, params, *_state(found, now))
        for (report, params), found in zip(variants, times, strict=True)
    ]


def _state(times: Times | None, now: float) -> tuple[str, float | None]:
    if times is None or now >= times.stale_until:
        return "missing", None
    return "fresh" if now < times.fresh_until else "stale", round(now - times.computed_at, 1)


def _described(report: str, params: Mapping[str, Scalar], state: str, age: float | None) -> dict[str, Any]:
    given = {name: value for name, value in params.items() if value is not None}
    return {"report": report, "params": given, "age_s": age, "state": state}
