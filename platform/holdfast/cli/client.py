"""One call of the supervisor's socket, made by a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from holdfast.rpc.client import Client

T = TypeVar("T")


def call(work: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, do that work with the client, and close it.

    Raises:
        SupervisorUnavailable: the supervisor cannot be reached.
    """
    return asyncio.run(call_async(work))


async def call_async(work: Callable[[Client], Awaitable[T]]) -> T:
    """Like `call`, within a loop that runs already."""
    from holdfast.rpc.client import connect

    client = connect()
    try:
        return await work(client)
    finally:
        await client.aclose()
