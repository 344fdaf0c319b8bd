"""HTTP as the gateway speaks it: header lists, conditional requests and encodings.

Sources: RFC 9110 (semantics), RFC 9111 (caching), RFC 5861 (stale-*), RFC 9211 (Cache-Status).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from holdfast.cache.entry import Entry

Headers = list[tuple[str, str]]
Cache = Literal["HIT", "MISS", "STALE"]
Encoding = Literal["", "gzip", "zstd"]

JSON = "application/json"
NOSNIFF = ("x-content-type-options", "nosniff")
CACHE_NAME = "Holdfast"


class Scope(Protocol):
    """A request, as Granian hands it over (RSGI)."""

    method: str
    path: str
    query_string: str
    client: str

    @property
    def headers(self) -> Any:
        """The request's headers; `get` finds one by its lower-case name."""


class Response(NamedTuple):
    """An answer. `cache` is its X-Cache value; empty where it came from no cache."""

    status: int
    headers: Headers
    body: bytes = b""
    cache: Cache | Literal[""] = ""


class Encodings:
    """Chooses among identity, gzip and zstd by Accept-Encoding (RFC 9110 §12.5.3); choices are kept."""

    _KEPT = 256

    def __init__(self) -> None:
        self._choices: dict[str, Encoding] = {}

    def choose(self, accept: str | None) -> Encoding:
        """The best encoding that the header allows; identity where it allows nothing we have."""
        if not accept:
            return ""
        choice = self._choices.get(accept)
        if choice is None:
            if len(self._choices) >= self._KEPT:
                self._choices.clear()
            choice = self._choices[accept] = _choose(accept)
        return choice


def _choose(accept: str) -> Encoding:
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, _, parameters = item.strip().partition(";")
        weight = 1.0
        if parameters.strip().startswith("q="):
            try:
                weight = float(parameters.strip()[2:])
            except ValueError:
                weight = 0.0
        weights[name.strip()] = weight
    fallback = weights.get("*", 0.0)
    zstd, gzip = weights.get("zstd", fallback), weights.get("gzip", fallback)
    if weights.get("identity", 0.0) > max(zstd, gzip):
        return ""
    if zstd > 0 and zstd >= gzip:
        return "zstd"
    return "gzip" if gzip > 0 else ""


class Representation:
    """One entry, ready to be sent: its bodies, and header lists that are made at most once a second."""

    __slots__ = ("_built", "_control", "_fixed", "_max_age", "_second", "bodies", "entry", "etag")

    def __init__(self, entry: Entry, *, private: bool) -> None:
        self.entry = entry
        self.etag = entry.etag
        self.bodies: dict[Encoding, bytes] = {"": entry.body, "gzip": entry.gzip, "zstd": entry.zstd}
        fresh = max(0, round(entry.fresh_until - entry.computed_at))
        stale = max(0, round(entry.stale_until - entry.fresh_until))
        who = "private" if private else "public"
        lenient = f"stale-while-revalidate={stale}, stale-if-error={stale}"
        self._max_age = fresh
        self._control = f"{who}, max-age=%d, {lenient}"
        # Age is sent too, so max-age is the whole lifetime (RFC 9111 §4.2.3), not what is left of it.
        self._fixed: Headers = [
            ("etag", self.etag),
            ("vary", "accept-encoding, authorization" if private else "accept-encoding"),
            ("cache-control", self._control % fresh),
            NOSNIFF,
        ]
        self._second = -1
        self._built: dict[tuple[Cache, Encoding], Headers] = {}

    def encoding(self, wanted: Encoding) -> Encoding:
        """The encoding to send: identity where the wanted one was not worth keeping."""
        return wanted if self.bodies[wanted] else ""

    def headers(self, cache: Cache, encoding: Encoding, age: float, left: float) -> Headers:
        """The header list of a 200. `age` and `left` (of freshness, negative when stale) are in seconds."""
        second = int(age)
        if second != self._second:
            self._second = second
            self._built.clear()
        built = self._built.get((cache, encoding))
        if built is None:
            built = [("content-type", JSON), *self._conditional(cache, age, left)]
            if encoding:
                built.append(("content-encoding", encoding))
            self._built[cache, encoding] = built
        return built

    def _conditional(self, cache: Cache, age: float, left: float) -> Headers:
        fixed = self._fixed
        if cache == "STALE" and age < self._max_age:
            # Stale before its time, since the report has changed: a cache behind us must not call it fresh.
            control = ("cache-control", self._control % max(0, int(age)))
            fixed = [control if name == "cache-control" else (name, value) for name, value in fixed]
        status = f"{CACHE_NAME}; hit; ttl={int(left)}"
        if cache == "MISS":
            status = f"{CACHE_NAME}; fwd=uri-miss; stored; ttl={int(left)}"
        return [
            *fixed,
            ("x-cache", cache),
            ("cache-status", status),
            ("age", str(max(0, int(age)))),
        ]

    def not_modified(self, cache: Cache, age: float, left: float) -> Headers:
        """The header list of a 304: those of the 200 that a cache needs (RFC 9110 §15.4.5)."""
        return self._conditional(cache, age, left)


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether If-None-Match names this entity, by weak comparison (RFC 9110 §13.1.2)."""
    if not if_none_match:
        return False
    if if_none_match.strip() == "*":
        return True
    opaque = etag.removeprefix("W/")
    return any(tag.strip().removeprefix("W/") == opaque for tag in if_none_match.split(","))


def cors(origin: str | None, allowed: frozenset[str]) -> Headers:
    """The headers that let a page of that origin read the answer, where it may; `*` allows every one."""
    # Also without an Origin: a shared cache must not hand that answer to a page (Fetch, CORS and caches).
    vary = ("vary", "origin")
    if origin is None or not (origin in allowed or "*" in allowed):
        return [vary]
    return [
        vary,
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", "age, cache-status, etag, retry-after, x-cache"),
    ]


def json_body(document: Mapping[str, Any]) -> bytes:
    """A JSON document."""
    return msgspec.json.encode(document)
