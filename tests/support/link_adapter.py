"""A link's adapter over a server in memory, and randomness that leaves delays as they are."""

from __future__ import annotations

import asyncio
from random import Random

from holdfast.errors import DeadlineExceeded
from holdfast.links.adapter import PoolStatus


class Server:
    """A link's adapter over a server in memory, which takes and loses connections as a test says."""

    name = "memory"

    def __init__(self) -> None:
        self.refuses: BaseException | None = None
        self.opened_at: list[float] = []
        self.hangs = False
        self.address: tuple[str, int] | None = None
        self.late = 0
        self.probed = 0
        self.probed_at: list[float] = []
        self.closed = 0

    async def open(self) -> None:
        """One attempt."""
        self.opened_at.append(asyncio.get_running_loop().time())
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuses is not None:
            raise self.refuses

    async def probe(self) -> None:
        """One query; the next `late` of them are not answered in time."""
        self.probed += 1
        self.probed_at.append(asyncio.get_running_loop().time())
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuses is not None:
            raise self.refuses
        if self.late:
            self.late -= 1
            raise DeadlineExceeded("late")

    async def close(self) -> None:
        """The end of the connection."""
        self.closed += 1

    def pool(self) -> PoolStatus:
        """No connections to speak of."""
        return PoolStatus(1, 0, 1)

    def endpoint(self) -> tuple[str, int] | None:
        """What to watch; nothing unless a test says so."""
        return self.address


class Exact(Random):
    """Randomness that leaves every delay as it is."""

    def random(self) -> float:
        """The upper end."""
        return 1.0
