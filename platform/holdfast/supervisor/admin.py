"""The admin port: liveness, readiness, metrics and status over HTTP, on loopback."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from holdfast.links.adapter import Adapter
from holdfast.links.link import Link
from holdfast.reports import BrokenReport
from holdfast.supervisor.metrics import CONTENT_TYPE, SupervisorMetrics


def link_status(link: Link[Adapter]) -> dict[str, Any]:
    """A link as `holdfast status --json` shows it; times are seconds since the epoch."""
    state, pool = link.state, link.adapter.pool()
    return {
        "state": state.phase.value,
        "since": state.since,
        "last_error": state.last_error,
        "next_retry_at": state.next_retry_at,
        "pool": {"size": pool.size, "in_use": pool.in_use, "max": pool.max},
    }


async def _livez(_: Request) -> Response:
    return PlainTextResponse("alive\n")


def application(
    links: Sequence[Link[Adapter]],
    report_states: Callable[[], Awaitable[list[dict[str, Any]]]],
    metrics: SupervisorMetrics,
    broken: Callable[[], Sequence[BrokenReport]] = tuple,
) -> Starlette:
    """The application: `/livez`, `/readyz`, `/metrics` and `/status`; `broken` are the reports set aside."""
    started = time.time()

    async def readyz(_: Request) -> Response:
        down = [link.name for link in links if not link.up and not link.unused]
        text = f"not ready: {', '.join(down)} down\n" if down else "ready\n"
        return PlainTextResponse(text, 503 if down else 200)

    async def render_metrics(_: Request) -> Response:
        for link in links:
            metrics.pooled(link.name, link.adapter.pool())
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    async def status(_: Request) -> Response:
        return JSONResponse(
            {
                "pid": os.getpid(),
                "started_at": started,
                "links": {link.name: link_status(link) for link in links},
                "reports": await report_states(),
                "broken": msgspec.to_builtins(broken()),
            }
        )

    return Starlette(
        routes=[
            Route("/livez", _livez),
            Route("/readyz", readyz),
            Route("/metrics", render_metrics),
            Route("/status", status),
        ]
    )
