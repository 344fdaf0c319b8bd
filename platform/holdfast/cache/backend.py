"""What a refresh needs of the rest of Holdfast.

The supervisor implements it on its own links (`supervisor.backend`), a worker over the supervisor's socket
(`rpc.client`), and a test in memory (`holdfast.testing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from holdfast.cache.entry import Entry, Unusable
from holdfast.cache.run import Run
from holdfast.reports import Row
from holdfast.reports.canonical import Scalar


class Backend(Protocol):
    """Queries, the store of entries, and the record of runs. Times are in seconds.

    Every method raises HoldfastErrors only. Those of the store raise StoreUnavailable while
    Redis cannot be used.
    """

    async def query(self, name: str, params: Mapping[str, Scalar]) -> list[Row]:
        """The rows of a named query."""

    async def now(self) -> float:
        """The time by the clock that dates entries, in seconds since the epoch."""

    async def unstored_token(self) -> int:
        """A token for a result without a lease: larger than all that were seen before."""

    async def check_version(self, report: str, version: str) -> None:
        """Raise OtherVersion where the supervisor has another version of that report than this process."""

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry in place under that key, or why there is none."""

    async def acquire(self, key: str, seconds: float) -> int:
        """Take the lease of a key: its fencing token. Raises LeaseHeld."""

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep the lease for so many seconds from now. Raises LeaseLost."""

    async def release(self, key: str, token: int) -> None:
        """Give the lease back; one that is lost already is no error."""

    async def write(self, entry: Entry, token: int) -> None:
        """Put an entry in its place.

        Raises:
            LeaseLost: the token does not hold the lease.
            OtherVersion: the results of another version of the report are kept.
        """

    async def record(self, run: Run) -> None:
        """Note a run."""
