"""A real gateway over HTTP: what it answers, with which headers, and what it refuses."""

from __future__ import annotations

import asyncio
import gzip
import re
import time
from typing import cast

import httpx
import msgspec
import pytest
import zstandard
from tests.conftest import eventually
from tests.integration.processes import took
from tests.integration.town import ANALYTICS, Town, answered, bearer, problem

from holdfast.cache.entry import Entry, pack, unpack

# What it answers.


def test_a_miss_is_computed_and_then_a_hit(town: Town) -> None:
    """The first reader gets MISS and the next ones HIT, with the same rows and the same ETag."""
    first = town.get("numbers?upto=3")
    assert (first.status_code, first.headers["x-cache"]) == (200, "MISS")
    document = first.json()
    assert set(document) == {"report", "params", "as_of", "rows"}
    assert document["report"] == "numbers"
    assert document["params"] == {"upto": 3, "word": ""}
    assert [row["square"] for row in document["rows"]] == [1, 4, 9]
    second = town.get("numbers?upto=3")
    assert (second.status_code, second.headers["x-cache"]) == (200, "HIT")
    assert second.content == first.content
    assert second.headers["etag"] == first.headers["etag"]
    assert town.closed.get(f"{ANALYTICS}/numbers?upto=3", headers=bearer()).headers["x-cache"] == "HIT"


def test_what_workers_stored_is_a_hit(town: Town) -> None:
    """An entry that came to Redis by another process is a HIT for the first reader already."""
    params = {"upto": 4, "word": ""}
    town.on_the_socket(lambda c: c.call("compute", report="numbers", params=params, trigger="schedule"))
    computed = town.computed("numbers")
    assert town.get("numbers?upto=4").headers["x-cache"] == "HIT"
    assert town.computed("numbers") == computed


def test_every_answer_says_how_long_it_is_good(town: Town) -> None:
    """ETag, Cache-Control, Vary, Age, X-Cache and Cache-Status are as documented, and Age grows."""
    town.get("numbers?upto=5")
    answer = town.get("numbers?upto=5")
    headers = answer.headers
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(answer.content))
    assert re.fullmatch(r'W/"[0-9a-f]{32}"', headers["etag"])
    lenient = "stale-while-revalidate=86400, stale-if-error=86400"
    assert re.fullmatch(rf"public, max-age=60\d, {lenient}", headers["cache-control"])
    assert headers["vary"] == "accept-encoding"
    assert headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch(r"Holdfast; hit; ttl=(59|60)\d", headers["cache-status"])
    assert int(headers["age"]) <= 5
    eventually("Age to grow", lambda: int(town.get("numbers?upto=5").headers["age"]) > int(headers["age"]))
    fresh = town.get("numbers?upto=6").headers
    assert (fresh["x-cache"], fresh["age"]) == ("MISS", "0")
    assert re.fullmatch(r"Holdfast; fwd=uri-miss; stored; ttl=(59|60)\d", fresh["cache-status"])


def test_who_has_the_rows_gets_304(town: Town) -> None:
    """If-None-Match with the ETag is 304 without a body but with the headers; another ETag is 200."""
    etag = town.get("numbers?upto=5").headers["etag"]
    for given in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        answer = town.get("numbers?upto=5", **{"if-none-match": given})
        assert (answer.status_code, answer.content) == (304, b""), given
        assert answer.headers["etag"] == etag
        assert answer.headers["x-cache"] == "HIT"
        assert "max-age=60" in answer.headers["cache-control"]
        assert answer.headers["vary"] == "accept-encoding"
    assert town.get("numbers?upto=5", **{"if-none-match": '"other"'}).status_code == 200


def test_a_body_comes_in_the_encoding_that_is_asked_for(town: Town) -> None:
    """gzip and zstd are sent where they are accepted, and hold the same body; a small one goes as it is."""
    plain = town.get("numbers?upto=500")
    assert "content-encoding" not in plain.headers
    for accepted, encoding in (
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0, gzip;q=0.5", "gzip"),
        ("br", ""),
        ("identity", ""),
    ):
        target = f"{ANALYTICS}/numbers?upto=500"
        with town.http.stream("GET", target, headers={"accept-encoding": accepted}) as answer:
            raw = b"".join(answer.iter_raw())
        assert answer.headers.get("content-encoding", "") == encoding, accepted
        assert answer.headers["vary"] == "accept-encoding"
        assert answer.headers["etag"] == plain.headers["etag"]
        assert _decoded(raw, encoding) == plain.content
        assert not encoding or len(raw) < len(plain.content) / 2
    assert "content-encoding" not in town.get("numbers?upto=1", **{"accept-encoding": "gzip"}).headers


def _decoded(raw: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(raw)
    return zstandard.decompress(raw) if encoding == "zstd" else raw


def test_head_is_get_without_the_body(town: Town) -> None:
    """HEAD has the status and headers of GET, its length too, and no body."""
    got = town.get("numbers?upto=5")
    target = f"{ANALYTICS}/numbers?upto=5"
    head = town.http.head(target, headers={"accept-encoding": "identity"})
    assert head.content == b""
    same = ("content-length", "content-type", "etag", "cache-control", "vary")
    assert {name: head.headers[name] for name in same} == {name: got.headers[name] for name in same}
    assert town.http.head(f"{ANALYTICS}/none").status_code == 404


def test_one_result_has_one_entry_however_it_is_written(town: Town) -> None:
    """Order, defaults, and the spelling of values and of escapes make no second entry."""
    assert town.get("numbers?upto=17&word=a%20b").headers["x-cache"] == "MISS"
    for target in (
        "numbers?word=a+b&upto=17",
        "numbers?word=%61%20b&upto=%31%37",
        "numbers?upto=017&word=a%20b",
    ):
        assert town.get(target).headers["x-cache"] == "HIT", target
    assert town.get("numbers").headers["x-cache"] == "MISS"
    for target in ("numbers?upto=10", "numbers?word=&upto=10", "numbers?word="):
        assert town.get(target).headers["x-cache"] == "HIT", target
    assert town.cache.exists("gwcache:/api/v1/analytics/numbers")
    assert town.cache.exists("gwcache:/api/v1/analytics/numbers?upto=17&word=a%20b")


def test_a_stale_result_is_served_at_once_and_renewed_behind(town: Town) -> None:
    """Past its ttl (1 s here) a result is served as STALE without waiting, and the next one is new."""
    first = town.get("brief")
    assert first.headers["x-cache"] == "MISS"
    stale = eventually("it to be stale", lambda: answered(town, "brief", "STALE"), every=0.02)
    assert stale.json()["rows"] == first.json()["rows"]
    assert "hit; ttl=-" in stale.headers["cache-status"] or "ttl=0" in stale.headers["cache-status"]
    assert stale.elapsed.total_seconds() < 0.5
    renewed = eventually("a new one", lambda: answered(town, "brief", "HIT"), every=0.02)
    assert renewed.json()["as_of"] > first.json()["as_of"]
    assert renewed.headers["etag"] != first.headers["etag"]


def test_a_hundred_misses_are_one_computation(town: Town) -> None:
    """A hundred readers of the same result, which nobody has yet, get it all, from one computation."""
    before, asked = town.computed("slow"), town.platform.metric("holdfast_calls_total", op="compute")
    target = f"{ANALYTICS}/slow?ms=400&tag=herd"

    async def all_at_once() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        address, headers = str(town.closed.base_url), bearer()
        async with httpx.AsyncClient(base_url=address, headers=headers, limits=limits, timeout=20) as client:
            return await asyncio.gather(*(client.get(target) for _ in range(100)))

    answers = town.background.run(all_at_once())
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert town.closed.get(target, headers=bearer()).headers["x-cache"] == "HIT"
    assert town.computed("slow") == before + 1
    assert town.platform.metric("holdfast_calls_total", op="compute") == asked + 1


def test_what_takes_long_is_202_and_then_a_hit(town: Town) -> None:
    """A result that is not there within GW_MISS_TIMEOUT is 202 with Retry-After; the work goes on, and what
    it comes to is a HIT.
    """
    before = town.computed("slow")
    began = time.monotonic()
    answer = town.get("slow?ms=1600&tag=long")
    assert 0.6 < took(began) < 1.4
    assert problem(answer, 202)["title"] == "Accepted"
    assert int(answer.headers["retry-after"]) >= 1
    eventually("the result", lambda: _ok(town.get("slow?ms=1600&tag=long")), every=0.1)
    assert town.get("slow?ms=1600&tag=long").headers["x-cache"] == "HIT"
    assert town.computed("slow") == before + 1


def _ok(answer: httpx.Response) -> httpx.Response | None:
    assert answer.status_code in {200, 202}, answer.text
    return answer if answer.status_code == 200 else None


def test_the_catalogue_names_every_report(town: Town) -> None:
    """GET /api/v1/analytics lists each report with its link and its parameters, as a cacheable document."""
    answer = town.http.get(ANALYTICS)
    assert answer.status_code == 200
    reports = {report["name"]: report for report in answer.json()["reports"]}
    assert {"numbers", "brief", "private", "slow"} <= set(reports)
    assert reports["numbers"]["href"] == f"{ANALYTICS}/numbers"
    assert reports["numbers"]["ttl"] == 600
    assert {spec["name"]: spec["type"] for spec in reports["numbers"]["params"]} == {
        "upto": "integer",
        "word": "string",
    }
    again = town.http.get(ANALYTICS, headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


# What it refuses.


def test_what_is_not_there_is_404(town: Town) -> None:
    """An unknown report or path is 404; an unknown report's problem names those there are."""
    assert "numbers" in problem(town.get("none"), 404)["reports"]
    for path in ("/nowhere", "/api/v1/analyticsx", f"{ANALYTICS}/numbers/more", "/api/v1/auth/refresh"):
        problem(town.http.get(path), 404)


def test_a_wrong_method_is_405(town: Town) -> None:
    """A method that a route does not have is 405, and Allow names those it has."""
    for method, path, allowed in (
        ("POST", f"{ANALYTICS}/numbers", "GET, HEAD, DELETE"),
        ("PUT", f"{ANALYTICS}/numbers", "GET, HEAD, DELETE"),
        ("DELETE", ANALYTICS, "GET, HEAD"),
        ("POST", "/readyz", "GET, HEAD"),
    ):
        answer = town.http.request(method, path)
        problem(answer, 405)
        assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("upto=0", "upto"),
        ("upto=ten", "upto"),
        ("upto=1e3", "upto"),
        ("upto=", "upto"),
        ("upto=99999999999999999999", "upto"),
        ("upto=1&upto=2", "upto"),
        ("month=3", "month"),
        ("Upto=3", "Upto"),
        ("upto[$gt]=1", "upto[$gt]"),
        ("word=a%00b", "word"),
        ("word=a%0d%0aX-Evil:%201", "word"),
        ("word=%ff", ""),
        ("word=" + "x" * 300, "word"),
    ],
)
def test_a_wrong_parameter_is_422_and_named(town: Town, query: str, name: str) -> None:
    """A parameter that is unknown, repeated or not of its type is 422; the problem names it, and nothing is
    computed.
    """
    computed = town.computed("numbers")
    document = problem(town.get(f"numbers?{query}"), 422)
    assert [error["name"] for error in document["errors"]] == [name]
    assert town.computed("numbers") == computed


def test_a_long_url_is_414(town: Town) -> None:
    """A URL of more than 4,096 characters is 414."""
    problem(town.get("numbers?word=" + "x" * 5000), 414)


def test_a_report_that_fails_is_500_without_its_inside(town: Town) -> None:
    """A report whose query or function fails is a problem that says no more than its kind."""
    assert problem(town.get("failing"), 500)["code"] == "query_failed"
    answer = town.get("failing?where=function")
    assert problem(answer, 500)["code"] == "compute_failed"
    assert "rows" not in answer.text


@pytest.mark.parametrize("kind", ["corrupt", "cut", "older", "foreign", "of-another-key", "empty"])
def test_an_unusable_entry_is_rejected_and_recomputed(town: Town, kind: str) -> None:
    """Bytes in Redis that are no entry for that key never reach a reader: they are counted and replaced."""
    target = f"numbers?upto=20&word={kind}"
    key = f"gwcache:{ANALYTICS}/{target}"
    other = "gwcache:" + ANALYTICS + "/numbers?upto=2"
    params = {"upto": 2, "word": ""}
    good = town.on_the_socket(lambda c: c.call("compute", report="numbers", params=params, trigger="manual"))
    entry = unpack(other, good)
    assert isinstance(entry, Entry)
    mine = pack(msgspec.structs.replace(entry, key=key))
    bad = {
        "corrupt": mine[:-3] + b"xyz",
        "cut": mine[:-40],
        "older": b"HF\x00" + mine[3:],
        "foreign": b"\x80\x04pickled",
        "of-another-key": good,
        "empty": b"",
    }[kind]
    town.cache.set(key, bad, ex=600)
    rejected = town.counted("holdfast_gateway_rejected_entries_total")
    answer = town.get(target)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "MISS")
    assert len(answer.json()["rows"]) == 20
    assert town.counted("holdfast_gateway_rejected_entries_total") == rejected + 1
    assert isinstance(unpack(key, cast("bytes", town.cache.get(key))), Entry)
    assert town.get(target).headers["x-cache"] == "HIT"


def test_it_has_no_way_to_a_database(town: Town) -> None:
    """The gateway's processes are connected to Redis and to no database."""
    town.get("numbers?upto=2")
    databases = {town.servers.postgres.port, town.servers.mongo.port}
    for process in town.open_gateway.family():
        ports = {c.raddr.port for c in process.net_connections("inet") if c.raddr}
        assert not ports & databases, process
