"""Named queries and the states of the warm variants, on links in memory."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from beanie import Document
from bson import Decimal128, Int64, ObjectId
from sqlalchemy import Select, TextClause, literal, select, union_all
from sqlalchemy import text as sql_text
from sqlalchemy.sql.selectable import CompoundSelect
from tests.support.clock import run_leaping
from tests.support.memory import MemoryAdapter, link_to

from holdfast.cache.entry import Header, Times
from holdfast.errors import (
    HoldfastError,
    InvalidParams,
    LinkDown,
    LinkLost,
    QueryFailed,
    StoreUnavailable,
    UnknownQuery,
)
from holdfast.reports import Data, Params, Registry, Report
from holdfast.reports.canonical import Scalar
from holdfast.supervisor import queries as module
from holdfast.supervisor.building import Statement
from holdfast.supervisor.queries import Queries, QueryResult
from holdfast.supervisor.warming import report_states


class MonthParams(Params):
    """One parameter."""

    month: int = 1


class Weather(Document):
    """A document."""


def nothing(p: Params, data: Data) -> list[Any]:
    """No rows."""
    return []


def anything(p: Params) -> None:
    """No query: it is never run."""


def report_of_both() -> Report:
    """A report with a query of each kind, and with functions that build no query."""
    report = Report("both", params=MonthParams)

    @report.postgres
    def rows(p: MonthParams) -> Select[Any]:
        return select(literal(p.month))

    @report.postgres
    def raw(p: MonthParams) -> TextClause:
        return sql_text("SELECT :month").bindparams(month=p.month)

    @report.postgres
    def united(p: MonthParams) -> CompoundSelect[Any]:
        return union_all(select(literal(p.month)), select(literal(2)))

    @report.mongo(Weather)
    def documents(p: MonthParams) -> list[dict[str, Any]]:
        return [{"$match": {"month": p.month}}]

    @report.postgres
    def text(p: MonthParams) -> Any:
        return "SELECT 1"

    @report.mongo(Weather)
    def stage(p: MonthParams) -> Any:
        return {"$match": {}}

    report.compute(nothing)
    return report


class MemoryPostgres(MemoryAdapter):
    """Answers every query with the same rows."""

    name = "postgres"

    def __init__(self) -> None:
        super().__init__()
        self.columns = ["n"]
        self.rows: list[list[Any]] = [[1]]

    async def select(self, query: Statement) -> tuple[list[str], list[list[Any]]]:
        """Column names and rows."""
        await self.called(str(query.compile(compile_kwargs={"literal_binds": True})))
        return self.columns, self.rows


class MemoryMongo(MemoryAdapter):
    """Answers every pipeline with the same documents."""

    name = "mongo"

    def __init__(self) -> None:
        super().__init__()
        self.documents: list[dict[str, Any]] = []

    async def aggregate(
        self, document: type[Document], pipeline: Sequence[dict[str, Any]], *, seconds: float
    ) -> list[dict[str, Any]]:
        """Result documents."""
        await self.called(f"{document.__name__} {pipeline} {seconds}")
        return self.documents


class World:
    """Queries between a Postgres and a MongoDB in memory."""

    def __init__(self, *, up: bool = True) -> None:
        self.postgres, self.mongo = MemoryPostgres(), MemoryMongo()
        self.observed: list[tuple[str, float]] = []
        self.queries = Queries(
            Registry([report_of_both()]),
            link_to(self.postgres, up=up),
            link_to(self.mongo, up=up),
            mongo_seconds=12.5,
            observe=lambda name, seconds: self.observed.append((name, seconds)),
        )

    def run(self, name: str, params: Mapping[str, Scalar] | None = None) -> QueryResult:
        """The result of a query."""
        return run_leaping(self.queries.run(name, params or {}))


def test_a_query_on_postgres_is_built_from_its_parameters() -> None:
    """What runs is the statement that the report's function built from typed parameters."""
    world = World()
    assert world.run("both.rows", {"month": 7}) == {"columns": ["n"], "rows": [[1]]}
    assert world.postgres.calls == ["SELECT 7 AS anon_1"]
    assert world.mongo.calls == []


@pytest.mark.parametrize(
    ("name", "sent"), [("both.raw", "SELECT 7"), ("both.united", "SELECT 7 AS anon_1 UNION ALL SELECT 2 AS")]
)
def test_a_query_may_be_sql_text_or_a_union(name: str, sent: str) -> None:
    """SQL as `text(...)` and a union of selects run like a select, with the parameters in their places."""
    world = World()
    assert world.run(name, {"month": 7}) == {"columns": ["n"], "rows": [[1]]}
    (call,) = world.postgres.calls
    assert call.replace("\n", "").startswith(sent)


def test_documents_become_rows_of_the_same_columns() -> None:
    """Columns are in the order in which they first appear, and what a document lacks is None."""
    world = World()
    world.mongo.documents = [{"b": 1, "a": 2}, {"c": 3, "a": 4}]
    assert world.run("both.documents", {"month": 7}) == {
        "columns": ["b", "a", "c"],
        "rows": [[1, 2, None], [None, 4, 3]],
    }
    assert world.mongo.calls == ["Weather [{'$match': {'month': 7}}] 12.5"]
    assert world.postgres.calls == []


@pytest.mark.parametrize(
    ("name", "params", "raised", "said"),
    [
        ("both.nothing", {}, UnknownQuery, "'both.nothing'"),
        ("both.rows", {"month": "x"}, InvalidParams, "month"),
        ("both.text", {}, QueryFailed, r"^query both\.text: it must return a SQLAlchemy Select,.*'SELECT 1'"),
        ("both.stage", {}, QueryFailed, r"^query both\.stage: it must return a list of stages;.* mapping"),
    ],
)
def test_what_is_no_query_is_refused(
    name: str, params: dict[str, Scalar], raised: type[HoldfastError], said: str
) -> None:
    """An unknown name, a wrong parameter and a function that builds no query never reach a database."""
    world = World()
    with pytest.raises(raised, match=said):
        world.run(name, params)
    assert world.postgres.calls == world.mongo.calls == []


@pytest.mark.parametrize("name", ["both.rows", "both.documents"])
def test_a_link_that_is_down_fails_at_once(name: str) -> None:
    """Nothing waits for a database that is down."""
    world = World(up=False)
    with pytest.raises(LinkDown):
        world.run(name)
    assert world.postgres.calls == world.mongo.calls == []


@pytest.mark.parametrize(("rows", "fits"), [(3, True), (4, False)])
def test_a_result_has_a_bounded_number_of_rows(
    rows: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row too many is an error that says how many there were."""
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    world = World()
    world.postgres.rows = [[n] for n in range(rows)]
    if fits:
        assert len(world.run("both.rows")["rows"]) == rows
    else:
        with pytest.raises(QueryFailed, match=r"^query both\.rows: it gave 4 rows; 3 is the most$"):
            world.run("both.rows")


def test_half_a_million_rows_are_the_most() -> None:
    """The documented bound."""
    assert module.MAX_ROWS == 500_000


@pytest.mark.parametrize("fails", [False, True])
def test_the_time_of_every_query_is_observed(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics see a query's seconds whether it succeeded or not."""
    ticks = iter([10.0, 12.5])
    world = World()
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    if fails:
        world.postgres.failure = LinkLost("broke")
        with pytest.raises(LinkLost):
            world.run("both.rows")
    else:
        world.run("both.rows")
    assert world.observed == [("both.rows", 2.5)]


VALUES: list[tuple[object, object]] = [
    (None, None),
    (True, True),
    (7, 7),
    (Int64(2**53 + 1), 2**53 + 1),
    (0.5, 0.5),
    ("text", "text"),
    (Decimal("1.50"), Decimal("1.50")),
    (Decimal128("1.50"), Decimal("1.50")),
    (dt.date(2013, 7, 4), "2013-07-04"),
    (dt.time(5, 6), "05:06:00"),
    (dt.datetime(2013, 7, 4, 5, 6, tzinfo=dt.UTC), "2013-07-04T05:06:00+00:00"),
    ({"1": Decimal(2), "a": [dt.date(2013, 7, 4)]}, {"1": Decimal(2), "a": ["2013-07-04"]}),
    ((1, Decimal128("2.0")), [1, Decimal("2.0")]),
    (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (ObjectId("5f5e100000000000000000ab"), "5f5e100000000000000000ab"),
    (b"bytes", "Ynl0ZXM="),
    ([b"bytes"], ["Ynl0ZXM="]),
]


@pytest.mark.parametrize(("value", "sent"), VALUES)
def test_a_databases_value_has_one_form(value: object, sent: object) -> None:
    """Numbers stay numbers with every digit, times are ISO 8601 text, identifiers and bytes are text."""
    world = World()
    world.mongo.documents = [{"value": value}]
    ((found,),) = world.run("both.documents")["rows"]
    # By the text too: Decimal("1.50") equals Decimal("1.5"), and True equals 1.
    assert (found, type(found), repr(found)) == (sent, type(sent), repr(sent))


def test_what_postgres_gives_is_not_touched() -> None:
    """The adapter has read every column exactly: its rows go on as they are."""
    world = World()
    world.postgres.rows = rows = [[Decimal("1.50"), 2**70, {"a": [None]}]]
    assert world.run("both.rows")["rows"] is rows


@pytest.mark.parametrize("value", [{1, 2}, object(), dt.timedelta(1), [object()], {"a": {1, 2}}])
def test_a_value_without_a_form_is_an_error(value: object) -> None:
    """What JSON cannot carry is refused with its query and type, and is never sent as something else."""
    world = World()
    world.mongo.documents = [{"value": 1}, {"value": value}]
    with pytest.raises(QueryFailed) as caught:
        world.run("both.documents")
    assert re.match(
        r"query both\.documents: a value of type \w+ cannot be sent: cast it in the query$", str(caught.value)
    )


# The warm variants

NOW = 1_700_000_000.0


class HeadersInMemory:
    """The headers of entries, in order; its clock is not this machine's."""

    def __init__(self, headers: list[Header | None] | None) -> None:
        self.headers_in_order = headers
        self.keys: list[str] = []

    async def now(self) -> float:
        """The clock of the entries."""
        return NOW

    async def headers(self, keys: Sequence[str]) -> list[Header | None]:
        """The header of each entry."""
        self.keys += keys
        if self.headers_in_order is None:
            raise StoreUnavailable
        return self.headers_in_order


def header(times: Times | None) -> Header | None:
    """The header of an entry with those times, of whatever version."""
    return None if times is None else Header(times, 7, "")


def warm_registry(*months: int | None) -> Registry:
    """A registry of a report with warm variants for those months."""
    report = Report("r", params=MonthParams, warm=[{"month": month} if month else {} for month in months])
    report.postgres(anything)
    return Registry([report])


@pytest.mark.parametrize(
    ("times", "state", "age"),
    [
        (None, "missing", None),
        (Times(NOW - 12.34, NOW + 0.1, NOW + 100), "fresh", 12.3),
        (Times(NOW - 60, NOW, NOW + 100), "stale", 60.0),
        (Times(NOW - 60, NOW - 10, NOW + 0.1), "stale", 60.0),
        (Times(NOW - 60, NOW - 10, NOW), "missing", None),
    ],
)
def test_a_warm_variant_has_a_state_and_an_age(times: Times | None, state: str, age: float | None) -> None:
    """Fresh, stale or missing to the moment of the cache's clock, with the seconds since it was computed."""
    found = run_leaping(report_states(warm_registry(7), HeadersInMemory([header(times)])))
    assert found == [{"report": "r", "params": {"month": 7}, "age_s": age, "state": state}]


def test_each_variant_has_its_own_header() -> None:
    """The states are in the order of the variants, each by its own key."""
    store = HeadersInMemory([None, header(Times(0.0, 9e9, 9e9))])
    found = run_leaping(report_states(warm_registry(2, 3), store))
    assert store.keys == [f"gwcache:/api/v1/analytics/r?month={month}" for month in (2, 3)]
    assert [(row["params"], row["state"]) for row in found] == [
        ({"month": 2}, "missing"),
        ({"month": 3}, "fresh"),
    ]


def test_without_redis_every_state_is_unknown() -> None:
    """What cannot be read is said to be unknown, and not missing."""
    found = run_leaping(report_states(warm_registry(2, 3), HeadersInMemory(None)))
    assert found == [
        {"report": "r", "params": {"month": month}, "age_s": None, "state": "unknown"} for month in (2, 3)
    ]
