"""The cache entry: one function writes it and one reads it, and both are here.

Stored bytes are `HF`, one byte of schema version, 16 bytes of BLAKE2b over all that follows, the three
times as big-endian doubles, then its content as msgpack. A reader meets missing, corrupt,
foreign and older entries in normal operation, so these are outcomes (`Unusable`), not exceptions. This
module is light: the slim gateway imports it.
"""

from __future__ import annotations

import enum
import gzip
import hashlib
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from holdfast.reports.canonical import Scalar

SCHEMA = 1
_MAGIC = b"HF" + bytes([SCHEMA])
_CHECK = 16
_TIMES = struct.Struct(">ddd")
_BODY_AT = len(_MAGIC) + _CHECK
HEADER_BYTES = _BODY_AT + _TIMES.size
"""How many of an entry's first bytes `peek` needs."""
COMPRESS_FROM = 512
"""Bytes below which a compressed copy saves nothing worth a header."""


class Freshness(enum.Enum):
    """What an entry's time fields say of it now."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


class Unusable(enum.Enum):
    """Why stored bytes are not an entry for that key."""

    MISSING = "missing"
    CORRUPT = "corrupt"
    OLDER = "older"
    FOREIGN = "foreign"


class Entry(msgspec.Struct, frozen=True):
    """A computed result, ready to be sent. Times are seconds since the epoch, UTC."""

    key: str
    computed_at: float
    fresh_until: float
    stale_until: float
    digest: str
    """Hexadecimal BLAKE2b-128 of the rows alone, so equal rows have equal digests in every process."""
    rows: int
    body: bytes
    gzip: bytes
    zstd: bytes

    @property
    def etag(self) -> str:
        """The weak validator of RFC 9110 §8.8.3: bodies with the same rows differ in `as_of` only."""
        return f'W/"{self.digest}"'

    def freshness(self, now: float) -> Freshness:
        """Fresh, stale or expired at that time."""
        if now < self.fresh_until:
            return Freshness.FRESH
        return Freshness.STALE if now < self.stale_until else Freshness.EXPIRED

    def __repr__(self) -> str:
        return f"<Entry {self.key} rows={self.rows} digest={self.digest[:8]}>"


class _Content(msgspec.Struct, frozen=True, array_like=True):
    key: str
    digest: str
    rows: int
    body: bytes
    gzip: bytes
    zstd: bytes


class Times(NamedTuple):
    """The time fields of an entry, read without the content."""

    computed_at: float
    fresh_until: float
    stale_until: float


def build(
    *,
    key: str,
    report: str,
    params: Mapping[str, Scalar],
    rows: Sequence[Mapping[str, Any]],
    computed_at: float,
    ttl: float,
    max_stale: float,
) -> Entry:
    """Encode a result. `ttl` and `max_stale` are in seconds from `computed_at`.

    The body is JSON: report, params (those given), as_of (RFC 3339), rows.
    """
    encoded_rows = msgspec.json.encode(rows)
    as_of = datetime.fromtimestamp(computed_at, UTC).isoformat(timespec="milliseconds")
    body = {
        "report": report,
        "params": dict(params),
        "as_of": as_of.replace("+00:00", "Z"),
        "rows": msgspec.Raw(encoded_rows),
    }
    return enclose(
        key=key,
        body=msgspec.json.encode(body),
        # Sorted, so that neither a set nor the order of a row's columns makes two digests of equal rows.
        digest_of=msgspec.json.encode(rows, order="deterministic"),
        rows=len(rows),
        times=Times(computed_at, computed_at + ttl, computed_at + ttl + max_stale),
    )


def enclose(*, key: str, body: bytes, digest_of: bytes, rows: int, times: Times) -> Entry:
    """An entry around a finished body, which is compressed here, once."""
    import zstandard

    compress = len(body) >= COMPRESS_FROM
    return Entry(
        key=key,
        computed_at=times.computed_at,
        fresh_until=times.fresh_until,
        stale_until=times.stale_until,
        digest=hashlib.blake2b(digest_of, digest_size=16).hexdigest(),
        rows=rows,
        body=body,
        gzip=gzip.compress(body, 6, mtime=0) if compress else b"",
        zstd=zstandard.compress(body, 9) if compress else b"",
    )


def pack(entry: Entry) -> bytes:
    """The bytes that Redis holds for an entry."""
    content = _Content(entry.key, entry.digest, entry.rows, entry.body, entry.gzip, entry.zstd)
    times = _TIMES.pack(entry.computed_at, entry.fresh_until, entry.stale_until)
    payload = times + msgspec.msgpack.encode(content)
    return _MAGIC + hashlib.blake2b(payload, digest_size=_CHECK).digest() + payload


def unpack(key: str, stored: bytes | None) -> Entry | Unusable:
    """The entry in those bytes, or why they are none for that key."""
    if stored is None:
        return Unusable.MISSING
    if stored[:3] != _MAGIC:
        return Unusable.OLDER if stored[:2] == b"HF" else Unusable.FOREIGN
    payload = memoryview(stored)[_BODY_AT:]
    if hashlib.blake2b(payload, digest_size=_CHECK).digest() != stored[len(_MAGIC) : _BODY_AT]:
        return Unusable.CORRUPT
    try:
        times = Times(*_TIMES.unpack_from(payload))
        content = msgspec.msgpack.decode(payload[_TIMES.size :], type=_Content)
    except (struct.error, msgspec.MsgspecError, ValueError, RecursionError):
        return Unusable.CORRUPT
    if content.key != key:
        return Unusable.FOREIGN
    return Entry(content.key, *times, content.digest, content.rows, content.body, content.gzip, content.zstd)


def peek(head: bytes) -> Times | None:
    """The times in an entry's first HEADER_BYTES bytes; None where they are not of an entry."""
    if len(head) < HEADER_BYTES or head[:3] != _MAGIC:
        return None
    return Times(*_TIMES.unpack_from(head, _BODY_AT))
