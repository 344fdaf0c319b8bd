"""What a report's function may return, and how its values are written: exactly, or refused by their place."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import os
import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ComputeFailed, ValueNotServable
from holdfast.reports import Data, Params, Report, Row
from holdfast.reports.rows import checked_rows, decode_rows, encode_rows
from holdfast.testing import compute

ROWS = [{"n": 1}, {"n": 2}]


def report_returning(make: Callable[[], Any]) -> tuple[Report, Any]:
    """A report whose function returns that, and its query."""
    report = Report("made", ttl=60)

    @report.postgres
    def source(_: Params) -> None:
        """Nothing is asked of a database here."""

    @report.compute
    def made(_: Params, __: Data) -> list[Row]:
        """What the test wants."""
        rows: list[Row] = make()
        return rows

    return report, source


def written(value: Any) -> str:
    """A value in a row, as it is served."""
    body, _ = encode_rows([{"v": value}])
    return body.decode().removeprefix('[{"v":').removesuffix("}]")


@pytest.mark.parametrize(
    "returned",
    [
        ROWS,
        tuple(ROWS),
        iter(ROWS),
        (dict(row) for row in ROWS),
        [OrderedDict(row) for row in ROWS],
        [MappingProxyType(row) for row in ROWS],
        {1: ROWS[0], 2: ROWS[1]}.values(),
        pd.DataFrame(ROWS).to_dict("records"),
        [{np.str_("n"): row["n"]} for row in ROWS],
    ],
    ids=["list", "tuple", "iterator", "generator", "ordered", "proxy", "view", "records", "numpy-keys"],
)
def test_an_iterable_of_mappings_is_rows(returned: Any) -> None:
    """A function may return its rows in any iterable, as any mapping with text keys."""
    report, source = report_returning(lambda: returned)
    assert compute(report, {source: []}) == ROWS


class Pair(NamedTuple):
    """A tuple with names."""

    a: int
    b: Any


class Shade(enum.Enum):
    """An Enum as a key."""

    DARK = "dark"


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ({"n": 1}, "report r: its function returned dict (put it into a list"),
        (None, "report r: its function returned NoneType (does the function end with return?)"),
        ("rows", "report r: its function returned str 'rows'"),
        (7, "report r: its function returned int 7"),
        (b"rows", "report r: its function returned bytes"),
        (pd.DataFrame(ROWS), 'report r: its function returned DataFrame (return frame.to_dict("records"))'),
        (pd.Series([1, 2]), "report r: its function returned Series"),
        (np.array([1, 2]), "report r: its function returned ndarray"),
        ([1, 2], "report r: row 1 is int 1; a row is a mapping"),
        ([{"n": 1}, 2], "report r: row 2 is int 2"),
        (iter([(0, 0), (1, 1)]), "report r: row 1 is tuple (0, 0)"),
        ([["n", 1]], "report r: row 1 is list"),
        ([{"n": 1}, None], "report r: row 2 is NoneType"),
        (["text"], "report r: row 1 is str 'text'"),
        (Pair(1, 2), "report r: row 1 is int 1"),
        ([{"n": 1}, {2: 1}], "report r: row 2: the key 2 is int; keys are text"),
        ([{None: 1}], "report r: row 1: the key None is NoneType"),
        ([{("a", "b"): 1}], "report r: row 1: the key ('a', 'b') is tuple"),
        ([{dt.date(2013, 1, 1): 1}], "the key datetime.date(2013, 1, 1) is date"),
        ([{Shade.DARK: 1}], "is Shade; keys are text"),
        ([{True: 1}], "the key True is bool"),
        ([{b"n": 1}], "the key b'n' is bytes"),
    ],
)
def test_what_is_no_rows_is_refused_by_its_place(returned: Any, says: str) -> None:
    """What is not rows is refused: the message says which row, what it is, and what to do where it can."""
    with pytest.raises(ValueNotServable) as refused:
        checked_rows("r", returned)
    assert says in str(refused.value)
    assert isinstance(refused.value, ComputeFailed)
    assert not refused.value.retryable


CIRCLE: dict[str, Any] = {"a": [1]}
CIRCLE["a"].append(CIRCLE)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"months": {1: 5}}, "report made: row 1, ['months']: the key 1 is int; keys are text"),
        ({"a": [{"b": {2.5: 1}}]}, "row 1, ['a'][0]['b']: the key 2.5 is float"),
        ({"a": ({None: 1},)}, "row 1, ['a'][0]: the key None is NoneType"),
        ({"a": defaultdict(int, {dt.date(2013, 1, 1): 1})}, "row 1, ['a']: the key datetime.date"),
        ({"a": object()}, "row 1, ['a']: a value of type object cannot be served as JSON"),
        ({"a": [1, Fraction(1, 3)]}, "row 1, ['a'][1]: a value of type Fraction"),
        ({"a": 1j}, "row 1, ['a']: a value of type complex"),
        ({"a": iter([1])}, "row 1, ['a']: a value of type list_iterator"),
        ({"a": pd.Series([1])}, "row 1, ['a']: a value of type pandas"),
        ({"a": np.complex128(1)}, "row 1, ['a']: a value of type"),
        ({"a": pd.Period("2013-01")}, "row 1, ['a']: a value of type pandas"),
        ({"a": pd.Timedelta(1, "ns")}, "row 1, ['a']: a duration has nanoseconds: round it"),
        ({"a": "\ud800"}, "the text '\\ud800' is not Unicode"),
        ({"a": 10**5000}, "a number cannot be written"),
        (CIRCLE, "a value is nested too deeply, or holds itself"),
        ({"a": len}, "row 1, ['a']: a value of type builtin_function_or_method"),
    ],
)
def test_a_value_that_json_cannot_hold_is_refused_by_its_place(row: Row, says: str) -> None:
    """A value or a key without a JSON form fails the computation; the message is the path to it."""
    report, source = report_returning(lambda: [row])
    with pytest.raises(ComputeFailed) as refused:
        compute(report, {source: []})
    assert says in str(refused.value)
    assert "test_reports_rows.py" in refused.value.full
    assert "in made: def made(" in refused.value.full


@dataclasses.dataclass
class Place:
    """A dataclass in a row."""

    name: str
    share: Decimal


class Colour(enum.StrEnum):
    """A text that is an Enum."""

    RED = "red"


class Level(enum.IntEnum):
    """A number that is an Enum."""

    HIGH = 3


MOMENT = dt.datetime(2013, 1, 31, 5, tzinfo=dt.UTC)
IDENTITY = UUID("0e37df36-f698-11e6-8dd4-cb9ced3df976")


@pytest.mark.parametrize(
    ("value", "json_text"),
    [
        (9007199254740993, "9007199254740993"),
        (2**64 + 1, "18446744073709551617"),
        (-(10**30), "-1" + "0" * 30),
        (Decimal("6.00"), "6.00"),
        (Decimal("9007199254740993.10"), "9007199254740993.10"),
        (Decimal(6), "6"),
        (Decimal("0E-10"), "0.0000000000"),
        (Decimal("1E+5"), "100000"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("-0.0"), "-0.0"),
        (Decimal("NaN"), "null"),
        (Decimal("sNaN"), "null"),
        (Decimal("Infinity"), "null"),
        (Decimal("1E+999999"), "1E+999999"),
        (float("nan"), "null"),
        (float("inf"), "null"),
        (0.1, "0.1"),
        (np.int64(9007199254740993), "9007199254740993"),
        (np.int8(-1), "-1"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.float64(1.5), "1.5"),
        (np.float64("nan"), "null"),
        (np.float32(0.1), "0.1"),
        (np.float16(0.1), "0.1"),
        (np.float32("inf"), "null"),
        (np.longdouble("0.1"), "0.1"),
        (np.bool_(True), "true"),
        (np.str_("a"), '"a"'),
        (np.datetime64("2013-01-31"), '"2013-01-31"'),
        (np.datetime64("2013-01-31T05:00:00.000000001"), '"2013-01-31T05:00:00.000000001"'),
        (np.datetime64("NaT"), "null"),
        (np.timedelta64(1, "D"), '"P1D"'),
        (np.timedelta64("NaT"), "null"),
        (np.array([1, 2]), "[1,2]"),
        (np.array([[1.5], [np.nan]]), "[[1.5],[null]]"),
        (np.array(3), "3"),
        (pd.NA, "null"),
        (pd.NaT, "null"),
        (pd.Timestamp("2013-01-31T05:00:00Z"), '"2013-01-31T05:00:00Z"'),
        (pd.Timestamp("2013-01-31"), '"2013-01-31T00:00:00"'),
        (pd.Timedelta(days=1), '"P1D"'),
        (MOMENT, '"2013-01-31T05:00:00Z"'),
        (dt.date(2013, 1, 31), '"2013-01-31"'),
        (dt.time(5), '"05:00:00"'),
        (dt.timedelta(days=1), '"P1D"'),
        (IDENTITY, f'"{IDENTITY}"'),
        (Colour.RED, '"red"'),
        (Level.HIGH, "3"),
        (Shade.DARK, '"dark"'),
        (b"\x0a\xff", '"Cv8="'),
        (Place("a", Decimal("1.10")), '{"name":"a","share":1.10}'),
        ((1, Decimal("2.0")), "[1,2.0]"),
        (Pair(1, np.int64(2)), "[1,2]"),
        ({"a": [np.int64(1), {"b": Decimal("1.0")}]}, '{"a":[1,{"b":1.0}]}'),
        (defaultdict(int, a=1), '{"a":1}'),
        ({3, 1, 2}, "[1,2,3]"),
        (frozenset({"b", "a"}), '["a","b"]'),
        (None, "null"),
        (True, "true"),
        ("\u2028 [red] é", '"\u2028 [red] é"'),
    ],
    ids=repr,
)
def test_a_value_is_written_with_all_it_says(value: Any, json_text: str) -> None:
    """Numbers keep every digit, what JSON cannot hold is null, and the rest is its usual text."""
    assert written(value) == json_text


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"n": [1, 2], "x": [0.5, None]}),
        pd.DataFrame({"n": pd.array([1, 2], dtype="Int64"), "x": pd.array([0.5, None], dtype="Float64")}),
        pd.DataFrame({"n": np.array([1, 2], dtype="int8"), "x": np.array([0.5, np.nan], dtype="float32")}),
        pd.DataFrame({"n": [1, 2], "x": [0.5, np.nan]}, dtype=object),
    ],
    ids=["plain", "nullable", "narrow", "objects"],
)
def test_the_records_of_a_frame_are_rows(frame: pd.DataFrame) -> None:
    """A function may return a frame's records, whichever types pandas keeps its columns in."""
    report, source = report_returning(lambda: frame.to_dict("records"))
    assert compute(report, {source: []}) == [{"n": 1, "x": 0.5}, {"n": 2, "x": None}]


@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False), max_size=5))
def test_a_decimal_comes_back_as_the_same_number(values: list[Decimal]) -> None:
    """Whatever Decimal a row has, a reader that reads decimal numbers gets that very value."""
    body, _ = encode_rows([{"v": value} for value in values])
    assert [row["v"] for row in json.loads(body, parse_float=Decimal, parse_int=Decimal)] == values


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_of_json_is_read_exactly(number: float) -> None:
    """The rows that `holdfast.testing` gives have the numbers that were served."""
    body, _ = encode_rows([{"v": number}])
    assert decode_rows(body) == [{"v": number}]


def test_the_digest_is_of_the_values_and_not_of_their_types() -> None:
    """A number has one digest, whether numpy, pandas or the database has made it."""
    plain = encode_rows([{"a": 1, "b": 0.5, "c": None}])[1]
    others = encode_rows([{"c": pd.NA, "b": np.float64(0.5), "a": np.int64(1)}])[1]
    assert plain == others


@pytest.mark.parametrize("seed", ["0", "424242"])
def test_rows_are_the_same_bytes_in_every_process(seed: str) -> None:
    """Decimals, sets and numbers of numpy are written alike by two processes."""
    script = (
        "from decimal import Decimal; import numpy as np; from holdfast.reports.rows import encode_rows\n"
        "print(encode_rows([{'s': {'EWR', 'JFK', 'LGA'}, 'd': Decimal('6.00'), 'n': np.float32(0.1)}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    expected = encode_rows([{"s": {"LGA", "EWR", "JFK"}, "d": Decimal("6.00"), "n": np.float32(0.1)}])
    assert done.stdout.strip() == repr(expected)
