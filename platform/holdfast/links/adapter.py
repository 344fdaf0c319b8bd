"""What a link needs to know of the system behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from holdfast.errors import HoldfastError


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """How many connections are open and in use, and how many there may be."""

    size: int
    in_use: int
    max: int


def host_and_port(url: Callable[[], str], default: int) -> tuple[str, int] | None:
    """The address in the URL that the settings give; None where it names none, several, or is not set."""
    try:
        parts = urlsplit(url())
        return (parts.hostname, parts.port or default) if parts.hostname else None
    except (HoldfastError, ValueError):
        return None


class Adapter(Protocol):
    """What a link needs to know of its backend. Every method raises HoldfastErrors only."""

    name: str

    async def open(self) -> None:
        """Connect, and have a real query answered."""

    async def probe(self) -> None:
        """Have a real query answered, cheaply."""

    async def close(self) -> None:
        """Drop every connection. Never raises, and may be called twice."""

    def pool(self) -> PoolStatus:
        """The connections of the moment."""

    def endpoint(self) -> tuple[str, int] | None:
        """The TCP address to watch while the link is down, where there is one."""
