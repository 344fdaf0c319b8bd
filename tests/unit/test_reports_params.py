"""Parameters: which values are taken, and that one result has one key whoever asks for it and however."""

from __future__ import annotations

import enum
import json
import unicodedata
from datetime import date, datetime
from decimal import Decimal
from random import Random
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from holdfast.errors import InvalidParams, ReportError
from holdfast.reports.canonical import Scalar, plain, printable
from holdfast.reports.params import (
    Claim,
    ParamReader,
    Params,
    ParamSpec,
    model_of,
    specs_of,
)


def is_text(value: str) -> bool:
    """Whether there is no control character, no separator of lines and no half of a surrogate pair."""
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value)


PRINTABLE = st.text(max_size=20).filter(str.isprintable)
TRICKS = st.text(
    st.one_of(
        st.sampled_from("&=?#%+;/\\\0\r\n\t '\"$[]{}:,.<>tenantäß\u2028\u202e\u0130\ufeff"), st.characters()
    ),
    max_size=25,
)


class Grade(enum.Enum):
    """A choice, as an enumeration."""

    LOW = "low"
    HIGH = "high"


class Everything(Params):
    """A parameter of each type, with and without a default."""

    active: bool | None = None
    code: Annotated[str, Field(pattern=r"^[A-Z]{2}[0-9]*$")] | None = None
    day: date | None = None
    grade: Grade = Grade.LOW
    level: Literal[1, 2, 3] = 2
    limit: Annotated[int, Field(ge=-5, le=500)] = 50
    month: Annotated[int | None, Field(ge=1, le=12)] = None
    name: str | None = None
    origin: Literal["EWR", "JFK", "LGA"] | None = None
    ratio: float | None = None
    share: float = 0.5


READER = ParamReader("everything", specs_of(Everything))

GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "active": st.booleans(),
        "code": st.from_regex(r"\A[A-Z]{2}[0-9]{0,3}\Z"),
        "day": st.dates().map(date.isoformat),
        "grade": st.sampled_from(["low", "high"]),
        "level": st.sampled_from([1, 2, 3]),
        "limit": st.integers(-5, 500),
        "month": st.integers(1, 12),
        "name": PRINTABLE,
        "origin": st.sampled_from(["EWR", "JFK", "LGA"]),
        "ratio": st.floats(allow_nan=False, allow_infinity=False),
        "share": st.floats(0, 1),
    },
)
PARAMS = GIVEN.map(READER.parse)


class OfTenant(Params):
    """A report whose rows depend on who asks."""

    tenant: Annotated[str, Claim("tenant")]
    note: str | None = None


TENANTS = ParamReader("of-tenant", specs_of(OfTenant))


def query_of(url: str) -> str:
    """The part after the first question mark."""
    return url.partition("?")[2]


def names(error: InvalidParams) -> list[str]:
    """The parameters that an error names."""
    return [str(problem["name"]) for problem in error.details["errors"]]


# Canonical URLs


@given(PARAMS)
def test_a_url_gives_back_its_parameters(params: dict[str, Scalar]) -> None:
    """Reading the canonical URL of some parameters gives those parameters, types included."""
    again = READER.parse_query(query_of(READER.url(params)))
    assert again == params
    assert {name: type(value) for name, value in again.items()} == {n: type(v) for n, v in params.items()}


@given(PARAMS)
def test_the_key_of_a_canonical_request_is_its_url(params: dict[str, Scalar]) -> None:
    """A client that asks in canonical form is answered from `gwcache:` and the URL that it sent."""
    url = READER.url(params)
    assert READER.key(READER.parse_query(query_of(url))) == f"gwcache:{url}"
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url


@given(PARAMS, PARAMS, st.sampled_from(sorted(READER.specs)))
def test_different_parameters_have_different_keys(
    one: dict[str, Scalar], two: dict[str, Scalar], name: str
) -> None:
    """Two results share a key only when every parameter is equal: one that differs is enough."""
    assert (READER.key(one) == READER.key(two)) == (one == two)
    other = {**one, name: two[name]}
    assert (READER.key(one) == READER.key(other)) == (one[name] == two[name])


def spelled(text: str, chance: Random) -> str:
    """The text percent-encoded, with letters and digits encoded at random and hex digits in either case."""
    parts = []
    for byte in text.encode():
        character = chr(byte)
        if character == " " and chance.random() < 0.5:
            parts.append("+")
        elif character.isascii() and character.isalnum() and chance.random() < 0.5:
            parts.append(character)
        else:
            parts.append(f"%{byte:02x}" if chance.random() < 0.5 else f"%{byte:02X}")
    return "".join(parts)


def written(value: Scalar, chance: Random) -> str:
    """One of the ways to write a value."""
    if isinstance(value, bool):
        return chance.choice(["true", "True", "1", "yes", "on"] if value else ["false", "0", "no", "off"])
    if isinstance(value, int):
        sign, zeros = "-" if value < 0 else "", "0" * chance.randrange(4)
        return f"{sign}{zeros}{abs(value)}"
    if isinstance(value, float):
        return chance.choice([repr(value), f"{value:.17e}", f" {value!r} "])
    return str(value)


@given(PARAMS, st.randoms(use_true_random=False))
def test_however_it_is_written_it_is_one_key(params: dict[str, Scalar], chance: Random) -> None:
    """Order, percent-encoding, leading zeros, spare separators and defaults that are given change no key."""
    pairs = [
        f"{spelled(name, chance)}={spelled(written(value, chance), chance)}"
        for name, value in params.items()
        if value is not None
    ]
    chance.shuffle(pairs)
    query = chance.choice(["", "&"]) + chance.choice(["&", "&&"]).join(pairs) + chance.choice(["", "&"])
    assert READER.key(READER.parse_query(query)) == READER.key(params)


def test_defaults_are_left_out_of_a_url() -> None:
    """What is not given and what is given as its default are one URL, without that parameter."""
    assert READER.url(READER.parse_query("limit=050&level=2&share=.50")) == "/api/v1/analytics/everything"
    assert (
        READER.url(READER.parse_query("month=07&limit=7")) == "/api/v1/analytics/everything?limit=7&month=7"
    )


def test_a_canonical_url_is_written_this_way() -> None:
    """Names sorted, all but letters, digits and `_.-~` encoded, numbers and truth values in one form.

    Keys outlive a release: this is how they are written in all of them.
    """
    params: dict[str, Scalar] = {
        "ratio": 1e16, "origin": "JFK", "name": "a/b c&d=é+~", "month": 7, "limit": -5, "level": 2,
        "day": "2013-07-04", "share": 0.25, "active": True, "grade": None,
    }  # fmt: skip
    assert READER.url(params) == (
        "/api/v1/analytics/everything?active=true&day=2013-07-04&limit=-5&month=7"
        "&name=a%2Fb%20c%26d%3D%C3%A9%2B~&origin=JFK&ratio=1e%2B16&share=0.25"
    )
    assert READER.url({"active": False, "ratio": 3.0}) == "/api/v1/analytics/everything?active=false&ratio=3"


def test_zero_has_one_key() -> None:
    """-0.0 equals 0.0, so it is the same result."""
    keys = {READER.key(READER.parse_query(f"ratio={zero}")) for zero in ("0", "-0", "0.0", "-0.0", "0e5")}
    assert keys == {"gwcache:/api/v1/analytics/everything?ratio=0"}


def test_letters_beyond_ascii_are_encoded_in_names_too() -> None:
    """A Python name may have any letters; its URL has ASCII alone, and reads back."""

    class Sized(Params):
        größe: int = 1  # noqa: PLC2401

    reader = ParamReader("sized", specs_of(Sized))
    assert reader.url({"größe": 2}) == "/api/v1/analytics/sized?gr%C3%B6%C3%9Fe=2"
    assert reader.parse_query("gr%c3%b6%c3%9fe=2") == {"größe": 2}


@given(PARAMS)
def test_the_gateway_and_the_supervisor_agree_on_every_key(params: dict[str, Scalar]) -> None:
    """The gateway, which knows a report by the catalogue's JSON alone, writes the supervisor's key."""
    travelled = msgspec.json.decode(msgspec.json.encode(READER.specs), type=dict[str, ParamSpec])
    gateway = ParamReader("everything", tuple(travelled.values()))
    assert gateway.specs == READER.specs
    assert gateway.key(gateway.parse_query(query_of(READER.url(params)))) == READER.key(params)


# Whose result it is


@given(TRICKS, TRICKS)
@example("x&tenant=b", "x")
@example("x%26tenant=b", "x&tenant=b")
def test_no_text_leads_to_another_tenants_key(one: str, two: str) -> None:
    """Whatever text two clients put into a parameter, delimiters and all, neither has the other's key."""
    for encode in (quote, lambda text: quote(text, safe="=/?:@!$'()*,")):
        keys = []
        for tenant, note in (("a", one), ("b", two)):
            query = f"note={encode(note.encode(errors='replace'))}"
            try:
                keys.append(TENANTS.key(TENANTS.parse_query(query, {"tenant": tenant})))
            except InvalidParams as error:
                assert not is_text(note) or len(note) > 256
                assert "note" in names(error)  # noqa: PT017
        assert len(set(keys)) == len(keys)


@given(TRICKS.map(lambda text: text.replace("X", "tenant=b")))
@example("tenant=b")
@example("note=1&tenant=b")
@example("note=1;tenant=b")
@example("note=1%26tenant=b")
@example("note=1#&tenant=b")
@example("t%65nant=b")
@example("tenant%00=b")
@example("Tenant=b")
@example("tenant[]=b")
def test_no_query_string_changes_whose_result_it_is(query: str) -> None:
    """A raw query string, however malformed, is refused or is answered for the tenant of the token."""
    try:
        params = TENANTS.parse_query(query, {"tenant": "a"})
    except InvalidParams as error:
        assert error.details["errors"]  # noqa: PT017 - either outcome is right
    else:
        assert params["tenant"] == "a"
        assert TENANTS.key(params).endswith("tenant=a")


@given(st.text().filter(str.isprintable), st.text().filter(str.isprintable))
@example("a", "a&note=x")
@example("a", "A")
@example("é", "e\u0301")
def test_two_tenants_never_share_a_key(one: str, two: str) -> None:
    """Tenants whose names differ in anything, if only in case or in how an accent is encoded, are apart."""
    assume(one != two and len(one) <= 256 and len(two) <= 256)
    keys = {TENANTS.key(TENANTS.parse_query("note=x", {"tenant": tenant})) for tenant in (one, two)}
    assert len(keys) == 2


def test_a_parameter_of_the_token_cannot_be_given() -> None:
    """A parameter that is bound to a claim is refused in the query, even with the token's own value."""
    with pytest.raises(InvalidParams) as caught:
        TENANTS.parse_query("tenant=a", {"tenant": "a"})
    assert names(caught.value) == ["tenant"]
    with pytest.raises(InvalidParams) as caught:
        TENANTS.parse_query("note=x", {"other": "a"})
    assert names(caught.value) == ["tenant"]


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[str | None, Claim("org")],
        Annotated[str, Claim("org")] | None,
        Annotated[str, Field(max_length=9), Claim("org")] | None,
        Annotated[Annotated[str, Claim("org")] | None, Field(description="whose")],
    ],
)
def test_a_claim_binds_wherever_it_stands_in_the_type(annotation: Any) -> None:
    """However the type is written, a parameter that names a claim is never taken from the query."""
    model = type("M", (Params,), {"__annotations__": {"tenant": annotation}, "tenant": None})
    reader = ParamReader("r", specs_of(model))
    assert reader.claims == {"tenant": "org"}
    with pytest.raises(InvalidParams):
        reader.parse_query("tenant=x", {"org": "a"})
    assert reader.parse_query("", {"org": "a"}) == {"tenant": "a"}


# Refusals


class Month(Params):
    """One parameter that must be given."""

    month: Annotated[int, Field(ge=1, le=12)]


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("", ["month"]),
        ("month=13", ["month"]),
        ("month=", ["month"]),
        ("month", ["month"]),
        ("month=1.5", ["month"]),
        ("month=1%00", ["month"]),
        ("month=1%27%20OR%201=1", ["month"]),
        ("month=%D9%A3", ["month"]),
        ("month=99999999999999999999999", ["month"]),
        ("month=" + "9" * 4000, ["month"]),
        ("month=1&month=1", ["month"]),
        ("month=1&month=2", ["month"]),
        ("month=1&Month=1", ["Month"]),
        ("month=1&other=2", ["other"]),
        ("month=1&$where=1", ["$where"]),
        ("other=2", ["month", "other"]),
        ("month=1&%0d%0aSet-Cookie:=2", ["\ufffd\ufffdSet-Cookie:"]),
        ("a%0a=1&a%0a=1", ["a\ufffd"]),
        ("month=1&" + "x" * 500 + "=2", ["x" * 80 + "…"]),
    ],
)
def test_a_wrong_parameter_is_named(query: str, wrong: list[str]) -> None:
    """Unknown, repeated, missing and mistyped parameters are named, by text that is safe to show."""
    with pytest.raises(InvalidParams) as caught:
        ParamReader("r", specs_of(Month)).parse_query(query)
    assert sorted(set(names(caught.value))) == wrong
    assert all(name in str(caught.value) for name in wrong)
    assert str(caught.value).isprintable()


def test_an_unknown_parameter_is_answered_with_the_known_ones() -> None:
    """The refusal of an unknown name lists those that may be given, and not those of the token."""
    with pytest.raises(InvalidParams, match=r"this report has: note$"):
        TENANTS.parse_query("x=1", {"tenant": "a"})


@pytest.mark.parametrize(
    "query", ["name=%ff", "%ff=1", "name=%ed%a0%80", "&".join(f"p{i}=1" for i in range(101))]
)
def test_a_query_that_cannot_be_read_is_refused(query: str) -> None:
    """A query string that is not UTF-8, or has more than a hundred parameters, is InvalidParams."""
    with pytest.raises(InvalidParams, match="cannot be read"):
        READER.parse_query(query)


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-inf", "Infinity", "1e999"])
def test_a_number_is_finite(value: str) -> None:
    """Neither NaN, which no key can stand for, nor infinity is a parameter."""
    with pytest.raises(InvalidParams, match=r"^ratio: "):
        READER.parse_query(f"ratio={value}")


def test_an_integer_has_64_bits() -> None:
    """An integer without bounds of its own is one that databases and frames can carry."""

    class Free(Params):
        n: int | None = None

    reader = ParamReader("r", specs_of(Free))
    for fits in (2**63 - 1, -(2**63)):
        assert reader.parse_query(f"n={fits}") == {"n": fits}
    for beyond in (2**63, -(2**63) - 1):
        with pytest.raises(InvalidParams, match=r"^n: "):
            reader.parse_query(f"n={beyond}")


@given(st.text(max_size=300))
@example("\0")
@example("a\u2028b")
@example("x" * 257)
def test_text_is_printable_and_bounded(text: str) -> None:
    """A text parameter has at most 256 characters and no control characters, unless its report says more."""
    if is_text(text) and len(text) <= 256:
        assert READER.parse({"name": text})["name"] == text
    else:
        with pytest.raises(InvalidParams, match=r"^name: "):
            READER.parse({"name": text})


TEXTS = [
    "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a zero-width non-joiner
    "\u0915\u094d\u200d\u0937",  # Devanagari, with a zero-width joiner
    "\u6771\u4eac\u3000\u99c5",  # Japanese, with an ideographic space
    "1\u00a0000 \u20ac",  # a no-break space
    "12\u202f000",  # the narrow no-break space of French
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",  # an emoji made of several
    "\u05d0\u200f!\u200e",  # Hebrew, with its marks of direction
    "\u1680\u1681\u1680",  # the space of Ogham
    "co\u00adop",  # a soft hyphen
    "e\u0301 and \u00e9",  # decomposed and composed: two texts, and neither is changed
    "\ufeffx",  # a zero-width no-break space
    "\u1820\u180e\u1820",  # Mongolian, with its vowel separator
    "\u0e20\u0e32\u0e29\u0e32\u200b\u0e44\u0e17\u0e22",  # Thai, with a zero-width space
    "\ue000",  # of private use
    "\U000323af\U0003ffff",  # characters that this Python does not know yet
]
"""Text with the spaces and joiners of its script."""


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_of_every_script_is_taken_as_it_is(text: str) -> None:
    """Spaces and joiners of a script are a part of its text: it is accepted unchanged, and has one URL."""
    params = READER.parse_query(f"name={quote(text)}")
    assert params["name"] == text
    url = READER.url(params)
    assert url.isascii()
    assert READER.parse_query(url.partition("?")[2]) == params


@pytest.mark.parametrize(
    "character",
    ["\0", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029", chr(0xD800), chr(0xDFFF)],
    ids=ascii,
)
def test_control_characters_stay_refused(character: str) -> None:
    """A control character, a separator of lines and half of a surrogate pair are refused by the name."""
    with pytest.raises(InvalidParams, match=r"^name: "):
        READER.parse({"name": f"a{character}b"})


@given(st.text())
def test_what_is_shown_of_foreign_text_is_printable(text: str) -> None:
    """Text from outside is shown without control characters, and not at length."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 81


# The model that the gateway rebuilds


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


def test_none_is_taken_only_where_it_is_the_default() -> None:
    """No URL can say None, so only a parameter that is None when left out may be None."""
    assert READER.parse({"month": None})["month"] is None
    with pytest.raises(InvalidParams, match=r"^limit: "):
        READER.parse({"limit": None})


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
