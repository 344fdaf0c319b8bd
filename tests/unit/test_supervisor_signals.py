"""Signals belong to the supervisor, and not to the server of its admin port."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

from starlette.applications import Starlette

from holdfast.supervisor.main import _Admin

STOPPING = (signal.SIGTERM, signal.SIGINT)


def test_the_admin_server_leaves_signals_alone() -> None:
    """While uvicorn serves in the supervisor's loop, SIGTERM and SIGINT keep the handlers that they had.

    It holds as long as `uvicorn.Server` sets its handlers in `capture_signals`, which is overridden.
    """

    async def handlers_while_serving() -> list[Any]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            admin = _Admin(Starlette())
            serving = asyncio.create_task(admin.serve(sockets=[listener]))
            while not admin.started:  # noqa: ASYNC110 - uvicorn offers no event for it
                await asyncio.sleep(0.01)
            handlers = [signal.getsignal(number) for number in STOPPING]
            admin.should_exit = True
            await serving
        return handlers

    async def serve() -> tuple[list[Any], list[Any]]:
        # Inside the loop: asyncio.run has set its own handler of SIGINT by now.
        return [signal.getsignal(number) for number in STOPPING], await handlers_while_serving()

    before, while_serving = asyncio.run(serve())
    assert while_serving == before
