"""A report's parameters, as both sides of the platform know them.

The definition is a pydantic model. `specs_of` turns it into plain `ParamSpec`s, which travel in the
catalogue; from them the gateway, which never imports a report, builds an equal model (`model_of`). Both
then parse a query by the same rules and write it in the same canonical form, so they agree on every key.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)

from holdfast.errors import InvalidParams, ReportError
from holdfast.reasons import close_to
from holdfast.reports.canonical import KEY_PREFIX, Scalar, canonical_url, plain, printable

MAX_TEXT = 256
"""Characters that a text parameter may have where the report sets no bound of its own."""

ParamType = Literal["integer", "number", "string", "boolean", "date"]
_PYTHON: dict[str, type] = {
    "integer": int,
    "number": float,
    "string": str,
    "boolean": bool,
    "date": date,
}


class Params(BaseModel):
    """The base of a report's parameters: immutable, and unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Claim:
    """Marks a parameter whose value comes from that claim of the caller's token, never from the query.

    Written as `tenant: Annotated[str, Claim("tenant")]`.
    """

    def __init__(self, name: str) -> None:
        self.name = name


class ParamSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One parameter: what JSON Schema says of it, under the same names."""

    name: str
    type: ParamType
    description: str = ""
    enum: tuple[int | float | str, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    exclusiveMinimum: int | float | None = None  # noqa: N815 - JSON Schema's own spelling
    exclusiveMaximum: int | float | None = None  # noqa: N815
    pattern: str | None = None
    minLength: int | None = None  # noqa: N815
    maxLength: int | None = None  # noqa: N815
    required: bool = False
    default: int | float | str | bool | None = None
    claim: str | None = None


def specs_of(model: type[BaseModel]) -> tuple[ParamSpec, ...]:
    """The parameters of a model, sorted by name.

    Raises:
        ReportError: a field is not a number, text, a boolean, a date or a choice of these.
    """
    schema = model.model_json_schema(mode="validation")
    required = set(schema.get("required", ()))
    specs = []
    for name, raw in sorted(schema.get("properties", {}).items()):
        described = _one_type(model, name, raw, schema.get("$defs", {}))
        field = model.model_fields[name]
        marks = [*field.metadata, *_within(field.annotation)]
        claim = next((mark.name for mark in marks if isinstance(mark, Claim)), None)
        known = {k: v for k, v in described.items() if k in ParamSpec.__struct_fields__}
        spec = {**known, "name": name, "required": name in required, "claim": claim}
        if not spec.get("description"):
            spec["description"] = raw.get("description", "")
        if isinstance(raw.get("default"), bool | int | float | str):
            spec["default"] = raw["default"]
        specs.append(msgspec.convert(spec, ParamSpec))
    return tuple(specs)


def _within(annotation: Any) -> Iterator[Any]:
    """What is annotated inside a type: `Annotated[str, Claim("tenant")] | None` binds a claim too."""
    for inner in get_args(annotation):
        yield from (getattr(inner, "__metadata__", ()) if get_origin(inner) is Annotated else ())
        yield from _within(inner)


def _one_type(
    model: type[BaseModel], name: str, raw: Mapping[str, Any], defs: Mapping[str, Any]
) -> dict[str, Any]:
    if name not in model.model_fields:
        raise ReportError(f"{model.__module__}.{model.__qualname__}: the alias {name!r} is not supported")
    choices = [c for c in raw.get("anyOf", [raw]) if c.get("type") != "null"]
    choice = dict(choices[0])
    if "$ref" in choice:
        choice = dict(defs[choice["$ref"].rpartition("/")[2]])
    if "const" in choice:
        choice["enum"] = [choice["const"]]
    # A format names a type that JSON does not have: only that of a date is known here.
    kind = choice.get("format", choice.get("type"))
    if len(choices) != 1 or kind not in _PYTHON or (kind == "boolean" and "enum" in choice):
        raise ReportError(
            f"{model.__module__}.{model.__qualname__}.{name}: a parameter is an int, float, str, bool, "
            "date or a Literal of int or str, or None"
        )
    choice["type"] = kind
    return choice


_REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of what no text parameter may hold: control characters, halves of surrogate pairs, and
the separators of lines and paragraphs. Spaces and joiners of every script are text, and stay as they are."""


def _plain_text(value: object) -> object:
    if not isinstance(value, str) or value.isprintable():
        return value
    if any(unicodedata.category(character) in _REFUSED for character in value):
        raise ValueError("must be text without control characters")
    return value


def _portable(value: Scalar) -> Scalar:
    """What msgpack, JSON and a URL all carry; -0.0 is 0.0, so that equal values have one key."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("must be an integer of 64 bits")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value + 0.0
    return value


def model_of(report: str, specs: Sequence[ParamSpec]) -> type[Params]:
    """A pydantic model that accepts what the specs describe."""
    fields: dict[str, Any] = {}
    for spec in specs:
        kind: Any = Literal[spec.enum] if spec.enum else _PYTHON[spec.type]
        if spec.enum and spec.type == "integer":
            kind = Annotated[kind, BeforeValidator(_whole_number)]
        bounds: dict[str, Any] = {
            "ge": spec.minimum,
            "le": spec.maximum,
            "gt": spec.exclusiveMinimum,
            "lt": spec.exclusiveMaximum,
            "pattern": spec.pattern,
            "min_length": spec.minLength,
            "max_length": spec.maxLength or (MAX_TEXT if kind is str else None),
        }
        limits: Any = Field(**{name: bound for name, bound in bounds.items() if bound is not None})
        annotation = Annotated[kind, limits, BeforeValidator(_plain_text), AfterValidator(_portable)]
        default = ... if spec.required else spec.default
        optional = annotation | None if default is None else annotation
        fields[spec.name] = (optional, default)
    return create_model(f"{report}_params", __base__=Params, **fields)


def _whole_number(value: object) -> object:
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():
        return int(value)
    return value


class ParamReader:
    """Reads the parameters of one report from a query string or a mapping, and writes its URLs."""

    def __init__(self, report: str, specs: Sequence[ParamSpec]) -> None:
        self.report = report
        self.specs = {spec.name: spec for spec in specs}
        self.claims = {spec.name: spec.claim for spec in specs if spec.claim}
        self._model = model_of(report, specs)
        self._defaults: dict[str, Scalar] = {spec.name: spec.default for spec in specs}

    def parse_query(self, query: str, claims: Mapping[str, Any] | None = None) -> dict[str, Scalar]:
        """The typed parameters of a query string, those bound to a claim filled in from `claims`.

        Raises:
            InvalidParams: names each parameter that is unknown, repeated, or not of its type.
        """
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100)
        except (ValueError, UnicodeDecodeError):
            raise InvalidParams(
                "the query string cannot be read",
                errors=[{"name": "", "reason": "must be UTF-8, with at most 100 parameters"}],
            ) from None
        problems = []
        given: dict[str, Any] = {}
        for name, value in pairs:
            if name in given:
                problems.append({"name": printable(name), "reason": "is given twice"})
            if name in self.claims:
                problems.append({"name": name, "reason": "is set by the token, not by the query"})
            given[name] = value
        if problems:
            raise _invalid(problems)
        for name, claim in self.claims.items():
            if claims is not None and claim in claims:
                given[name] = claims[claim]
        return self.parse(given)

    def parse(self, given: Mapping[str, Any]) -> dict[str, Scalar]:
        """Every parameter, typed and with defaults filled in, sorted by name.

        Raises:
            InvalidParams: names each parameter that is unknown, missing or not of its type.
        """
        try:
            values = self._model.model_validate(dict(given))
        except ValidationError as error:
            raise self.refusal(error) from None
        return {name: plain(getattr(values, name)) for name in sorted(self.specs)}

    def refusal(self, error: ValidationError) -> InvalidParams:
        """What pydantic found wrong, by the names of the parameters."""
        return _invalid(self._problem(e) for e in error.errors())

    def _problem(self, error: Any) -> dict[str, str]:
        # A rule over several parameters has no place.
        name = printable(str(error["loc"][0])) if error["loc"] else "parameters"
        if error["type"] == "extra_forbidden":
            known = [n for n in self.specs if n not in self.claims]
            close = close_to(name, known)
            meant = f" (did you mean {close!r}?)" if close else ""
            return {
                "name": name,
                "reason": f"is unknown{meant}; this report has: {', '.join(known) or 'none'}",
            }
        if error["type"] == "missing":
            return {"name": name, "reason": "is required"}
        reason = str(error["msg"]).removeprefix("Value error, ")
        return {"name": name, "reason": reason.replace("Input should", "must", 1)}

    def url(self, params: Mapping[str, Scalar]) -> str:
        """The canonical URL of a result with those parameters."""
        return canonical_url(self.report, params, self._defaults)

    def key(self, params: Mapping[str, Scalar]) -> str:
        """The cache key of those parameters: `gwcache:{canonical URL}`."""
        return KEY_PREFIX + self.url(params)


def _invalid(problems: Iterable[dict[str, str]]) -> InvalidParams:
    errors = list(problems)
    return InvalidParams("; ".join(f"{e['name']}: {e['reason']}" for e in errors), errors=errors)
