"""HTTP as the gateway speaks it: encodings, conditional requests, header values and problem documents."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.cache.entry import Entry, build
from holdfast.errors import (
    DeadlineExceeded,
    HoldfastError,
    InvalidParams,
    LinkDown,
    Overloaded,
    QueryFailed,
    UnknownReport,
)
from holdfast_gateway.http import (
    Cache,
    Encoding,
    Encodings,
    Headers,
    Representation,
    cors,
    matches,
)
from holdfast_gateway.l1.lookup import StillComputing
from holdfast_gateway.problems import Problem, problem_of, unavailable

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TOKENS = r"[a-z0-9!#$%&'*+.^_`|~-]+"


def entry_of(rows: int = 100, *, ttl: float = 900, max_stale: float = 86_400) -> Entry:
    """An entry of the year 2001."""
    return build(
        key="gwcache:/api/v1/analytics/r",
        report="r",
        params={},
        rows=[{"n": n, "text": "some text"} for n in range(rows)],
        computed_at=1e9,
        ttl=ttl,
        max_stale=max_stale,
    )


def shown(entry: Entry | None = None, *, private: bool = False) -> Representation:
    """An entry, ready to be sent."""
    return Representation(entry or entry_of(), private=private)


def well_formed(headers: Headers) -> None:
    """Names are lower-case tokens, none of them twice, and values printable ASCII: nothing splits them."""
    assert len(dict(headers)) == len(headers)
    for name, value in headers:
        assert re.fullmatch(TOKENS, name)
        assert value.isascii()
        assert value.isprintable()


# Encodings


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, ""),
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "gzip"),
        ("br, deflate", ""),
        ("GZIP", "gzip"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("gzip;q=0.5, zstd;q=0.5", "zstd"),
        ("gzip;q=0.001", "gzip"),
        ("gzip;q=0", ""),
        ("gzip;q=0.000", ""),
        ("gzip ; q=0.8 , zstd ; q=0", "gzip"),
        ("gzip;Q=0", ""),
        ("*", "zstd"),
        ("*;q=0", ""),
        ("*;q=0, gzip", "gzip"),
        ("gzip;q=0, *", "zstd"),
        ("zstd;q=0, *;q=0.5", "gzip"),
        ("identity;q=0, *;q=0", ""),
        ("identity;q=1, gzip;q=0.5", ""),
        ("identity;q=0.5, gzip;q=1", "gzip"),
        ("identity, gzip", "gzip"),
        ("gzip;q=nonsense", ""),
        ("gzip;q=nan", ""),
        ("gzip;q=", ""),
        (",,gzip,,", "gzip"),
        ("gzipped", ""),
    ],
)
def test_the_encoding_is_the_one_the_client_prefers(accept: str | None, chosen: str) -> None:
    """RFC 9110 §12.5.3: q-values and `*` are honoured, zero means never, and identity is always left."""
    encodings = Encodings()
    assert encodings.choose(accept) == chosen
    assert encodings.choose(accept) == chosen


@given(st.text(max_size=60))
def test_no_header_makes_an_encoding_that_it_does_not_name(accept: str) -> None:
    """Whatever the header holds, what is chosen is something that we have and that it allows."""
    chosen = Encodings().choose(accept)
    assert chosen in {"", "gzip", "zstd"}
    assert chosen == "" or chosen in accept.lower() or "*" in accept


def test_choices_do_not_pile_up() -> None:
    """A client that sends a new header each time gets its answer, and no memory is kept for each."""
    encodings = Encodings()
    assert {encodings.choose(f"x{n}, gzip") for n in range(2000)} == {"gzip"}
    assert len(encodings._choices) <= 256


@given(st.integers(0, 60), st.sampled_from(["", "gzip", "zstd"]))
def test_a_body_is_in_the_encoding_that_its_header_names(rows: int, wanted: Encoding) -> None:
    """Content-Encoding is there when the body is encoded, and is not when a small body was not worth it."""
    representation = shown(entry_of(rows))
    encoding = representation.encoding(wanted)
    body = representation.bodies[encoding]
    headers = dict(representation.headers("HIT", encoding, 1, 1))
    assert headers.get("content-encoding", "") == encoding
    assert body.startswith({"": b"{", "gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}[encoding])
    assert encoding == wanted or len(representation.bodies[""]) < 512


# Conditional requests


@pytest.mark.parametrize(
    ("header", "same"),
    [
        (None, False),
        ("", False),
        ('"abc"', True),
        ('W/"abc"', True),
        (' W/"abc" ', True),
        ('"x", W/"abc", "y"', True),
        ('"x","abc"', True),
        ("*", True),
        (" * ", True),
        ("abc", False),
        ('"ABC"', False),
        ('w/"abc"', False),
        ('"abc', False),
        ('"ab"', False),
        ('"abcd"', False),
        ('"a", "b", "c"', False),
    ],
)
def test_if_none_match_compares_weakly(header: str | None, same: bool) -> None:
    """RFC 9110 §8.8.3.2 and §13.1.2: tags are equal with and without W/, in a list, and `*` is any."""
    assert matches(header, 'W/"abc"') is same


@given(st.lists(st.from_regex(r'\A(W/)?"[a-z]{0,5}"\Z'), max_size=6), st.from_regex(r"\A[a-z]{1,5}\Z"))
def test_a_list_of_tags_matches_if_one_of_them_does(tags: list[str], opaque: str) -> None:
    """However many tags a client has, one that is ours is enough, and none of another is."""
    header = ", ".join(tags)
    assert matches(header, f'W/"{opaque}"') is any(tag.removeprefix("W/") == f'"{opaque}"' for tag in tags)
    assert matches(f'{header},"{opaque}"', f'W/"{opaque}"')


def test_a_304_has_what_a_cache_needs_and_no_body_headers() -> None:
    """RFC 9110 §15.4.5: ETag, Cache-Control and Vary as in the 200; nothing about a body."""
    representation = shown()
    full = dict(representation.headers("HIT", "gzip", 10, 890))
    conditional = dict(representation.not_modified("HIT", 10, 890))
    assert conditional == {k: v for k, v in full.items() if k not in {"content-type", "content-encoding"}}
    assert {"etag", "cache-control", "vary", "age", "x-cache", "cache-status"} <= conditional.keys()


# Header values


def test_a_public_result_says_for_how_long() -> None:
    """Cache-Control has the full lifetime and the two stale-* directives of RFC 5861, in seconds."""
    headers = dict(shown().headers("HIT", "", 12.7, 887.3))
    assert headers["cache-control"] == (
        "public, max-age=900, stale-while-revalidate=86400, stale-if-error=86400"
    )
    assert headers["vary"] == "accept-encoding"
    assert headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff"


def test_a_result_behind_a_token_is_private() -> None:
    """Where a token was needed no shared cache keeps the answer, nor gives it to another caller."""
    headers = dict(shown(private=True).headers("HIT", "", 0, 900))
    assert headers["cache-control"].startswith("private, ")
    assert headers["vary"] == "accept-encoding, authorization"


@pytest.mark.parametrize(
    ("cache", "age", "left", "status"),
    [
        ("HIT", 10.9, 889.1, "Holdfast; hit; ttl=889"),
        ("STALE", 1000.0, -100.0, "Holdfast; hit; ttl=-100"),
        ("MISS", 0.2, 899.8, "Holdfast; fwd=uri-miss; stored; ttl=899"),
    ],
)
def test_how_an_answer_came_about_is_said(cache: Cache, age: float, left: float, status: str) -> None:
    """X-Cache, Age and Cache-Status (RFC 9211) say where an answer is from and how long it is good."""
    headers = dict(shown().headers(cache, "", age, left))
    assert headers["x-cache"] == cache
    assert headers["age"] == str(int(age))
    assert headers["cache-status"] == status


def test_age_grows_and_is_never_negative() -> None:
    """Age follows the clock by the second, and a clock that runs behind does not make it negative."""
    representation = shown()
    ages = [dict(representation.headers("HIT", "", age, 900 - age))["age"] for age in (0, 0.9, 1.2, 61, 5.5)]
    assert ages == ["0", "0", "1", "61", "5"]
    assert dict(representation.headers("HIT", "", -7.5, 900))["age"] == "0"


def test_headers_of_one_answer_are_not_sent_with_another() -> None:
    """Headers are kept for a second; those of another encoding or outcome are never sent instead."""
    representation = shown()
    asked: list[tuple[Cache, Encoding]] = [
        ("HIT", "gzip"),
        ("HIT", ""),
        ("STALE", ""),
        ("HIT", "zstd"),
        ("MISS", ""),
    ]
    order = [*asked, *reversed(asked)]
    answers = [dict(representation.headers(cache, encoding, 5, 895)) for cache, encoding in order]
    assert [(headers["x-cache"], headers.get("content-encoding", "")) for headers in answers] == order


def test_headers_are_made_once_a_second() -> None:
    """Within a second every answer of one kind has the same list, and another one in the next second."""
    representation = shown()
    lists = [representation.headers("HIT", "gzip", age, 900 - age) for age in (5, 5.9, 6)]
    assert lists[0] is lists[1]
    assert lists[1] is not lists[2]
    assert representation.headers("HIT", "", 6, 894) is representation.headers("HIT", "", 6, 894)


@pytest.mark.parametrize(
    ("ttl", "max_stale", "said"),
    [
        (0.4, 0.6, "max-age=0, stale-while-revalidate=1, stale-if-error=1"),
        (-5, 0, "max-age=0, stale-while-revalidate=0, stale-if-error=0"),
        (5, -5, "max-age=5, stale-while-revalidate=0, stale-if-error=0"),
    ],
)
def test_no_lifetime_is_negative(ttl: float, max_stale: float, said: str) -> None:
    """Lifetimes are whole seconds, and zero where nothing is left (an entry that was marked stale)."""
    headers = dict(shown(entry_of(ttl=ttl, max_stale=max_stale)).headers("HIT", "", 0, 0))
    assert headers["cache-control"] == f"public, {said}"


def test_the_etag_is_the_digest_of_the_rows() -> None:
    """The validator is weak, since `as_of` differs between bodies of the same rows."""
    entry = entry_of()
    headers = dict(shown(entry).headers("HIT", "", 0, 900))
    assert headers["etag"] == f'W/"{entry.digest}"'
    assert re.fullmatch(r'W/"[0-9a-f]{32}"', headers["etag"])


@given(
    st.sampled_from(["HIT", "MISS", "STALE"]),
    st.sampled_from(["", "gzip", "zstd"]),
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.booleans(),
)
def test_headers_of_an_answer_are_well_formed(
    cache: Cache, encoding: Encoding, age: float, left: float, private: bool
) -> None:
    """Whatever the times are, no header holds a control character, and none is there twice."""
    representation = Representation(ENTRY, private=private)
    well_formed(representation.headers(cache, encoding, age, left))
    well_formed(representation.not_modified(cache, age, left))


ENTRY = entry_of(3)


# Other origins


ALLOWED = frozenset({"https://a.example"})


def test_a_listed_origin_may_read_an_answer() -> None:
    """An origin in GW_CORS_ORIGINS gets its own name back."""
    assert ("access-control-allow-origin", "https://a.example") in cors("https://a.example", ALLOWED)


@pytest.mark.parametrize(
    "origin",
    [None, "", "*", "null", "https://b.example", "https://a.example.org", "HTTPS://a.example"],
)
def test_only_a_listed_origin_may_read_an_answer(origin: str | None) -> None:
    """Any other origin, however near, gets nothing."""
    assert not [name for name, _ in cors(origin, ALLOWED) if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [None, "https://a.example", "https://b.example"])
def test_a_shared_cache_keeps_origins_apart(origin: str | None) -> None:
    """Where origins make a difference every answer says so, lest one page's answer be given to another."""
    assert ("vary", "origin") in cors(origin, ALLOWED)


def test_without_an_origin_nothing_is_allowed_by_the_list_of_all() -> None:
    """A request that names no origin is given none; with one, `*` in the list allows it by its name."""
    everyone = frozenset({"*"})
    assert cors(None, everyone) == [("vary", "origin")]
    assert ("access-control-allow-origin", "https://b.example") in cors("https://b.example", everyone)


# Problems


@given(TEXT, TEXT)
@example("a\r\nSet-Cookie: x", "\0")
def test_a_problem_document_carries_any_text_safely(detail: str, further: str) -> None:
    """RFC 9457: type, title, status and detail, as JSON; no text of a request reaches its headers."""
    problem = Problem(422, "Unprocessable Content", detail, errors=[further])
    well_formed(problem.response.headers)
    assert dict(problem.response.headers) == {
        "content-type": "application/problem+json",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    document = json.loads(problem.response.body)
    assert (document["type"], document["title"], document["status"]) == (
        "about:blank",
        "Unprocessable Content",
        422,
    )
    assert document.get("detail", "") == detail
    assert document["errors"] == [further]


@pytest.mark.parametrize(
    ("seconds", "header"), [(0, "1"), (0.2, "1"), (1, "1"), (1.2, "2"), (9.999, "10"), (10, "10")]
)
def test_retry_after_is_never_too_early(seconds: float, header: str) -> None:
    """Retry-After is in whole seconds, at least one, and not before the moment that is meant."""
    problem = unavailable("Not now.", seconds)
    assert problem.response.status == 503
    assert dict(problem.response.headers)["retry-after"] == header


def every(root: type[HoldfastError] = HoldfastError) -> list[type[HoldfastError]]:
    """The class and all below it."""
    return [root, *(found for child in root.__subclasses__() for found in every(child))]


INSIDE = [error for error in every() if error not in (UnknownReport, InvalidParams)]
"""The errors that a client can do nothing about."""


@pytest.mark.parametrize("cls", INSIDE, ids=lambda cls: cls.__name__)
def test_what_went_wrong_inside_stays_inside(cls: type[HoldfastError]) -> None:
    """No error shows an address, a query or a secret: its message and details never reach a client."""
    canary = "postgresql://u:canary@10.0.0.7/db SELECT"
    problem = problem_of(cls(canary, link="postgres", address=canary, retry_in=3.5))
    assert b"canary" not in problem.response.body
    assert b"SELECT" not in problem.response.body
    well_formed(problem.response.headers)
    assert "canary" not in str(problem.response.headers)
    assert problem.response.status in {202, 500, 503}
    if cls.retryable:
        assert problem.response.status == 503
    if problem.response.status == 503:
        assert dict(problem.response.headers)["retry-after"] == "4"


def test_an_unknown_report_is_answered_with_the_known_ones() -> None:
    """An unknown report is 404 with the names of the known ones."""
    response = problem_of(UnknownReport("there is no report 'x'", known=["a"])).response
    assert (response.status, json.loads(response.body)["reports"]) == (404, ["a"])


def test_a_wrong_parameter_is_answered_with_its_name() -> None:
    """A wrong parameter is 422 with its name and the reason."""
    errors: list[dict[str, Any]] = [{"name": "month", "reason": "is required"}]
    response = problem_of(InvalidParams("month: is required", errors=errors)).response
    assert (response.status, json.loads(response.body)["errors"]) == (422, errors)


def test_a_link_that_is_down_is_named() -> None:
    """Where a database is down the problem says which one."""
    response = problem_of(LinkDown("postgres is down", link="postgres", retry_in=2)).response
    assert "Postgres is down" in json.loads(response.body)["detail"]


@pytest.mark.parametrize(
    ("error", "status", "title", "members"),
    [
        (
            UnknownReport("there is no report 'x'", known=["a"]),
            404,
            "Not Found",
            {"detail": "there is no report 'x'.", "reports": ["a"]},
        ),
        (
            InvalidParams("month: is required", errors=[{"name": "month", "reason": "is required"}]),
            422,
            "Unprocessable Content",
            {"detail": "month: is required.", "errors": [{"name": "month", "reason": "is required"}]},
        ),
        (
            StillComputing(),
            202,
            "Accepted",
            {"detail": "The result is being computed; ask again."},
        ),
        (
            LinkDown("postgres is down", link="postgres", retry_in=2),
            503,
            "Service Unavailable",
            {"detail": "This result is not in the cache and cannot be computed now: Postgres is down."},
        ),
        (
            LinkDown("mongo is down", link="mongo"),
            503,
            "Service Unavailable",
            {"detail": "This result is not in the cache and cannot be computed now: MongoDB is down."},
        ),
        (
            LinkDown("redis is down", link="redis"),
            503,
            "Service Unavailable",
            {"detail": "This result is not in the cache and cannot be computed now."},
        ),
        (
            Overloaded("200 results are being computed"),
            503,
            "Service Unavailable",
            {"detail": "This result is not in the cache and cannot be computed now."},
        ),
        (
            DeadlineExceeded("late"),
            503,
            "Service Unavailable",
            {"detail": "This result took too long to compute."},
        ),
        (
            QueryFailed("syntax"),
            500,
            "Internal Server Error",
            {"detail": "This result could not be computed.", "code": "query_failed"},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_client_can_correct_is_said(
    error: HoldfastError, status: int, title: str, members: dict[str, Any]
) -> None:
    """An unknown report and a wrong parameter are named; an outage says what is down, and no more."""
    response = problem_of(error).response
    document = json.loads(response.body)
    assert response.status == status
    assert document == {"type": "about:blank", "title": title, "status": status, **members}


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (StillComputing(), "2"),
        (LinkDown("down", retry_in=3.5), "4"),
        (LinkDown("down", retry_in=0), "1"),
        (LinkDown("down"), "1"),
    ],
)
def test_what_passes_says_when_to_try_again(error: HoldfastError, seconds: str) -> None:
    """A result that is being computed is there soon; a link that is down is tried again at a known time."""
    assert dict(problem_of(error).response.headers)["retry-after"] == seconds
