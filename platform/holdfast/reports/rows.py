"""A report's rows: the check of what a function returned, and their JSON with every digit.

Rows are mappings with text keys. A whole number is written without a point, a Decimal with its digits, NaN
and infinity as null, dates and times as ISO 8601. A value that JSON has no form for is refused by its place.
This module is light: it knows numpy and pandas by their names alone.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

import msgspec

from holdfast.errors import ValueNotServable
from holdfast.reports.values import PLAIN, exact_number

Path = tuple[object, ...]
"""Where a value is: the number of its row from 0, then keys and positions."""
_MOST_PLACES = 16_383
"""Digits after the point that a numeric of PostgreSQL may have; more stay in the form with an exponent."""
_HINTS = {
    "DataFrame": 'return frame.to_dict("records")',
    "Series": "return a list of mappings",
    "ndarray": "return a list of mappings",
    "dict": "put it into a list, or make one mapping for each of its items",
    "NoneType": "does the function end with return?",
    "coroutine": "compute is an ordinary function",
}


def checked_rows(report: str, returned: object) -> list[dict[str, Any]]:
    """The rows that a report's function returned: any iterable of mappings with text keys.

    Raises:
        ValueNotServable: it is something else; the message says which row, and what it is.
    """
    if (
        not isinstance(returned, Iterable)
        or isinstance(returned, str | bytes | Mapping)
        or _is_table(returned)
    ):
        raise ValueNotServable(f"report {report}: its function returned {_described(returned)}, not rows")
    rows = [_row(report, number, row) for number, row in enumerate(returned, 1)]
    kinds = set(map(type, itertools.chain.from_iterable(rows)))
    if kinds <= {str}:
        return rows
    return [_with_text_keys(report, number, row) for number, row in enumerate(rows, 1)]


def _is_table(value: object) -> bool:
    return type(value).__name__ in {"DataFrame", "Series", "ndarray"}


def _row(report: str, number: int, row: object) -> dict[str, Any]:
    if type(row) is dict:
        return row
    if isinstance(row, Mapping):
        return dict(row)
    what = _described(row)
    raise ValueNotServable(
        f"report {report}: row {number} is {what}; a row is a mapping of columns to values"
    )


def _described(value: object) -> str:
    kind = type(value).__name__
    shown = repr(value) if isinstance(value, str | int | float | tuple) else ""
    hint = _HINTS.get(kind, "")
    return f"{kind}{' ' + shown[:60] if shown else ''}{f' ({hint})' if hint else ''}"


def _with_text_keys(report: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
    try:
        return {_key(key, (number - 1,)): value for key, value in row.items()}
    except ValueNotServable as error:
        raise ValueNotServable(f"report {report}: {error}") from None


def encode_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[bytes, bytes]:
    """The rows as JSON: as they are served, and with the keys of every mapping sorted, for a digest.

    Raises:
        ValueNotServable: a value has no JSON form; the message says where it is.
    """
    try:
        return _encoded(rows)
    except RecursionError:
        raise ValueNotServable("a value is nested too deeply, or holds itself") from None
    except UnicodeEncodeError as error:
        text = str(error.object)[:40]
        raise ValueNotServable(f"the text {text!r} is not Unicode: {error.reason}") from None
    except ValueError as error:
        raise ValueNotServable(f"a number cannot be written: {error}") from None


def _encoded(rows: Sequence[Mapping[str, Any]]) -> tuple[bytes, bytes]:
    kinds = set(map(type, itertools.chain.from_iterable(row.values() for row in rows)))
    if not kinds <= PLAIN:
        rows = [
            {
                name: value if type(value) in PLAIN else _plain(value, (number, name))
                for name, value in row.items()
            }
            for number, row in enumerate(rows)
        ]
    return msgspec.json.encode(rows), msgspec.json.encode(rows, order="deterministic")


def decode_rows(encoded: bytes | msgspec.Raw) -> list[dict[str, Any]]:
    """The rows of a JSON array, with every digit: numbers are int, float or Decimal."""
    return list(_DECODER.decode(encoded))


_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=exact_number)


def _plain(value: Any, path: Path) -> Any:
    """The value as something that msgspec writes exactly: a container is looked through."""
    kind = type(value)
    if kind in PLAIN or kind in _WRITTEN_BY_MSGSPEC:
        return value
    convert = _BY_TYPE.get(kind) or _by_base(value)
    if convert is not None:
        return convert(value, path)
    if kind.__module__.partition(".")[0] in {"numpy", "pandas"}:
        return _scientific(value, path)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), (*path, f.name)) for f in dataclasses.fields(value)}
    return _refuse(f"a value of type {kind.__name__} cannot be served as JSON", path)


def _by_base(value: Any) -> Callable[[Any, Path], Any] | None:
    return next((convert for base, convert in _BY_BASE if isinstance(value, base)), None)


def _refuse(what: str, path: Path) -> NoReturn:
    number, *rest = path
    place = f"row {int(str(number)) + 1}"
    if rest:
        place += ", " + "".join(f"[{part!r}]" for part in rest)
    raise ValueNotServable(f"{place}: {what}", place=place)


def _key(key: object, path: Path) -> str:
    if type(key) is str:
        return key
    if isinstance(key, str):
        return str(key.value) if isinstance(key, enum.Enum) else str.__str__(key)
    return _refuse(f"the key {key!r} is {type(key).__name__}; keys are text", path)


def _mapping(value: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    return {_key(key, path): _plain(item, (*path, key)) for key, item in value.items()}


def _sequence(value: Iterable[Any], path: Path) -> list[Any]:
    return [_plain(item, (*path, number)) for number, item in enumerate(value)]


def _set(value: Iterable[Any], path: Path) -> list[Any]:
    # Sorted, since the order of a set differs from process to process.
    return sorted(_sequence(value, path), key=msgspec.json.encode)


def _decimal(value: Decimal, _: Path) -> msgspec.Raw | None:
    if not value.is_finite():
        return None
    exponent = int(value.as_tuple().exponent)
    short = -_MOST_PLACES <= exponent <= _MOST_PLACES
    return msgspec.Raw(format(value, "f") if short else str(value))


def _scientific(value: Any, path: Path) -> Any:
    """What numpy and pandas have beside the subclasses of Python's own types."""
    kind = type(value).__name__
    if kind == "ndarray":
        return _sequence(list(value), path) if value.ndim else _plain(value[()], path)
    if kind in {"NAType", "NaTType"} or str(value) == "NaT":
        return None
    for name, convert in _SCIENTIFIC:
        if kind.startswith(name):
            return convert(value)
    return _refuse(f"a value of type {type(value).__module__}.{kind} cannot be served as JSON", path)


def _digits(value: Any) -> Any:
    # By its own digits: 0.1 as a float32 is 0.10000000149 as a float.
    number = exact_number(str(value))
    if not math.isfinite(number):
        return None
    return _decimal(number, ()) if isinstance(number, Decimal) else number


def _numpy_duration(value: Any) -> dt.timedelta:
    return dt.timedelta(microseconds=int(value.astype("timedelta64[us]").astype("int64")))


_SCIENTIFIC: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("bool", bool),
    ("int", int),
    ("uint", int),
    ("longlong", int),
    ("ulonglong", int),
    ("float", _digits),
    ("longdouble", _digits),
    ("datetime64", str),
    ("timedelta64", _numpy_duration),
)
"""By the beginning of the name of the type."""


def _moment(value: dt.datetime, _: Path) -> str | None:
    if type(value).__name__ == "NaTType":
        return None
    return value.isoformat().replace("+00:00", "Z")


def _duration(value: Any, path: Path) -> dt.timedelta:
    if getattr(value, "nanoseconds", 0):
        return _refuse("a duration has nanoseconds: round it", path)
    return dt.timedelta(days=value.days, seconds=value.seconds, microseconds=value.microseconds)


_WRITTEN_BY_MSGSPEC = frozenset(
    {dt.datetime, dt.date, dt.time, dt.timedelta, UUID, bytes, bytearray, memoryview, msgspec.Raw}
)
_BY_TYPE: dict[type, Callable[[Any, Path], Any]] = {
    dict: _mapping,
    list: _sequence,
    tuple: _sequence,
    set: _set,
    frozenset: _set,
    Decimal: _decimal,
}
_BY_BASE: tuple[tuple[Any, Callable[[Any, Path], Any]], ...] = (
    (enum.Enum, lambda value, path: _plain(value.value, path)),
    (Mapping, _mapping),
    ((list, tuple), _sequence),
    ((set, frozenset), _set),
    (Decimal, lambda value, path: _decimal(Decimal(value), path)),
    (str, lambda value, _: str.__str__(value)),
    (int, lambda value, _: int(value)),
    (float, lambda value, _: float(value)),
    (dt.datetime, _moment),
    (dt.date, lambda value, _: value.isoformat()),
    (dt.timedelta, _duration),
)
"""Subclasses of Python's own types, numpy's and pandas' among them; the first that fits counts."""
