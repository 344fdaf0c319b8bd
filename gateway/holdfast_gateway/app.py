"""The gateway's application: RSGI, one instance per Granian worker.

The hot path is `Gateway._hit`, which neither awaits nor starts a coroutine: authorize → find the target
among those remembered → find the item in memory → send. Everything else is in `routes`: a target seen for
the first time is parsed, an item that is not trusted any more is looked up, errors become problem
documents.

Loops of each worker: the links to Redis and to the supervisor (a probe every second), and the catalogue
(every second).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from typing import Any

import structlog

from holdfast import logs
from holdfast.backoff import Backoff
from holdfast.cache.clock import StoreClock
from holdfast.errors import HoldfastError
from holdfast.links.link import Link
from holdfast.links.redis import RedisAdapter
from holdfast.processes.parent import end_with_parent
from holdfast.reports.canonical import printable
from holdfast.rpc.client import Client
from holdfast.settings import GatewaySettings, RedisSettings, SupervisorSettings
from holdfast_gateway.auth import Authenticator
from holdfast_gateway.catalogue import Catalogue
from holdfast_gateway.http import Encodings, Response, Scope, cors
from holdfast_gateway.l1.lookup import Lookup
from holdfast_gateway.metrics import GatewayMetrics
from holdfast_gateway.problems import Problem, problem_of
from holdfast_gateway.routes import Routes
from holdfast_gateway.targets import Targets


class _SentResponse:
    """What Granian awaits of a request that was answered before it was awaited."""

    __slots__ = ()

    def __await__(self) -> Any:
        return _NOTHING


_NOTHING: Any = iter(())
_SENT = _SentResponse()


class Gateway:
    """One worker's gateway. Granian calls `__rsgi_init__`, then `__rsgi__` for each request."""

    def __init__(self) -> None:
        settings = GatewaySettings.load()
        self._auth = Authenticator(settings)
        self._cors = frozenset(settings.cors_origins)
        self._metrics = GatewayMetrics()
        self._encodings = Encodings()
        clock = StoreClock()
        self._redis, self._supervisor = _links(self._metrics, clock)
        self._catalogue = Catalogue(self._redis, self._supervisor)
        self._targets = Targets(self._auth, self._catalogue)
        self._lookup = Lookup(
            redis=self._redis,
            supervisor=self._supervisor,
            meter=self._metrics,
            max_bytes=settings.l1_max_bytes,
            miss_timeout=settings.miss_timeout / 1000,
            private=self._auth.required,
            version=self._catalogue.version,
            wall=clock.now,
        )
        self._catalogue.on_change(self._lookup.compare_versions)
        self._routes = Routes(
            auth=self._auth,
            catalogue=self._catalogue,
            lookup=self._lookup,
            targets=self._targets,
            supervisor=self._supervisor,
            metrics=self._metrics,
            encodings=self._encodings,
            preflight=bool(self._cors),
        )
        self._requests = self._targets.requests
        self._memory = self._lookup.memory
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("gateway")

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        for work in (self._redis.run(), self._supervisor.run(), self._catalogue.run()):
            task = loop.create_task(work)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End the worker, which Granian replaces: a restart is better than half a gateway."""
        if not task.cancelled():
            self._log.critical(
                "A side task of the gateway ended.", action="side_task_ended", exc_info=task.exception()
            )
            os._exit(1)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        for task in self._tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))

    def __rsgi__(self, scope: Scope, proto: Any) -> Awaitable[None]:
        return _SENT if self._hit(scope, proto) else self._handle(scope, proto)

    def _hit(self, scope: Scope, proto: Any) -> bool:
        """Answer from memory, if the caller, the target and the result are all known already."""
        # Granian makes a new object each time that headers, path or query_string is read.
        headers = scope.headers
        if scope.method != "GET" or not self._auth.remembers(headers.get("authorization")):
            return False
        request = self._requests.get((scope.path, scope.query_string))
        if request is None:
            return False
        now = time.monotonic()
        item = self._memory.hit(request.key, now)
        if item is None or self._cors or headers.get("if-none-match") is not None:
            return False
        shown = item.representation
        encoding = shown.encoding(self._encodings.choose(headers.get("accept-encoding")))
        sent = shown.headers("HIT", encoding, now - item.computed_at, item.fresh_until - now)
        self._metrics.hits += 1
        proto.response_bytes(200, sent, shown.bodies[encoding])
        return True

    async def _handle(self, scope: Scope, proto: Any) -> None:
        try:
            response = await self._routes.respond(scope, proto)
        except Problem as problem:
            response = problem.response
        except Exception as error:
            response = self._failed(scope, error).response
        self._send(scope, proto, response)

    def _failed(self, scope: Scope, error: Exception) -> Problem:
        path = printable(scope.path)
        if not isinstance(error, HoldfastError):
            self._log.error("A request failed.", action="request_failed", path=path, exc_info=error)
            return Problem(500, "Internal Server Error")
        problem = problem_of(error)
        if problem.response.status >= 500 and not error.retryable:
            self._log.error("A request failed.", action="request_failed", path=path, error=str(error))
        return problem

    def _send(self, scope: Scope, proto: Any, response: Response) -> None:
        status, headers, body, cache = response
        self._metrics.answered(cache, status)
        if self._cors:
            headers = [*headers, *cors(scope.headers.get("origin"), self._cors)]
        if body and scope.method == "HEAD":
            # A HEAD has the length of the body that it does not send (RFC 9110 §9.3.2).
            headers = [*headers, ("content-length", str(len(body)))]
            body = b""
        if body:
            proto.response_bytes(status, headers, body)
        else:
            proto.response_empty(status, headers)


def _links(metrics: GatewayMetrics, clock: StoreClock) -> tuple[Link[RedisAdapter], Link[Client]]:
    adapter = RedisAdapter(
        RedisSettings.load,
        max_connections=16,
        timeout=0.5,
        client_name="holdfast-gateway",
        on_time=clock.observe,
    )
    redis = Link(adapter, Backoff(base=1, cap=15), on_change=metrics.linked)
    # The supervisor is on this host and an attempt costs little: it is found again within a second.
    client = Client(SupervisorSettings.load().path, clock=clock)
    supervisor = Link(client, Backoff(base=0.1, cap=1.0), on_change=metrics.linked)
    return redis, supervisor


def create() -> Gateway:
    """What Granian loads, in each worker, which ends with the main process: else it would keep the port."""
    end_with_parent()
    logs.configure("gateway")
    return Gateway()
