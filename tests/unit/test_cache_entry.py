"""Cache entries: what is stored is what is read, and what was damaged is never an entry."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.cache.entry import (
    AHEAD_SECONDS,
    COMPRESS_FROM,
    HEADER_BYTES,
    MAX_TOKEN,
    SCHEMA,
    TOKEN_AT,
    Entry,
    Freshness,
    Header,
    Times,
    Unusable,
    build,
    dated_ahead,
    enclose,
    newer,
    pack,
    peek,
    same_version,
    unpack,
)

KEY = "gwcache:/api/v1/analytics/r?month=7"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MOMENT = st.floats(0, 4e9)

ENTRIES = st.builds(
    Entry,
    key=TEXT,
    computed_at=MOMENT,
    fresh_until=MOMENT,
    stale_until=MOMENT,
    digest=TEXT,
    rows=st.integers(0, 2**40),
    body=st.binary(max_size=200),
    gzip=st.binary(max_size=50),
    zstd=st.binary(max_size=50),
    token=st.integers(0, MAX_TOKEN),
    version=st.just("") | st.binary(min_size=8, max_size=8).filter(any).map(bytes.hex),
)


def entry_of(rows: Sequence[Mapping[str, Any]], *, at: float = 1_700_000_000.25) -> Entry:
    """An entry of those rows, fresh for 30 seconds and then stale for 70."""
    return build(key=KEY, report="r", params={"month": 7}, rows=rows, computed_at=at, ttl=30, max_stale=70)


SAMPLE = pack(entry_of([{"carrier": "UA", "flights": n} for n in range(40)]))


@given(ENTRIES)
def test_what_is_packed_is_unpacked(entry: Entry) -> None:
    """Every field of an entry survives being stored."""
    assert unpack(entry.key, pack(entry)) == entry
    times = Times(entry.computed_at, entry.fresh_until, entry.stale_until)
    assert peek(pack(entry)[:HEADER_BYTES]) == entry.header == Header(times, entry.token, entry.version)


def test_stored_bytes_have_the_documented_form() -> None:
    """Entries outlive a release: `HF`, schema, check, three doubles, token, version, an array in msgpack."""
    entry = Entry(
        "gwcache:/k", 1.5, 2.5, 3.5, "d", 7, b"body", b"g", b"z", token=2**53 - 1, version="0123456789abcdef"
    )
    content = [entry.key, entry.digest, entry.rows, entry.body, entry.gzip, entry.zstd]
    token, version = b"\x00\x1f\xff\xff\xff\xff\xff\xff", bytes.fromhex(entry.version)
    payload = struct.pack(">ddd", 1.5, 2.5, 3.5) + token + version + msgspec.msgpack.encode(content)
    assert pack(entry) == b"HF\x02" + hashlib.blake2b(payload, digest_size=16).digest() + payload
    assert HEADER_BYTES == 3 + 16 + 24 + 8 + 8
    assert pack(entry)[TOKEN_AT : TOKEN_AT + 8] == token


@given(st.integers(0, len(SAMPLE) - 1), st.integers(1, 255))
@example(0, 1)
@example(2, SCHEMA)
@example(len(SAMPLE) - 1, 1)
def test_a_flipped_byte_is_noticed(position: int, flip: int) -> None:
    """Whichever byte was changed, header, times or body, what is read is no entry."""
    damaged = bytearray(SAMPLE)
    damaged[position] ^= flip
    found = unpack(KEY, bytes(damaged))
    assert found is (
        Unusable.FOREIGN if position < 2 else Unusable.OLDER if position == 2 else Unusable.CORRUPT
    )


@pytest.mark.parametrize("length", [*range(HEADER_BYTES + 2), len(SAMPLE) // 2, len(SAMPLE) - 1])
def test_a_truncated_entry_is_noticed(length: int) -> None:
    """However much of it is missing, a part of an entry is no entry."""
    assert isinstance(unpack(KEY, SAMPLE[:length]), Unusable)


@given(st.binary(min_size=1, max_size=20))
def test_what_follows_an_entry_is_noticed(more: bytes) -> None:
    """Bytes after the end are a damage like any other."""
    assert unpack(KEY, SAMPLE + more) is Unusable.CORRUPT


@given(st.binary(max_size=100))
@example(b"")
@example(b"HF")
@example(b"\x80\x04\x95")
def test_foreign_bytes_are_never_an_entry(stored: bytes) -> None:
    """Whatever else lies under a key is recognised as foreign, and never raises."""
    assert isinstance(unpack(KEY, stored), Unusable)
    assert stored.startswith(b"HF") or unpack(KEY, stored) is Unusable.FOREIGN


def sealed(payload: bytes) -> bytes:
    """A payload behind a right header and a right check: what a faulty or hostile writer would leave."""
    return b"HF" + bytes([SCHEMA]) + hashlib.blake2b(payload, digest_size=16).digest() + payload


@given(st.binary(max_size=60))
@example(struct.pack(">ddd", 1, 2, 3) + b"\x96\xa1\xff\xa1d\x01\xc4\x00\xc4\x00\xc4\x00")
@example(
    struct.pack(">ddd", 1, 2, 3) + b"\x97\xa1k\xa1d\x01\xc4\x00\xc4\x00\xc4\x00" + b"\x91" * 5000 + b"\x00"
)
@example(struct.pack(">ddd", 1, 2, 3))
def test_a_right_checksum_over_nonsense_is_corrupt(payload: bytes) -> None:
    """Bytes that only the checksum vouches for end as an outcome, not as an exception in the reader."""
    assert isinstance(unpack(KEY, sealed(payload)), Unusable)


@given(st.text().filter(lambda key: key != KEY))
@example(KEY + " ")
@example(KEY.upper())
@example("")
def test_an_entry_under_another_key_is_foreign(key: str) -> None:
    """An entry carries its key: one that lies under any other is refused, whatever put it there."""
    assert unpack(key, SAMPLE) is Unusable.FOREIGN


def test_nothing_stored_is_missing() -> None:
    """A key that Redis does not have is missing, which is an outcome of its own."""
    assert unpack(KEY, None) is Unusable.MISSING


@given(st.integers(0, 255).filter(lambda schema: schema != SCHEMA), st.binary(max_size=40))
def test_another_schema_is_recognised(schema: int, rest: bytes) -> None:
    """What an older or newer release wrote is not taken for corruption, and its bytes are not interpreted."""
    assert unpack(KEY, b"HF" + bytes([schema]) + rest) is Unusable.OLDER
    assert peek((b"HF" + bytes([schema]) + rest).ljust(HEADER_BYTES, b"\0")) is None


@given(st.binary(max_size=HEADER_BYTES - 1))
def test_too_few_bytes_have_no_times(head: bytes) -> None:
    """The times of an entry are not read from a part of them."""
    assert peek(head) is None
    assert peek(SAMPLE[: len(head)]) is None


def test_an_entry_is_fresh_then_stale_then_expired() -> None:
    """An entry is fresh before `fresh_until`, stale before `stale_until`, and expired from then on."""
    entry = entry_of([])
    fresh_until, stale_until = entry.fresh_until, entry.stale_until
    assert (fresh_until, stale_until) == (entry.computed_at + 30, entry.computed_at + 100)
    assert entry.freshness(entry.computed_at) is Freshness.FRESH
    assert entry.freshness(fresh_until - 0.001) is Freshness.FRESH
    assert entry.freshness(fresh_until) is Freshness.STALE
    assert entry.freshness(stale_until - 0.001) is Freshness.STALE
    assert entry.freshness(stale_until) is Freshness.EXPIRED


@given(ENTRIES, MOMENT, MOMENT)
def test_an_entry_never_becomes_fresher(entry: Entry, one: float, two: float) -> None:
    """As time passes the state only moves from fresh to stale to expired."""
    order = [Freshness.FRESH, Freshness.STALE, Freshness.EXPIRED]
    early, late = entry.freshness(min(one, two)), entry.freshness(max(one, two))
    assert order.index(early) <= order.index(late)


def test_the_body_is_the_documented_json() -> None:
    """The body has the report, the parameters, the time of the computation in RFC 3339, and the rows."""
    moment = datetime(2013, 7, 4, 5, 6, 7, 89_000, tzinfo=UTC)
    entry = entry_of([{"origin": "JFK", "avg": 1.5, "none": None}], at=moment.timestamp())
    assert json.loads(entry.body) == {
        "report": "r",
        "params": {"month": 7},
        "as_of": "2013-07-04T05:06:07.089Z",
        "rows": [{"origin": "JFK", "avg": 1.5, "none": None}],
    }
    assert entry.rows == 1


@given(st.integers(0, 60))
def test_compressed_bodies_decode_to_the_body(count: int) -> None:
    """The gzip and zstd bodies are the body, and say nothing of when; a body too small is not compressed."""
    entry = entry_of([{"n": n, "text": "x" * n} for n in range(count)])
    if len(entry.body) < COMPRESS_FROM:
        assert entry.gzip == entry.zstd == b""
    else:
        assert gzip.decompress(entry.gzip) == entry.body
        assert zstandard.decompress(entry.zstd) == entry.body
        assert len(entry.gzip) < len(entry.body)
        assert entry.gzip[4:8] == bytes(4)  # MTIME of RFC 1952 §2.3: none


@pytest.mark.parametrize(("size", "compressed"), [(511, False), (512, True)])
def test_a_body_of_512_bytes_is_worth_compressing(size: int, compressed: bool) -> None:
    """Below that both compressed copies are left out."""
    times = Times(1.0, 2.0, 3.0)
    entry = enclose(key=KEY, body=b"x" * size, digest_of=b"", rows=0, times=times)
    assert (bool(entry.gzip), bool(entry.zstd)) == (compressed, compressed)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=4))
def test_the_digest_is_of_the_rows_alone(rows: list[dict[str, Any]]) -> None:
    """The same rows computed at another time have the same digest and ETag, though the bodies differ."""
    one, two = entry_of(rows), entry_of(rows, at=1_800_000_000.5)
    assert one.digest == two.digest
    assert one.etag == two.etag == f'W/"{one.digest}"'
    assert one.body != two.body
    assert entry_of([*rows, {}]).digest != one.digest


ROWS = [
    {"carrier": "UA", "avg": 0.1 + 0.2, "name": "Zoë \u2603", "nested": {"b": [1, None], "a": True}},
    {"carrier": "9E", "avg": -0.0, "name": "", "nested": {}},
    {"carrier": "AA", "avg": 1e300, "name": '"', "nested": {"z": 2**53}},
]


@pytest.mark.parametrize("seed", ["0", "1", "424242"])
def test_equal_rows_have_equal_digests_in_every_process(seed: str) -> None:
    """Two processes give one result one ETag: neither a hash seed nor the order of columns matters."""
    script = (
        "import json, sys; from holdfast.cache.entry import build\n"
        "rows = json.load(sys.stdin)\n"
        "rows[0]['set'] = {'EWR', 'JFK', 'LGA', 'SWF', 'HPN'}\n"
        "print(build(key='k', report='q', params={}, rows=rows, computed_at=1, ttl=1, max_stale=1).digest)\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(ROWS),
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    rows = [{"set": {"HPN", "SWF", "LGA", "JFK", "EWR"}, **ROWS[0]}, *ROWS[1:]]
    assert printed.strip() == entry_of(rows).digest != entry_of(ROWS).digest


def test_a_finished_body_can_be_enclosed() -> None:
    """An entry around a body that was made elsewhere has that body, byte for byte."""
    body = msgspec.json.encode({"reports": ["x" * 600]})
    entry = enclose(key=KEY, body=body, digest_of=b"d", rows=1, times=Times(1.0, 2.0, 3.0))
    assert entry.body == body == gzip.decompress(entry.gzip)
    assert (entry.computed_at, entry.fresh_until, entry.stale_until) == (1.0, 2.0, 3.0)
    assert repr(entry) == f"<Entry {KEY} rows=1 digest={entry.digest[:8]}>"


def test_rows_that_json_cannot_carry_are_refused() -> None:
    """A value that JSON has no form for is an error of the computation, never half an entry."""
    with pytest.raises(TypeError):
        entry_of([{"x": object()}])


# Order, and the version of the report


V1, V2 = "0123456789abcdef", "fedcba9876543210"
AT = 1_700_000_000.25


def marked(token: int, at: float) -> Entry:
    """An entry with that token and that date."""
    return msgspec.structs.replace(entry_of([], at=at), token=token)


@pytest.mark.parametrize(
    ("one", "other", "is_newer"),
    [
        (marked(8, AT), marked(7, AT), True),
        (marked(8, AT), marked(8, AT), False),
        (marked(8, AT), marked(7, AT + 7200), True),
        (marked(7, AT + 7200), marked(8, AT), False),
        (marked(0, AT + 1), marked(0, AT), True),
        (marked(0, AT), marked(0, AT), False),
        (marked(8, AT + 1), marked(0, AT), True),
        (marked(0, AT + 1), marked(8, AT), True),
    ],
)
def test_the_token_says_which_entry_is_newer(one: Entry, other: Entry, is_newer: bool) -> None:
    """Tokens decide, whatever the dates are; dates decide where one was written without a lease."""
    assert newer(one, other) is is_newer


@pytest.mark.parametrize(
    ("later", "version", "freshness"),
    [
        (0.0, V1, Freshness.FRESH),
        (29.9, V1, Freshness.FRESH),
        (30.0, V1, Freshness.STALE),
        (100.0, V1, Freshness.EXPIRED),
        (0.0, "", Freshness.FRESH),
        (0.0, V2, Freshness.STALE),
        (30.0, V2, Freshness.STALE),
        (100.0, V2, Freshness.EXPIRED),
        (-AHEAD_SECONDS, V1, Freshness.FRESH),
        (-AHEAD_SECONDS - 0.1, V1, Freshness.STALE),
        (-7200.0, V1, Freshness.STALE),
    ],
)
def test_another_version_and_a_date_ahead_are_stale_at_most(
    later: float, version: str, freshness: Freshness
) -> None:
    """A reader never calls an entry fresh whose report has changed, or whose age cannot be known."""
    header = msgspec.structs.replace(entry_of([], at=AT), version=V1).header
    assert header.freshness(AT + later, version) is freshness


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(V1, V1, True), (V1, V2, False), ("", V1, True), (V1, "", True), ("", "", True)],
)
def test_what_has_no_version_is_of_every_version(one: str, other: str, same: bool) -> None:
    """The catalogue is made by no report: it has no version, and none is asked of it."""
    assert same_version(one, other) is same


@pytest.mark.parametrize(("ahead", "is_ahead"), [(-1.0, False), (AHEAD_SECONDS, False), (7200.0, True)])
def test_clocks_may_differ_a_little(ahead: float, is_ahead: bool) -> None:
    """A date is wrong when it is further ahead than two processes of one cache may differ."""
    assert dated_ahead(1000.0 + ahead, 1000.0) is is_ahead


@pytest.mark.parametrize("token", [MAX_TOKEN + 1, 2**64 - 1])
def test_a_token_that_no_lease_can_have_is_damage(token: int) -> None:
    """A forged token cannot take the last place in the order: nothing could ever be newer."""
    packed = pack(msgspec.structs.replace(entry_of([]), token=token))
    assert unpack(KEY, packed) is Unusable.CORRUPT
    assert peek(packed) is None


def test_the_format_before_tokens_is_older() -> None:
    """What was stored in schema 1 is recognised, and computed again."""
    payload = struct.pack(">ddd", AT, AT + 30, AT + 100) + msgspec.msgpack.encode(
        (KEY, "d", 0, b"{}", b"", b"")
    )
    stored = b"HF\x01" + hashlib.blake2b(payload, digest_size=16).digest() + payload
    assert unpack(KEY, stored) is Unusable.OLDER
    assert peek(stored) is None
