"""Named queries: from a name and plain values to columns and rows that msgpack can carry."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Select

from holdfast.errors import QueryFailed
from holdfast.links.link import Link
from holdfast.links.mongo import MongoAdapter
from holdfast.links.postgres import PostgresAdapter
from holdfast.reports import Registry
from holdfast.reports.params import Scalar

MAX_ROWS = 500_000


class Queries:
    """Runs the registered queries on the links. Each runs read-only and with a deadline."""

    def __init__(
        self,
        registry: Registry,
        postgres: tuple[Link, PostgresAdapter],
        mongo: tuple[Link, MongoAdapter],
        *,
        mongo_seconds: float = 30.0,
    ) -> None:
        self._registry = registry
        self._postgres = postgres
        self._mongo = mongo
        self._mongo_seconds = mongo_seconds

    async def run(self, name: str, params: Mapping[str, Scalar]) -> dict[str, Any]:
        """`{"columns": [...], "rows": [[...], ...]}` of the query of that name.

        Raises:
            UnknownQuery, InvalidParams: the caller asked for what there is not.
            QueryFailed: the function did not build a query, or the database refused it.
            LinkDown, LinkLost, PoolExhausted, DeadlineExceeded: try again later.
        """
        report, query = self._registry.query(name)
        built = query.build(report.typed(params))
        if query.source == "postgres":
            if not isinstance(built, Select):
                raise QueryFailed(f"{name} must return a SQLAlchemy Select, not {type(built).__name__}")
            link, postgres = self._postgres
            async with link.use():
                columns, rows = await postgres.select(built)
        else:
            if query.document is None or not isinstance(built, list):
                raise QueryFailed(f"{name} must return a list of stages, not {type(built).__name__}")
            mongo_link, mongo = self._mongo
            async with mongo_link.use():
                found = await mongo.aggregate(query.document, built, seconds=self._mongo_seconds)
            columns = list(dict.fromkeys(name for document in found for name in document))
            rows = [[document.get(name) for name in columns] for document in found]
        if len(rows) > MAX_ROWS:
            raise QueryFailed(f"{name} gave {len(rows):,} rows; {MAX_ROWS:,} is the most")
        return {"columns": columns, "rows": [[carried(value) for value in row] for row in rows]}


def carried(value: Any) -> Any:
    """A database's value as msgpack and JSON carry it: Decimal is a float, times are ISO 8601 text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): carried(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [carried(item) for item in value]
    if isinstance(value, UUID) or type(value).__name__ in {"ObjectId", "Decimal128"}:
        return str(value)
    raise QueryFailed(f"a column of type {type(value).__name__} cannot be sent: cast it in the query")
