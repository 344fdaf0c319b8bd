"""Numbers that msgpack has no type for, with every digit: as extension types of the socket.

Msgpack's integers end at 64 bits, and it has no decimal numbers. Without this a Decimal would arrive as text.
"""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import msgspec

from holdfast.reports.values import PLAIN

DECIMAL, INTEGER = 1, 2
"""Codes of extension types; the data is the number as ASCII text."""
_MSGPACK = (-(2**63), 2**64)


def exact(rows: list[list[Any]]) -> list[list[Any]]:
    """The rows as msgpack carries them without a loss; the same object where it can do so already."""
    kinds = set(map(type, itertools.chain.from_iterable(rows)))
    if kinds <= PLAIN and not (int in kinds and _any_large(rows)):
        return rows
    return [[_exact(value) for value in row] for row in rows]


def _any_large(rows: list[list[Any]]) -> bool:
    low, high = _MSGPACK
    return any(type(value) is int and not low <= value < high for row in rows for value in row)


def _exact(value: Any) -> Any:
    kind = type(value)
    if kind is Decimal:
        return msgspec.msgpack.Ext(DECIMAL, str(value).encode())
    if kind is int:
        low, high = _MSGPACK
        return value if low <= value < high else msgspec.msgpack.Ext(INTEGER, str(value).encode())
    if kind is list:
        return [_exact(item) for item in value]
    if kind is dict:
        return {name: _exact(item) for name, item in value.items()}
    return value


def restored(code: int, data: memoryview) -> Decimal | int:
    """The number of an extension type; raises ValueError for what is none."""
    text = bytes(data).decode("ascii")
    if code == DECIMAL:
        return Decimal(text)
    if code == INTEGER:
        return int(text)
    raise ValueError(f"there is no extension type {code}")
