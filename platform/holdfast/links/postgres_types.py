"""How a column of each PostgreSQL type is read, so that what is served is what the database says.

Numbers, booleans, text, JSON and arrays of these come as they are. Dates and times come as PostgreSQL's
counts of days and microseconds, because Python's dates end at the years 1 and 9999 and know no infinity.
Every other type is cast to text by PostgreSQL itself, in a SELECT around the query.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import asyncpg

from holdfast.reports.values import calendar_date, carried, clock_text

_EPOCH_DAY = dt.date(2000, 1, 1).toordinal() - 1
"""Days from 0001-01-01 to PostgreSQL's epoch."""
_DAY = 86_400_000_000
_EPOCH = dt.datetime(2000, 1, 1)
_EPOCH_UTC = _EPOCH.replace(tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_DATE_ENDS = {2**31 - 1: "infinity", -(2**31): "-infinity"}
_TIME_ENDS = {2**63 - 1: "infinity", -(2**63): "-infinity"}
_ONE = Decimal(1)

Column = list[Any]
Convert = Callable[[Column], Column]


class TypeForm(NamedTuple):
    """How a type is read: what PostgreSQL makes of the column first, and what its values become here."""

    sql: str = "{}"
    convert: Convert | None = None


class TypeRow(NamedTuple):
    """A row of the table in docs/types.md."""

    types: str
    json: str
    example: str


_WRITTEN = "text, as PostgreSQL writes it"
POSTGRES_TYPES: tuple[TypeRow, ...] = (
    TypeRow("`smallint`, `integer`, `bigint`, `oid`", "number", "`9007199254740993`"),
    TypeRow("`numeric`", "number with all its digits; NaN and infinity are null", "`6.00`"),
    TypeRow("`sum` of `bigint`, any `numeric` column without digits after the point", "number", "`6`"),
    TypeRow("`real`", "number, its shortest digits; NaN and infinity are null", "`0.1`"),
    TypeRow("`double precision`", "number; NaN and infinity are null", "`0.1`"),
    TypeRow("`boolean`", "true or false", "`true`"),
    TypeRow("`text`, `varchar`, `char`, `name`, `citext`", "text", '`"a"`'),
    TypeRow("an enum", "text", '`"happy"`'),
    TypeRow("a domain", "as the type under it", "`5`"),
    TypeRow("`uuid`", "text", '`"0e37df36-f698-11e6-8dd4-cb9ced3df976"`'),
    TypeRow("`date`", "text, ISO 8601, `infinity` or `-infinity`", '`"2013-01-31"`, `"0044-03-15 BC"`'),
    TypeRow("`timestamp`", "text, ISO 8601, `infinity` or `-infinity`", '`"2013-01-31T05:00:00"`'),
    TypeRow(
        "`timestamp with time zone`",
        "text, ISO 8601 in UTC, `infinity` or `-infinity`",
        '`"2013-01-31T05:00:00+00:00"`',
    ),
    TypeRow("`time`", "text, ISO 8601", '`"24:00:00"`'),
    TypeRow("`time with time zone`", _WRITTEN, '`"05:00:00+02"`'),
    TypeRow("`interval`", _WRITTEN, '`"1 mon 2 days"`'),
    TypeRow("`json`, `jsonb`", "that JSON; numbers keep their value in all digits", '`{"a": [1.5, null]}`'),
    TypeRow("an array", "array of these forms", "`[[1, 2], [3, null]]`"),
    TypeRow("a range, a multirange", _WRITTEN, '`"[1,5)"`, `"{[1,3),[5,7)}"`'),
    TypeRow("`inet`, `cidr`, `macaddr`, `macaddr8`", _WRITTEN, '`"10.0.0.1/8"`'),
    TypeRow("`bytea`", "text, as PostgreSQL writes it (`bytea_output`)", '`"\\x0aff"`'),
    TypeRow("`money`", "text, as PostgreSQL writes it (`lc_monetary`)", '`"$1.50"`'),
    TypeRow("`bit`, `bit varying`", "text of 0 and 1", '`"101"`'),
    TypeRow("`point`, `line`, `lseg`, `box`, `path`, `polygon`, `circle`", _WRITTEN, '`"(1,2)"`'),
    TypeRow("`tsvector`, `tsquery`, `jsonpath`, `xml`", _WRITTEN, "`\"'cat' 'rat'\"`"),
    TypeRow('`"char"`, `regclass`, `pg_lsn`, `tid`, `xid`, `xid8`, `pg_snapshot`', _WRITTEN, '`"0/16B3748"`'),
    TypeRow("a composite type, a row, a record", "object, as `to_json` writes it", '`{"a": 1, "b": 2.5}`'),
    TypeRow("an array of a type of your own", "array, as `to_json` writes it", '`["happy", "sad"]`'),
    TypeRow("`hstore`, `ltree` and other types of extensions", _WRITTEN, '`"Top.Science"`'),
    TypeRow("`void`, NULL of every type", "null", "`null`"),
)
"""What docs/types.md says, row by row; a test has an example of each on a real server."""


async def set_codecs(connection: asyncpg.Connection) -> None:
    """Have a connection read and write dates and timestamps without a limit; costs no round trip."""
    for name, encode, decode in (
        ("date", _days_of, _date),
        ("timestamp", _microseconds_of, _timestamp),
        ("timestamptz", _microseconds_utc_of, _timestamptz),
    ):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=encode, decoder=decode, format="tuple"
        )
    await connection.set_type_codec(
        "time", schema="pg_catalog", encoder=_microseconds_of_day, decoder=_time, format="tuple"
    )


def _days_of(value: dt.date) -> tuple[int]:
    return (value.toordinal() - 1 - _EPOCH_DAY,)


def _date(raw: tuple[int]) -> dt.date | str:
    days = raw[0] + _EPOCH_DAY
    if 0 <= days < dt.date.max.toordinal():
        return dt.date.fromordinal(days + 1)
    return _DATE_ENDS.get(raw[0]) or _outside(days)


def _outside(days: int, time: str = "") -> str:
    """A date beyond Python's, as PostgreSQL writes it in JSON: with as many digits as it needs, or BC."""
    year, month, day = calendar_date(days)
    text = f"{year if year > 0 else 1 - year:04d}-{month:02d}-{day:02d}{time}"
    return text if year > 0 else f"{text} BC"


def _microseconds_of(value: dt.datetime) -> tuple[int]:
    return ((value - _EPOCH) // _MICROSECOND,)


def _microseconds_utc_of(value: dt.datetime) -> tuple[int]:
    # One without a zone is of this machine's zone, as for asyncpg itself.
    return ((value.astimezone(dt.UTC) - _EPOCH_UTC) // _MICROSECOND,)


def _timestamp(raw: tuple[int]) -> dt.datetime | str:
    return _moment(raw[0], _EPOCH, "")


def _timestamptz(raw: tuple[int]) -> dt.datetime | str:
    return _moment(raw[0], _EPOCH_UTC, "+00:00")


def _moment(count: int, epoch: dt.datetime, zone: str) -> dt.datetime | str:
    try:
        return epoch + dt.timedelta(microseconds=count)
    except OverflowError:
        days, rest = divmod(count, _DAY)
        return _TIME_ENDS.get(count) or _outside(days + _EPOCH_DAY, f"T{clock_text(rest)}{zone}")


def _microseconds_of_day(value: dt.time) -> tuple[int]:
    return ((dt.datetime.combine(_EPOCH, value.replace(tzinfo=None)) - _EPOCH) // _MICROSECOND,)


def _time(raw: tuple[int]) -> dt.time | str:
    if raw[0] == _DAY:
        return "24:00:00"
    return (_EPOCH + dt.timedelta(microseconds=raw[0])).time()


def _iso(value: Any) -> Any:
    return value if value is None or type(value) is str else value.isoformat()


def _text(value: Any) -> Any:
    return None if value is None else str(value)


def numbers(values: Column) -> Column:
    """A column of numeric: int where no value has a digit after the point, else Decimal."""
    if all(value is None or value.same_quantum(_ONE) or _is_whole(value) for value in values):
        return [None if value is None else int(value) for value in values]
    return values


def _is_whole(value: Decimal) -> bool:
    # PostgreSQL has no exponents: 1E+20 is asyncpg's form of 100000000000000000000.
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= 0


def each(convert: Callable[[Any], Any]) -> Convert:
    """For a whole column, what converts one value."""
    return lambda values: [convert(value) for value in values]


def nested(convert: Convert) -> Convert:
    """For a column of arrays, what converts a column of their elements."""

    def inner(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if any(isinstance(item, list) for item in value):
            return [inner(item) for item in value]
        return convert(value)

    return each(inner)


_AS_IT_IS = TypeForm()
_AS_TEXT = TypeForm("{}::text")
_AS_JSON = TypeForm("to_json({})")
_SCALARS: dict[str, TypeForm] = {
    **dict.fromkeys(("bool", "int2", "int4", "int8", "oid", "float8", "void", "unknown"), _AS_IT_IS),
    **dict.fromkeys(("text", "varchar", "bpchar", "name", "json", "jsonb"), _AS_IT_IS),
    **dict.fromkeys(("date", "time", "timestamp", "timestamptz"), TypeForm(convert=each(_iso))),
    "numeric": TypeForm(convert=numbers),
    "uuid": TypeForm(convert=each(_text)),
    # By the text, which has the shortest digits: 0.1 as a float4 is 0.10000000149 as a float8.
    "float4": TypeForm("{}::text::float8"),
    # PostgreSQL's cast of it to text is another text than it writes.
    "inet": _AS_JSON,
    "record": _AS_JSON,
}
_ARRAYS: dict[str, TypeForm] = {
    **dict.fromkeys(("int2vector", "oidvector"), _AS_JSON),
    "float4": TypeForm("{}::text[]::float8[]"),
    "inet": _AS_JSON,
    "record": _AS_JSON,
}


def form_of(kind: asyncpg.Type) -> TypeForm:
    """How a column of that type is read."""
    ours = kind.schema != "pg_catalog"
    if kind.kind == "array":
        return _AS_JSON if ours else _array_form(kind.name.removesuffix("[]"))
    if kind.kind == "composite":
        return _AS_JSON
    return _AS_TEXT if ours else _SCALARS.get(kind.name, _AS_TEXT)


def _array_form(element: str) -> TypeForm:
    if element in _ARRAYS:
        return _ARRAYS[element]
    form = _SCALARS.get(element)
    if form is None:
        return TypeForm("{}::text[]")
    return form if form.convert is None else TypeForm(convert=nested(form.convert))


def converted(process: Callable[[Any], Any] | None) -> TypeForm:
    """The form of a column whose SQLAlchemy type converts in Python (a `TypeDecorator`)."""
    return TypeForm(convert=each(lambda value: carried(process(value) if process else value)))
