"""What a report's definition may be: a mistake is refused when its file is loaded, with what is accepted."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from holdfast.errors import ReportError
from holdfast.reasons import CodePlace, is_authors, place_of, shown_path, source_line
from holdfast.reports.canonical import Scalar
from holdfast.reports.params import Params, ParamSpec, specs_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_SECONDS = 10 * 366 * 86_400
"""Ten years: a longer time is a mistake in the unit."""


def definition_place() -> tuple[str, CodePlace | None]:
    """The module and the line of the author's code that runs: of the innermost frame that is not ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code, module = frame.f_code, str(frame.f_globals.get("__name__", ""))
        if is_authors(code.co_filename, module, {module.partition(".")[0]}):
            text = source_line(code.co_filename, frame.f_lineno)
            return module, CodePlace(shown_path(code.co_filename), frame.f_lineno, code.co_name, text)
        frame = frame.f_back
    return "", None


def refuse(message: str, place: CodePlace | None = None) -> NoReturn:
    """Raise a ReportError that carries the place of the mistake, where it is not the line that runs."""
    details = {"file": place.file, "line": place.line, "text": place.text} if place is not None else {}
    raise ReportError(message, **details)


def check_name(name: object) -> str:
    """Refuse a name that cannot be the last part of a URL, and return it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        refuse(f"report {name!r}: a name is lower-case words joined by hyphens, such as 'late-flights'")
    return name


def check_times(where: str, *, ttl: object, max_stale: object, schedule: object) -> None:
    """Refuse times that are no whole seconds."""
    _seconds(where, "ttl", ttl, least=1, otherwise="None for GW_CACHE_TTL")
    _seconds(where, "schedule", schedule, least=1, otherwise="None for no schedule")
    _seconds(where, "max_stale", max_stale, least=0)


def _seconds(where: str, label: str, value: object, *, least: int, otherwise: str = "") -> None:
    if value is None and otherwise:
        return
    if type(value) is not int or not least <= value <= MAX_SECONDS:
        also = f", or {otherwise}" if otherwise else ""
        refuse(
            f"{where}: {label} is a whole number of seconds from {least} to {MAX_SECONDS}{also}; "
            f"not {value!r}"
        )


def check_texts(where: str, *, title: object, description: object, tags: object) -> None:
    """Refuse titles that are no text, and tags that name no table or collection."""
    for label, text in (("title", title), ("description", description)):
        if not isinstance(text, str):
            refuse(f"{where}: {label} is text; not {text!r}")
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        refuse(f'{where}: tags is a list such as ["postgres:flights"]; not {tags!r}')
    for tag in tags:
        if not isinstance(tag, str) or not re.fullmatch(r"(postgres|mongo):.+", tag):
            refuse(f"{where}: a tag is postgres:TABLE or mongo:COLLECTION, not {tag!r}")


def check_params(where: str, params: object) -> tuple[ParamSpec, ...]:
    """The specs of a report's parameters; refuses what is no `Params` class, wrong fields and defaults."""
    if not isinstance(params, type) or not issubclass(params, Params):
        kind = "a class" if isinstance(params, type) else f"an object of {type(params).__name__}"
        name = getattr(params, "__name__", type(params).__name__)
        refuse(
            f"{where}: params is a class derived from holdfast.reports.Params; {name} is {kind} that is not"
        )
    try:
        specs = specs_of(params)
    except ReportError as error:
        refuse(f"{where}: {error}", _line_in(params, str(error)))
    except (PydanticUserError, TypeError, ValueError) as error:
        refuse(
            f"{where}: the parameters of {params.__qualname__} cannot be described: {error}",
            place_of_class(params),
        )
    for name, field in params.model_fields.items():
        if (problem := _wrong_default(params, field)) is not None:
            refuse(f"{where}: parameter {name}: {problem}", field_place(params, name))
    return specs


def _wrong_default(params: type[Params], field: FieldInfo) -> str | None:
    if field.default_factory is not None:
        return "default_factory is not supported: a default is part of the result's URL, and is one value"
    if field.is_required():
        return None
    annotation: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        TypeAdapter(annotation).validate_python(field.default, strict=True)
    except ValidationError as error:
        said = error.errors()[0]["msg"].replace("Input should", "it must", 1)
        hint = "; write `| None` after its type" if field.default is None else ""
        return f"its default {field.default!r} is not of its type: {said}{hint}"
    except (PydanticUserError, TypeError):
        return f"its type in {params.__qualname__} cannot be checked"
    return None


def place_of_class(cls: type) -> CodePlace | None:
    """Where a class is defined; None where its source is not at hand."""
    try:
        file = inspect.getsourcefile(cls)
        lines, first = inspect.getsourcelines(cls)
    except (OSError, TypeError):
        return None
    return CodePlace(shown_path(file), first, text=lines[0].strip()) if file else None


def field_place(cls: type, field: str) -> CodePlace | None:
    """Where a field of a class is written, or else the class."""
    for owner in cls.__mro__:
        if field not in vars(owner).get("__annotations__", {}):
            continue
        try:
            lines, first = inspect.getsourcelines(owner)
            file = inspect.getsourcefile(owner)
        except (OSError, TypeError):
            break
        for number, line in enumerate(lines):
            if file and re.match(rf"\s+{re.escape(field)}\s*[:=]", line):
                return CodePlace(shown_path(file), first + number, text=line.strip())
    return place_of_class(cls)


def _line_in(params: type[Params], message: str) -> CodePlace | None:
    named = next((name for name in params.model_fields if f".{name}:" in message), None)
    return field_place(params, named) if named else place_of_class(params)


def check_variants(where: str, warm: object) -> list[Mapping[str, Scalar]]:
    """The variants as a list; refuses what is no list of mappings."""
    accepted = "warm is variants(...) or a list of mappings such as [{'month': 7}]"
    if isinstance(warm, str | bytes | Mapping) or not isinstance(warm, Iterable):
        refuse(f"{where}: {accepted}; not {_shown(warm)}")
    listed = list(warm)
    for variant in listed:
        if not isinstance(variant, Mapping):
            refuse(f"{where}: {accepted}; {_shown(variant)} is no mapping")
    return listed


def _shown(value: object) -> str:
    name = getattr(value, "__name__", None)
    return f"the function {name}" if inspect.isroutine(value) else repr(value)[:80]


def check_query(report: str, build: object, decorator: str) -> None:
    """Refuse what is no plain function of one argument, the parameters."""
    if not inspect.isfunction(build):
        refuse(
            f"report {report!r}: {decorator} stands before a function that takes the parameters; "
            f"not {_shown(build)}"
        )
    name = build.__name__
    where, place = f"query '{report}.{name}'", place_of(build)
    if not name.isidentifier():
        refuse(f"report {report!r}: a query is a function with a name, made by def; not a lambda", place)
    if inspect.iscoroutinefunction(build) or inspect.isasyncgenfunction(build):
        refuse(f"{where} is an async function: write def, it only builds the query", place)
    if inspect.isgeneratorfunction(build):
        refuse(f"{where} yields: it returns the query", place)
    _check_takes(where, build, ("params",), place)


def check_compute(report: str, function: object) -> None:
    """Refuse what is no ordinary function of two arguments, the parameters and the data."""
    where = f"report {report!r}: compute"
    if not callable(function) or isinstance(function, type):
        refuse(f"{where} is a function that takes (params, data); not {_shown(function)}")
    place = place_of(function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        refuse(f"{where} is an ordinary function, not an async one", place)
    _check_takes(where, function, ("params", "data"), place)


def _check_takes(
    where: str, function: Callable[..., Any], names: Sequence[str], place: CodePlace | None
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*names)
    except TypeError:
        name = getattr(function, "__name__", "function")
        takes = ", ".join(parameter.name for parameter in signature.parameters.values())
        refuse(f"{where} is called as {name}({', '.join(names)}), and is defined as {name}({takes})", place)


def check_document(report: str, document: object) -> None:
    """Refuse what is no Beanie document class: without it, the query would vanish."""
    if isinstance(document, type) and hasattr(document, "get_pymongo_collection"):
        return
    accepted = f"@{_variable(report)}.mongo needs the Document that it reads, as in @report.mongo(Reading)"
    place = place_of(document) if inspect.isfunction(document) else None
    refuse(f"report {report!r}: {accepted}; not {_shown(document)}", place)


def _variable(report: str) -> str:
    return report.replace("-", "_")
