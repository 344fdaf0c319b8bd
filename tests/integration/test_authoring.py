"""`holdfast init` and `holdfast new` on databases with tables and collections that nobody has tidied up."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from tests.support.environment import environment_without_settings
from tests.support.servers import Servers
from tests.support.stack import CLI, Stack

DATABASE = "authoring"
TABLES = """
CREATE SCHEMA shop;
CREATE SCHEMA "Odd Schema";
CREATE TYPE shop.state AS ENUM ('open', 'paid', 'sent');
CREATE TABLE shop.customers (id bigserial PRIMARY KEY, country text NOT NULL, email text UNIQUE);
CREATE TABLE shop.orders (
    id bigserial PRIMARY KEY, customer_id bigint REFERENCES shop.customers, state shop.state NOT NULL,
    amount numeric(20, 2) NOT NULL, ordered_on date NOT NULL, tags text[], extra jsonb
);
INSERT INTO shop.customers (country, email)
    SELECT (array['de', 'fr'])[1 + n % 2], 'c' || n FROM generate_series(1, 20) n;
INSERT INTO shop.orders (customer_id, state, amount, ordered_on)
    SELECT 1 + n % 20, (array['open', 'paid', 'sent'])[1 + n % 3]::shop.state, n, date '2026-01-01' + n % 5
    FROM generate_series(1, 300) n;
CREATE TABLE "Order" ("class" text, "Unit price (€)" double precision, "from" text, "2nd" integer);
INSERT INTO "Order" VALUES ('a', 1.5, 'x', 1), ('b', 2.5, 'y', 2), ('a', 3.5, 'y', 1);
CREATE TABLE "Odd Schema"."select" ("it's" text, "a""b" text, "back\\slash" integer);
INSERT INTO "Odd Schema"."select" VALUES ('1', 'q', 1), ('2', 'q', 2);
CREATE TABLE nothing_yet (kind text, made_at timestamptz);
CREATE TABLE no_columns ();
CREATE TABLE keys_only (id uuid PRIMARY KEY);
INSERT INTO keys_only VALUES (gen_random_uuid());
CREATE TABLE events (
    happened_at timestamptz NOT NULL, place point, span tstzrange, flag boolean, json text, schema text
);
INSERT INTO events VALUES
    (now(), '(1,2)', '[2026-01-01,2026-01-02)', true, 'j', 's'), (now(), NULL, NULL, false, 'j', 't');
CREATE VIEW shop.daily AS SELECT ordered_on, sum(amount) AS amount FROM shop.orders GROUP BY ordered_on;
CREATE MATERIALIZED VIEW shop.by_state AS
    SELECT state::text AS state, count(*) AS n FROM shop.orders GROUP BY state;
CREATE VIEW failing AS SELECT 1 / (id - id) AS n FROM shop.orders;
CREATE TABLE prices (day date, currency char(3), rate numeric) PARTITION BY RANGE (day);
CREATE TABLE prices_2026 PARTITION OF prices FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO prices VALUES ('2026-02-01', 'EUR', 1.1), ('2026-02-02', 'USD', 1.2);
CREATE TABLE count ("count" text, query text, p text, "rows" integer);
INSERT INTO count VALUES ('c', 'q', 'p', 1), ('d', 'q', 'p', 2);
CREATE TABLE имена (имя text, число integer);
INSERT INTO имена VALUES ('а', 1), ('б', 2);
"""
SOURCES = {
    "shop-orders": ("postgres:shop.orders", 3),
    "orders-bare": ("orders", 3),
    "customers": ("postgres:customers", 2),
    "mixed-case": ("postgres:Order", 2),
    "odd-schema": ("postgres:Odd Schema.select", 2),
    "empty": ("postgres:nothing_yet", 0),
    "no-columns": ("postgres:no_columns", 1),
    "keys-only": ("postgres:keys_only", 1),
    "events": ("postgres:events", 2),
    "view": ("postgres:shop.daily", 5),
    "materialized": ("postgres:shop.by_state", 3),
    "partitioned": ("postgres:public.prices", 2),
    "named-count": ("postgres:count", 2),
    "cyrillic": ("postgres:имена", 2),
    "readings": ("mongo:readings", 2),
    "odd-documents": ("mongo:Odd things", 2),
    "mixed-documents": ("mongo:mixed", 1),
    "empty-collection": ("mongo:nothing", 0),
    "mongo-view": ("mongo:warm_readings", 1),
    "dashes": ("mongo:sensor-log.2026", 2),
}


@pytest.fixture(scope="module")
def stack(link_servers: Servers) -> Iterator[Stack]:
    """A Postgres and a MongoDB of somebody's own, and an empty folder to work in."""
    servers = Servers(link_servers.postgres, link_servers.mongo, link_servers.valkey, database=DATABASE)
    servers.create_database()
    servers.execute(TABLES)
    servers.on_mongo(_fill)
    with Stack(servers=servers, REPORTS="acme.reports") as made:
        yield made


async def _fill(database: Any) -> None:
    now = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
    places = [{"place": "a", "value": 1.5, "at": now}, {"place": "b", "value": 2, "at": now, "note": None}]
    await database["readings"].insert_many(places)
    odd = {"a.b": 1, "$c": "x", "class": "k", "schema": 1, "it's": "y"}
    await database["Odd things"].insert_many([odd, {"class": "m", "it's": "y", "_x": {}}])
    await database["mixed"].insert_many([{"v": 1}, {"v": "one"}, {"v": [1]}])
    await database.create_collection("nothing")
    await database.create_collection("warm_readings", viewOn="readings", pipeline=[{"$match": {"value": 2}}])
    await database["sensor-log.2026"].insert_many([{"kind": "a", "ok": True}, {"kind": "b", "ok": False}])


class Author:
    """Somebody in a folder with the settings of the two databases, as `holdfast init` has written them."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.folder = stack.folder / "work"
        self.folder.mkdir(exist_ok=True)

    def run(
        self, *arguments: str, status: int = 0, settings: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        """What a command printed that ends with that status."""
        command = arguments if arguments[0].startswith("/") else (*CLI, *arguments)
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**environment_without_settings(), "HOLDFAST_HOME": str(self.stack.home), **settings},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module")
def author(stack: Stack) -> Author:
    """The author, who has made a package and a report of each source."""
    author = Author(stack)
    urls = stack.servers.env()
    postgres = (
        f"postgresql://{urls['POSTGRES_USER']}@{urls['POSTGRES_HOST']}:{urls['POSTGRES_PORT']}/{DATABASE}"
    )
    given = {
        "POSTGRES_URL": postgres,
        **{name: value for name, value in urls.items() if name.startswith("POSTGRES_PASSWORD")},
        **{name: value for name, value in urls.items() if name.startswith("MONGO_")},
    }
    author.run("init", "acme", settings=given)
    for name, (source, _) in SOURCES.items():
        author.run("new", name, "--from", source)
    return author


@pytest.fixture(scope="module")
def served(author: Author, stack: Stack) -> Stack:
    """A supervisor that was started in the author's folder, with databases by its `.env` alone."""
    env = {
        **environment_without_settings(),
        "HOLDFAST_HOME": str(stack.home),
        "SUPERVISOR_PORT": str(stack.port()),
        **stack.servers.valkey.env(),
    }
    process = stack.start("/bin/sh", "-c", f"cd {author.folder}; exec {' '.join(CLI)} supervisor", **env)
    stack.answers(process, stack.port())
    return stack


def test_init_writes_a_package_that_is_complete(author: Author) -> None:
    """There are models, documents, a report of a table and of a collection, tests, and a private `.env`."""
    made = {str(path.relative_to(author.folder)) for path in author.folder.rglob("*") if path.is_file()}
    assert made >= {
        "acme/__init__.py",
        "acme/models.py",
        "acme/documents.py",
        "acme/reports/__init__.py",
        "acme/reports/orders.py",
        "tests/conftest.py",
        ".env",
        ".gitignore",
    }
    assert (author.folder / ".env").stat().st_mode & 0o777 == 0o600
    assert "REPORTS=acme.reports" in (author.folder / ".env").read_text()


def test_the_tests_that_were_written_pass(author: Author) -> None:
    """`python -m pytest tests` in the author's folder passes: each report has a test."""
    printed = author.run(sys.executable, "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider")
    assert "passed" in printed
    tests = {path.name for path in (author.folder / "tests").glob("test_*.py")}
    assert {f"test_{name.replace('-', '_')}.py" for name in SOURCES} <= tests


def test_every_report_is_loaded(author: Author) -> None:
    """Each report that was written is right: none is set aside."""
    shown = json.loads(author.run("reports", "--json"))
    assert shown["broken"] == []
    assert SOURCES.keys() <= {report["name"] for report in shown["reports"]}


@pytest.mark.parametrize("name", SOURCES)
def test_each_report_gives_rows_of_its_source(served: Stack, author: Author, name: str) -> None:
    """Its query runs as it was written, and groups the rows that are there."""
    module = (author.folder / "acme" / "reports" / f"{name.replace('-', '_')}.py").read_text()
    function = module.rpartition("\ndef ")[2].partition("(")[0]
    rows = served.run(served.client.query(f"{name}.{function}", {}))
    assert len(rows) == SOURCES[name][1]


def test_a_parameter_selects(served: Stack) -> None:
    """The one filter of a report selects rows: here the orders of one customer."""
    rows = served.run(served.client.query("shop-orders.by_state", {"customer_id": 3}))
    assert sum(row["count"] for row in rows) == 15
    assert all(isinstance(row["avg_amount"], Decimal) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new", "orders", "--from", "postgres:shop.orders"), "there is a report 'orders' already"),
        (("new", "Late Orders", "--from", "orders"), "'late-orders'"),
        (("new", "x", "--from", "postgres:ordres"), "Did you mean"),
        (("new", "x", "--from", "mongo:orders"), "there is no 'mongo:orders'"),
        (("new", "x"), "postgres:shop.orders"),
        (("new", "x", "--from", "orders", "--package", "none.reports"), "`holdfast init PACKAGE`"),
        (("new", "x", "--from", "orders", "--package", "sqlalchemy"), "not yours to write in"),
        (("init", "acme"), "is there already"),
        (("init", "Acme-1"), "is no name for a package"),
        (("init", "json"), "take another name"),
        (("init", "sqlalchemy"), "take another name"),
    ],
)
def test_what_cannot_be_written_says_why(author: Author, arguments: tuple[str, ...], words: str) -> None:
    """The error is one that can be acted on, and nothing is written."""
    before = sorted(author.folder.rglob("*.py"))
    assert words in author.run(*arguments, status=1)
    assert sorted(author.folder.rglob("*.py")) == before


def test_json_names_the_files_and_the_next_command(author: Author) -> None:
    """`--json` prints one document: the report, its files, its URL, and commands that can be pasted."""
    shown = json.loads(author.run("new", "again", "--from", "shop.customers", "--json"))
    assert shown["url"] == "/api/v1/analytics/again"
    assert [Path(path).name for path in shown["written"]] == ["again.py", "test_again.py"]
    assert shown["next"][0].endswith(" query again.by_country")
    assert os.access(shown["next"][0].partition(" ")[0], os.X_OK)
