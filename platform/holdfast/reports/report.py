"""Reports: what an engineer writes, and the registry that the processes load them into.

A report is a `Report` object at the top of a module, with its queries hung on it by decorators. A query
is a function of the typed parameters that builds a SQLAlchemy `Select` or a MongoDB pipeline; only its
name and the parameters ever cross the supervisor's socket. The modules come from the setting REPORTS; in
a package every module counts, so a new report is one new file.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
from pydantic import ValidationError

from holdfast.errors import InvalidParams, ReportError, UnknownQuery, UnknownReport
from holdfast.reports.params import Claim, ParamReader, Params, ParamSpec, Scalar, specs_of

if TYPE_CHECKING:
    from beanie import Document

__all__ = [
    "Claim",
    "Data",
    "Params",
    "Query",
    "Registry",
    "Report",
    "ReportSpec",
    "Row",
    "load_reports",
    "variants",
]

Row = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


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
        if not _NAME.fullmatch(name):
            raise ReportError(f"report {name!r}: a name is lower-case words joined by hyphens")
        for label, seconds in (("ttl", ttl), ("schedule", schedule)):
            if seconds is not None and seconds <= 0:
                raise ReportError(f"report {name!r}: {label} is seconds above zero, or None")
        if max_stale < 0:
            raise ReportError(f"report {name!r}: max_stale is seconds, zero or more")
        if bad := [t for t in tags if not t.startswith(("postgres:", "mongo:"))]:
            raise ReportError(f"report {name!r}: a tag is postgres:TABLE or mongo:COLLECTION, not {bad[0]!r}")
        self.name = name
        self.params = params
        self.ttl = ttl
        self.max_stale = max_stale
        self.schedule = schedule
        self.spec = ReportSpec(
            name=name,
            title=title or name,
            description=description,
            params=specs_of(params),
            ttl=ttl,
            max_stale=max_stale,
            schedule=schedule,
            tags=tuple(tags),
        )
        self.reader = ParamReader(name, self.spec.params)
        try:
            self.warm = tuple(self.reader.parse(variant) for variant in warm)
        except InvalidParams as error:
            raise ReportError(f"report {name!r}: a warm variant is wrong: {error}") from error
        self.queries: dict[str, Query] = {}
        self._compute: Callable[..., Sequence[Row]] | None = None

    def __repr__(self) -> str:
        return f"<Report {self.name} queries={list(self.queries)} warm={len(self.warm)}>"

    def postgres(self, build: F) -> F:
        """Register a query on Postgres: a function of the parameters that returns a `Select`."""
        return self._register(Query(f"{self.name}.{build.__name__}", "postgres", build), build)

    def mongo(self, document: type[Document]) -> Callable[[F], F]:
        """Register a query on MongoDB: a function that returns a pipeline over that document's collection."""

        def register(build: F) -> F:
            name = f"{self.name}.{build.__name__}"
            return self._register(Query(name, "mongo", build, document), build)

        return register

    def _register(self, query: Query, build: F) -> F:
        if query.name in self.queries:
            raise ReportError(f"query {query.name!r} is defined twice")
        self.queries[query.name] = query
        return build

    def compute(self, function: F) -> F:
        """Register the function `(params, data) -> rows` that makes the rows from the queries' rows.

        It is an ordinary function and runs in a thread. A report with one query needs none.
        """
        if self._compute is not None:
            raise ReportError(f"report {self.name!r}: compute is defined twice")
        if inspect.iscoroutinefunction(function):
            raise ReportError(f"report {self.name!r}: compute is an ordinary function, not an async one")
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
        """The report's rows, from its queries' rows by query name."""
        by_function = Data({self.queries[name].build: rows for name, rows in data.items()})
        if self._compute is None:
            return next(iter(by_function.values()))
        return list(self._compute(self.typed(params), by_function))

    def check(self) -> None:
        """Raise ReportError unless the definition is whole."""
        if not self.queries:
            raise ReportError(f"report {self.name!r} has no query: add one with @{self.name}.postgres")
        if self._compute is None and len(self.queries) > 1:
            raise ReportError(f"report {self.name!r} has several queries: say by @compute how they join")


def variants(**axes: Iterable[Scalar]) -> tuple[dict[str, Scalar], ...]:
    """Every combination of the given values: `variants(month=[None, 1], origin=["JFK"])` has two."""
    names = list(axes)
    return tuple(dict(zip(names, values, strict=True)) for values in itertools.product(*axes.values()))


class Registry:
    """The reports that this process knows, by name, and their queries."""

    def __init__(self, reports: Iterable[Report]) -> None:
        self.reports: dict[str, Report] = {}
        for report in reports:
            report.check()
            if report.name in self.reports:
                raise ReportError(f"two reports are named {report.name!r}")
            self.reports[report.name] = report

    def __iter__(self) -> Iterator[Report]:
        return iter(self.reports.values())

    def get(self, name: str) -> Report:
        """The report of that name.

        Raises:
            UnknownReport: there is none.
        """
        try:
            return self.reports[name]
        except KeyError:
            raise UnknownReport(f"there is no report {name!r}", known=sorted(self.reports)) from None

    def query(self, name: str) -> tuple[Report, Query]:
        """The query `report.function` and its report.

        Raises:
            UnknownQuery: there is none.
        """
        report = self.reports.get(name.partition(".")[0])
        if report is None or name not in report.queries:
            known = sorted(q for r in self for q in r.queries)
            raise UnknownQuery(f"there is no query {name!r}", known=known)
        return report, report.queries[name]

    def documents(self) -> list[type[Document]]:
        """The Beanie documents that the reports' queries read, each once."""
        queries = (query for report in self for query in report.queries.values())
        return list(dict.fromkeys(q.document for q in queries if q.document is not None))

    def catalogue(self) -> list[ReportSpec]:
        """Every report's spec, sorted by name."""
        return [self.reports[name].spec for name in sorted(self.reports)]


def load_reports(modules: Sequence[str]) -> Registry:
    """Import the modules, and the modules within packages, and collect the reports found in them.

    Raises:
        ReportError: a module cannot be imported, holds no report, or a definition is wrong.
    """
    found: dict[int, Report] = {}
    for name in modules:
        reports = [r for m in _walk(name) for r in vars(m).values() if isinstance(r, Report)]
        if not reports:
            raise ReportError(f"REPORTS: module {name!r} holds no report")
        found |= {id(report): report for report in reports}
    return Registry(found.values())


def _walk(name: str) -> Iterator[ModuleType]:
    try:
        module = importlib.import_module(name)
        yield module
        for info in pkgutil.iter_modules(getattr(module, "__path__", []), f"{name}."):
            yield from _walk(info.name)
    except ReportError:
        raise
    except Exception as error:
        raise ReportError(f"REPORTS: cannot import {name!r}: {type(error).__name__}: {error}") from error
