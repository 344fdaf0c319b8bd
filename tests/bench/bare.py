"""A bare Granian application, beside which the gateway is measured: one constant answer.

It is served by the gateway's own `main`, so under the gateway's own settings of Granian, whatever they
are; only the application differs. Its body is the file that BENCH_BODY names.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from granian.server import Server

import holdfast_gateway.__main__ as gateway

_HEADERS = [("content-type", "application/json")]


class Bare:
    """The least that an RSGI application can do and still answer."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        proto.response_bytes(200, _HEADERS, self._body)


def create() -> Bare:
    """What Granian loads."""
    return Bare(Path(os.environ["BENCH_BODY"]).read_bytes())


def main() -> None:
    """Serve until SIGTERM, on GW_PORT."""
    target = f"{Path(__file__).resolve()}:create"
    gateway.Server = functools.partial(_server, target)  # type: ignore[assignment, attr-defined]
    gateway.main()


def _server(target: str, _: str, **settings: Any) -> Any:
    return Server(target, **settings)


if __name__ == "__main__":
    main()
