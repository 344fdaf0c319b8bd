"""A real gateway over HTTP: what it answers, and with which headers."""

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
from redis import Redis
from tests.support.http import ANALYTICS, SOON, Gateway, bearer, problem
from tests.support.process import remote_ports
from tests.support.sample_reports import brief, numbers, slow
from tests.support.stack import Stack
from tests.support.variants import Variant, fresh
from tests.support.waiting import eventually, took

from holdfast.cache.entry import Entry, pack, unpack


def test_a_miss_is_computed_and_then_a_hit(gateway: Gateway, closed: Gateway) -> None:
    """The first reader gets MISS and the next ones HIT, with the same rows and the same ETag."""
    variant = fresh(numbers, upto=3)
    first = gateway.get(variant.target)
    assert (first.status_code, first.headers["x-cache"]) == (200, "MISS")
    document = first.json()
    assert set(document) == {"report", "params", "as_of", "rows"}
    assert document["report"] == "numbers"
    assert document["params"] == variant.params
    assert [row["square"] for row in document["rows"]] == [1, 4, 9]
    second = gateway.get(variant.target)
    assert (second.status_code, second.headers["x-cache"]) == (200, "HIT")
    assert second.content == first.content
    assert second.headers["etag"] == first.headers["etag"]
    assert closed.http.get(variant.path, headers=bearer()).headers["x-cache"] == "HIT"


def computed(stack: Stack, variant: Variant) -> Entry:
    """The entry that the supervisor computes and stores, as for another process."""
    return stack.run(stack.client.compute(variant.key, variant.name, variant.params, "schedule", deadline=30))


def test_what_workers_stored_is_a_hit(stack: Stack, gateway: Gateway) -> None:
    """An entry that another process has put into Redis is a HIT for the first reader already."""
    variant = fresh(numbers)
    computed(stack, variant)
    runs = stack.runs("numbers")
    assert gateway.get(variant.target).headers["x-cache"] == "HIT"
    assert stack.runs("numbers") == runs


def test_every_answer_says_how_long_it_is_good(gateway: Gateway) -> None:
    """ETag, Cache-Control, Vary, Age, X-Cache and Cache-Status are as documented, and Age grows."""
    variant = fresh(numbers)
    miss = gateway.get(variant.target).headers
    assert (miss["x-cache"], miss["age"]) == ("MISS", "0")
    assert re.fullmatch(r"Holdfast; fwd=uri-miss; stored; ttl=(59|60)\d", miss["cache-status"])
    answer = gateway.get(variant.target)
    headers = answer.headers
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(answer.content))
    assert re.fullmatch(r'W/"[0-9a-f]{32}"', headers["etag"])
    lenient = "stale-while-revalidate=86400, stale-if-error=86400"
    assert re.fullmatch(rf"public, max-age=60\d, {lenient}", headers["cache-control"])
    assert headers["vary"] == "accept-encoding"
    assert headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch(r"Holdfast; hit; ttl=(59|60)\d", headers["cache-status"])
    age = int(headers["age"])
    assert age <= 5
    eventually("Age to grow", lambda: int(gateway.get(variant.target).headers["age"]) > age)


@pytest.mark.parametrize("form", ["{etag}", "{opaque}", '"other", {etag}', "*"])
def test_who_has_the_rows_gets_304(gateway: Gateway, form: str) -> None:
    """If-None-Match with the ETag is 304 without a body but with the headers of a 200."""
    variant = fresh(numbers)
    etag = gateway.get(variant.target).headers["etag"]
    given = form.format(etag=etag, opaque=etag.removeprefix("W/"))
    answer = gateway.get(variant.target, **{"if-none-match": given})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == etag
    assert answer.headers["x-cache"] == "HIT"
    assert "max-age=60" in answer.headers["cache-control"]
    assert answer.headers["vary"] == "accept-encoding"


def test_who_has_other_rows_gets_200(gateway: Gateway) -> None:
    """If-None-Match with another ETag is 200."""
    assert gateway.get(fresh(numbers).target, **{"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0, gzip;q=0.5", "gzip"),
        ("br", ""),
        ("identity", ""),
    ],
)
def test_a_body_comes_in_the_encoding_that_is_asked_for(
    gateway: Gateway, accepted: str, encoding: str
) -> None:
    """A body as gzip or zstd is sent where that is accepted, and holds the same."""
    variant = fresh(numbers, upto=500)
    plain = gateway.get(variant.target)
    assert "content-encoding" not in plain.headers
    with gateway.http.stream("GET", variant.path, headers={"accept-encoding": accepted}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding", "") == encoding
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.headers["etag"] == plain.headers["etag"]
    assert _decoded(raw, encoding) == plain.content
    assert not encoding or len(raw) < len(plain.content) / 2


def _decoded(raw: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(raw)
    return zstandard.decompress(raw) if encoding == "zstd" else raw


def test_a_small_body_goes_as_it_is(gateway: Gateway) -> None:
    """A body that is too small to gain by it is not compressed."""
    headers = gateway.get(fresh(numbers, upto=1).target, **{"accept-encoding": "gzip"}).headers
    assert "content-encoding" not in headers


def test_head_is_get_without_the_body(gateway: Gateway) -> None:
    """HEAD has the status and headers of GET, its length too, and no body."""
    variant = fresh(numbers)
    got = gateway.get(variant.target)
    head = gateway.http.head(variant.path, headers={"accept-encoding": "identity"})
    assert head.content == b""
    same = ("content-length", "content-type", "etag", "cache-control", "vary")
    assert {name: head.headers[name] for name in same} == {name: got.headers[name] for name in same}
    assert gateway.http.head(f"{ANALYTICS}/none").status_code == 404


@pytest.mark.parametrize(
    "written",
    [
        "numbers?word={word}+b&upto=17",
        "numbers?word=%66{rest}%20b&upto=%31%37",
        "numbers?upto=017&word={word}%20b",
    ],
    ids=["order", "escapes", "zeros"],
)
def test_one_result_has_one_entry_however_it_is_written(gateway: Gateway, cache: Redis, written: str) -> None:
    """Order, and the spelling of values and of escapes, make no second entry."""
    word = str(fresh(numbers).params["word"])
    assert gateway.get(f"numbers?upto=17&word={word}%20b").headers["x-cache"] == "MISS"
    target = written.format(word=word, rest=word.removeprefix("f"))
    assert gateway.get(target).headers["x-cache"] == "HIT"
    assert cache.exists(f"gwcache:/api/v1/analytics/numbers?upto=17&word={word}%20b")


@pytest.mark.parametrize("written", ["numbers?upto=10", "numbers?word=&upto=10", "numbers?word="])
def test_a_default_makes_no_second_entry(gateway: Gateway, cache: Redis, written: str) -> None:
    """A parameter that has its default may be given or left out."""
    assert gateway.get("numbers").status_code == 200
    assert gateway.get(written).headers["x-cache"] == "HIT"
    assert cache.exists("gwcache:/api/v1/analytics/numbers")


def test_a_stale_result_is_served_at_once_and_renewed_behind(gateway: Gateway) -> None:
    """Past its ttl (1 s here) a result is served as STALE without waiting, and the next one is new."""
    target = fresh(brief).target
    first = gateway.get(target)
    assert first.headers["x-cache"] == "MISS"
    stale = eventually("it to be stale", lambda: gateway.get_as("STALE", target), every=0.02)
    assert stale.json()["rows"] == first.json()["rows"]
    assert stale.elapsed.total_seconds() < SOON
    assert "hit; ttl=-" in stale.headers["cache-status"] or "ttl=0" in stale.headers["cache-status"]
    renewed = eventually("a new one", lambda: gateway.get_as("HIT", target), every=0.02)
    assert renewed.json()["as_of"] > first.json()["as_of"]
    assert renewed.headers["etag"] != first.headers["etag"]


def test_a_hundred_misses_are_one_computation(stack: Stack, closed: Gateway) -> None:
    """A hundred readers of the same result, which nobody has yet, get it all, from one computation."""
    before, asked = stack.runs("slow"), stack.metric("holdfast_calls_total", op="compute")
    path = fresh(slow, ms=400).path

    async def all_at_once() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        address, headers = str(closed.http.base_url), bearer()
        async with httpx.AsyncClient(base_url=address, headers=headers, limits=limits, timeout=20) as client:
            return list(await asyncio.gather(*(client.get(path) for _ in range(100))))

    answers = stack.run(all_at_once())
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert closed.http.get(path, headers=bearer()).headers["x-cache"] == "HIT"
    assert stack.runs("slow") == before + 1
    assert stack.metric("holdfast_calls_total", op="compute") == asked + 1


def test_what_takes_long_is_202_and_then_a_hit(stack: Stack, gateway: Gateway) -> None:
    """A result that is not there within GW_MISS_TIMEOUT (700 ms here) is 202 with Retry-After; the work goes
    on, and its result is a HIT.
    """
    variant = fresh(slow, ms=2500)
    before = stack.runs("slow")
    began = time.monotonic()
    answer = gateway.get(variant.target)
    # Not before its time, and before the result is there.
    assert 0.6 < took(began) < 2.5
    assert problem(answer, 202)["title"] == "Accepted"
    assert int(answer.headers["retry-after"]) >= 1
    eventually("the result", lambda: _accepted_or_ok(gateway.get(variant.target)), every=0.1)
    assert gateway.get(variant.target).headers["x-cache"] == "HIT"
    assert stack.runs("slow") == before + 1


def _accepted_or_ok(answer: httpx.Response) -> httpx.Response | None:
    assert answer.status_code in {200, 202}, answer.text
    return answer if answer.status_code == 200 else None


def test_the_catalogue_names_every_report(gateway: Gateway) -> None:
    """GET /api/v1/analytics lists each report with its link and its parameters, as a cacheable document."""
    answer = gateway.http.get(ANALYTICS)
    assert answer.status_code == 200
    reports = {report["name"]: report for report in answer.json()["reports"]}
    assert {"numbers", "brief", "private", "slow"} <= set(reports)
    assert reports["numbers"]["href"] == f"{ANALYTICS}/numbers"
    assert reports["numbers"]["ttl"] == 600
    assert {spec["name"]: spec["type"] for spec in reports["numbers"]["params"]} == {
        "upto": "integer",
        "word": "string",
    }
    again = gateway.http.get(ANALYTICS, headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("kind", ["corrupt", "cut", "older", "foreign", "of-another-key", "empty"])
def test_an_unusable_entry_is_rejected_and_recomputed(
    stack: Stack, gateway: Gateway, cache: Redis, kind: str
) -> None:
    """Bytes in Redis that are no entry for that key never reach a reader: they are counted and replaced."""
    variant = fresh(numbers, upto=20)
    other = computed(stack, fresh(numbers, upto=2))
    mine = pack(msgspec.structs.replace(other, key=variant.key))
    bad = {
        "corrupt": mine[:-3] + b"xyz",
        "cut": mine[:-40],
        "older": b"HF\x00" + mine[3:],
        "foreign": b"\x80\x04pickled",
        "of-another-key": pack(other),
        "empty": b"",
    }[kind]
    cache.set(variant.key, bad, ex=600)
    rejected = gateway.metric("holdfast_gateway_rejected_entries_total")
    answer = gateway.get(variant.target)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "MISS")
    assert len(answer.json()["rows"]) == 20
    assert gateway.metric("holdfast_gateway_rejected_entries_total") == rejected + 1
    assert isinstance(unpack(variant.key, cast("bytes", cache.get(variant.key))), Entry)
    assert gateway.get(variant.target).headers["x-cache"] == "HIT"


def test_it_has_no_way_to_a_database(stack: Stack, gateway: Gateway) -> None:
    """The gateway's processes are connected to Redis and to no database."""
    gateway.get(fresh(numbers).target)
    ports = set().union(*map(remote_ports, gateway.process.family()))
    assert stack.servers.valkey.port in ports
    assert not ports & {stack.servers.postgres.port, stack.servers.mongo.port}
