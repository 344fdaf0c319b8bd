"""Parameters: which values are taken, and that one result has one key whoever asks for it and however."""

from __future__ import annotations

import enum
import unicodedata
from datetime import date
from random import Random
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import Field

from holdfast.errors import InvalidParams
from holdfast.reports.canonical import Scalar, printable
from holdfast.reports.params import (
    Claim,
    ParamReader,
    Params,
    ParamSpec,
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


def key_of_note(tenant: str, note: str, safe: str) -> str | None:
    """The key that a client of that tenant gets for a note; None where the note is refused."""
    try:
        query = f"note={quote(note.encode(errors='replace'), safe=safe)}"
        return TENANTS.key(TENANTS.parse_query(query, {"tenant": tenant}))
    except InvalidParams as error:
        return None if names(error) == ["note"] else f"{error}"


@pytest.mark.parametrize("safe", ["/", "=/?:@!$'()*,"])
@given(TRICKS, TRICKS)
@example("x&tenant=b", "x")
@example("x%26tenant=b", "x&tenant=b")
def test_no_text_leads_to_another_tenants_key(safe: str, one: str, two: str) -> None:
    """Whatever text two clients put into a parameter, delimiters and all, neither has the other's key."""
    first, second = key_of_note("a", one, safe), key_of_note("b", two, safe)
    assert first is not None or not is_text(one) or len(one) > 256
    assert first is None or first.endswith("tenant=a")
    assert second is None or second.endswith("tenant=b")


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


class Free(Params):
    """An integer without bounds of its own."""

    n: int | None = None


@pytest.mark.parametrize(
    ("value", "fits"), [(2**63 - 1, True), (-(2**63), True), (2**63, False), (-(2**63) - 1, False)]
)
def test_an_integer_has_64_bits(value: int, fits: bool) -> None:
    """An integer without bounds of its own is one that databases and frames can carry."""
    reader = ParamReader("r", specs_of(Free))
    if fits:
        assert reader.parse_query(f"n={value}") == {"n": value}
    else:
        with pytest.raises(InvalidParams, match=r"^n: "):
            reader.parse_query(f"n={value}")


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


def test_none_is_taken_only_where_it_is_the_default() -> None:
    """No URL can say None, so only a parameter that is None when left out may be None."""
    assert READER.parse({"month": None})["month"] is None
    with pytest.raises(InvalidParams, match=r"^limit: "):
        READER.parse({"limit": None})
