"""The Postgres side of the load: four tables in one transaction, by COPY from the files' own text.

Other connections see either no example or the complete one; the server rolls a killed load back. COPY ...
FREEZE marks every page all-visible, so that the reports are answered by index-only scans from the start.
A table with exactly the example's columns counts as the example's: with too few rows it is emptied and
filled again; with more it stays as it is, since later changes added them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import IO

import asyncpg
from sqlalchemy import Table, func, select
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from holdfast_flights.models import Base
from holdfast_flights.progress import Advance, LoadProgress
from holdfast_flights.sources import NULL, TABLES, LoadError, Source

CHUNK = 256 * 1024
_LOCK = "hashtextextended('holdfast_flights.load', 0)"
_COLUMNS = """
    SELECT c.relkind = 'r' AS is_table, a.attname, format_type(a.atttypid, NULL) AS type
    FROM pg_class c
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.oid = to_regclass($1)
"""
_DIALECT = dialect()  # type: ignore[no-untyped-call]


async def lock(connection: asyncpg.Connection, progress: LoadProgress) -> None:
    """Wait until no other load runs on this server; the lock ends with the connection."""
    await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    if not await connection.fetchval(f"SELECT pg_try_advisory_lock({_LOCK})"):
        progress.say("another load is running: waiting for it to end")
        await connection.execute(f"SELECT pg_advisory_lock({_LOCK})")


async def missing_tables(connection: asyncpg.Connection) -> list[Source]:
    """The sources whose table is absent or has fewer rows than the file.

    Raises:
        LoadError: a table or view of that name has other columns; it is somebody else's.
    """
    missing = []
    for source in TABLES:
        rows = await connection.fetch(_COLUMNS, source.name)
        if rows:
            columns = {row["attname"]: row["type"] for row in rows}
            if not rows[0]["is_table"] or columns != await _expected_columns(connection, source):
                raise LoadError(
                    f"Postgres already has a {source.name!r} that is not the example's; nothing was "
                    "changed. Rename it, or give the example a database of its own."
                )
        counting = str(select(func.count()).select_from(_table(source)))
        if not rows or await connection.fetchval(counting) < source.rows:
            missing.append(source)
    return missing


async def load_tables(
    connection: asyncpg.Connection, sources: Sequence[Source], progress: LoadProgress
) -> None:
    """Create and fill the tables of these sources: all of them or none.

    Raises:
        LoadError: a file held another number of rows than it should.
    """
    async with connection.transaction():
        for source in sources:
            table = _table(source)
            await connection.execute(_sql(CreateTable(table, if_not_exists=True)))
            # FREEZE is allowed only into a table that this transaction created or emptied.
            await connection.execute(f"TRUNCATE {source.name} RESTART IDENTITY")
            await _copy(connection, source, progress)
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                await connection.execute(_sql(CreateIndex(index, if_not_exists=True)))
            await connection.execute(f"ANALYZE {source.name}")


async def _copy(connection: asyncpg.Connection, source: Source, progress: LoadProgress) -> None:
    with source.open() as (stream, size), progress.bar(source.name, size) as advance:
        header = stream.readline()
        advance(len(header))
        status = await connection.copy_to_table(
            source.name,
            source=_chunks(stream, advance),
            columns=header.decode().strip().split(","),
            format="csv",
            null=NULL,
            freeze=True,
        )
    copied = int(status.removeprefix("COPY "))
    if copied != source.rows:
        raise LoadError(f"{source.file} holds {copied:,} rows and not {source.rows:,}")


async def _chunks(stream: IO[bytes], advance: Advance) -> AsyncIterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk
        advance(len(chunk))


async def _expected_columns(connection: asyncpg.Connection, source: Source) -> dict[str, str]:
    """The model's columns, with the names that this server gives to their types."""
    columns = _table(source).columns
    types = await connection.fetch(
        "SELECT format_type(to_regtype(t), NULL) AS type FROM unnest($1::text[]) t",
        [column.type.compile(_DIALECT) for column in columns],
    )
    return {column.name: row["type"] for column, row in zip(columns, types, strict=True)}


def _table(source: Source) -> Table:
    return Base.metadata.tables[source.name]


def _sql(statement: CreateTable | CreateIndex) -> str:
    return str(statement.compile(dialect=_DIALECT))
