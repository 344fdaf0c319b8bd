"""Loads the example: `python -m holdfast_flights.load`.

Four tables go to Postgres in one transaction, the weather to MongoDB by one rename. A database that is
complete is not touched: the load after a killed one does the rest, and any further load does nothing. An
advisory lock in Postgres lets one load run at a time. The connections are those of Holdfast's settings.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure, PyMongoError

from holdfast.errors import HoldfastError
from holdfast.links.postgres_connect import connect
from holdfast.settings import MongoSettings, PostgresSettings
from holdfast_flights.load_tables import load_tables, lock, missing_tables
from holdfast_flights.load_weather import drop_leftovers, load_weather, weather_is_missing
from holdfast_flights.progress import LoadProgress
from holdfast_flights.sources import TABLES, WEATHER, LoadError


async def load(progress: LoadProgress) -> None:
    """Load what is missing in either database; nothing is changed unless both can be used.

    Raises:
        SettingsError: a connection's settings are wrong or absent.
        LoadError: a server cannot be reached, or holds something else under one of the example's names.
    """
    started = time.monotonic()
    async with _postgres() as postgres, _mongo() as mongo:
        await lock(postgres, progress)
        sources = await missing_tables(postgres)
        weather = await weather_is_missing(mongo)
        if sources:
            await load_tables(postgres, sources, progress)
        await drop_leftovers(mongo)
        if weather:
            await load_weather(mongo, progress)
    if sources or weather:
        rows = sum(source.rows for source in sources) + (WEATHER.rows if weather else 0)
        progress.say(f"{rows:,} rows loaded in {time.monotonic() - started:.1f} s")
    else:
        rows = sum(source.rows for source in TABLES) + WEATHER.rows
        progress.say(f"nothing to do: all {rows:,} rows are there")


@asynccontextmanager
async def _postgres() -> AsyncIterator[asyncpg.Connection]:
    settings = PostgresSettings.load()
    try:
        connection = await connect(settings, name="holdfast-load")
    except asyncpg.InvalidAuthorizationSpecificationError:
        raise LoadError("Postgres refused the user name or the password") from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise LoadError(f"Postgres cannot be used ({_reason(error)}): try `holdfast check`") from None
    try:
        yield connection
        await connection.close(timeout=settings.conn_timeout / 1000)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise LoadError(f"Postgres failed during the load ({_reason(error)})") from error
    finally:
        # After a failure too, the transaction and the lock end with the connection.
        connection.terminate()


@asynccontextmanager
async def _mongo() -> AsyncIterator[AsyncDatabase[dict[str, Any]]]:
    settings = MongoSettings.load()
    login: dict[str, Any] = dict(settings.credentials())
    try:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            settings.uri(),
            **login,
            serverSelectionTimeoutMS=settings.selection_timeout,
            tz_aware=True,
        )
    except (PyMongoError, ValueError) as error:
        raise LoadError(f"MONGO_URL cannot be used ({_reason(error)})") from None
    async with client:
        database = client[settings.database]
        try:
            await database.command("ping")
            await database[WEATHER.name].find_one()
        except OperationFailure as error:
            raise LoadError(f"MongoDB refused the user or the password ({error.code})") from None
        except PyMongoError as error:
            raise LoadError(f"MongoDB cannot be used ({_reason(error)}): try `holdfast check`") from None
        try:
            yield database
        except PyMongoError as error:
            raise LoadError(f"MongoDB failed during the load ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """What the server says of a statement; of a connection no driver's text, which may hold an address."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.args[0])
    if isinstance(error, OperationFailure):
        return str((error.details or {}).get("errmsg") or f"code {error.code}")
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number).lower() if number and number > 0 else "it cannot be reached"


def main() -> int:
    """Run one load: 0 when the example is complete, else 1 and a line on standard error; 130 after Ctrl-C."""
    try:
        asyncio.run(load(LoadProgress()))
    except HoldfastError as error:
        print(f"holdfast_flights.load: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("holdfast_flights.load: stopped; run it again to finish", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
