"""The warm variants: which there are, and how fresh each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from holdfast.cache.entry import Freshness, Header
from holdfast.errors import StoreUnavailable
from holdfast.reports import Registry
from holdfast.reports.canonical import Scalar


class EntryHeaders(Protocol):
    """Reads the headers of entries (`cache.store.Store`)."""

    async def now(self) -> float:
        """The time by the clock that dates entries."""

    async def headers(self, keys: Sequence[str]) -> list[Header | None]:
        """The header of each entry, None where there is none."""


async def report_states(registry: Registry, store: EntryHeaders) -> list[dict[str, Any]]:
    """Every warm variant: report, params, age_s (seconds), and state fresh, stale, missing or unknown.

    The result of another version of its report is stale.
    """
    variants = [(report, params) for report in registry for params in report.warm]
    try:
        headers = await store.headers([report.reader.key(params) for report, params in variants])
    except StoreUnavailable:
        return [_described(report.name, params, "unknown", None) for report, params in variants]
    now = await store.now()
    return [
        _described(report.name, params, *_state(header, now, report.version))
        for (report, params), header in zip(variants, headers, strict=True)
    ]


def _state(header: Header | None, now: float, version: str) -> tuple[str, float | None]:
    freshness = Freshness.EXPIRED if header is None else header.freshness(now, version)
    if header is None or freshness is Freshness.EXPIRED:
        return "missing", None
    # The age of what is dated ahead is not known, and is not shown as a negative one.
    return freshness.value, round(max(0.0, now - header.times.computed_at), 1)


def _described(report: str, params: Mapping[str, Scalar], state: str, age: float | None) -> dict[str, Any]:
    given = {name: value for name, value in params.items() if value is not None}
    return {"report": report, "params": given, "age_s": age, "state": state}
