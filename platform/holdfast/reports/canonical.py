"""Canonical URLs and cache keys: the one way to write a request.

The gateway and the supervisor both write keys by these functions, so that what one stores the other finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any
from urllib.parse import quote

ANALYTICS_PATH = "/api/v1/analytics"
KEY_PREFIX = "gwcache:"
CATALOGUE_KEY = KEY_PREFIX + ANALYTICS_PATH
"""The key of the catalogue, which is an entry like every other."""
MAX_KEY = 2048
"""Characters of a cache key at most."""

Scalar = int | float | str | bool | None


def canonical_url(report: str, params: Mapping[str, Scalar], defaults: Mapping[str, Scalar]) -> str:
    """The URL of a result: parameters sorted by name, defaults left out, values in canonical form."""
    parts = [
        f"{quote(name, safe='')}={quote(canonical(value), safe='')}"
        for name, value in sorted(params.items())
        if value is not None and value != defaults[name]
    ]
    path = f"{ANALYTICS_PATH}/{report}"
    return f"{path}?{'&'.join(parts)}" if parts else path


def report_of(key: str) -> str:
    """The name of the report whose result lies under a cache key; empty where it is no result's."""
    prefix = f"{KEY_PREFIX}{ANALYTICS_PATH}/"
    return key[len(prefix) :].partition("?")[0] if key.startswith(prefix) else ""


def canonical(value: Scalar) -> str:
    """The one way to write a value in a URL."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def plain(value: Any) -> Scalar:
    """A parameter as JSON and msgpack carry it: a date is its ISO 8601 text."""
    value = getattr(value, "value", value)
    return value.isoformat() if isinstance(value, date) else value


def printable(text: str, limit: int = 80) -> str:
    """Text from outside, safe to show: control characters replaced, at most `limit` characters."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "…"
