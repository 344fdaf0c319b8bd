"""For tests of one's own reports: a report computed from given rows, without a server.

    from holdfast.testing import compute

    def test_the_worst_comes_first() -> None:
        rows = compute(delays, {by_destination: [{"dest": "ATL", "avg_arr_delay": 7.5}]}, month=7)
        assert rows[0]["dest"] == "ATL"

`MemoryBackend` is the rest of Holdfast as a refresh sees it (`cache.backend.Backend`), kept in this process.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from holdfast.cache.entry import Entry, Unusable, pack, unpack
from holdfast.cache.refresh import refresh
from holdfast.cache.run import Run
from holdfast.errors import LeaseHeld, LeaseLost, UnknownQuery
from holdfast.links.mongo_types import bson_value
from holdfast.reports import Report, Row
from holdfast.reports.canonical import Scalar
from holdfast.reports.rows import decode_rows
from holdfast.reports.values import carried

QueryRows = Sequence[Row] | Exception | Callable[[Mapping[str, Scalar]], Awaitable[Sequence[Row]]]
"""What a query gives: rows, an error to raise, or an async function of the parameters."""

DEFAULT_TTL = 30.0


def compute(report: Report, rows: Mapping[Callable[..., Any], Sequence[Row]], **params: Scalar) -> list[Row]:
    """The rows that a report serves, from the rows that its queries would give.

    Args:
        report: the report to compute.
        rows: for each of its query functions, the rows that the database would give for these parameters.
        params: as in its URL; those left out have their defaults.

    Raises:
        InvalidParams: names each parameter that is unknown, missing or not of its type.
        UnknownQuery: the report has a query for which no rows are given, or rows are given for another one.
        ComputeFailed: the report's function raised; the message says what.
    """
    checked = report.reader.parse(params)
    backend = MemoryBackend(report, dict(rows))
    result = asyncio.run(refresh(backend, report, checked, "manual", default_ttl=DEFAULT_TTL))
    served = msgspec.json.decode(result.entry.body, type=dict[str, msgspec.Raw])
    return decode_rows(served["rows"])


class MemoryBackend:
    """A `cache.backend.Backend` in this process: given rows, packed entries, leases, runs.

    Args:
        report: whose queries are answered.
        rows: what each query gives, by its function or by its name.
        monotonic: the clock by which leases end, in seconds.

    Raises:
        UnknownQuery: rows are given for a query that the report does not have.
    """

    def __init__(
        self,
        report: Report,
        rows: Mapping[Any, QueryRows],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows: dict[str, QueryRows] = {_name(report, query): given for query, given in rows.items()}
        for name in self.rows.keys() - report.queries.keys():
            raise UnknownQuery(f"{report.name} has no query {name!r}", known=sorted(report.queries))
        self.stored: dict[str, bytes] = {}
        """Packed entries by key."""
        self.leases: dict[str, tuple[int, float]] = {}
        """Fencing token and end of each lease, by key."""
        self.runs: list[Run] = []
        in_mongo = (name for name, query in report.queries.items() if query.source == "mongo")
        self._convert = dict.fromkeys(in_mongo, bson_value)
        self._monotonic = monotonic
        self._tokens = itertools.count(1)

    def __repr__(self) -> str:
        return f"<MemoryBackend entries={len(self.stored)} leases={len(self.leases)} runs={len(self.runs)}>"

    async def query(self, name: str, params: Mapping[str, Scalar]) -> list[Row]:
        """The rows of a query; UnknownQuery where none are given."""
        try:
            given = self.rows[name]
        except KeyError:
            raise UnknownQuery(f"no rows are given for the query {name!r}", known=sorted(self.rows)) from None
        if isinstance(given, Exception):
            raise given
        rows = await given(params) if callable(given) else given
        convert = self._convert.get(name, carried)
        return [{column: convert(value) for column, value in row.items()} for row in rows]

    async def now(self) -> float:
        """The time by this machine's clock."""
        return time.time()

    async def unstored_token(self) -> int:
        """The next token."""
        return next(self._tokens)

    async def check_version(self, report: str, version: str) -> None:
        """Take every version: there is no other process."""

    async def entry(self, key: str) -> Entry | Unusable:
        """The entry in place under that key, or why there is none."""
        return unpack(key, self.stored.get(key))

    async def acquire(self, key: str, seconds: float) -> int:
        """Take the lease of a key: its fencing token. Raises LeaseHeld."""
        if self._token(key) is not None:
            raise LeaseHeld(f"{key} is being computed already")
        token = next(self._tokens)
        self.leases[key] = (token, self._monotonic() + seconds)
        return token

    async def renew(self, key: str, token: int, seconds: float) -> None:
        """Keep the lease for so many seconds from now. Raises LeaseLost."""
        if self._token(key) != token:
            raise LeaseLost
        self.leases[key] = (token, self._monotonic() + seconds)

    async def release(self, key: str, token: int) -> None:
        """Give the lease back; one that is lost already is no error."""
        if self._token(key) == token:
            del self.leases[key]

    async def write(self, entry: Entry, token: int) -> None:
        """Put an entry in its place. Raises LeaseLost unless the token still holds the lease."""
        if self._token(entry.key) != token:
            raise LeaseLost
        self.stored[entry.key] = pack(entry)

    async def record(self, run: Run) -> None:
        """Note a run."""
        self.runs.append(run)

    def _token(self, key: str) -> int | None:
        token, until = self.leases.get(key, (None, 0.0))
        return token if self._monotonic() < until else None


def _name(report: Report, query: Callable[..., Any] | str) -> str:
    return query if isinstance(query, str) else f"{report.name}.{query.__name__}"
