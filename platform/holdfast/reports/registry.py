"""The registry: the reports that a process knows, loaded from the modules that the setting REPORTS names.

In a package every module counts, so a new report is one new file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from holdfast.errors import ReportError, UnknownQuery, UnknownReport
from holdfast.reports.report import Query, Report, ReportSpec

if TYPE_CHECKING:
    from beanie import Document


class Registry:
    """The reports that this process knows, by name, and their queries."""

    def __init__(self, reports: Iterable[Report]) -> None:
        self.reports: dict[str, Report] = {}
        for report in reports:
            report.check()
            if report.name in self.reports:
                raise ReportError(f"two reports are named {report.name!r}")
            self.reports[report.name] = report
        # Read now: a file that is changed later is another version than the code that was loaded.
        self.versions = {name: report.version for name, report in self.reports.items()}

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
