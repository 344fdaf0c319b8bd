"""What a query reads, and what of it is not there: tables and columns, collections and fields.

A statement is prepared and not run. Where the database refuses it for a table or a column, all of them are
compared with its catalogue, so that one look names everything. Of a pipeline, the fields are those that its
stages use before one of them makes others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sqlalchemy import Column, Table, TextClause, text
from sqlalchemy.sql import visitors
from sqlalchemy.sql.selectable import SelectBase

from holdfast.errors import QueryFailed
from holdfast.links.adapter import Adapter
from holdfast.links.link import Link
from holdfast.reasons import did_you_mean
from holdfast.reports import Params, Query
from holdfast.supervisor.building import Statement, built_pipeline, built_statement, located

if TYPE_CHECKING:
    from beanie import Document

_ABSENT = frozenset({"42P01", "42703", "3F000"})
"""SQLSTATEs: there is no such table, column or schema."""
_COLUMNS = text(
    "SELECT to_regclass(:name) IS NOT NULL AS there, coalesce(array_agg(attname::text), '{}') AS columns"
    " FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped"
)
_TABLES = text(
    "SELECT relname::text AS name FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f')"
    " AND pg_table_is_visible(oid)"
)
_PASSING = frozenset({"$match", "$sort", "$limit", "$skip", "$sample"})
"""Stages that leave documents as they are, so that the next stage reads stored fields too."""
_NEW_FIELDS = frozenset({"$literal", "$const"})


class Looked(NamedTuple):
    """What is wrong with what a query reads, and what should be known of it."""

    problems: list[str]
    notes: list[str]


class Preparer(Adapter, Protocol):
    """Prepares statements (`links.postgres.PostgresAdapter`)."""

    async def columns(self, query: SelectBase | TextClause) -> list[str]:
        """The names of a statement's columns."""

    async def select(self, query: SelectBase | TextClause) -> tuple[list[str], list[list[Any]]]:
        """Column names and rows."""


class CollectionReader(Adapter, Protocol):
    """Looks at collections (`links.mongo.MongoAdapter`)."""

    async def collections(self) -> list[str]:
        """The names of the collections."""

    async def absent_fields(self, document: type[Document], fields: Sequence[str]) -> list[str] | None:
        """The fields that no document has; None where there is no document."""


class Reads:
    """Looks for what queries read, in the databases."""

    def __init__(self, postgres: Link[Preparer], mongo: Link[CollectionReader]) -> None:
        self._postgres = postgres
        self._mongo = mongo

    async def look(self, query: Query, params: Params) -> Looked:
        """What one query reads and is not there.

        Raises:
            QueryFailed: its function failed, or the database refuses the query for another reason.
            LinkDown, DeadlineExceeded, PoolExhausted: the database could not be asked.
        """
        with located(query):
            if query.source == "postgres":
                return await self._look_at_tables(query, built_statement(query, params))
            return await self._look_at_collection(query, *built_pipeline(query, params))

    async def _look_at_tables(self, query: Query, statement: Statement) -> Looked:
        async with self._postgres.use() as postgres:
            try:
                await postgres.columns(statement)
            except QueryFailed as error:
                if error.details.get("sqlstate") not in _ABSENT:
                    raise
                problems = [text async for text in _absent(postgres, statement)]
                if not problems:
                    raise
                return Looked([f"query {query.name}: {problem}" for problem in problems], [])
        return Looked([], [])

    async def _look_at_collection(
        self, query: Query, document: type[Document], pipeline: Sequence[Mapping[str, Any]]
    ) -> Looked:
        async with self._mongo.use() as mongo:
            # Beanie knows it once the link has been up.
            name = document.get_collection_name()
            known = await mongo.collections()
            absent = await mongo.absent_fields(document, sorted(fields_of(pipeline)))
        where = f"query {query.name}: collection {name!r}"
        if name not in known:
            return Looked([f"{where} is not there.{did_you_mean(name, known)}"], [])
        if absent is None:
            return Looked([], [f"{where} is empty"])
        return Looked([f"{where}: no document has a field {field!r}" for field in absent], [])


async def _absent(postgres: Preparer, statement: Statement) -> Any:
    """A sentence for each table and column of a statement that the catalogue does not have."""
    for table, columns in tables_of(statement).items():
        name = postgres_name(table)
        _, rows = await postgres.select(_COLUMNS.bindparams(name=name))
        there, known = rows[0]
        if not there:
            _, names = await postgres.select(_TABLES)
            yield f"table {name} is not there.{did_you_mean(table.name, [str(row[0]) for row in names])}"
            continue
        for column in columns:
            if column not in known:
                yield f"column {column!r} of table {name} is not there.{did_you_mean(column, known)}"


def postgres_name(table: Table) -> str:
    """A table's name as PostgreSQL reads it, quoted."""
    parts = [part for part in (table.schema, table.name) if part]
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def tables_of(statement: Statement) -> dict[Table, list[str]]:
    """The tables that a statement names, and of each the columns; none of SQL text, which is not read."""
    found: dict[Table, list[str]] = {}
    for part in visitors.iterate(statement):
        if isinstance(part, Table):
            found.setdefault(part, [])
        elif isinstance(part, Column) and isinstance(part.table, Table):
            names = found.setdefault(part.table, [])
            if part.name not in names:
                names.append(part.name)
    return found


def fields_of(pipeline: Sequence[Mapping[str, Any]]) -> set[str]:
    """The top-level fields that a pipeline reads of stored documents."""
    found: set[str] = set()
    for stage in pipeline:
        (name, value), *_ = stage.items()
        found |= set(_fields(name, value))
        if name not in _PASSING:
            break
    return {field.partition(".")[0] for field in found}


def _fields(stage: str, value: Any) -> Iterator[str]:
    if stage == "$match":
        yield from _matched(value)
    elif stage in {"$sort", "$project"} and isinstance(value, Mapping):
        yield from (name for name, how in value.items() if how in (1, -1, True) and name != "_id")
    elif stage == "$lookup" and isinstance(value, Mapping):
        yield from (str(value[name]) for name in ("localField",) if name in value)
        return
    yield from _referenced(value)


def _matched(value: Any) -> Iterator[str]:
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        if not str(name).startswith("$"):
            # Whoever asks for the absence of a field knows that it may be absent.
            if not (isinstance(inner, Mapping) and "$exists" in inner):
                yield str(name)
        elif isinstance(inner, list):
            for each in inner:
                yield from _matched(each)


def _referenced(value: Any) -> Iterator[str]:
    """The fields in `"$field"` within an expression."""
    if isinstance(value, str):
        if value.startswith("$") and not value.startswith("$$") and len(value) > 1:
            yield value[1:]
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _NEW_FIELDS:
                yield from _referenced(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _referenced(inner)
