"""How a value of each BSON type is carried, so that what is served is what the database says.

Numbers keep their digits, and what JSON has no type for is text. MongoDB gives no types ahead of the values,
so a column is looked at by the types that are in it.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from bson import (
    Binary,
    Code,
    CodecOptions,
    DatetimeMS,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
    UuidRepresentation,
)
from bson.codec_options import DatetimeConversion

from holdfast.reports.values import PLAIN, calendar_date, carried, clock_text

CODEC_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    # A date beyond the years 1 to 9999 is a count of milliseconds, not an error.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    uuid_representation=UuidRepresentation.STANDARD,
)
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal() - 1
_DAY_MS = 86_400_000
_FLAGS = {
    "i": re.IGNORECASE,
    "l": re.LOCALE,
    "m": re.MULTILINE,
    "s": re.DOTALL,
    "u": re.UNICODE,
    "x": re.VERBOSE,
}

BSON_TYPES: tuple[tuple[str, str, str], ...] = (
    ("int, long", "number", "`9007199254740993`"),
    ("double", "number; NaN and infinity are null", "`0.1`"),
    ("decimal", "number with all its digits; NaN and infinity are null", "`6.00`"),
    ("the difference of two dates", "number of milliseconds", "`86400000`"),
    ("bool", "true or false", "`true`"),
    ("string, symbol", "text", '`"a"`'),
    ("date", "text, ISO 8601 in UTC", '`"2013-01-31T05:00:00+00:00"`, `"+010000-01-01T00:00:00+00:00"`'),
    ("objectId", "text", '`"507f1f77bcf86cd799439011"`'),
    ("UUID (binData 4)", "text", '`"0e37df36-f698-11e6-8dd4-cb9ced3df976"`'),
    ("binData of another kind", "text, base64", '`"Cv8="`'),
    ("regex", "text", '`"/^a/i"`'),
    ("timestamp", "text", '`"Timestamp(1700000000, 2)"`'),
    ("javascript", "text", '`"function() {}"`'),
    ("javascriptWithScope", "object", '`{"$code": "x", "$scope": {"x": 1}}`'),
    ("dbPointer, DBRef", "object", '`{"$ref": "places", "$id": "507f1f77bcf86cd799439011"}`'),
    ("minKey, maxKey", "text", '`"MinKey"`, `"MaxKey"`'),
    ("array", "array of these forms", "`[1, [2]]`"),
    ("object", "object of these forms", '`{"a": {"b": 1}}`'),
    ("null, undefined, a field that is not there", "null", "`null`"),
)
"""What docs/types.md says, row by row; a test has an example of each on a real server."""


def carried_column(values: list[Any]) -> list[Any]:
    """A column of BSON values, as they are carried.

    Raises:
        QueryFailed: a value has no such form.
    """
    if set(map(type, values)) <= PLAIN:
        return values
    return [value if type(value) in PLAIN else bson_value(value) for value in values]


def bson_value(value: Any) -> Any:
    """A BSON value, as it is carried: `BSON_TYPES` says how."""
    convert = _BY_TYPE.get(type(value))
    return carried(value) if convert is None else convert(value)


def _object(value: dict[str, Any]) -> dict[str, Any]:
    return {str(name): item if type(item) in PLAIN else bson_value(item) for name, item in value.items()}


def _array(value: Sequence[Any]) -> list[Any]:
    return [item if type(item) in PLAIN else bson_value(item) for item in value]


def _decimal(value: Decimal128) -> Decimal | int:
    return value.to_decimal()


def _bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _regex(value: Any) -> str:
    flags = "".join(letter for letter, flag in _FLAGS.items() if value.flags & flag)
    return f"/{value.pattern}/{flags}"


def _code(value: Code) -> Any:
    return str(value) if value.scope is None else {"$code": str(value), "$scope": _object(dict(value.scope))}


def _outside(value: DatetimeMS) -> str:
    days, milliseconds = divmod(int(value), _DAY_MS)
    year, month, day = calendar_date(days + _EPOCH_DAY)
    # The expanded form of ISO 8601: a sign, and six digits or more.
    return f"{year:+07d}-{month:02d}-{day:02d}T{clock_text(milliseconds * 1000)}+00:00"


_BY_TYPE: dict[type, Callable[[Any], Any]] = {
    Int64: int,
    Decimal128: _decimal,
    ObjectId: str,
    dt.datetime: dt.datetime.isoformat,
    DatetimeMS: _outside,
    UUID: str,
    bytes: _bytes,
    Binary: _bytes,
    Regex: _regex,
    re.Pattern: _regex,
    Timestamp: lambda value: f"Timestamp({value.time}, {value.inc})",
    Code: _code,
    DBRef: lambda value: _object(dict(value.as_doc())),
    MinKey: lambda _: "MinKey",
    MaxKey: lambda _: "MaxKey",
    dict: _object,
    list: _array,
    tuple: _array,
}
