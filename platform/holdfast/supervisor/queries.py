"""Named queries: from a name and plain values to columns and rows that msgpack can carry."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol, TypedDict
from uuid import UUID

from sqlalchemy import Select

from holdfast.errors import QueryFailed
from holdfast.links.adapter import Adapter
from holdfast.links.link import Link
from holdfast.reports import Query, Registry
from holdfast.reports.canonical import Scalar

if TYPE_CHECKING:
    from beanie import Document

MAX_ROWS = 500_000


class QueryResult(TypedDict):
    """What a query gives: the names of its columns, and its rows as lists of values in that order."""

    columns: list[str]
    rows: list[list[Any]]


class SelectRunner(Adapter, Protocol):
    """Runs queries on Postgres (`links.postgres.PostgresAdapter`)."""

    async def select(self, query: Select[Any]) -> tuple[list[str], list[list[Any]]]:
        """Column names and rows."""


class PipelineRunner(Adapter, Protocol):
    """Runs pipelines on MongoDB (`links.mongo.MongoAdapter`)."""

    async def aggregate(
        self, document: type[Document], pipeline: Sequence[dict[str, Any]], *, seconds: float
    ) -> list[dict[str, Any]]:
        """Result documents."""


class Queries:
    """Runs the registered queries on the links, each read-only and with a deadline.

    `observe` is called with a query's name and the seconds it took, its wait for the pool included.
    """

    def __init__(
        self,
        registry: Registry,
        postgres: Link[SelectRunner],
        mongo: Link[PipelineRunner],
        *,
        mongo_seconds: float = 30.0,
        observe: Callable[[str, float], None] = lambda _name, _seconds: None,
    ) -> None:
        self._registry = registry
        self._postgres = postgres
        self._mongo = mongo
        self._mongo_seconds = mongo_seconds
        self._observe = observe

    async def run(self, name: str, params: Mapping[str, Scalar]) -> QueryResult:
        """The columns and rows of the query of that name.

        Raises:
            UnknownQuery, InvalidParams: there is no such query, or a parameter is wrong.
            QueryFailed: the function did not build a query, or the database refused it.
            LinkDown, LinkLost, PoolExhausted, DeadlineExceeded: try again later.
        """
        report, query = self._registry.query(name)
        began = time.perf_counter()
        try:
            built = query.build(report.typed(params))
            run = self._select if query.source == "postgres" else self._aggregate
            columns, rows = await run(query, built)
        finally:
            self._observe(name, time.perf_counter() - began)
        if len(rows) > MAX_ROWS:
            raise QueryFailed(f"{name} gave {len(rows):,} rows; {MAX_ROWS:,} is the most")
        return {"columns": columns, "rows": [[carried(value) for value in row] for row in rows]}

    async def _select(self, query: Query, built: object) -> tuple[list[str], list[list[Any]]]:
        if not isinstance(built, Select):
            raise QueryFailed(f"{query.name} must return a SQLAlchemy Select, not {type(built).__name__}")
        async with self._postgres.use() as postgres:
            return await postgres.select(built)

    async def _aggregate(self, query: Query, built: object) -> tuple[list[str], list[list[Any]]]:
        if query.document is None or not isinstance(built, list):
            raise QueryFailed(f"{query.name} must return a list of stages, not {type(built).__name__}")
        async with self._mongo.use() as mongo:
            found = await mongo.aggregate(query.document, built, seconds=self._mongo_seconds)
        columns = list(dict.fromkeys(name for document in found for name in document))
        return columns, [[document.get(name) for name in columns] for document in found]


def carried(value: Any) -> Any:
    """A database's value as msgpack and JSON carry it: Decimal is a float, times are ISO 8601 text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): carried(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [carried(item) for item in value]
    if isinstance(value, UUID) or type(value).__name__ in {"ObjectId", "Decimal128"}:
        return str(value)
    raise QueryFailed(f"a column of type {type(value).__name__} cannot be sent: cast it in the query")
