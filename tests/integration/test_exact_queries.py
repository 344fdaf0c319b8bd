"""Queries on a real PostgreSQL, compiled, prepared and read: labels, types of one's own, changes."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Date,
    DateTime,
    Enum,
    Integer,
    MetaData,
    Numeric,
    Select,
    Table,
    Text,
    Time,
    bindparam,
    column,
    func,
    literal,
    literal_column,
    select,
    table,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import BYTEA, INT4RANGE, INTERVAL, Range
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator
from tests.support.servers import Servers

from holdfast.embedded import Mongo, Postgres, Valkey
from holdfast.errors import QueryFailed
from holdfast.links.postgres import PostgresAdapter
from holdfast.settings import PostgresSettings

RowsOf = Any
"""What `select` gives: labels and rows."""


class Mood(enum.Enum):
    """A Python Enum of a column."""

    HAPPY = 1
    SAD = 2


class Cents(TypeDecorator[Any]):
    """A price that is kept in cents."""

    impl = Integer
    cache_ok = True

    def process_result_value(self, value: int | None, _: Any) -> Decimal | None:
        """Cents as a Decimal."""
        return None if value is None else Decimal(value) / 100


class Utc(TypeDecorator[dt.datetime]):
    """A time without a zone that is meant as UTC."""

    impl = DateTime
    cache_ok = True

    def process_result_value(self, value: dt.datetime | None, _: Any) -> dt.datetime | None:
        """With its zone."""
        return None if value is None else value.replace(tzinfo=dt.UTC)


class Sealed(TypeDecorator[str]):
    """Bytes that only the application can read."""

    impl = BYTEA
    cache_ok = True

    def process_result_value(self, value: bytes | None, _: Any) -> str | None:
        """The text backwards."""
        return None if value is None else value.decode()[::-1]


class Base(DeclarativeBase):
    """The models of this module."""


class Sale(Base):
    """A mapped table with types of its own."""

    __tablename__ = "exact_sales"

    id: Mapped[int] = mapped_column(primary_key=True)
    mood: Mapped[Mood] = mapped_column(Enum(Mood, name="exact_mood"))
    cents: Mapped[Any] = mapped_column(Cents)
    at: Mapped[Any] = mapped_column(Utc)
    sealed: Mapped[Any] = mapped_column(Sealed)
    price: Mapped[Any] = mapped_column(Numeric(20, 2, asdecimal=False))


SCHEMA = """
CREATE TYPE exact_mood AS ENUM ('HAPPY', 'SAD');
CREATE TABLE exact_sales (id int PRIMARY KEY, mood exact_mood, cents int, at timestamp, sealed bytea, price numeric(20, 2));
INSERT INTO exact_sales VALUES
    (1, 'HAPPY', 1250, '2013-01-31 05:00', 'terces', 12345678901234567.89), (2, 'SAD', NULL, NULL, NULL, NULL);
CREATE TABLE exact_changing (value int4range);
INSERT INTO exact_changing VALUES ('[1,5)');
"""  # noqa: E501 - a table


@pytest.fixture(scope="module")
def servers(postgres: Postgres, mongo: Mongo, valkey: Valkey) -> Servers:
    """A Postgres database with the tables."""
    servers = Servers(postgres, mongo, valkey, database="exact_queries")
    servers.create_database()
    servers.execute(SCHEMA)
    return servers


class Reader:
    """The adapter, with a loop of its own; its pool has one connection, so that all run on the same."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._runner = asyncio.Runner()
        self._adapter = PostgresAdapter(lambda: settings)
        self._runner.run(self._adapter.open())

    def rows(self, query: Any) -> list[list[Any]]:
        """The rows of a query."""
        return self._runner.run(self._adapter.select(query))[1]

    def labels(self, query: Any) -> list[str]:
        """The labels of its columns."""
        return self._runner.run(self._adapter.select(query))[0]

    def close(self) -> None:
        """Close the pool."""
        self._runner.run(self._adapter.close())
        self._runner.close()


@pytest.fixture(scope="module")
def reader(servers: Servers) -> Iterator[Reader]:
    """Reads that database."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**servers.env(), "PG_POOL_MAX": "2"}.items():
            patch.setenv(name, value)
        reader = Reader(PostgresSettings.load())
    yield reader
    reader.close()


N = literal(1).label("n")
SALES = table("exact_sales", column("id"), column("price"))
OTHER = SALES.alias("other")


@pytest.mark.parametrize(
    ("query", "label"),
    [
        (select(N, literal(2).label("n")), "n"),
        (select(N, N), "n"),
        (select(SALES.c.id, SALES.c.id), "id"),
        (select(SALES.c.id, OTHER.c.id), "id"),
        (select(SALES, OTHER.c.price), "price"),
        (select(SALES.c.id, func.count().label("id")).group_by(SALES.c.id), "id"),
        (text("SELECT 1 AS n, 2 AS n"), "n"),
        (text("SELECT a.*, b.* FROM exact_sales a, exact_sales b"), "id"),
        (select(literal_column("1 AS n, 2 AS n")), "n"),
    ],
    ids=["two", "same", "column", "join", "table", "function", "text", "star", "hidden"],
)
def test_two_columns_of_one_label_are_refused(reader: Reader, query: Any, label: str) -> None:
    """A row keeps one value for each label, so a query with a label twice fails and the label is named."""
    with pytest.raises(QueryFailed, match=rf"two columns are labelled .*'{label}'"):
        reader.rows(query)


@pytest.mark.parametrize(
    ("query", "labels"),
    [
        (select(N, literal(2).label("N")), ["n", "N"]),
        (select(func.count(), func.max(SALES.c.id)), ["count_1", "max_1"]),
        (select(func.sum(SALES.c.id), func.sum(SALES.c.price)), ["sum_1", "sum_2"]),
        (select(literal(1).label("a b%:é")), ["a b%:é"]),
        (select(literal(1).label("x" * 70)), ["x" * 70]),
        (select(Sale.id, Sale.mood), ["id", "mood"]),
        (text("SELECT 1 AS one, 2"), ["one", "?column?"]),
        (text("SELECT 1 AS one").columns(Column("one", Integer)), ["one"]),
        (union_all(select(N), select(literal(2).label("n"))), ["n"]),
    ],
    ids=["case", "functions", "sums", "signs", "long", "mapped", "text", "typed-text", "union"],
)
def test_the_labels_are_those_of_the_query(reader: Reader, query: Any, labels: list[str]) -> None:
    """Every column has the label that the query gives it, whatever signs it has and however long it is."""
    assert reader.labels(query) == labels


def test_types_of_an_author_s_own_convert_their_values(reader: Reader) -> None:
    """A TypeDecorator makes the values of its column, and what it makes is carried like every value."""
    query = select(Sale.id, Sale.mood, Sale.cents, Sale.at, Sale.sealed, Sale.price).order_by(Sale.id)
    assert reader.rows(query) == [
        [1, "HAPPY", Decimal("12.5"), "2013-01-31T05:00:00+00:00", "secret", Decimal("12345678901234567.89")],
        [2, "SAD", None, None, None, None],
    ]


def test_a_mapped_class_is_its_columns(reader: Reader) -> None:
    """A query for a mapped class gives the columns of its table."""
    assert reader.labels(select(Sale)) == ["id", "mood", "cents", "at", "sealed", "price"]


DAY = dt.date(9999, 12, 31)
EARLY = dt.datetime(2013, 1, 31, 7, tzinfo=dt.timezone(dt.timedelta(hours=2)))
LISTED = text("SELECT id FROM exact_sales WHERE id IN :ids").bindparams(bindparam("ids", [2], expanding=True))
LARGE = text("SELECT id FROM exact_sales WHERE id = :n").bindparams(bindparam("n", 2**40, Integer))
NARROW = text("SELECT CAST(:n AS smallint)").bindparams(bindparam("n", 70000, Integer))


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (select(SALES.c.id).where(SALES.c.id.in_([1, 7])), 1),
        (select(SALES.c.id).where(SALES.c.id.in_([2])), 2),
        (select(SALES.c.id).order_by(SALES.c.id.desc()).limit(1), 2),
        (select(Sale.id).where(Sale.mood == Mood.SAD), 2),
        (select(literal(DAY)), "9999-12-31"),
        (select(literal(DAY) < literal_column("'infinity'::date")), True),
        (select(literal(dt.datetime(1, 1, 1))), "0001-01-01T00:00:00"),
        (select(literal(EARLY)), "2013-01-31T05:00:00+00:00"),
        (select(literal(dt.time(23, 59, 59, 500_000), Time)), "23:59:59.500000"),
        (select(literal(dt.timedelta(days=40), INTERVAL)), "40 days"),
        (select(literal(Range(1, 5), INT4RANGE)), "[1,5)"),
        (select(literal(b"\x0a", BYTEA)), "\\x0a"),
        (select(literal(Decimal("6.00"), Numeric)), Decimal("6.00")),
        (select(literal("2013-01-31T05:00:00").cast(Text)), "2013-01-31T05:00:00"),
        (text("SELECT :n + 1 -- a comment").bindparams(n=1), 2),
        (text("SELECT interval '1 month' -- a comment"), "1 mon"),
        (text("SELECT interval '1 month';"), "1 mon"),
        (LISTED, 2),
        (text("WITH a AS (SELECT interval '1 month' AS i) SELECT i FROM a ORDER BY 1 LIMIT 1"), "1 mon"),
        (text("VALUES (interval '1 month')"), "1 mon"),
        (union_all(select(literal_column("'[1,2)'::int4range").label("r"))), "[1,2)"),
        (select(func.array_agg(literal_column("'1 day'::interval"))), ["1 day"]),
    ],
)  # fmt: skip
def test_a_value_in_a_query_arrives_as_it_is(reader: Reader, query: Any, value: Any) -> None:
    """A parameter of any type reaches PostgreSQL unchanged, and the answer is exact."""
    assert reader.rows(query)[0] == [value]


def test_a_query_compiled_once_has_the_values_of_each_run(reader: Reader) -> None:
    """Two queries of one shape are compiled once and keep their own values, also those of a list."""

    def built(n: int, ids: list[int]) -> Select[Any]:
        return select(SALES.c.id, literal(n).label("n")).where(SALES.c.id.in_(ids)).order_by(SALES.c.id)

    assert reader.rows(built(7, [1])) == [[1, 7]]
    assert reader.rows(built(8, [1, 2])) == [[1, 8], [2, 8]]
    assert reader.rows(built(9, [])) == []


def test_the_order_of_rows_is_the_query_s_own(reader: Reader) -> None:
    """A column that PostgreSQL casts to text leaves the rows in the order of the query."""
    n = func.generate_series(1, 500).column_valued("n")
    query = select(n, func.make_interval(0, 0, 0, n).label("days")).order_by(n.desc())
    assert reader.rows(query) == [[n, f"{n} day{'s' if n > 1 else ''}"] for n in range(500, 0, -1)]


CHANGES = [
    ("SELECT value FROM exact_changing", "[1,5)"),
    ("ALTER TABLE exact_changing ALTER value TYPE integer USING lower(value)", 1),
    ("ALTER TABLE exact_changing ALTER value TYPE numeric(9, 2)", Decimal("1.00")),
    ("ALTER TABLE exact_changing ALTER value TYPE jsonb USING jsonb_build_array(value)", [1]),
    ("ALTER TABLE exact_changing ALTER value TYPE text USING 'changed'", "changed"),
]


def test_a_changed_table_is_read_as_it_is_now(reader: Reader, servers: Servers) -> None:
    """After a column's type has changed the same query succeeds at once, and reads the new type."""
    changing = Table("exact_changing", MetaData(), Column("value", Text))
    found = []
    for statement, _ in CHANGES:
        servers.execute(statement)
        found.append(reader.rows(select(literal_column("value")).select_from(changing)))
    assert found == [[[value]] for _, value in CHANGES]


def test_a_setting_of_a_query_does_not_stay(reader: Reader) -> None:
    """What a query sets for its session is gone with it, so that no later one can write."""
    reader.rows(select(func.set_config("default_transaction_read_only", "off", False)))
    assert reader.rows(select(func.current_setting("default_transaction_read_only"))) == [["on"]]
    with pytest.raises(QueryFailed):
        reader.rows(text("WITH d AS (DELETE FROM exact_sales RETURNING id) SELECT id FROM d"))


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (select(literal("a", Integer)), "the value 'a' .*is not of that type"),
        (select(literal("today", Date)), "the value 'today' .*is not of that type"),
        (select(Sale.id).where(Sale.mood == "ANGRY"), "the value 'ANGRY' for the column exact_sales.mood"),
        (LARGE, "the value 1099511627776 must"),
        (NARROW, "smallint"),
    ],
    ids=["text", "date", "enum", "integer", "cast"],
)  # fmt: skip
def test_a_value_of_another_type_is_an_error_that_shows_it(reader: Reader, query: Any, says: str) -> None:
    """A value that does not fit is named with its column, and is no sign of a lost connection."""
    with pytest.raises(QueryFailed, match=says) as refused:
        reader.rows(query)
    assert not refused.value.retryable
