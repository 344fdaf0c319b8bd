"""What is served is what the database says: every type of docs/types.md, on the real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from tests.support.servers import Servers
from tests.support.stack import Stack
from tests.support.type_samples import EXPRESSIONS, RAW_SAMPLES, SCHEMA, VALUES, RawField

from holdfast.embedded import Mongo, Postgres, Valkey

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
        yield stack


async def _insert_samples(database: Any) -> None:
    collection = database["sample_values"]
    await collection.delete_many({})
    fields = [bson.encode({"n": n, "value": value}) for n, (value, _) in enumerate(VALUES)]
    fields += [_raw(n, field) for n, (field, _) in enumerate(RAW_SAMPLES, len(VALUES))]
    await collection.insert_many([RawBSONDocument(field) for field in fields])


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


@pytest.mark.parametrize("report", ["typed-mongo", "typed-mongo-compute"])
@pytest.mark.parametrize(
    ("n", "json"),
    list(enumerate(json for _, json in (*VALUES, *RAW_SAMPLES))),
    ids=[f"{value!r}"[:40] for value, _ in (*VALUES, *RAW_SAMPLES)],
)
def test_a_value_of_mongodb_is_served_as_documented(typed: Stack, report: str, n: int, json: str) -> None:
    """A value of any BSON type is served in its documented form, through a function or not."""
    assert served(typed, report, n=n) == f'[{{"value":{json}}}]'
