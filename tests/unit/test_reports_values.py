"""Values on their way from a database to a report's function, on the socket and in an author's test."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import ipaddress
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from beanie import Document
from bson import Decimal128, Int64, ObjectId
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.errors import ProtocolError, QueryFailed
from holdfast.reports import Data, Params, Report, Row
from holdfast.reports.values import calendar_date, carried, exact_json, exact_number
from holdfast.rpc import frames
from holdfast.rpc.exact import exact
from holdfast.testing import compute

NUMBERS = st.decimals(allow_nan=False, allow_infinity=False)


@given(NUMBERS.map(str))
@example("1.10")
@example("9007199254740993.5")
@example("1e400")
def test_a_number_is_a_float_only_where_that_is_exact(text: str) -> None:
    """A JSON number is a float where its digits survive that, else a Decimal: its value is never another."""
    number = exact_number(text)
    assert Decimal(repr(number) if isinstance(number, float) else number) == Decimal(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [0.1, 1, null, true]}', {"a": [0.1, 1, None, True]}),
        ("12345678901234567890", 12345678901234567890),
        ("0.12345678901234567890", Decimal("0.12345678901234567890")),
    ],
)
def test_json_is_read_with_every_digit(text: str, value: Any) -> None:
    """JSON from a database is Python's usual values, and a Decimal where a float would lose digits."""
    assert exact_json(text) == value


@given(st.dates())
def test_the_calendar_agrees_with_python(day: dt.date) -> None:
    """Within Python's own years the calendar is Python's."""
    assert calendar_date(day.toordinal() - 1) == (day.year, day.month, day.day)


@pytest.mark.parametrize(
    ("days", "expected"),
    [(-1, (0, 12, 31)), (-366, (0, 1, 1)), (-367, (-1, 12, 31)), (3_652_059, (10_000, 1, 1))],
)
def test_the_calendar_goes_on_beyond_python(days: int, expected: tuple[int, int, int]) -> None:
    """Before the year 1 and after 9999 the calendar goes on; the year 0 is 1 BC and a leap year."""
    assert calendar_date(days) == expected


class Mood(enum.Enum):
    """A value of a TypeDecorator."""

    HAPPY = "happy"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dt.date(2013, 1, 31), "2013-01-31"),
        (dt.datetime(2013, 1, 31, 5, tzinfo=dt.UTC), "2013-01-31T05:00:00+00:00"),
        (dt.time(5), "05:00:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\x0a", "\\x0a"),
        (Mood.HAPPY, "happy"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        (Decimal("6.00"), Decimal("6.00")),
        (Int64(7), 7),
        ((1, [Mood.HAPPY]), [1, ["happy"]]),
        ({"a": dt.date(2013, 1, 31)}, {"a": "2013-01-31"}),
    ],
)
def test_a_value_of_python_is_carried_as_its_text(value: Any, expected: Any) -> None:
    """What an author's own column type makes is carried as the same text that a database's value has."""
    found = carried(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("value", [object(), dt.timedelta(1), {1: 2}, [1j], {"a": {None: 1}}])
def test_a_value_without_a_form_is_refused(value: Any) -> None:
    """A value that cannot be carried exactly fails the query."""
    with pytest.raises(QueryFailed):
        carried(value)


CARRIED = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | NUMBERS
    | st.text()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


async def over_the_socket(value: Any) -> Any:
    """What arrives of a reply with that value."""
    stream = asyncio.StreamReader()
    stream.feed_data(frames.encode(frames.Reply(1, value)))
    stream.feed_eof()
    frame = await frames.read(stream)
    assert isinstance(frame, frames.Reply)
    return frame.value


@given(st.lists(st.lists(CARRIED, max_size=3), max_size=3))
@example([[2**63, -(2**63), 2**64, -(2**63) - 1]])
@example([[Decimal("6.00"), Decimal("1E+20"), [Decimal("-0")], {"a": Decimal("0.10")}]])
def test_rows_cross_the_socket_unchanged(rows: list[list[Any]]) -> None:
    """Numbers of any size arrive with every digit and as the type that they had."""
    arrived = asyncio.run(over_the_socket(exact(rows)))
    assert repr(arrived) == repr(rows)


def test_a_foreign_extension_type_is_an_error_of_the_protocol() -> None:
    """An extension type that is not of the socket's is refused like any other nonsense."""

    async def arrive() -> None:
        stream = asyncio.StreamReader()
        payload = b"\x93\x01\x01\xd4\x63\x00"
        stream.feed_data(len(payload).to_bytes(4, "big") + payload)
        stream.feed_eof()
        await frames.read(stream)

    with pytest.raises(ProtocolError):
        asyncio.run(arrive())


class Thing(Document):
    """A collection that is never read here."""


def test_an_author_s_test_sees_values_as_the_supervisor_gives_them() -> None:
    """`holdfast.testing.compute` gives a function the same values that it would get of the databases."""
    report = Report("seen", ttl=60)
    seen: list[Any] = []

    @report.postgres
    def facts(_: Params) -> None:
        """Rows with a date and a number."""

    @report.mongo(Thing)
    def things(_: Params) -> list[dict[str, Any]]:
        """Documents with BSON's own types."""
        return []

    @report.compute
    def together(_: Params, data: Data) -> list[Row]:
        """Both."""
        seen.extend([*data[facts], *data[things]])
        return [*data[facts], *data[things]]

    given_facts = [{"day": dt.date(2013, 1, 31), "total": Decimal("6.00")}]
    given_things = [{"_id": ObjectId("507f1f77bcf86cd799439011"), "n": Int64(7), "d": Decimal128("1.10")}]
    served = compute(report, {facts: given_facts, things: given_things})
    assert seen == [
        {"day": "2013-01-31", "total": Decimal("6.00")},
        {"_id": "507f1f77bcf86cd799439011", "n": 7, "d": Decimal("1.10")},
    ]
    assert json.dumps(served, default=str) == json.dumps(
        [{"day": "2013-01-31", "total": 6.0}, {"_id": "507f1f77bcf86cd799439011", "n": 7, "d": 1.1}]
    )
