"""The three embedded servers as a test uses them, and what a test looks up in them directly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from redis import Redis

from holdfast.embedded import Mongo, Postgres, Server, Valkey
from holdfast.embedded.secrets import read_secret

T = TypeVar("T")


class Servers:
    """PostgreSQL, MongoDB and Valkey: the session's, or some in a home of their own.

    Args:
        database: the Postgres database to use, where it is not the one that every server has.
    """

    def __init__(self, postgres: Postgres, mongo: Mongo, valkey: Valkey, *, database: str = "") -> None:
        self.postgres, self.mongo, self.valkey = postgres, mongo, valkey
        self.every: tuple[Server, ...] = (postgres, mongo, valkey)
        self.database = database
        self._prepared = False

    @classmethod
    def at(cls, home: Path) -> Self:
        """Servers in that home, for tests that stop or fill them; none of them is started."""
        return cls(Postgres(home), Mongo(home), Valkey(home))

    def start(self) -> None:
        """Start those that do not run, all at the same time."""
        with ThreadPoolExecutor(len(self.every)) as pool:
            for started in [pool.submit(server.start) for server in self.every]:
                started.result()

    def kill(self) -> None:
        """Kill those that run."""
        for server in self.every:
            server.kill()

    def env(self) -> dict[str, str]:
        """The settings of a supervisor; makes the files of the servers and claims their ports, once."""
        if not self._prepared:
            for server in self.every:
                if server.pid is None:
                    server.prepare()
            self._prepared = True
        database = {"POSTGRES_DB": self.database} if self.database else {}
        return {**self.postgres.env(), **database, **self.mongo.env(), **self.valkey.env()}

    def create_database(self) -> None:
        """Create the Postgres database to use, unless it is there."""
        asyncio.run(self.postgres.create_database(self.database))

    def execute(self, sql: str) -> None:
        """Run statements in Postgres."""
        self._on_postgres(lambda connection: connection.execute(sql))

    def fetch(self, sql: str, *arguments: object) -> list[Any]:
        """The rows of a query in Postgres."""
        return list(self._on_postgres(lambda connection: connection.fetch(sql, *arguments)))

    def scalar(self, sql: str, *arguments: object) -> Any:
        """The one value of a query in Postgres."""
        return self._on_postgres(lambda connection: connection.fetchval(sql, *arguments))

    def _on_postgres(self, use: Callable[[Any], Awaitable[T]]) -> T:
        async def run() -> T:
            named = (self.database,) if self.database else ()
            connection = await self.postgres.connect(*named)
            try:
                return await use(connection)
            finally:
                await connection.close()

        return asyncio.run(run())

    def on_mongo(self, use: Callable[[Any], Awaitable[T]]) -> T:
        """What `use` makes of the MongoDB database."""

        async def run() -> T:
            async with self.mongo.client() as client:
                return await use(client["holdfast"])

        return asyncio.run(run())

    def sleeping(self) -> int:
        """How many slow queries (`pg_sleep`) run in Postgres."""
        return int(self.scalar("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    def connections(self) -> int:
        """How many connections supervisors have to Postgres."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-supervisor'"
        return int(self.scalar(query))

    def redis(self, user: str = "supervisor", database: int = 0) -> Redis:
        """A client of Valkey as that user; the caller closes it."""
        password = read_secret(self.valkey.password_file(user))
        return Redis(port=self.valkey.port, db=database, username=user, password=password)
