"""An example or more of every type in docs/types.md, and reports that read them from real servers."""

from __future__ import annotations

import datetime as dt
import re
import struct
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from beanie import Document
from bson import (
    Binary,
    Code,
    DatetimeMS,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
)
from pydantic import Field
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    MetaData,
    Select,
    SmallInteger,
    Table,
    Uuid,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ENUM

from holdfast.reports import Data, Params, Report, Row

SCHEMA = """
CREATE TYPE sample_mood AS ENUM ('happy', 'sad');
CREATE DOMAIN sample_positive AS integer CHECK (value > 0);
CREATE DOMAIN sample_positives AS integer[];
CREATE TYPE sample_pair AS (a integer, b numeric, c interval);
CREATE TYPE sample_hours AS RANGE (subtype = time);
CREATE TABLE sample_sums (big bigint, small integer, price numeric(20, 2), real4 real);
INSERT INTO sample_sums VALUES (9007199254740992, 1, 2.50, 0.1), (1, 2, 3.50, 0.2);
CREATE TABLE sample_bounds (small smallint, middle integer, big bigint, mood sample_mood, id uuid);
INSERT INTO sample_bounds VALUES (1, 1, 1, 'happy', '0e37df36-f698-11e6-8dd4-cb9ced3df976');
"""
"""What the samples need of the database."""

_SUM = "(SELECT sum({}) FROM sample_sums)"
POSTGRES_SAMPLES: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("9007199254740993::bigint", "9007199254740993"),
        ("(-32768)::smallint", "-32768"),
        ("2147483647::integer", "2147483647"),
        ("4294967295::oid", "4294967295"),
        (_SUM.format("small"), "3"),
    ),
    (
        ("6.00::numeric(20, 2)", "6.00"),
        ("0.0000000000::numeric", "0.0000000000"),
        ("1.1e-30::numeric", "0." + "0" * 29 + "11"),
        ("12345678901234567890.12345::numeric", "12345678901234567890.12345"),
        ("'NaN'::numeric", "null"),
        ("'-Infinity'::numeric", "null"),
        (_SUM.format("price"), "6.00"),
    ),
    (
        (_SUM.format("big"), "9007199254740993"),
        ("1e20::numeric", "100000000000000000000"),
        ("18446744073709551616::numeric", "18446744073709551616"),
        ("ARRAY[(SELECT sum(big) FROM sample_sums)]", "[9007199254740993]"),
    ),
    (
        ("0.1::real", "0.1"),
        ("'3.4e38'::real", "3.4e38"),
        ("ARRAY[0.1, NULL]::real[]", "[0.1,null]"),
        ("'NaN'::real", "null"),
        ("'Infinity'::real", "null"),
    ),
    (("0.1::float8", "0.1"), ("'NaN'::float8", "null"), ("'-Infinity'::float8", "null")),
    (("true", "true"), ("false", "false")),
    (
        ("'a'::text", '"a"'),
        ("'a'::varchar(3)", '"a"'),
        ("'a'::char(3)", '"a  "'),
        ("'pg_class'::name", '"pg_class"'),
        ("'[red]'::text", '"[red]"'),
    ),
    (("'happy'::sample_mood", '"happy"'),),
    (("5::sample_positive", "5"), ("'{1,2}'::sample_positives", "[1,2]")),
    (
        ("'0e37df36-f698-11e6-8dd4-cb9ced3df976'::uuid", '"0e37df36-f698-11e6-8dd4-cb9ced3df976"'),
        ("ARRAY[NULL]::uuid[]", "[null]"),
    ),
    (
        ("'2013-01-31'::date", '"2013-01-31"'),
        ("'0044-03-15 BC'::date", '"0044-03-15 BC"'),
        ("'0001-01-01'::date", '"0001-01-01"'),
        ("'9999-12-31'::date", '"9999-12-31"'),
        ("'10000-01-01'::date", '"10000-01-01"'),
        ("'5874897-12-31'::date", '"5874897-12-31"'),
        ("'infinity'::date", '"infinity"'),
        ("'-infinity'::date", '"-infinity"'),
        ("ARRAY['infinity', '2013-01-31', NULL]::date[]", '["infinity","2013-01-31",null]'),
    ),
    (
        ("'2013-01-31 05:00'::timestamp", '"2013-01-31T05:00:00"'),
        ("'2013-01-31 05:00:00.25'::timestamp", '"2013-01-31T05:00:00.250000"'),
        ("'infinity'::timestamp", '"infinity"'),
        ("'-infinity'::timestamp", '"-infinity"'),
        ("'9999-12-31 23:59:59.999999'::timestamp", '"9999-12-31T23:59:59.999999"'),
        ("'294276-12-31 23:59:59'::timestamp", '"294276-12-31T23:59:59"'),
        ("'4713-01-01 00:00:00 BC'::timestamp", '"4713-01-01T00:00:00 BC"'),
    ),
    (
        ("'2013-01-31 05:00+00'::timestamptz", '"2013-01-31T05:00:00+00:00"'),
        ("'2013-01-31 05:00+02'::timestamptz", '"2013-01-31T03:00:00+00:00"'),
        ("'infinity'::timestamptz", '"infinity"'),
        ("'-infinity'::timestamptz", '"-infinity"'),
        ("'20000-01-01 00:00+00'::timestamptz", '"20000-01-01T00:00:00+00:00"'),
        ("'0044-03-15 12:30:00+00 BC'::timestamptz", '"0044-03-15T12:30:00+00:00 BC"'),
    ),
    (
        ("'05:00'::time", '"05:00:00"'),
        ("'24:00'::time", '"24:00:00"'),
        ("'23:59:59.5'::time", '"23:59:59.500000"'),
        ("ARRAY['24:00']::time[]", '["24:00:00"]'),
    ),
    (("'05:00+02'::timetz", '"05:00:00+02"'), ("'24:00-12:30'::timetz", '"24:00:00-12:30"')),
    (
        ("'1 month 2 days'::interval", '"1 mon 2 days"'),
        ("'30 days'::interval", '"30 days"'),
        ("'-1 year 0.5 seconds'::interval", '"-1 years +00:00:00.5"'),
        ("'infinity'::interval", '"infinity"'),
        ("ARRAY['1 month']::interval[]", '["1 mon"]'),
    ),
    (
        ("""'{"a": [1.5, null]}'::jsonb""", '{"a":[1.5,null]}'),
        ("""'{"a": 12345678901234567890.123}'::jsonb""", '{"a":12345678901234567890.123}'),
        ("'9007199254740993'::json", "9007199254740993"),
        ("'18446744073709551617'::json", "18446744073709551617"),
        ("""'"text"'::jsonb""", '"text"'),
        ("""'"[1]"'::jsonb""", '"[1]"'),
        ("'null'::jsonb", "null"),
        ("jsonb_build_object('n', sum(big)) FROM sample_sums", '{"n":9007199254740993}'),
        ("ARRAY['[1.5]']::jsonb[]", "[[1.5]]"),
    ),
    (
        ("ARRAY[[1, 2], [3, NULL]]", "[[1,2],[3,null]]"),
        ("ARRAY[]::integer[]", "[]"),
        ("ARRAY[1.50, 2]", "[1.50,2]"),
        ("ARRAY[[1.5], [NULL]]::numeric[]", "[[1.5],[null]]"),
        ("'{a,NULL}'::text[]", '["a",null]'),
        ("ARRAY[true]", "[true]"),
        ("'1 2'::int2vector", "[1,2]"),
        ("'{NULL}'::oid[]", "[null]"),
    ),
    (
        ("int4range(1, 5)", '"[1,5)"'),
        ("'{[1,3),[5,7)}'::int4multirange", '"{[1,3),[5,7)}"'),
        ("'empty'::int4range", '"empty"'),
        ("daterange('2020-01-01', 'infinity')", '"[2020-01-01,infinity)"'),
        ("tsrange('2020-01-01', NULL)", '"[\\"2020-01-01 00:00:00\\",)"'),
        ("numrange(0.50, 1, '[]')", '"[0.50,1]"'),
        ("sample_hours('08:00', '24:00')", '"[08:00:00,24:00:00)"'),
        ("ARRAY[int4range(1, 5)]", '["[1,5)"]'),
    ),
    (
        ("'10.0.0.1/8'::inet", '"10.0.0.1/8"'),
        ("'10.0.0.1'::inet", '"10.0.0.1"'),
        ("'10.0.0.0/8'::cidr", '"10.0.0.0/8"'),
        ("'::1'::inet", '"::1"'),
        ("'08:00:2b:01:02:03'::macaddr", '"08:00:2b:01:02:03"'),
        ("'08:00:2b:01:02:03:04:05'::macaddr8", '"08:00:2b:01:02:03:04:05"'),
        ("ARRAY['10.0.0.1/32']::inet[]", '["10.0.0.1"]'),
    ),
    (
        ("'\\x0aff'::bytea", '"\\\\x0aff"'),
        ("''::bytea", '"\\\\x"'),
        ("ARRAY['\\x0a']::bytea[]", '["\\\\x0a"]'),
    ),
    (("'$1.50'::money", '"$1.50"'),),
    (("B'101'", '"101"'), ("B'0'::varbit", '"0"'), ("ARRAY[B'01']", '["01"]')),
    (
        ("'(1,2)'::point", '"(1,2)"'),
        ("'{1,2,3}'::line", '"{1,2,3}"'),
        ("'[(1,2),(3,4)]'::lseg", '"[(1,2),(3,4)]"'),
        ("'(3,4),(1,2)'::box", '"(3,4),(1,2)"'),
        ("'((1,2),(3,4))'::path", '"((1,2),(3,4))"'),
        ("'((1,2),(3,4))'::polygon", '"((1,2),(3,4))"'),
        ("'<(1,2),3>'::circle", '"<(1,2),3>"'),
    ),
    (
        ("to_tsvector('simple', 'rat cat')", "\"'cat':2 'rat':1\""),
        ("'cat & rat'::tsquery", "\"'cat' & 'rat'\""),
        ("'$.a'::jsonpath", '"$.\\"a\\""'),
    ),
    (
        ("'a'::\"char\"", '"a"'),
        ("'pg_class'::regclass", '"pg_class"'),
        ("'0/16B3748'::pg_lsn", '"0/16B3748"'),
        ("'(0,1)'::tid", '"(0,1)"'),
        ("'7'::xid", '"7"'),
        ("'7'::xid8", '"7"'),
        ("'10:20:10,14'::pg_snapshot", '"10:20:10,14"'),
    ),
    (
        ("(1, 2.50, '1 month')::sample_pair", '{"a":1,"b":2.5,"c":"1 mon"}'),
        ("ROW(1, 'a')", '{"f1":1,"f2":"a"}'),
        ("s FROM (SELECT 1 AS n, NULL::date AS d) s", '{"n":1,"d":null}'),
        ("ARRAY[ROW(1, 'infinity'::date)]", '[{"f1":1,"f2":"infinity"}]'),
    ),
    (
        ("ARRAY['happy', NULL]::sample_mood[]", '["happy",null]'),
        ("ARRAY[5]::sample_positive[]", "[5]"),
        ("ARRAY[(1, 2.50, NULL)]::sample_pair[]", '[{"a":1,"b":2.5,"c":null}]'),
        ("ARRAY[sample_hours('08:00', NULL)]", '["[08:00:00,)"]'),
    ),
    (),
    (
        ("pg_sleep(0)", "null"),
        ("NULL", "null"),
        ("NULL::interval", "null"),
        ("NULL::sample_pair", "null"),
        ("NULL::numeric", "null"),
        ("NULL::date", "null"),
    ),
)
"""For each row of POSTGRES_TYPES: expressions, and their JSON. The embedded server has no extensions."""
EXPRESSIONS = [sample for samples in POSTGRES_SAMPLES for sample in samples]

_ID = ObjectId("507f1f77bcf86cd799439011")
_UUID = UUID("0e37df36-f698-11e6-8dd4-cb9ced3df976")
_UTC = dt.UTC
BSON_SAMPLES: tuple[tuple[tuple[Any, str], ...], ...] = (
    ((1, "1"), (Int64(9007199254740993), "9007199254740993"), (Int64(-(2**63)), "-9223372036854775808")),
    ((0.1, "0.1"), (float("nan"), "null"), (float("-inf"), "null")),
    (
        (Decimal128("6.00"), "6.00"),
        (Decimal128("0E-10"), "0.0000000000"),
        (Decimal128("9007199254740993.10"), "9007199254740993.10"),
        (Decimal128("NaN"), "null"),
        (Decimal128("-Infinity"), "null"),
    ),
    (),
    ((True, "true"), (False, "false")),
    (("a", '"a"'),),
    (
        (dt.datetime(2013, 1, 31, 5, tzinfo=_UTC), '"2013-01-31T05:00:00+00:00"'),
        (dt.datetime(2013, 1, 31, 5, 0, 0, 250_000, tzinfo=_UTC), '"2013-01-31T05:00:00.250000+00:00"'),
        (DatetimeMS(253402300800000), '"+010000-01-01T00:00:00+00:00"'),
        (DatetimeMS(253402300799999), '"9999-12-31T23:59:59.999000+00:00"'),
        (DatetimeMS(-62135596800001), '"+000000-12-31T23:59:59.999000+00:00"'),
        (DatetimeMS(-62167219200001), '"-000001-12-31T23:59:59.999000+00:00"'),
    ),
    ((_ID, '"507f1f77bcf86cd799439011"'),),
    ((Binary.from_uuid(_UUID), f'"{_UUID}"'),),
    (
        (b"\x0a\xff", '"Cv8="'),
        (Binary(b"\x0a\xff", 128), '"Cv8="'),
        (Binary(_UUID.bytes, 3), '"DjffNvaYEeaN1Muc7T35dg=="'),
        (b"", '""'),
    ),
    ((Regex("^a", "i"), '"/^a/i"'), (re.compile("b"), '"/b/u"'), (Regex("a/b", "ms"), '"/a/b/ms"')),
    ((Timestamp(1700000000, 2), '"Timestamp(1700000000, 2)"'),),
    ((Code("function() {}"), '"function() {}"'),),
    ((Code("x", {"x": Int64(1)}), '{"$code":"x","$scope":{"x":1}}'),),
    ((DBRef("places", _ID), '{"$ref":"places","$id":"507f1f77bcf86cd799439011"}'),),
    ((MinKey(), '"MinKey"'), (MaxKey(), '"MaxKey"')),
    (([1, [Int64(2)]], "[1,[2]]"), ([Decimal128("1.0"), None], "[1.0,null]"), ([], "[]")),
    (({"a": {"b": Int64(1)}}, '{"a":{"b":1}}'), ({}, "{}"), ({"": _ID}, '{"":"507f1f77bcf86cd799439011"}')),
    ((None, "null"),),
)
"""For each row of BSON_TYPES: values, and the JSON that is served."""
VALUES = [sample for samples in BSON_SAMPLES for sample in samples]


class RawField(NamedTuple):
    """A field in BSON's bytes, of a type that PyMongo reads and never writes."""

    kind: bytes
    data: bytes


RAW_SAMPLES = (
    (RawField(b"\x06", b""), "null"),
    (RawField(b"\x0e", struct.pack("<i", 2) + b"a\x00"), '"a"'),
    (
        RawField(b"\x0c", struct.pack("<i", 7) + b"places\x00" + _ID.binary),
        '{"$ref":"places","$id":"507f1f77bcf86cd799439011"}',
    ),
)
"""undefined, symbol, dbPointer."""


class SampleValue(Document):
    """A document with one value of any type."""

    class Settings:
        """Its collection."""

        name = "sample_values"


class NumberParams(Params):
    """Which sample."""

    n: Annotated[int, Field(ge=0)] = 0


typed_postgres = Report("typed-postgres", params=NumberParams)
typed_postgres_compute = Report("typed-postgres-compute", params=NumberParams)
typed_mongo = Report("typed-mongo", params=NumberParams)
typed_mongo_compute = Report("typed-mongo-compute", params=NumberParams)


@typed_postgres.postgres
@typed_postgres_compute.postgres
def expression(p: NumberParams) -> Select[*tuple[Any, ...]]:
    """The expression of that number."""
    return select(literal_column(f"(SELECT {EXPRESSIONS[p.n][0]})").label("value"))


@typed_mongo.mongo(SampleValue)
@typed_mongo_compute.mongo(SampleValue)
def value(p: NumberParams) -> list[dict[str, Any]]:
    """The value of that number."""
    return [{"$match": {"n": p.n}}, {"$project": {"_id": 0, "value": 1}}]


@typed_postgres_compute.compute
def same_expression(_: NumberParams, data: Data) -> list[Row]:
    """The rows as they came."""
    return data[expression]


@typed_mongo_compute.compute
def same_value(_: NumberParams, data: Data) -> list[Row]:
    """The rows as they came."""
    return data[value]


bounds_table = Table(
    "sample_bounds",
    MetaData(),
    Column("small", SmallInteger),
    Column("middle", Integer),
    Column("big", BigInteger),
    Column("mood", ENUM("happy", "sad", name="sample_mood", create_type=False)),
    Column("id", Uuid),
)


class BoundsParams(Params):
    """Values for columns that hold less than a parameter may."""

    small: int | None = None
    middle: int | None = None
    listed: int | None = None
    doubled: int | None = None
    added: int | None = None
    limit: int | None = None
    mood: str | None = None
    id: str | None = None


bounded = Report("bounded", params=BoundsParams)


@bounded.postgres
def rows_within(p: BoundsParams) -> Select[*tuple[Any, ...]]:
    """The row of the table, by those of the parameters that are given."""
    columns = bounds_table.c
    query = select(columns.small, columns.big)
    conditions: dict[str, Callable[[], ColumnElement[bool]]] = {
        "small": lambda: columns.small == p.small,
        "middle": lambda: columns.middle >= p.middle,
        "listed": lambda: columns.small.in_([1, p.listed]),
        "doubled": lambda: columns.small < (p.doubled or 0) * 2,
        "added": lambda: columns.small + p.added > 0,
        "mood": lambda: columns.mood == p.mood,
        "id": lambda: columns.id == p.id,
    }
    for name, condition in conditions.items():
        if getattr(p, name) is not None:
            query = query.where(condition())
    return query.limit(p.limit) if p.limit is not None else query


grouped = Report("grouped", params=NumberParams)


@grouped.mongo(SampleValue)
def by_kind(p: NumberParams) -> list[dict[str, Any]]:
    """How many values there are of each kind; by $project the kind gets a name of its own."""
    group = {"$group": {"_id": "$kind", "n": {"$sum": 1}}}
    rename = {"$project": {"_id": 0, "kind": "$_id", "n": 1}}
    of_kinds = {"$match": {"kind": {"$exists": True}}}
    return [of_kinds, group, {"$sort": {"_id": 1}}, *([rename] if p.n else [])]


ages = Report("ages")


@ages.mongo(SampleValue)
def age(_: Params) -> list[dict[str, Any]]:
    """The difference of two dates, a sum of long numbers, and a field that one of them lacks."""
    return [
        {"$match": {"kind": {"$exists": True}}},
        {"$sort": {"n": 1}},
        {
            "$project": {
                "_id": 0,
                "age": {"$subtract": ["$to", "$from"]},
                "sum": {"$add": ["$big", 1]},
                "only": 1,
            }
        },
    ]
