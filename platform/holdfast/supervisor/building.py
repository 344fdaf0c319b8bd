"""What a query's function builds, and what is said when it builds something else, or raises."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import TextClause
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import SelectBase

from holdfast.errors import DeadlineExceeded, HoldfastError, QueryFailed
from holdfast.reasons import author_places, place_of, reason
from holdfast.reports import Params, Query

if TYPE_CHECKING:
    from beanie import Document

Statement: TypeAlias = SelectBase | TextClause
"""A `select(...)`, a union of these, or SQL by `text(...)`, with or without `.columns(...)`."""


@contextlib.contextmanager
def located(query: Query) -> Iterator[None]:
    """Name the query in whatever goes wrong with it, and the line of its function unless another is named."""
    try:
        yield
    except (QueryFailed, DeadlineExceeded) as error:
        error.args = (f"query {query.name}: {error}",)
        place = None if error.details.pop("located", False) else place_of(query.build)
        if place is not None:
            error.details["lines"] = [*error.details.get("lines", ()), str(place)]
        raise


def built_statement(query: Query, params: Params) -> Statement:
    """The statement that the query's function builds.

    Raises:
        QueryFailed: it raised, or returned something else.
    """
    built = _called(query, params)
    if isinstance(built, SelectBase | TextClause):
        return built
    raise QueryFailed(f"it must return a SQLAlchemy Select, or SQL as text(...); {_mistaken(built)}")


def built_pipeline(query: Query, params: Params) -> tuple[type[Document], list[dict[str, Any]]]:
    """The document and the pipeline that the query's function builds. Raises as `built_statement` does."""
    built = _called(query, params)
    if query.document is None or not isinstance(built, list | tuple):
        raise QueryFailed(f"it must return a list of stages; {_mistaken(built)}")
    for number, stage in enumerate(built, 1):
        if not isinstance(stage, Mapping) or not all(isinstance(name, str) for name in stage):
            raise QueryFailed(
                f"it must return a list of stages, each a mapping such as {{'$match': {{...}}}}; "
                f"stage {number} is {_described(stage)}"
            )
    return query.document, list(built)


def _called(query: Query, params: Params) -> object:
    try:
        return query.build(params)
    except HoldfastError:
        raise
    # A function that ends the process must end its query, and not the supervisor.
    except (Exception, SystemExit) as error:
        own = {str(query.build.__module__).partition(".")[0]}
        places = author_places(error, own)
        lines = [str(place) for place in places]
        raise QueryFailed(
            f"its function raised {reason(error)}", lines=lines, located=bool(places)
        ) from error


_MISTAKES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "it returned nothing: does the function end with return?"),
    (str, "it returned {}: SQL is written as text(...), imported from sqlalchemy"),
    (UpdateBase, "it returned a statement that writes: a query only reads"),
    ((SelectBase, TextClause), "it returned a statement of SQL: is it a query of @report.postgres?"),
    ((list, tuple), "it returned {}: is it a pipeline of @report.mongo?"),
    (Mapping, "it returned one mapping: a stage stands in a list, as in [{{'$match': {{...}}}}]"),
    (Coroutine, "it returned a coroutine: the function is an ordinary one, without await"),
)
"""What functions return by mistake, and what is said of it; the first that fits counts."""


def _mistaken(built: object) -> str:
    if isinstance(built, Coroutine):
        # Or Python warns that it was never awaited.
        built.close()
    said = next((text for kind, text in _MISTAKES if isinstance(built, kind)), "it returned {}")
    return said.format(_described(built))


def _described(value: object) -> str:
    kind = type(value).__name__
    return (
        f"{kind} {value!r}"[:80]
        if isinstance(value, str | int | float | list | tuple)
        else f"an object of {kind}"
    )
