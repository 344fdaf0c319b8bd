"""What is served is what the database says: every type of docs/types.md, on the real servers."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from tests.support.http import problem
from tests.support.servers import Servers
from tests.support.stack import Stack
from tests.support.type_samples import (
    EXPRESSIONS,
    POSTGRES_SAMPLES,
    RAW_SAMPLES,
    SCHEMA,
    VALUES,
    RawField,
)

from holdfast.embedded import Mongo, Postgres, Valkey
from holdfast.errors import QueryFailed
from holdfast.links.postgres_types import POSTGRES_TYPES

PATH = "/api/v1/analytics"


@pytest.fixture(scope="module")
def typed(postgres: Postgres, mongo: Mongo, valkey: Valkey) -> Iterator[Stack]:
    """A supervisor on databases that hold the samples."""
    servers = Servers(postgres, mongo, valkey, database="sample_types")
    servers.create_database()
    servers.execute(SCHEMA)
    servers.on_mongo(_insert_samples)
    with Stack(servers=servers, REPORTS="tests.support.type_samples") as stack:
        stack.supervisor()
        stack.gateway("open", GW_AUTH="off", until="readyz")
        yield stack


async def _insert_samples(database: Any) -> None:
    collection = database["sample_values"]
    await collection.delete_many({})
    fields = [bson.encode({"n": n, "value": value}) for n, (value, _) in enumerate(VALUES)]
    fields += [_raw(n, field) for n, (field, _) in enumerate(RAW_SAMPLES, len(VALUES))]
    await collection.insert_many([RawBSONDocument(field) for field in fields])
    start = dt.datetime(2013, 1, 1)
    for n, kind in enumerate(["a", "a", "b"], 1000):
        document = {"n": n, "kind": kind, "from": start, "to": start + dt.timedelta(days=100), "big": 2**53}
        await collection.insert_one({**document, "only": 1} if kind == "b" else document)


def _raw(n: int, field: RawField) -> bytes:
    body = bson.encode({"n": n})[4:-1] + field.kind + b"value\x00" + field.data + b"\x00"
    return (len(body) + 4).to_bytes(4, "little") + body


def served(stack: Stack, report: str, **params: int) -> str:
    """The rows of a report, as the text that is served."""
    url = "&".join(f"{name}={value}" for name, value in params.items() if value)
    key = f"gwcache:{PATH}/{report}" + (f"?{url}" if url else "")
    entry = stack.run(stack.client.compute(key, report, params, "miss", deadline=20))
    body = entry.body.decode()
    return body[body.index('"rows":') + len('"rows":') : -1]


@pytest.mark.parametrize("report", ["typed-postgres", "typed-postgres-compute"])
@pytest.mark.parametrize("n", range(len(EXPRESSIONS)), ids=lambda n: EXPRESSIONS[n][0])
def test_a_value_of_postgres_is_served_as_documented(typed: Stack, report: str, n: int) -> None:
    """A value of any PostgreSQL type is served in its documented form, through a function or not."""
    assert served(typed, report, n=n) == f'[{{"value":{EXPRESSIONS[n][1]}}}]'


WRITTEN = [
    expression
    for row, samples in zip(POSTGRES_TYPES, POSTGRES_SAMPLES, strict=True)
    for expression, _ in samples
    if row.json.startswith("text, as PostgreSQL writes it") and not expression.startswith("ARRAY")
]


@pytest.mark.parametrize("expression", WRITTEN)
def test_text_is_what_postgres_itself_writes(typed: Stack, expression: str) -> None:
    """Where the table says that PostgreSQL writes a value, the text is that of its own output function."""
    n = [sample for sample, _ in EXPRESSIONS].index(expression)
    (row,) = json.loads(served(typed, "typed-postgres", n=n))
    assert row["value"] == typed.servers.scalar(f"SELECT format('%s', ({expression}))")


DATES = [
    expression
    for row, samples in zip(POSTGRES_TYPES, POSTGRES_SAMPLES, strict=True)
    for expression, _ in samples
    if row.types in {"`date`", "`timestamp`", "`timestamp with time zone`"} and "." not in expression
]


@pytest.mark.parametrize("expression", DATES)
def test_a_date_is_what_postgres_writes_in_json(typed: Stack, expression: str) -> None:
    """A date or a time without a fraction is the ISO 8601 text of PostgreSQL's to_json, at every age."""
    n = [sample for sample, _ in EXPRESSIONS].index(expression)
    zone = "set_config('TimeZone', 'UTC', false)"
    written = f"SELECT to_json(({expression}))::text FROM {zone}"  # noqa: S608 - a sample
    (row,) = json.loads(served(typed, "typed-postgres", n=n))
    assert row["value"] == json.loads(typed.servers.scalar(written))


@pytest.mark.parametrize("report", ["typed-mongo", "typed-mongo-compute"])
@pytest.mark.parametrize(
    ("n", "form"),
    list(enumerate(form for _, form in (*VALUES, *RAW_SAMPLES))),
    ids=[f"{value!r}"[:40] for value, _ in (*VALUES, *RAW_SAMPLES)],
)
def test_a_value_of_mongodb_is_served_as_documented(typed: Stack, report: str, n: int, form: str) -> None:
    """A value of any BSON type is served in its documented form, through a function or not."""
    assert served(typed, report, n=n) == f'[{{"value":{form}}}]'


@pytest.mark.parametrize(
    ("n", "rows"),
    [(0, '[{"_id":"a","n":2},{"_id":"b","n":1}]'), (1, '[{"n":2,"kind":"a"},{"n":1,"kind":"b"}]')],
    ids=["as-it-is", "renamed"],
)
def test_the_id_of_a_group_is_a_column(typed: Stack, n: int, rows: str) -> None:
    """What a pipeline groups by is the column `_id`, and $project gives it a name of the author's."""
    assert served(typed, "grouped", n=n) == rows


def test_numbers_that_mongodb_calculates_are_numbers(typed: Stack) -> None:
    """The difference of dates is milliseconds, a sum of longs is exact, and a missing field is null."""
    sums = '"age":8640000000,"sum":9007199254740993'
    assert served(typed, "ages") == f'[{{{sums},"only":null}},{{{sums},"only":null}},{{{sums},"only":1}}]'


# A parameter that does not fit its column.


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("small", 70_000, "must be between -32768 and 32767"),
        ("small", -32_769, "must be between -32768 and 32767"),
        ("listed", 70_000, "must be between -32768 and 32767"),
        ("added", 70_000, "must be between -32768 and 32767"),
        ("middle", 2**31, "must be between -2147483648 and 2147483647"),
        ("limit", 2**40, "must be between -2147483648 and 2147483647"),
        ("mood", "angry", "must be one of happy, sad"),
        ("id", "abc", "is not of that type"),
    ],
)
def test_a_parameter_beyond_its_column_is_refused_by_name(
    typed: Stack, name: str, value: Any, reason: str
) -> None:
    """A value that its column cannot hold is 422 with the parameter's name, without the table's."""
    answer = typed.gateways["open"].get(f"bounded?{name}={value}")
    (wrong,) = problem(answer, 422)["errors"]
    assert wrong["name"] == name
    assert reason in wrong["reason"]
    assert "sample_bounds" not in answer.text


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [
        ("small", 1, 1),
        ("small", 32_767, 0),
        ("middle", 2**31 - 1, 0),
        ("listed", 1, 1),
        ("limit", 5, 1),
        ("mood", "happy", 1),
        ("id", "0e37df36-f698-11e6-8dd4-cb9ced3df976", 1),
    ],
)
def test_a_parameter_within_its_column_is_a_value(typed: Stack, name: str, value: Any, count: int) -> None:
    """A value that its column can hold is looked for."""
    assert len(typed.gateways["open"].get(f"bounded?{name}={value}").json()["rows"]) == count


def test_a_calculated_value_beyond_its_column_is_named_with_it(typed: Stack) -> None:
    """Where a query has calculated the value, the error names the value and the column."""
    with pytest.raises(QueryFailed, match=r"the value 140000 for the column sample_bounds\.small must be"):
        typed.run(typed.client.query("bounded.rows_within", {"doubled": 70_000}))
