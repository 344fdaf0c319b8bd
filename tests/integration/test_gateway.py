"""A real gateway over HTTP: what it answers, with which headers, to whom, and while what is down."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import httpx
import jwt
import msgspec
import pytest
import zstandard
from redis import Redis
from tests.conftest import eventually, free_port
from tests.integration.processes import Background, Platform, Process, Servers, gone, metric, took

from holdfast.client import Client
from holdfast.entries import Entry, pack, unpack
from holdfast.local.files import read_secret

ANALYTICS = "/api/v1/analytics"
SECRET = "a-signing-secret-of-more-than-32-characters"
REFRESH_SECRET = "another-secret-of-more-than-32-characters"
PROBLEM = "application/problem+json"
FEW = 2.0
"""Seconds within which every request ends."""


class Town:
    """Two gateways, one open and one that wants tokens, before one supervisor and its servers."""

    def __init__(self, platform: Platform, servers: Servers, background: Background) -> None:
        self.platform = platform
        self.servers = servers
        self.background = background
        self.supervisor = self._start_supervisor()
        self.open_port, self.closed_port = free_port(), free_port()
        self.open_gateway = self.gateway("open", self.open_port, GW_AUTH="off", GW_MISS_TIMEOUT="700")
        tokens = {"GW_AUTH": "jwt", "JWT_SECRET": SECRET, "JWT_REFRESH_SECRET": REFRESH_SECRET}
        self.closed_gateway = self.gateway("closed", self.closed_port, **tokens)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.open_port}", timeout=10)
        self.closed = httpx.Client(base_url=f"http://127.0.0.1:{self.closed_port}", timeout=10)
        self.cache = Redis(
            port=servers.valkey.port,
            username="supervisor",
            password=read_secret(servers.valkey.password_file()),
        )

    def _start_supervisor(self) -> Process:
        return self.platform.start("supervisor", **self.servers.env())

    def gateway(self, name: str, port: int, **settings: str) -> Process:
        """Start a gateway, and do not wait for it."""
        reader = self.servers.valkey.gateway_env()
        return self.platform.start("gateway", name=name, **reader, GW_PORT=str(port), **settings)

    def mend(self) -> None:
        """Start whatever does not run, and wait until all is well."""
        if not self.supervisor.running:
            self.supervisor = self._start_supervisor()
        self.servers.start()
        self.platform.answers(self.supervisor, self.platform.port)
        self.platform.answers(self.open_gateway, self.open_port)
        self.platform.answers(self.closed_gateway, self.closed_port)
        up = {"postgres": "up", "mongo": "up", "redis": "up"}
        eventually("the links to be up", lambda: self.states() == up)
        for client in (self.http, self.closed):
            eventually("the gateway's links to be up", lambda client=client: linked(client))

    def states(self) -> dict[str, str]:
        """The supervisor's links."""
        return {name: link["state"] for name, link in self.platform.status()["links"].items()}

    def get(self, target: str, **headers: str) -> httpx.Response:
        """GET of the open gateway."""
        return self.http.get(f"{ANALYTICS}/{target}", headers={"accept-encoding": "identity", **headers})

    def timed(self, target: str) -> httpx.Response:
        """The same, which must end soon."""
        began = time.monotonic()
        answer = self.get(target)
        assert took(began) < FEW, f"{target} took {took(began):.1f} s"
        return answer

    def counted(self, name: str, **labels: str) -> float:
        """A metric of the open gateway."""
        return metric(self.http.get("/metrics").text, name, **labels)

    def computed(self, report: str) -> float:
        """How many computations of a report the supervisor has made."""
        return self.platform.metric("holdfast_runs_total", report=report)

    def on_the_socket(self, work: Callable[[Client], Any]) -> Any:
        """Do something with a client of the supervisor."""
        client = self.platform.client()
        try:
            return self.background.run(work(client))
        finally:
            self.background.run(client.aclose())


def linked(client: httpx.Client) -> bool:
    """Whether that gateway's links to Redis and to the supervisor are up."""
    text = client.get("/metrics").text
    return metric(text, "holdfast_link_up") == 2


@pytest.fixture(scope="module")
def town_of_the_module() -> Iterator[Town]:
    """The town of this module's tests."""
    with Platform() as platform, Background() as background:
        servers = Servers(platform.home)
        try:
            servers.prepare()
            made = Town(platform, servers, background)
            yield made
            made.http.close()
            made.closed.close()
            made.cache.close()
        finally:
            servers.kill()


@pytest.fixture
def town(town_of_the_module: Town) -> Town:
    """The town, with everything in it running."""
    town_of_the_module.mend()
    return town_of_the_module


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer that must be one (RFC 9457)."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    assert answer.headers["cache-control"] == "no-store"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["title"]
    inside = r"127\.0\.0\.1|SELECT|Traceback|/tmp|\.py|supervisor\.sock"
    assert not re.search(inside, answer.text), answer.text
    return document


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
    stale = eventually("it to be stale", lambda: _answer(town, "brief", "STALE"), every=0.02)
    assert stale.json()["rows"] == first.json()["rows"]
    assert "hit; ttl=-" in stale.headers["cache-status"] or "ttl=0" in stale.headers["cache-status"]
    assert stale.elapsed.total_seconds() < 0.5
    renewed = eventually("a new one", lambda: _answer(town, "brief", "HIT"), every=0.02)
    assert renewed.json()["as_of"] > first.json()["as_of"]
    assert renewed.headers["etag"] != first.headers["etag"]


def _answer(town: Town, target: str, cache: str) -> httpx.Response | None:
    answer = town.get(target)
    assert answer.status_code == 200
    return answer if answer.headers["x-cache"] == cache else None


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


# To whom.


def bearer(secret: str = SECRET, **claims: Any) -> dict[str, str]:
    """An Authorization header."""
    return {"authorization": f"Bearer {token(secret, **claims)}"}


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token, valid unless the claims say otherwise; a claim of None is left out."""
    now = int(time.time())
    payload = {
        "iss": "holdfast",
        "aud": "holdfast",
        "sub": "me",
        "iat": now,
        "exp": now + 60,
        "typ": "access",
    }
    given = {name: value for name, value in (payload | claims).items() if value is not None}
    return jwt.encode(given, secret, algorithm)


def test_only_a_valid_token_opens_even_a_warm_cache(town: Town) -> None:
    """With GW_AUTH=jwt a warm result is 401 without a token, and with one that is expired, for another
    audience, of another issuer, wrongly signed, or no access token; a valid one gets it, as private.
    """
    target = f"{ANALYTICS}/numbers?upto=2"
    for _ in range(2):
        answer = town.closed.get(target, headers=bearer())
        assert answer.status_code == 200
    assert answer.headers["x-cache"] == "HIT"
    assert answer.headers["cache-control"].startswith("private, ")
    assert answer.headers["vary"] == "accept-encoding, authorization"
    wrong = {
        "none": {},
        "empty": {"authorization": "Bearer"},
        "basic": {"authorization": "Basic bWU6bWU="},
        "garbage": {"authorization": "Bearer x.y.z"},
        "long": {"authorization": "Bearer " + "x" * 9000},
        "expired": bearer(exp=int(time.time()) - 60),
        "audience": bearer(aud="elsewhere"),
        "issuer": bearer(iss="elsewhere"),
        "no expiry": bearer(exp=None),
        "no audience": bearer(aud=None),
        "signature": bearer("some-other-secret-of-more-than-32-characters"),
        "algorithm": {"authorization": f"Bearer {token(SECRET * 2, 'HS512')}"},
        "unsigned": {"authorization": f"Bearer {token('', 'none')}"},
        "refresh": bearer(typ="refresh"),
        "not yet": bearer(nbf=int(time.time()) + 600),
    }
    for path in (target, ANALYTICS, f"{ANALYTICS}/none"):
        for name, headers in wrong.items():
            answer = town.closed.get(path, headers=headers)
            problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer"), name
            assert "x-cache" not in answer.headers


def test_a_bound_parameter_separates_tenants(town: Town) -> None:
    """A parameter bound to a claim comes from the token alone: each tenant has entries of its own, and nobody
    can ask for another's in the query.
    """
    for tenant in ("north", "south", "north"):
        answer = town.closed.get(f"{ANALYTICS}/private", headers=bearer(tenant=tenant))
        assert answer.status_code == 200
        assert answer.json()["rows"] == [{"tenant": tenant}]
    for tenant in ("north", "south"):
        assert town.cache.exists(f"gwcache:{ANALYTICS}/private?tenant={tenant}")
    for query in ("?tenant=south", "?tenant=north", "?tenant="):
        answer = town.closed.get(f"{ANALYTICS}/private{query}", headers=bearer(tenant="north"))
        assert [error["name"] for error in problem(answer, 422)["errors"]] == ["tenant"]
    problem(town.closed.get(f"{ANALYTICS}/private", headers=bearer()), 403)
    problem(town.closed.get(f"{ANALYTICS}/private", headers=bearer(tenant={"$ne": 1})), 403)


def test_an_invalidation_needs_its_scope_and_renews(town: Town) -> None:
    """DELETE is 401 without a token and 403 without analytics:admin; with it, it is 202 and a new result
    comes.
    """
    target = f"{ANALYTICS}/brief?upto=3"
    long = f"{ANALYTICS}/numbers?upto=8"
    before = town.closed.get(long, headers=bearer()).json()["as_of"]
    problem(town.closed.delete(long), 401)
    problem(town.closed.delete(long, headers=bearer(scope="analytics:read")), 403)
    assert town.closed.get(long, headers=bearer()).json()["as_of"] == before
    answer = town.closed.delete(long, headers=bearer(scope="analytics:read analytics:admin"))
    assert answer.status_code == 202
    assert answer.json() == {"report": "numbers", "was_cached": True, "refreshing": True}
    after = town.closed.get(long, headers=bearer())
    assert after.headers["x-cache"] == "STALE" or after.json()["as_of"] > before
    eventually("a new result", lambda: town.closed.get(long, headers=bearer()).json()["as_of"] > before)
    absent = town.closed.delete(target, headers=bearer(scope="analytics:admin"))
    assert (absent.status_code, absent.json()["was_cached"]) == (202, False)
    admin = bearer(scope="analytics:admin")
    problem(town.closed.delete(f"{ANALYTICS}/none", headers=admin), 404)
    problem(town.closed.delete(f"{ANALYTICS}/numbers?upto=0", headers=admin), 422)


def test_a_refresh_token_gets_an_access_token(town: Town) -> None:
    """POST /api/v1/auth/refresh trades a refresh token for an access token with the same subject, scope and
    claims; an access token, or one signed with the other secret, is refused.
    """
    path = "/api/v1/auth/refresh"
    refresh = token(REFRESH_SECRET, typ="refresh", scope="analytics:read", tenant="west", sub="ann")
    answer = town.closed.post(path, json={"refresh_token": refresh})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    given = answer.json()
    assert (given["token_type"], given["expires_in"]) == ("Bearer", 900)
    claims = jwt.decode(given["access_token"], SECRET, ["HS256"], audience="holdfast")
    assert (claims["sub"], claims["scope"], claims["tenant"]) == ("ann", "analytics:read", "west")
    headers = {"authorization": f"Bearer {given['access_token']}"}
    found = town.closed.get(f"{ANALYTICS}/private", headers=headers)
    assert found.json()["rows"] == [{"tenant": "west"}]
    for bad in (
        given["access_token"],
        token(REFRESH_SECRET),
        token(SECRET, typ="refresh"),
        token(REFRESH_SECRET, typ="refresh", exp=int(time.time()) - 60),
        "",
    ):
        problem(town.closed.post(path, json={"refresh_token": bad}), 401)
    problem(town.closed.post(path, content=b"not json"), 400)
    problem(town.closed.post(path, content=b"[]"), 400)
    problem(town.closed.post(path, content=b"x" * 20_000), 413)
    problem(town.closed.get(path), 405)


# How it begins.


def test_who_cannot_start_says_so_in_a_line(town: Town) -> None:
    """GW_AUTH=off beyond loopback, a port that is taken, and an absent or short JWT_SECRET are refused at the
    start, each in one line that names the variable and shows no secret.
    """
    cases: dict[str, tuple[str, str, dict[str, str]]] = {
        "beyond": ("GW_AUTH: ", "loopback", {"GW_AUTH": "off", "GW_HOST": "0.0.0.0"}),  # noqa: S104
        "taken": ("GW_PORT: ", str(town.open_port), {"GW_AUTH": "off", "GW_PORT": str(town.open_port)}),
        "absent": ("JWT_SECRET: ", "JWT_SECRET_FILE", {}),
        "short": ("JWT_SECRET: ", "32", {"JWT_SECRET": "short-secret"}),
    }
    started = {
        name: town.platform.start("gateway", name=name, **{"GW_PORT": str(free_port()), **settings})
        for name, (_, _, settings) in cases.items()
    }
    for name, (variable, words, _) in cases.items():
        line = town.platform.refused(started[name])
        assert line.startswith(variable)
        assert words in line
        assert "short-secret" not in line


# While what is down.


def test_a_killed_gateway_worker_is_replaced(town: Town) -> None:
    """After kill -9 of the gateway's worker another one answers within 10 s, from what is in Redis."""
    town.get("numbers?upto=2")
    computed = town.computed("numbers")
    workers = [process for process in town.open_gateway.family() if process.pid != town.open_gateway.pid]
    for worker in workers:
        worker.kill()
    answer = eventually("an answer", lambda: _reached(town, "numbers?upto=2"), within=10)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "HIT")
    assert town.computed("numbers") == computed
    assert town.open_gateway.running


def _reached(town: Town, target: str) -> httpx.Response | None:
    with contextlib.suppress(httpx.TransportError):
        answer = town.get(target)
        return answer if answer.status_code == 200 else None
    return None


def test_it_goes_on_without_postgres(town: Town) -> None:
    """With Postgres killed, what is warm is answered 200, fresh or stale, and what is not is 503 with
    Retry-After; it is computed again within 10 s of Postgres' return.
    """
    town.get("numbers?upto=2")
    town.get("brief?upto=2")
    town.servers.postgres.kill()
    assert town.timed("numbers?upto=2").headers["x-cache"] == "HIT"
    answer = town.timed("numbers?upto=31")
    problem(answer, 503)
    eventually("the link to be down", lambda: town.states()["postgres"] != "up", within=3)
    answer = town.timed("numbers?upto=31")
    assert "Postgres is down" in problem(answer, 503)["detail"]
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    stale = eventually("it to be stale", lambda: _answer(town, "brief?upto=2", "STALE"))
    assert stale.elapsed.total_seconds() < FEW
    assert town.timed("numbers?upto=2").headers["x-cache"] == "HIT"
    town.servers.postgres.start()
    eventually("it to be computed", lambda: town.get("numbers?upto=31").status_code == 200, within=10)
    renewed = eventually("the stale one to be renewed", lambda: _answer(town, "brief?upto=2", "HIT"))
    assert renewed.json()["as_of"] > stale.json()["as_of"]


def test_it_goes_on_without_redis(town: Town) -> None:
    """With Redis killed, what is in memory is answered as before, and misses are computed and kept in memory;
    Redis is used again within 10 s of its return.
    """
    warm = town.get("numbers?upto=2").content
    town.servers.valkey.kill()
    for _ in range(3):
        answer = town.timed("numbers?upto=2")
        assert (answer.status_code, answer.content) == (200, warm)
    computed = town.computed("numbers")
    miss = eventually("a miss to be computed", lambda: _computed(town, "numbers?upto=32"), within=4)
    assert miss.headers["x-cache"] == "MISS"
    assert town.timed("numbers?upto=32").headers["x-cache"] == "HIT"
    eventually("the gateway to know", lambda: town.counted("holdfast_link_up", link="redis") == 0, within=4)
    assert town.timed("numbers?upto=33").headers["x-cache"] == "MISS"
    assert town.timed("numbers?upto=33").headers["x-cache"] == "HIT"
    assert town.computed("numbers") == computed + 2
    assert town.timed("numbers?upto=2").headers["x-cache"] == "HIT"
    town.servers.valkey.start()
    began = time.monotonic()
    town.mend()
    assert took(began) < 10
    town.get("numbers?upto=36")
    assert town.cache.exists(f"gwcache:{ANALYTICS}/numbers?upto=36")


def _computed(town: Town, target: str) -> httpx.Response | None:
    answer = town.timed(target)
    assert answer.status_code in {200, 503}, answer.text
    return answer if answer.status_code == 200 else None


def test_it_goes_on_without_the_supervisor(town: Town) -> None:
    """With the supervisor killed, what is warm (in memory or in Redis, fresh or stale) is answered 200 and
    what is not is 503 with Retry-After, all within 2 s, also what was being computed at that moment; it is
    used again within 10 s of its return.
    """
    town.get("numbers?upto=2")
    town.get("brief?upto=4")
    params = {"upto": 40, "word": ""}
    town.on_the_socket(lambda c: c.call("compute", report="numbers", params=params, trigger="schedule"))

    async def ask() -> httpx.Response:
        target = f"{ANALYTICS}/slow?ms=9000"
        return await asyncio.to_thread(town.closed.get, target, headers=bearer())

    waiting = town.background.start(ask())
    eventually("the query", lambda: town.platform.status()["links"]["postgres"]["pool"]["in_use"] == 1)
    town.supervisor.kill()
    problem(waiting.result(FEW), 503)
    for _ in range(5):
        answer = town.timed("numbers?upto=41")
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        assert town.timed("numbers?upto=2").headers["x-cache"] == "HIT"
    assert town.timed("numbers?upto=40").headers["x-cache"] == "HIT"
    eventually("it to be stale", lambda: _answer(town, "brief?upto=4", "STALE"))
    problem(town.get("none"), 404)
    problem(town.get("numbers?upto=0"), 422)
    assert town.http.get("/livez").status_code == 200
    assert town.http.get("/readyz").status_code == 200
    town.mend()
    eventually("it to be computed", lambda: town.get("numbers?upto=41").status_code == 200, within=10)


def test_it_starts_with_everything_down_and_heals(town_of_the_module: Town) -> None:
    """With no Redis and no supervisor it starts, is alive and not ready, and says 503; when they appear it
    becomes ready and answers, by itself.
    """
    town = town_of_the_module
    town.supervisor.kill()
    town.servers.kill()
    port = free_port()
    gateway = town.gateway("cold", port, GW_AUTH="off")
    town.platform.answers(gateway, port, "livez")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503
        for path in (f"{ANALYTICS}/numbers", ANALYTICS):
            answer = client.get(path)
            problem(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
        town.mend()
        eventually("it to be ready", lambda: client.get("/readyz").status_code == 200, within=10)
        eventually("an answer", lambda: client.get(f"{ANALYTICS}/numbers?upto=3").status_code == 200)
        pids = [process.pid for process in gateway.family()]
        assert gateway.terminate() == 0
    gone(pids)
