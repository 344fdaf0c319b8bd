"""What the gateway answers where its hot path does not: every route, and how its answer is made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast.errors import Retryable
from holdfast.links.link import Link
from holdfast.reports.canonical import ANALYTICS_PATH
from holdfast.rpc.client import Client
from holdfast.settings import JwtSettings, is_loopback
from holdfast.tokens import InvalidToken, issue, verify
from holdfast_gateway.auth import ADMIN_SCOPE, METRICS_SCOPE, Authenticator, Claims
from holdfast_gateway.catalogue import Catalogue
from holdfast_gateway.http import JSON, NOSNIFF, Encodings, Headers, Response, Scope, json_body, matches
from holdfast_gateway.l1.lookup import Lookup, LookupResult
from holdfast_gateway.metrics import CONTENT_TYPE, GatewayMetrics
from holdfast_gateway.problems import Problem, retry_after, unavailable
from holdfast_gateway.targets import REPORT_PREFIX, Targets, current

MAX_BODY = 16 * 1024
BODY_SECONDS = 10
REFRESH_PATH = "/api/v1/auth/refresh"
_TEXT = "text/plain; charset=utf-8"
_READS = ("GET", "HEAD")
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-real-ip")
"""Headers by which a proxy says that the request comes from elsewhere."""
_SET_BY_US = frozenset({"exp", "iat", "iss", "aud", "sub", "typ", "nbf", "scope"})
"""Claims that a new token does not take over from the refresh token."""


class Routes:
    """The routes. `preflight` says whether pages of other origins may ask (CORS)."""

    def __init__(
        self,
        *,
        auth: Authenticator,
        catalogue: Catalogue,
        lookup: Lookup,
        targets: Targets,
        supervisor: Link[Client],
        metrics: GatewayMetrics,
        encodings: Encodings,
        preflight: bool,
    ) -> None:
        self._auth = auth
        self._catalogue = catalogue
        self._lookup = lookup
        self._targets = targets
        self._supervisor = supervisor
        self._metrics = metrics
        self._encodings = encodings
        self._preflight = preflight

    async def respond(self, scope: Scope, proto: Any) -> Response:
        """The answer to a request.

        Raises:
            Problem, HoldfastError: the request ends in an error.
        """
        path, method = scope.path, scope.method
        if path in {"/livez", "/readyz", "/metrics"}:
            _allow(method, *_READS)
            return self._health(scope, path)
        if method == "OPTIONS" and self._preflight:
            return _preflight()
        if path == ANALYTICS_PATH:
            self._claims(scope)
            _allow(method, *_READS)
            return self._list(scope)
        if path.startswith(REPORT_PREFIX):
            return await self._report(scope, method)
        if path == REFRESH_PATH and self._auth.required:
            _allow(method, "POST")
            return _uncached(200, json_body(await _exchange(proto)))
        raise Problem(404, "Not Found", f"Reports are at {ANALYTICS_PATH}.")

    def _claims(self, scope: Scope) -> Claims:
        return self._auth.claims(scope.headers.get("authorization"))

    async def _report(self, scope: Scope, method: str) -> Response:
        claims = self._claims(scope)
        _allow(method, *_READS, "DELETE")
        if method == "DELETE":
            self._auth.require(claims, ADMIN_SCOPE)
            return await self._delete(scope, claims)
        request = await self._targets.resolve(scope, claims)
        now = time.monotonic()
        if item := self._lookup.memory.hit(request.key, now):
            return self._shown(scope, LookupResult(item, "HIT"), now)
        result = await self._lookup.find(request)
        return self._shown(scope, result, time.monotonic())

    def _list(self, scope: Scope) -> Response:
        item = self._lookup.put(current(self._catalogue).entry)
        return self._shown(scope, LookupResult(item, "HIT"), time.monotonic())

    def _shown(self, scope: Scope, result: LookupResult, now: float) -> Response:
        item, cache = result.item, result.cache
        shown = item.representation
        age, left = now - item.computed_at, item.fresh_until - now
        headers = scope.headers
        if matches(headers.get("if-none-match"), shown.etag):
            return Response(304, shown.not_modified(cache, age, left), b"", cache)
        encoding = shown.encoding(self._encodings.choose(headers.get("accept-encoding")))
        return Response(200, shown.headers(cache, encoding, age, left), shown.bodies[encoding], cache)

    async def _delete(self, scope: Scope, claims: Claims) -> Response:
        request = await self._targets.resolve(scope, claims)
        try:
            self._supervisor.check()
            marked = await self._supervisor.adapter.mark_stale(request.report, request.params)
        except Retryable as error:
            detail = "This result cannot be marked stale now."
            raise unavailable(detail, retry_after(error)) from None
        self._lookup.distrust(request.key)
        document = {"report": request.report, "was_cached": marked, "refreshing": True}
        return _uncached(202, json_body(document))

    def _health(self, scope: Scope, path: str) -> Response:
        if path == "/livez":
            return _uncached(200, b"alive\n", _TEXT)
        if path == "/readyz":
            # Ready to answer something: a database that is down is no reason to send clients away.
            if self._catalogue.snapshot is None:
                return _uncached(503, b"not ready: no catalogue yet\n", _TEXT)
            return _uncached(200, b"ready\n", _TEXT)
        headers = scope.headers
        forwarded = any(headers.get(name) is not None for name in _FORWARDED)
        if forwarded or not is_loopback(scope.client.rpartition(":")[0]):
            self._auth.require(self._claims(scope), METRICS_SCOPE)
        text = self._metrics.render(l1_bytes=self._lookup.memory.bytes)
        return _uncached(200, text, CONTENT_TYPE)


def _uncached(status: int, body: bytes, kind: str = JSON) -> Response:
    return Response(status, [("content-type", kind), ("cache-control", "no-store"), NOSNIFF], body)


def _preflight() -> Response:
    headers: Headers = [
        ("access-control-allow-methods", "GET, HEAD, DELETE, POST"),
        ("access-control-allow-headers", "authorization, content-type, if-none-match"),
        ("access-control-max-age", "600"),
    ]
    return Response(204, headers)


def _allow(method: str, *allowed: str) -> None:
    if method not in allowed:
        detail, header = f"Use {' or '.join(allowed)}.", ("allow", ", ".join(allowed))
        raise Problem(405, "Method Not Allowed", detail, headers=[header])


async def _exchange(proto: Any) -> Mapping[str, Any]:
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
    kept = {name: value for name, value in claims.items() if name not in _SET_BY_US}
    token = issue(str(claims["sub"]), scope=str(claims.get("scope", "")), claims=kept)
    return {"access_token": token, "token_type": "Bearer", "expires_in": settings.access_ttl}


async def _body(proto: Any) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in proto:
                body += chunk
                if len(body) > MAX_BODY:
                    raise Problem(413, "Content Too Large", f"A body has at most {MAX_BODY} bytes.")
    except TimeoutError:
        raise Problem(408, "Request Timeout", f"A body arrives within {BODY_SECONDS} seconds.") from None
    return bytes(body)
