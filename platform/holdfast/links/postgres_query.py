"""From a SQLAlchemy query to rows: compiled once, prepared once for each connection, read exactly.

SQLAlchemy compiles; asyncpg prepares and fetches, since only a prepared statement says the type of each
column before its first row is read. By these types the columns are read as `links.postgres_types` says.
"""

from __future__ import annotations

import contextlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import BigInteger, Enum, Integer, SmallInteger, exc
from sqlalchemy.sql import ColumnElement, visitors
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, ColumnClause
from sqlalchemy.types import TypeDecorator, TypeEngine

from holdfast.errors import QueryFailed
from holdfast.links.postgres_errors import DRIVER_ERRORS
from holdfast.links.postgres_types import Convert, TypeForm, converted, form_of

_COMPILED_AT_MOST = 500
_PREPARED_AT_MOST = 100
"""Statements that are kept: by one adapter, and for one connection."""
_INTEGERS = ((SmallInteger, 15), (BigInteger, 63), (Integer, 31))
"""SQLAlchemy's types and their bits beside the sign; the first that fits counts."""
_UNFIT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, exc.SQLAlchemyError)
"""What a type of SQLAlchemy raises for a value that it cannot send."""

Rows = tuple[list[str], list[list[Any]]]


class ValueOutOfRange(QueryFailed):
    """A value does not fit the column that it is compared with."""

    code = "value_out_of_range"

    def __init__(
        self, message: str | None = None, *, value: Any = None, reason: str = "", **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.value = value
        self.reason = reason


class Statement(NamedTuple):
    """A query that is ready to be sent: its text, its values, and the labels of its columns."""

    sql: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    """Empty where SQLAlchemy does not know them (SQL text): then the database says them."""
    processed: Mapping[int, TypeForm]
    """The columns, by position, whose SQLAlchemy type converts in Python."""
    query: Any
    """What it was compiled from, to say where a value is used."""


class Compiler:
    """Compiles queries for one engine's dialect, each shape of a query once."""

    def __init__(self, dialect: Any) -> None:
        self._dialect = dialect
        self._compiled: OrderedDict[Any, Any] = OrderedDict()

    def statement(self, query: Any) -> Statement:
        """The query with its values.

        Raises:
            ValueOutOfRange: a value does not fit the type that it is sent as.
            QueryFailed: two columns have the same label.
        """
        compiled, extracted = self._shape(query)
        values = compiled.construct_params(extracted_parameters=extracted, escape_names=False)
        for name, bind in compiled.binds.items():
            _check_value(query, bind, values.get(name))
        sql, places, processors = compiled.string, compiled.positiontup or (), compiled._bind_processors
        if compiled.post_compile_params or compiled.literal_execute_params:
            expanded = compiled._process_parameters_for_postcompile(values)
            sql, places, values = expanded.statement, expanded.positiontup or (), expanded.parameters
            processors = {**processors, **expanded.processors}
        sent = tuple(_sent(query, processors.get(name), values[name]) for name in places)
        columns = compiled._result_columns
        labels = tuple(str(column.keyname) for column in columns)
        check_labels([_own_label(column) for column in columns])
        return Statement(sql, sent, labels, self._processed(columns), query)

    def _shape(self, query: Any) -> tuple[Any, Any]:
        key = query._generate_cache_key()
        if key is None:
            return query.compile(dialect=self._dialect), None
        if (found := self._compiled.get(key.key)) is None:
            found = self._compiled[key.key] = query.compile(dialect=self._dialect, cache_key=key)
            if len(self._compiled) > _COMPILED_AT_MOST:
                self._compiled.popitem(last=False)
        return found, key.bindparams

    def _processed(self, columns: Sequence[Any]) -> dict[int, TypeForm]:
        found = {}
        for place, column in enumerate(columns):
            if isinstance(column.type, TypeDecorator):
                process = column.type.dialect_impl(self._dialect).result_processor(self._dialect, None)
                found[place] = converted(process)
        return found


def check_labels(labels: Sequence[str]) -> None:
    """Raise QueryFailed where two columns have one label, since a row keeps one of them only."""
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        names = ", ".join(repr(label) for label in twice)
        raise QueryFailed(
            f'two columns are labelled {names}: give each its own, as in column.label("name")', labels=twice
        )


def _own_label(column: Any) -> str:
    """The label that a column would have alone: SQLAlchemy renames the second `id` of a join to `id_1`."""
    renamed = re.fullmatch(r"%\(\d+ (.+?)_?\)s", str(column.name))
    named = any(isinstance(part, ColumnClause) for part in column.objects)
    return renamed[1] if renamed and (named or len(column.objects) == 1) else str(column.keyname)


def _check_value(query: Any, bind: BindParameter[Any], value: Any) -> None:
    for item in value if isinstance(value, list | tuple) else (value,):
        if reason := _misfit(bind.type, item):
            _refuse(query, item, reason)


def _misfit(kind: TypeEngine[Any], value: Any) -> str:
    """Why a value is none of that type; empty where it is one, or the database has to say."""
    if type(value) is int:
        for integer, bits in _INTEGERS:
            if isinstance(kind, integer) and not -(2**bits) <= value < 2**bits:
                return f"must be between {-(2**bits)} and {2**bits - 1}"
    if type(value) is str and isinstance(kind, Enum) and value not in kind.enums:
        return f"must be one of {', '.join(map(str, kind.enums))}"
    return ""


def _sent(query: Any, process: Callable[[Any], Any] | None, value: Any) -> Any:
    if process is None:
        return value
    try:
        return process(value)
    except _UNFIT as error:
        _refuse_type(query, value, error)


def _refuse_type(query: Any, value: Any, error: BaseException) -> NoReturn:
    reason = f"is not of that type: {error}"
    if isinstance(error, TypeError | AttributeError):
        # The query sends text where a number belongs, say: no other value of the parameter would do.
        raise QueryFailed(f"the value {value!r}{_place(query, value)} {reason}")
    _refuse(query, value, reason)


def _place(query: Any, value: Any) -> str:
    column = next(_compared(query, value), None)
    return f" for the column {column}" if column else ""


def _refuse(query: Any, value: Any, reason: str) -> NoReturn:
    # The reason is for who has given the value, and does not show what it is compared with.
    message = f"the value {value!r}{_place(query, value)} {reason}"
    raise ValueOutOfRange(message, value=value, reason=reason)


def _compared(query: Any, value: Any) -> Iterator[str]:
    """The columns that the query compares with that value."""
    for part in visitors.iterate(query):
        if not isinstance(part, BinaryExpression):
            continue
        for one, other in ((part.left, part.right), (part.right, part.left)):
            if isinstance(other, BindParameter) and _holds(other.value, value):
                yield from _column_name(one)


def _holds(given: Any, value: Any) -> bool:
    return value in given if isinstance(given, list | tuple) else bool(given == value)


def _column_name(part: ColumnElement[Any]) -> Iterator[str]:
    name, table = getattr(part, "name", None), getattr(part, "table", None)
    if name:
        table_name = getattr(table, "name", None)
        yield f"{table_name}.{name}" if table_name else str(name)


class Prepared(NamedTuple):
    """A statement as one connection has it, and how its columns are read."""

    statement: Any
    labels: tuple[str, ...]
    conversions: tuple[tuple[int, Convert], ...]
    cast: bool
    """Whether PostgreSQL casts a column of it: then it would not notice that the column's type changed."""


class Runner:
    """Runs statements on asyncpg's connections, each in a read-only transaction of its own."""

    def __init__(self) -> None:
        self._prepared: WeakKeyDictionary[Any, OrderedDict[str, Prepared]] = WeakKeyDictionary()

    async def rows(self, connection: asyncpg.Connection, statement: Statement) -> Rows:
        """Labels and rows. A table that was changed since it was prepared is read in its new form."""
        try:
            return await self._rows(connection, statement)
        except (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError):
            self._prepared.pop(connection, None)
            await connection.reload_schema_state()
            return await self._rows(connection, statement)

    async def columns(self, connection: asyncpg.Connection, statement: Statement) -> list[str]:
        """The labels, from the server's own reading of the statement: it is prepared and not run."""
        async with connection.transaction(readonly=True):
            return list((await self._prepare(connection, statement)).labels)

    async def _rows(self, connection: asyncpg.Connection, statement: Statement) -> Rows:
        transaction = connection.transaction(readonly=True)
        await transaction.start()
        try:
            prepared = await self._prepare(connection, statement)
            with _refusals(statement):
                records = await prepared.statement.fetch(*statement.values)
        except BaseException:
            # What went wrong is the answer, and not that a broken connection cannot be rolled back.
            with contextlib.suppress(*DRIVER_ERRORS):
                await transaction.rollback()
            raise
        # Rolled back, so that nothing that the query has set for its session stays.
        await transaction.rollback()
        return list(prepared.labels), _read(records, prepared.conversions)

    async def _prepare(self, connection: asyncpg.Connection, statement: Statement) -> Prepared:
        kept = self._prepared.setdefault(connection, OrderedDict())
        if (found := kept.get(statement.sql)) is not None:
            return found
        prepared = await _prepare(connection, statement)
        if not prepared.cast:
            kept[statement.sql] = prepared
            if len(kept) > _PREPARED_AT_MOST:
                kept.popitem(last=False)
        return prepared


@contextlib.contextmanager
def _refusals(statement: Statement) -> Iterator[None]:
    """Raise as ours what asyncpg refuses before the server has seen it."""
    try:
        yield
    except asyncpg.UnsupportedClientFeatureError as error:
        raise QueryFailed(f"a column cannot be read, cast it to text in the query: {error}") from error
    except asyncpg.DataError as error:
        place = re.search(r"query argument \$(\d+)", str(error))
        if place is None:
            raise
        value = statement.values[int(place[1]) - 1]
        _refuse_type(statement.query, value, error.__cause__ or error)


async def _prepare(connection: asyncpg.Connection, statement: Statement) -> Prepared:
    prepared = await connection.prepare(statement.sql)
    columns = prepared.get_attributes()
    if not columns:
        # COMMIT and SET are such statements: they would end the transaction that is read-only.
        raise QueryFailed("it has no columns: a query is one SELECT")
    labels = statement.labels
    if len(labels) != len(columns):
        labels = tuple(column.name for column in columns)
        check_labels(labels)
    forms = [statement.processed.get(place) or form_of(column.type) for place, column in enumerate(columns)]
    cast = any(form.sql != "{}" for form in forms)
    if cast:
        # The first preparation has locked the tables for this transaction: no type changes in between.
        prepared = await connection.prepare(_around(statement.sql, forms))
    conversions = tuple((place, form.convert) for place, form in enumerate(forms) if form.convert)
    return Prepared(prepared, labels, conversions, cast)


def _around(sql: str, forms: Sequence[TypeForm]) -> str:
    """A SELECT around a query, which keeps its rows, their order and its parameters."""
    names = [f"c{place}" for place in range(len(forms))]
    read = ", ".join(form.sql.format(f"q.{name}") for form, name in zip(forms, names, strict=True))
    # On a line of its own: the text may end in a comment.
    return f"SELECT {read} FROM (\n{sql.rstrip().rstrip(';')}\n) AS q ({', '.join(names)})"  # noqa: S608 - built of positions


def _read(records: Sequence[Any], conversions: Sequence[tuple[int, Convert]]) -> list[list[Any]]:
    rows = [list(record) for record in records]
    for place, convert in conversions:
        for row, value in zip(rows, convert([row[place] for row in rows]), strict=True):
            row[place] = value
    return rows
