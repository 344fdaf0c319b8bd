"""Named queries: from a name and plain values to columns and rows that msgpack can carry."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from holdfast.errors import HoldfastError, InvalidParams, QueryFailed
from holdfast.links.adapter import Adapter
from holdfast.links.link import Link
from holdfast.links.mongo_types import carried_column
from holdfast.links.postgres_query import ValueOutOfRange
from holdfast.reports import Params, Query, Registry
from holdfast.reports.canonical import Scalar
from holdfast.supervisor.building import Statement, built_pipeline, built_statement, located

if TYPE_CHECKING:
    from beanie import Document

MAX_ROWS = 500_000


class QueryResult(TypedDict):
    """What a query gives: the names of its columns, and its rows as lists of values in that order."""

    columns: list[str]
    rows: list[list[Any]]


class SelectRunner(Adapter, Protocol):
    """Runs queries on Postgres (`links.postgres.PostgresAdapter`)."""

    async def select(self, query: Statement) -> tuple[list[str], list[list[Any]]]:
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
        typed = report.typed(params)
        try:
            with located(query):
                run = self._select if query.source == "postgres" else self._aggregate
                columns, rows = await run(query, typed)
                if len(rows) > MAX_ROWS:
                    raise QueryFailed(f"it gave {len(rows):,} rows; {MAX_ROWS:,} is the most")
        except ValueOutOfRange as error:
            raise _named(error, typed) from None
        finally:
            self._observe(name, time.perf_counter() - began)
        return {"columns": columns, "rows": rows}

    async def _select(self, query: Query, typed: Params) -> tuple[list[str], list[list[Any]]]:
        statement = built_statement(query, typed)
        async with self._postgres.use() as postgres:
            return await postgres.select(statement)

    async def _aggregate(self, query: Query, typed: Params) -> tuple[list[str], list[list[Any]]]:
        document, pipeline = built_pipeline(query, typed)
        async with self._mongo.use() as mongo:
            found = await mongo.aggregate(document, pipeline, seconds=self._mongo_seconds)
        columns = list(dict.fromkeys(itertools.chain.from_iterable(found)))
        read = [carried_column([document.get(name) for document in found]) for name in columns]
        return columns, [list(row) for row in zip(*read, strict=True)] if columns else [[] for _ in found]


def _named(error: ValueOutOfRange, typed: Params) -> HoldfastError:
    """The error by the parameters that have the value; the query's own where it calculated the value."""
    same = [name for name, value in typed if type(value) is type(error.value) and value == error.value]
    if not same:
        return error
    errors = [{"name": name, "reason": error.reason} for name in same]
    return InvalidParams("; ".join(f"{e['name']}: {e['reason']}" for e in errors), errors=errors)
