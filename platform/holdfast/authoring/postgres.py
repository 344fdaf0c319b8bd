"""Tables and views of Postgres, by SQLAlchemy's reflection."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from holdfast.authoring.sources import Field, Kind, Source, distinct_values
from holdfast.links.postgres_connect import connect
from holdfast.settings import PostgresSettings

T = TypeVar("T")
SAMPLE = 1000
_OURS = "holdfast"
_KINDS: tuple[tuple[type[Any], Kind, str], ...] = (
    (sa.Boolean, "boolean", "sa.Boolean"),
    (sa.SmallInteger, "integer", "sa.SmallInteger"),
    (sa.BigInteger, "integer", "sa.BigInteger"),
    (sa.Integer, "integer", "sa.Integer"),
    (sa.Float, "number", "sa.Double"),
    (sa.Numeric, "number", "sa.Numeric"),
    (sa.Uuid, "other", "sa.Uuid"),
    (sa.Enum, "text", ""),
    (sa.LargeBinary, "other", "sa.LargeBinary"),
    (sa.String, "text", "sa.Text"),
    (sa.Date, "date", "sa.Date"),
    (sa.DateTime, "time", "sa.DateTime"),
)


async def sources(settings: PostgresSettings) -> list[Source]:
    """Every table and view that is no system's, without its fields."""
    return await _on(settings, _named)


async def described(settings: PostgresSettings, source: Source) -> Source:
    """The source with its columns, looked up, and with how many values each has in a sample."""
    return await _on(settings, lambda connection: _described(connection, source))


async def generated_models(settings: PostgresSettings) -> list[str]:
    """Texts of a module of the tables, by sqlacodegen: with classes, and without; none without a table.

    The second one is for names that cannot be those of a class's attributes.
    """
    return await _on(settings, _models)


async def _on(settings: PostgresSettings, work: Callable[[Connection], T]) -> T:
    async with _connected(settings) as connection:
        done: T = await connection.run_sync(work)
        return done


@contextlib.asynccontextmanager
async def _connected(settings: PostgresSettings) -> AsyncIterator[Any]:
    async def creator(*_: Any, **__: Any) -> Any:
        return await connect(settings, name="holdfast-author")

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            # Nothing is written, and no view is waited for.
            await connection.execute(sa.text("SET TRANSACTION READ ONLY"))
            await connection.execute(sa.text("SET LOCAL statement_timeout = '10s'"))
            yield connection
    finally:
        await engine.dispose()


def _named(connection: Connection) -> list[Source]:
    inspector = sa.inspect(connection)
    default = inspector.default_schema_name
    return [
        Source("postgres", name, None if schema == default else schema)
        for schema in _schemas(inspector)
        for name in sorted(_names(inspector, schema))
    ]


def _schemas(inspector: Inspector) -> list[str]:
    default = inspector.default_schema_name
    names = [
        name
        for name in inspector.get_schema_names()
        if name not in ("information_schema", _OURS) and not name.startswith("pg_")
    ]
    return sorted(names, key=lambda name: (name != default, name))


def _names(inspector: Inspector, schema: str) -> set[str]:
    return {
        *inspector.get_table_names(schema),
        *inspector.get_view_names(schema),
        *inspector.get_materialized_view_names(schema),
    }


def _described(connection: Connection, source: Source) -> Source:
    inspector = sa.inspect(connection)
    with warnings.catch_warnings():
        # Types that SQLAlchemy does not know are `other` here.
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        columns = inspector.get_columns(source.name, source.schema)
        keys = set(inspector.get_pk_constraint(source.name, source.schema)["constrained_columns"])
        unique = {
            next(iter(each["column_names"]))
            for each in inspector.get_unique_constraints(source.name, source.schema)
            if len(each["column_names"]) == 1
        }
    values = _sample(connection, source, [column["name"] for column in columns])
    fields = []
    for column in columns:
        kind, sql = _kind(column["type"])
        name = column["name"]
        fields.append(
            Field(
                name=name,
                kind=kind,
                type=_type_name(column["type"], connection),
                distinct=values.get(name),
                key=name in keys or name in unique,
                sql=sql,
            )
        )
    return Source("postgres", source.name, source.schema, tuple(fields))


def _kind(found: sa.types.TypeEngine[Any]) -> tuple[Kind, str]:
    for base, kind, sql in _KINDS:
        if isinstance(found, base):
            if base is sa.DateTime and getattr(found, "timezone", False):
                return kind, "sa.DateTime(timezone=True)"
            return kind, sql
    return "other", ""


def _type_name(found: sa.types.TypeEngine[Any], connection: Connection) -> str:
    if isinstance(found, sa.types.NullType):
        return "a type of its own"
    try:
        return str(found.compile(connection.dialect)).lower()
    except (sa.exc.CompileError, sa.exc.UnsupportedCompilationError):
        return type(found).__name__.lower()


def _sample(connection: Connection, source: Source, names: Sequence[str]) -> dict[str, int | None]:
    if not names:
        return {}
    columns = [sa.cast(sa.column(name), sa.Text) for name in names]
    table = sa.table(source.name, schema=source.schema)
    try:
        with connection.begin_nested():
            rows = connection.execute(sa.select(*columns).select_from(table).limit(SAMPLE)).all()
    except sa.exc.DBAPIError:
        # A view that is slow or fails, or a table that may not be read: its columns are known all the same.
        return {}
    return {name: distinct_values(row[number] for row in rows) for number, name in enumerate(names)}


def _models(connection: Connection) -> list[str]:
    from sqlacodegen.generators import DeclarativeGenerator, TablesGenerator

    inspector = sa.inspect(connection)
    default = inspector.default_schema_name
    metadata = sa.MetaData()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        for schema in _schemas(inspector):
            metadata.reflect(connection, schema=None if schema == default else schema, views=True)
        if not metadata.tables:
            return []
        return [
            str(generator(metadata, connection, ["nocomments"]).generate())
            for generator in (DeclarativeGenerator, TablesGenerator)
        ]
