"""Reports: what an engineer writes.

A report is a `Report` object at the top of a module; decorators add its queries. A query is a function of
the typed parameters that builds a SQLAlchemy `Select` or a MongoDB pipeline; only its name and the
parameters ever cross the supervisor's socket.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
from pydantic import ValidationError

from holdfast.errors import InvalidParams, ReportError
from holdfast.reasons import CodePlace, place_of
from holdfast.reports.canonical import Scalar
from holdfast.reports.definition import (
    check_compute,
    check_document,
    check_name,
    check_params,
    check_query,
    check_texts,
    check_times,
    check_variants,
    definition_place,
    refuse,
)
from holdfast.reports.params import ParamReader, Params, ParamSpec
from holdfast.reports.rows import checked_rows
from holdfast.reports.version import version_of

if TYPE_CHECKING:
    from beanie import Document

Row = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])
CREATED: ContextVar[list[Report] | None] = ContextVar("CREATED", default=None)
"""While reports are loaded: those that were made, whether a module keeps them or not."""


class ReportSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A report as the catalogue describes it. `ttl`, `max_stale` and `schedule` are in seconds."""

    name: str
    title: str
    description: str
    params: tuple[ParamSpec, ...]
    ttl: int | None
    max_stale: int
    schedule: int | None
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A registered query: where it runs, and the function that builds it from typed parameters."""

    name: str
    source: Literal["postgres", "mongo"]
    build: Callable[..., Any]
    document: type[Document] | None = None


class Data(Mapping[Callable[..., Any], list[Row]]):
    """The rows of a report's queries, found by the query function: `data[by_carrier]`."""

    def __init__(self, rows: Mapping[Callable[..., Any], list[Row]]) -> None:
        self._rows = dict(rows)

    def __getitem__(self, query: Callable[..., Any]) -> list[Row]:
        return self._rows[query]

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class Report:
    """One report: its parameters, how long it is good for, and the queries and function that make it.

    Args:
        name: in lower case with hyphens; the last part of its URL.
        title, description: for people: the catalogue, the docs and the console.
        params: a `Params` model; every field is a parameter of the URL.
        ttl: seconds for which a result is fresh; without it GW_CACHE_TTL.
        max_stale: seconds after that in which it may still be served, marked STALE.
        schedule: seconds between two scheduled refreshes of the warm variants; None for no schedule.
        tags: the data it depends on, as `postgres:table` or `mongo:collection`.
        warm: the variants to keep warm, as `variants(...)` or a list of parameter mappings.

    Raises:
        ReportError: names what is wrong with the definition.
    """

    def __init__(
        self,
        name: str,
        *,
        title: str = "",
        description: str = "",
        params: type[Params] = Params,
        ttl: int | None = None,
        max_stale: int = 86_400,
        schedule: int | None = None,
        tags: Sequence[str] = (),
        warm: Iterable[Mapping[str, Scalar]] = (),
    ) -> None:
        where = f"report {check_name(name)!r}"
        check_times(where, ttl=ttl, max_stale=max_stale, schedule=schedule)
        check_texts(where, title=title, description=description, tags=tags)
        self.module, self.place = definition_place()
        """The module that defines it, and the line."""
        self.name = name
        self.params = params
        self.ttl = ttl
        self.max_stale = max_stale
        self.schedule = schedule
        self.spec = ReportSpec(
            name=name,
            title=title or name,
            description=description,
            params=check_params(where, params),
            ttl=ttl,
            max_stale=max_stale,
            schedule=schedule,
            tags=tuple(tags),
        )
        self.reader = ParamReader(name, self.spec.params)
        self.warm = self._parsed(check_variants(where, warm))
        self.queries: dict[str, Query] = {}
        self._compute: Callable[..., Sequence[Row]] | None = None
        if (created := CREATED.get()) is not None:
            created.append(self)

    def _parsed(self, variants: Iterable[Mapping[str, Scalar]]) -> tuple[dict[str, Scalar], ...]:
        try:
            return tuple(self.reader.parse(variant) for variant in variants)
        except InvalidParams as error:
            raise ReportError(f"report {self.name!r}: a warm variant is wrong: {error}") from error

    def __repr__(self) -> str:
        return f"<Report {self.name} queries={list(self.queries)} warm={len(self.warm)}>"

    @functools.cached_property
    def version(self) -> str:
        """The digest of what defines its results, as of when it was loaded: 16 hexadecimal digits."""
        said = (self.name, self.spec.params, self.ttl, self.max_stale)
        queries = self.queries.values()
        code = [query.build for query in queries] + [q.document for q in queries if q.document]
        return version_of(msgspec.json.encode(said), [*code, self._compute, self.params], self.module)

    def postgres(self, build: F) -> F:
        """Register a query on Postgres: a function of the parameters that returns a `Select` or a `text`."""
        check_query(self.name, build, "@postgres, without parentheses,")
        return self._register(Query(f"{self.name}.{build.__name__}", "postgres", build), build)

    def mongo(self, document: type[Document]) -> Callable[[F], F]:
        """Register a query on MongoDB: a function that returns a pipeline over that document's collection."""
        check_document(self.name, document)

        def register(build: F) -> F:
            check_query(self.name, build, "@mongo(Document)")
            name = f"{self.name}.{build.__name__}"
            return self._register(Query(name, "mongo", build, document), build)

        return register

    def _register(self, query: Query, build: F) -> F:
        if (other := self.queries.get(query.name)) is not None:
            where = " and ".join(f"{p.file}:{p.line}" for p in map(place_of, (other.build, build)) if p)
            refuse(f"query {query.name!r} is defined twice: {where}", place_of(build))
        self.queries[query.name] = query
        return build

    def compute(self, function: F) -> F:
        """Register the function `(params, data) -> rows` that makes the rows from the queries' rows.

        It is an ordinary function and runs in a thread. A report with one query needs none.
        """
        check_compute(self.name, function)
        if self._compute is not None:
            where = " and ".join(f"{p.file}:{p.line}" for p in map(place_of, (self._compute, function)) if p)
            refuse(f"report {self.name!r}: compute is defined twice: {where}", place_of(function))
        self._compute = function
        return function

    def typed(self, params: Mapping[str, Scalar]) -> Params:
        """The report's own parameter model with those values.

        Raises:
            InvalidParams: names each wrong parameter.
        """
        values = self.reader.parse(params)
        try:
            return self.params.model_validate(values)
        except ValidationError as error:
            # A rule of the model's own (a validator, a bound of a date) that a ParamSpec cannot say.
            raise self.reader.refusal(error) from None

    def rows(self, params: Mapping[str, Scalar], data: Mapping[str, list[Row]]) -> list[Row]:
        """The report's rows, from its queries' rows by query name.

        Raises:
            ValueNotServable: the function returned something else; the message says which row.
        """
        by_function = Data({self.queries[name].build: rows for name, rows in data.items()})
        if self._compute is None:
            return next(iter(by_function.values()))
        return checked_rows(self.name, self._compute(self.typed(params), by_function))

    @property
    def compute_place(self) -> CodePlace | None:
        """Where the report's function is defined; None where it has none."""
        return place_of(self._compute)

    def check(self) -> None:
        """Raise ReportError unless the definition is complete."""
        if not self.queries:
            raise ReportError(f"report {self.name!r} has no query: add one with @{self.name}.postgres")
        if self._compute is None and len(self.queries) > 1:
            raise ReportError(f"report {self.name!r} has several queries: say by @compute how they join")


def variants(**axes: Iterable[Scalar]) -> tuple[dict[str, Scalar], ...]:
    """Every combination of the given values: `variants(month=[None, 1], origin=["JFK"])` has two.

    Raises:
        ReportError: an axis is one value, and not a list of values.
    """
    for name, values in axes.items():
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise ReportError(f"variants: {name} is a list of values such as [{values!r}]; not {values!r}")
    names = list(axes)
    return tuple(dict(zip(names, values, strict=True)) for values in itertools.product(*axes.values()))
