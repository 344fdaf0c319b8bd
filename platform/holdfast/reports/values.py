"""Values as a report's function gets them from a database: numbers with all their digits, else text.

Carried are None, bool, int, float, Decimal, str, and lists and mappings of these. All else is written as text
where it is read. This module is light: it knows no driver.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any
from uuid import UUID

from holdfast.errors import QueryFailed

PLAIN = frozenset({type(None), bool, int, float, str})
"""What JSON and msgpack both carry as it is."""
_CYCLE_DAYS, _CYCLE_YEARS = 146_097, 400
"""After so many days the Gregorian calendar repeats itself."""
_ADDRESSES = (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)


def exact_number(text: str) -> float | Decimal:
    """A number with a point or an exponent: a float where that has the same digits' value, else a Decimal."""
    number = float(text)
    exact = Decimal(text)
    return number if Decimal(repr(number)) == exact else exact


def exact_json(text: str | bytes) -> Any:
    """Decode JSON text without a loss of digits: whole numbers of any size, others as `exact_number`."""
    return json.loads(text, parse_float=exact_number)


def calendar_date(days: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days since 0001-01-01, in the proleptic Gregorian calendar.

    The year is astronomical: 0 is 1 BC. Python's own dates end at the years 1 and 9999.
    """
    cycles, rest = divmod(days, _CYCLE_DAYS)
    inside = dt.date.fromordinal(rest + 1)
    return inside.year + cycles * _CYCLE_YEARS, inside.month, inside.day


def clock_text(microseconds: int) -> str:
    """The time of a day as `dt.time.isoformat` writes it."""
    return (dt.datetime.min + dt.timedelta(microseconds=microseconds)).time().isoformat()


def carried(value: Any) -> Any:
    """A Python value that came from a database, as it is carried.

    Raises:
        QueryFailed: it has no such form.
    """
    kind = type(value)
    if kind in PLAIN or kind is Decimal:
        return value
    if kind is dict:
        return {_name(name): carried(item) for name, item in value.items()}
    if kind is list or kind is tuple:
        return [carried(item) for item in value]
    for base, convert in _CONVERTERS:
        if isinstance(value, base):
            return convert(value)
    raise QueryFailed(f"a value of type {kind.__name__} cannot be sent: cast it in the query")


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise QueryFailed(f"a name of a document is text, not {name!r}")
    return name


_CONVERTERS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (enum.Enum, lambda value: carried(value.value)),
    ((dt.date, dt.time), lambda value: value.isoformat()),
    (UUID, str),
    (bytes, lambda value: "\\x" + value.hex()),
    (bool, bool),
    (int, int),
    (float, float),
    (str, str.__str__),
    (Mapping, lambda value: carried(dict(value))),
    ((list, tuple), lambda value: carried(list(value))),
    (_ADDRESSES, str),
)
"""By the first of these that it is an instance of: a datetime is a date too, a StrEnum an Enum."""
