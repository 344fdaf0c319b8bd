"""The gateway's application: RSGI, one instance per Granian worker.

The hot path is `_hit`, which neither awaits nor starts a coroutine: authorize → find the target in
`_targets` → find the item in memory → send. Everything else is below it: a target seen for the first time
is parsed, an item that is not trusted any more is looked up (`lookup`), errors become problem documents.
Loops of each worker: the links to Redis and to the supervisor (a probe each second), the catalogue (each
five seconds).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from typing import Any

import msgspec
import structlog

from holdfast import logs
from holdfast.backoff import Schedule
from holdfast.errors import (
    DeadlineExceeded,
    HoldfastError,
    InvalidParams,
    LinkDown,
    Retryable,
    UnknownReport,
)
from holdfast.links.link import Link, LinkState
from holdfast.links.redis import RedisAdapter
from holdfast.processes.parent import end_with_parent
from holdfast.reports.params import ANALYTICS_PATH, printable
from holdfast.rpc.client import Client, ClientAdapter
from holdfast.settings import GatewaySettings, JwtSettings, RedisSettings, SupervisorSettings, is_loopback
from holdfast.tokens import InvalidToken, issue, verify
from holdfast_gateway.auth import ADMIN_SCOPE, METRICS_SCOPE, Authenticator, Claims
from holdfast_gateway.catalogue import Catalogue, Known
from holdfast_gateway.http import (
    JSON,
    NOSNIFF,
    Encodings,
    Headers,
    Problem,
    Scope,
    cors,
    json_body,
    matches,
    unavailable,
)
from holdfast_gateway.l1.lookup import Found, Lookup, StillComputing, Wanted
from holdfast_gateway.metrics import CONTENT_TYPE, GatewayMetrics

MAX_TARGET = 4096
MAX_BODY = 16 * 1024
BODY_SECONDS = 10
_TARGETS = 10_000
_PREFIX = ANALYTICS_PATH + "/"
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-real-ip")
"""Headers by which a proxy tells that the request comes from elsewhere."""
_LINKS = {"postgres": "Postgres", "mongo": "MongoDB"}
_REFRESH_PATH = "/api/v1/auth/refresh"


class _Answered:
    """What Granian awaits of a request that was answered before it was awaited."""

    __slots__ = ()

    def __await__(self) -> Any:
        return _NOTHING


_NOTHING: Any = iter(())
_ANSWERED = _Answered()


class Gateway:
    """One worker's gateway. Granian calls `__rsgi_init__`, then `__rsgi__` for each request."""

    def __init__(self) -> None:
        settings = GatewaySettings.load()
        self._auth = Authenticator(settings)
        self._cors = frozenset(settings.cors_origins)
        self._metrics = GatewayMetrics()
        adapter = RedisAdapter(
            RedisSettings.load, max_connections=16, timeout=0.5, client_name="holdfast-gateway"
        )
        client = Client(SupervisorSettings.load().path)
        self._redis = Link(adapter, Schedule(base=1, cap=15), on_change=self._note)
        # The supervisor is on this host and an attempt is cheap: it is found again within a second.
        near = Schedule(base=0.1, cap=1.0)
        self._supervisor = Link(ClientAdapter(client), near, on_change=self._note)
        self._client = client
        self._catalogue = Catalogue((self._redis, adapter), (self._supervisor, client))
        self._lookup = Lookup(
            redis=(self._redis, adapter),
            supervisor=(self._supervisor, client),
            metrics=self._metrics,
            max_bytes=settings.l1_max_bytes,
            miss_timeout=settings.miss_timeout / 1000,
            private=self._auth.required,
        )
        self._items = self._lookup.memory.items
        self._encodings = Encodings()
        self._targets: dict[tuple[str, str], Wanted] = {}
        self._targets_of: Known | None = None
        self._hits = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("gateway")

    def _note(self, name: str, state: LinkState) -> None:
        self._metrics.link_up.labels(name).set(state.phase == "up")

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        for work in (self._redis.run(), self._supervisor.run(), self._catalogue.run()):
            task = loop.create_task(work)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A side task that died ends the worker, which Granian replaces: half a gateway is worse."""
        if not task.cancelled():
            self._log.critical("a side task of the gateway ended", exc_info=task.exception())
            os._exit(1)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        for task in self._tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))

    def __rsgi__(self, scope: Scope, proto: Any) -> Awaitable[None]:
        return _ANSWERED if self._hit(scope, proto) else self._handle(scope, proto)

    def _hit(self, scope: Scope, proto: Any) -> bool:
        """Answer from memory, if the caller, the target and the result are all known already."""
        # Granian makes a new object each time that headers, path or query_string is read.
        headers = scope.headers
        if scope.method != "GET" or not self._auth.remembers(headers.get("authorization")):
            return False
        wanted = self._targets.get((scope.path, scope.query_string))
        if wanted is None or self._targets_of is not self._catalogue.known:
            return False
        item = self._items.get(wanted.key)
        now = time.monotonic()
        if item is None or now >= item.trusted_until or now >= item.fresh_until:
            return False
        if self._cors or headers.get("if-none-match") is not None:
            return False
        shown = item.representation
        encoding = shown.encoding(self._encodings.choose(headers.get("accept-encoding")))
        sent = shown.headers("HIT", encoding, now - item.computed_at, item.fresh_until - now)
        # A counter of Prometheus takes longer than all of the above: it is told when it is asked.
        self._hits += 1
        proto.response_bytes(200, sent, shown.bodies[encoding])
        return True

    async def _handle(self, scope: Scope, proto: Any) -> None:
        method = scope.method
        try:
            if scope.path.startswith(_PREFIX) and (method in {"GET", "HEAD"}):
                await self._report(scope, proto, head=method == "HEAD")
            else:
                await self._other(scope, proto, method)
        except Exception as error:
            problem = self._problem(error, scope)
            self._send(scope, proto, problem.status, problem.headers, problem.body, head=method == "HEAD")

    def _problem(self, error: Exception, scope: Scope) -> Problem:
        if isinstance(error, Problem):
            return error
        if isinstance(error, HoldfastError):
            problem = _problem(error)
            if problem.status >= 500 and not error.retryable:
                self._log.error("a request failed", path=printable(scope.path), error=str(error))
            return problem
        self._log.error("a request failed", path=printable(scope.path), exc_info=error)
        return Problem(500, "Internal Server Error")

    async def _report(self, scope: Scope, proto: Any, *, head: bool) -> None:
        headers = scope.headers
        claims = self._auth.claims(headers.get("authorization"))
        target = (scope.path, scope.query_string)
        wanted = self._targets.get(target)
        if wanted is None or self._targets_of is not self._catalogue.known:
            wanted = await self._wanted(scope, target, claims)
        item = self._items.get(wanted.key)
        now = time.monotonic()
        if item is not None and now < item.trusted_until and now < item.fresh_until:
            found = Found(item, "HIT")
        else:
            found = await self._lookup.find(wanted)
            now = time.monotonic()
        self._answer(scope, proto, found, now, head=head)

    def _answer(self, scope: Scope, proto: Any, found: Found, now: float, *, head: bool) -> None:
        item, cache = found.item, found.cache
        shown = item.representation
        age, left = now - item.computed_at, item.fresh_until - now
        headers = scope.headers
        if matches(headers.get("if-none-match"), shown.etag):
            self._send(scope, proto, 304, shown.not_modified(cache, age, left), b"", cache=cache)
            return
        encoding = shown.encoding(self._encodings.choose(headers.get("accept-encoding")))
        sent = shown.headers(cache, encoding, age, left)
        self._send(scope, proto, 200, sent, shown.bodies[encoding], cache=cache, head=head)

    def _send(
        self,
        scope: Scope,
        proto: Any,
        status: int,
        headers: Headers,
        body: bytes,
        *,
        cache: str = "",
        head: bool = False,
    ) -> None:
        self._metrics.requests.labels(cache, str(status)).inc()
        if self._cors:
            headers = [*headers, *cors(scope.headers.get("origin"), self._cors)]
        if head and body:
            # A HEAD tells the length of the body that it does not send (RFC 9110 §9.3.2).
            headers = [*headers, ("content-length", str(len(body)))]
        if body and not head:
            proto.response_bytes(status, headers, body)
        else:
            proto.response_empty(status, headers)

    async def _wanted(self, scope: Scope, target: tuple[str, str], claims: Claims) -> Wanted:
        """What a target asks for. Targets whose key does not depend on the caller are remembered."""
        if len(target[0]) + len(target[1]) > MAX_TARGET:
            raise Problem(414, "URI Too Long", f"A URL has {MAX_TARGET} characters at the most.")
        name = scope.path[len(_PREFIX) :]
        known = self._known()
        if name not in known.readers:
            await self._catalogue.renew()
            known = self._known()
        if self._targets_of is not known or len(self._targets) >= _TARGETS:
            self._targets.clear()
            self._targets_of = known
        reader = known.readers.get(name)
        if reader is None:
            raise UnknownReport(f"there is no report {printable(name)}", known=sorted(known.readers))
        bound = self._auth.bound(claims, reader.claims) if reader.claims else None
        params = reader.parse_query(scope.query_string, bound)
        wanted = Wanted(reader.key(params), name, params)
        if not reader.claims:
            self._targets[target] = wanted
        return wanted

    def _known(self) -> Known:
        if self._catalogue.known is None:
            raise unavailable("The catalogue of reports is not here yet.", 1)
        return self._catalogue.known

    async def _other(self, scope: Scope, proto: Any, method: str) -> None:
        path = scope.path
        if path in {"/livez", "/readyz", "/metrics"}:
            _allow(method, "GET", "HEAD")
            status, kind, text = self._health(scope, path)
            headers = [("content-type", kind), ("cache-control", "no-store"), NOSNIFF]
            self._send(scope, proto, status, headers, text, head=method == "HEAD")
        elif method == "OPTIONS" and self._cors:
            allow = ("access-control-allow-methods", "GET, HEAD, DELETE, POST")
            permit = ("access-control-allow-headers", "authorization, content-type, if-none-match")
            self._send(scope, proto, 204, [allow, permit, ("access-control-max-age", "600")], b"")
        elif path == ANALYTICS_PATH:
            claims = self._auth.claims(scope.headers.get("authorization"))
            _allow(method, "GET", "HEAD")
            self._answer(scope, proto, self._list(claims), time.monotonic(), head=method == "HEAD")
        elif path.startswith(_PREFIX):
            claims = self._auth.claims(scope.headers.get("authorization"))
            _allow(method, "GET", "HEAD", "DELETE")
            self._auth.require(claims, ADMIN_SCOPE)
            await self._delete(scope, proto, claims)
        elif path == _REFRESH_PATH and self._auth.required:
            _allow(method, "POST")
            document = await self._exchange(proto)
            headers = [("content-type", JSON), ("cache-control", "no-store"), NOSNIFF]
            self._send(scope, proto, 200, headers, document)
        else:
            raise Problem(404, "Not Found", f"Reports are at {ANALYTICS_PATH}.")

    def _health(self, scope: Scope, path: str) -> tuple[int, str, bytes]:
        text = "text/plain; charset=utf-8"
        if path == "/livez":
            return 200, text, b"alive\n"
        if path == "/readyz":
            # Ready is: able to answer something. A database that is down is no reason to send clients away.
            if self._catalogue.known is None:
                return 503, text, b"not ready: no catalogue yet\n"
            return 200, text, b"ready\n"
        headers = scope.headers
        forwarded = any(headers.get(name) is not None for name in _FORWARDED)
        here = is_loopback(scope.client.rpartition(":")[0]) and not forwarded
        if not here:
            self._auth.require(self._auth.claims(scope.headers.get("authorization")), METRICS_SCOPE)
        self._metrics.l1_bytes.set(self._lookup.memory.bytes)
        hits, self._hits = self._hits, 0
        self._metrics.requests.labels("HIT", "200").inc(hits)
        return 200, CONTENT_TYPE, self._metrics.render()

    def _list(self, _: Claims) -> Found:
        entry = self._known().entry
        return Found(self._lookup.keep(entry), "HIT")

    async def _delete(self, scope: Scope, proto: Any, claims: Claims) -> None:
        wanted = await self._wanted(scope, (scope.path, scope.query_string), claims)
        try:
            self._supervisor.check()
            marked = await self._client.call(
                "mark_stale", report=wanted.report, params=wanted.params, deadline=5
            )
        except Retryable as error:
            retry = float(error.details.get("retry_in") or 1)
            raise unavailable("This result cannot be marked stale now.", retry) from None
        self._lookup.distrust(wanted.key)
        body = json_body({"report": wanted.report, "was_cached": marked, "refreshing": True})
        self._send(scope, proto, 202, [("content-type", JSON), ("cache-control", "no-store"), NOSNIFF], body)

    async def _exchange(self, proto: Any) -> bytes:
        """A refresh token for a new access token (RFC 6749 §6, with a JSON body)."""
        settings = JwtSettings.load()
        if settings.refresh_secret is None:
            raise Problem(404, "Not Found", "This gateway takes no refresh tokens.")
        try:
            given = msgspec.json.decode(await _body(proto), type=dict[str, Any])
            claims = verify(str(given.get("refresh_token", "")), settings, refresh=True)
        except msgspec.MsgspecError:
            raise Problem(400, "Bad Request", 'The body must be {"refresh_token": "…"}.') from None
        except InvalidToken as error:
            raise Problem(401, "Unauthorized", f"{str(error).capitalize()}.") from None
        kept = {k: v for k, v in claims.items() if k not in {"exp", "iat", "iss", "aud", "sub", "typ", "nbf"}}
        scope = str(kept.pop("scope", ""))
        token = issue(str(claims["sub"]), scope=scope, claims=kept)
        return json_body({"access_token": token, "token_type": "Bearer", "expires_in": settings.access_ttl})


def _allow(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise Problem(
            405, "Method Not Allowed", f"Use {' or '.join(allowed)}.", headers=[("allow", ", ".join(allowed))]
        )


async def _body(proto: Any) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in proto:
                body += chunk
                if len(body) > MAX_BODY:
                    raise Problem(413, "Content Too Large", f"A body has {MAX_BODY} bytes at the most.")
    except TimeoutError:
        raise Problem(408, "Request Timeout", f"A body arrives within {BODY_SECONDS} seconds.") from None
    return bytes(body)


def _problem(error: HoldfastError) -> Problem:
    """The problem document of an error. It says what to do and shows nothing of the inside."""
    retry = float(error.details.get("retry_in") or 1)
    absent = "This result is not in the cache and cannot be computed now"
    title, status, detail, further = "Service Unavailable", 503, f"{absent}.", {}
    match error:
        case UnknownReport():
            status, title, detail = 404, "Not Found", f"{error}."
            further = {"reports": error.details.get("known", [])}
        case InvalidParams():
            status, title, detail = 422, "Unprocessable Content", f"{error}."
            further = {"errors": error.details.get("errors", [])}
        case StillComputing():
            status, title, detail = 202, "Accepted", "The result is being computed; ask again."
            retry = 2
        case DeadlineExceeded():
            detail = "This result took too long to compute."
        case LinkDown() if name := _LINKS.get(str(error.details.get("link"))):
            detail = f"{absent}: {name} is down."
        case _ if not error.retryable:
            status, title, detail = 500, "Internal Server Error", "This result could not be computed."
            further = {"code": error.code}
    if status in {202, 503}:
        return unavailable(detail, retry, status=status, title=title)
    return Problem(status, title, detail, **further)


def create() -> Gateway:
    """What Granian loads, in each worker; one whose main process was killed must not keep the port."""
    end_with_parent()
    logs.configure("gateway")
    return Gateway()
