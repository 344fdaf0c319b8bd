"""The plain description of a parameter: which types it has, and that the model rebuilt from it is equal."""

from __future__ import annotations

import enum
import json
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from holdfast.errors import InvalidParams, ReportError
from holdfast.reports.canonical import plain
from holdfast.reports.params import ParamReader, Params, model_of, specs_of

PRINTABLE = st.text(max_size=20).filter(str.isprintable)


class Grade(enum.Enum):
    """A choice, as an enumeration."""

    LOW = "low"
    HIGH = "high"


def agree(model: type[Params], value: object) -> None:
    """The rebuilt model takes what the original takes, as the same value, and refuses the rest."""
    rebuilt = model_of("r", specs_of(model))
    given_value = {"x": value}
    try:
        expected: object = plain(model.model_validate(given_value).x)  # type: ignore[attr-defined]
    except ValidationError:
        with pytest.raises(ValidationError):
            rebuilt.model_validate(given_value)
    else:
        found = plain(rebuilt.model_validate(given_value).x)  # type: ignore[attr-defined]
        assert (type(found), found) == (type(expected), expected)


class Bounded(Params):
    """An integer within bounds."""

    x: Annotated[int, Field(ge=-3, le=12)]


class Between(Params):
    """An integer between bounds, as a choice to leave out."""

    x: Annotated[int, Field(gt=0, lt=5)] | None = None


class Exact(Params):
    """An integer with bounds that a float cannot hold."""

    x: Annotated[int, Field(ge=2**60 + 1, le=2**60 + 3)]


class Share(Params):
    """A number within bounds."""

    x: Annotated[float, Field(ge=-0.5, lt=1)]


class Flag(Params):
    """A boolean with a default."""

    x: bool = True


class Day(Params):
    """A date."""

    x: date


class Origin(Params):
    """A choice of words."""

    x: Literal["EWR", "JFK"] = "EWR"


class Level(Params):
    """A choice of numbers."""

    x: Literal[1, 2, 4] | None = None


class Graded(Params):
    """A choice that is an enumeration."""

    x: Grade


class Code(Params):
    """Text of a form."""

    x: Annotated[str, Field(pattern="^[A-Z]+$", min_length=2, max_length=3)]


NUMBERS = st.one_of(st.integers(-20, 20), st.integers(-(2**62), 2**62), st.floats(-10, 10), st.booleans())
TYPED_TEXT = st.one_of(
    PRINTABLE,
    NUMBERS.map(str),
    st.dates().map(str),
    st.sampled_from(
        ["", " 5 ", "05", "-3", "1.0", "1e2", "true", "off", "EWR", "jfk", "AB", "ABCD", "low", "Á"]
    ),
)


@pytest.mark.parametrize("model", [Bounded, Between, Exact, Share, Flag, Day, Origin, Graded, Code])
def test_the_rebuilt_model_takes_what_the_original_takes(model: type[Params]) -> None:
    """The gateway, which has only the catalogue, takes and refuses what the author's model does."""

    @given(st.one_of(TYPED_TEXT, NUMBERS))
    @example(2**60)
    @example(2**60 + 1)
    @example(str(2**60 + 4))
    @example("2013-07-04")
    @example("2013-02-30")
    def check(value: object) -> None:
        agree(model, value)

    check()


@given(NUMBERS)
def test_a_choice_of_numbers_takes_those_numbers(value: object) -> None:
    """A choice of numbers takes them as numbers, as its model does..."""
    agree(Level, value)


@given(st.integers(-20, 20))
def test_a_choice_of_numbers_is_read_from_text(value: int) -> None:
    """...and from a URL, where everything is text and pydantic's own Literal would take nothing."""
    reader = ParamReader("r", specs_of(Level))
    if value in {1, 2, 4}:
        assert reader.parse_query(f"x=0{value}") == {"x": value}
    else:
        with pytest.raises(InvalidParams, match=r"^x: must be 1, 2 or 4$"):
            reader.parse_query(f"x={value}")


@pytest.mark.parametrize(
    ("model", "required"), [(Bounded, True), (Day, True), (Code, True), (Between, False), (Flag, False)]
)
def test_what_is_required_stays_required(model: type[Params], required: bool) -> None:
    """A parameter without a default is required by the rebuilt model too, and one with a default is not."""
    reader = ParamReader("r", specs_of(model))
    assert reader.specs["x"].required is required
    if required:
        with pytest.raises(InvalidParams, match=r"^x: is required$"):
            reader.parse({})
    else:
        assert reader.parse({}) == {"x": model.model_fields["x"].default}


def test_the_catalogue_says_what_a_parameter_is() -> None:
    """Bounds, choices, defaults and descriptions are in the catalogue under JSON Schema's names."""

    class Described(Params):
        when: Annotated[date | None, Field(description="The day")] = None
        many: Annotated[int, Field(ge=1, lt=10, description="How many")] = 3
        where: Annotated[Literal["a", "b"], Field(description="Which one")] = "a"

    assert json.loads(msgspec.json.encode(specs_of(Described))) == [
        {"name": "many", "type": "integer", "description": "How many", "minimum": 1, "exclusiveMaximum": 10,
         "default": 3},
        {"name": "when", "type": "date", "description": "The day"},
        {"name": "where", "type": "string", "description": "Which one", "enum": ["a", "b"], "default": "a"},
    ]  # fmt: skip


class Inner(BaseModel):
    """A model within a model."""

    x: int


@pytest.mark.parametrize(
    "annotation",
    [
        list[str],
        dict[str, int],
        int | str,
        datetime,
        UUID,
        Decimal,
        bytes,
        Inner,
        Literal["a", 1],
        Literal[True],
        Any,
        Annotated[int, Field(alias="other")],
    ],
)
def test_a_parameter_of_another_type_is_refused_when_it_is_defined(annotation: Any) -> None:
    """A type that a URL cannot carry faithfully is an error of the report, naming the field."""
    model = type("Wrong", (Params,), {"__annotations__": {"field": annotation}})
    with pytest.raises(ReportError, match=r"Wrong(\.field|: the alias 'other')"):
        specs_of(model)
