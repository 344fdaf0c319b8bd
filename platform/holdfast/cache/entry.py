"""The cache entry: one function writes it and one reads it, and both are here.

Stored bytes are `HF`, one byte of schema version, 16 bytes of BLAKE2b over all that follows, the header
(three times as big-endian doubles, the fencing token, the report's version), then its content as msgpack. A
reader meets missing, corrupt, foreign and older entries in normal operation, so these are outcomes
(`Unusable`), not exceptions. This module is light: the slim gateway imports it.

The times are those of one clock, which is Redis' (`cache.clock`). Which of two entries is the newer one is
said by their tokens and never by their times: a clock may be wrong, or be set back.
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

from holdfast.errors import ValueNotServable
from holdfast.reports.canonical import Scalar
from holdfast.reports.rows import encode_rows

SCHEMA = 2
MAGIC = b"HF" + bytes([SCHEMA])
_CHECK = 16
_HEADER = struct.Struct(">dddQ8s")
_HEADER_AT = len(MAGIC) + _CHECK
HEADER_BYTES = _HEADER_AT + _HEADER.size
"""How many of an entry's first bytes `peek` needs."""
TOKEN_AT = _HEADER_AT + 24
"""Where the token begins: eight bytes, big-endian."""
MAX_TOKEN = 2**53 - 1
"""Lua's numbers are doubles, and Redis' scripts calculate with tokens."""
AHEAD_SECONDS = 2.0
"""By how much the clocks of two processes may differ. What is dated further ahead has a wrong date."""
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
    token: int = 0
    """The fencing token of its computation: of two entries of a key, the larger token is the newer one's."""
    version: str = ""
    """The version of the report that made it (`Report.version`); empty where no report did."""

    @property
    def etag(self) -> str:
        """The weak validator of RFC 9110 §8.8.3: bodies with the same rows differ in `as_of` only."""
        return f'W/"{self.digest}"'

    def freshness(self, now: float) -> Freshness:
        """Fresh, stale or expired at that time."""
        if now < self.fresh_until:
            return Freshness.FRESH
        return Freshness.STALE if now < self.stale_until else Freshness.EXPIRED

    @property
    def header(self) -> Header:
        """What can be read of it without its content."""
        times = Times(self.computed_at, self.fresh_until, self.stale_until)
        return Header(times, self.token, self.version)

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
    """The time fields of an entry."""

    computed_at: float
    fresh_until: float
    stale_until: float


class Header(NamedTuple):
    """What can be read of an entry without its content."""

    times: Times
    token: int
    version: str

    def freshness(self, now: float, version: str) -> Freshness:
        """What the entry is to a reader who has that version of the report.

        The result of another version is stale at most, and so is one that is dated ahead: how old it is
        cannot be known.
        """
        if now >= self.times.stale_until:
            return Freshness.EXPIRED
        right = same_version(self.version, version) and not dated_ahead(self.times.computed_at, now)
        return Freshness.FRESH if right and now < self.times.fresh_until else Freshness.STALE


def same_version(one: str, other: str) -> bool:
    """Whether two versions are the same; an empty one is no version, and is the same as every other."""
    return one == other or not one or not other


def newer(one: Entry, other: Entry) -> bool:
    """Whether `one` is the newer entry of a key: by the tokens, or by the dates where one has no token."""
    if one.token and other.token:
        return one.token > other.token
    return one.computed_at > other.computed_at


def dated_ahead(computed_at: float, now: float) -> bool:
    """Whether an entry has a date that is still to come: the clock of its writer, or ours, is wrong."""
    return computed_at > now + AHEAD_SECONDS


def build(
    *,
    key: str,
    report: str,
    params: Mapping[str, Scalar],
    rows: Sequence[Mapping[str, Any]],
    computed_at: float,
    ttl: float,
    max_stale: float,
    token: int = 0,
    version: str = "",
) -> Entry:
    """Encode a result. `ttl` and `max_stale` are in seconds from `computed_at`.

    The body is JSON: report, params (those given), as_of (RFC 3339), rows.

    Raises:
        ValueNotServable: a value of a row has no JSON form; the message says where it is.
    """
    try:
        served, sorted_rows = encode_rows(rows)
    except ValueNotServable as error:
        raise ValueNotServable(f"report {report}: {error}", **error.details) from None
    as_of = datetime.fromtimestamp(computed_at, UTC).isoformat(timespec="milliseconds")
    body = {
        "report": report,
        "params": dict(params),
        "as_of": as_of.replace("+00:00", "Z"),
        "rows": msgspec.Raw(served),
    }
    entry = enclose(
        key=key,
        body=msgspec.json.encode(body),
        # Sorted, so that the order of a row's columns does not make two digests of equal rows.
        digest_of=sorted_rows,
        rows=len(rows),
        times=Times(computed_at, computed_at + ttl, computed_at + ttl + max_stale),
    )
    return msgspec.structs.replace(entry, token=token, version=version)


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
    times = (entry.computed_at, entry.fresh_until, entry.stale_until)
    header = _HEADER.pack(*times, entry.token, bytes.fromhex(entry.version))
    payload = header + msgspec.msgpack.encode(content)
    return MAGIC + hashlib.blake2b(payload, digest_size=_CHECK).digest() + payload


def unpack(key: str, stored: bytes | None) -> Entry | Unusable:
    """The entry in those bytes, or why they are none for that key."""
    if stored is None:
        return Unusable.MISSING
    if stored[:3] != MAGIC:
        return Unusable.OLDER if stored[:2] == b"HF" else Unusable.FOREIGN
    payload = memoryview(stored)[_HEADER_AT:]
    if hashlib.blake2b(payload, digest_size=_CHECK).digest() != stored[len(MAGIC) : _HEADER_AT]:
        return Unusable.CORRUPT
    try:
        content = msgspec.msgpack.decode(payload[_HEADER.size :], type=_Content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return Unusable.CORRUPT
    if (header := peek(stored)) is None or content.key != key:
        return Unusable.CORRUPT if header is None else Unusable.FOREIGN
    return Entry(
        content.key,
        *header.times,
        content.digest,
        content.rows,
        content.body,
        content.gzip,
        content.zstd,
        header.token,
        header.version,
    )


def peek(head: bytes) -> Header | None:
    """The header in an entry's first HEADER_BYTES bytes; None where they are not of an entry."""
    if len(head) < HEADER_BYTES or head[:3] != MAGIC:
        return None
    *times, token, version = _HEADER.unpack_from(head, _HEADER_AT)
    if token > MAX_TOKEN:
        return None
    return Header(Times(*times), token, version.hex() if any(version) else "")
