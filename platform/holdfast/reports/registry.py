"""The registry: the reports that a process knows, and those that are set aside. `loading` fills it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from holdfast.errors import ReportError, UnknownQuery, UnknownReport
from holdfast.reasons import did_you_mean
from holdfast.reports.broken import BrokenReport
from holdfast.reports.report import Query, Report, ReportSpec

if TYPE_CHECKING:
    from beanie import Document


class Registry:
    """The reports that this process knows, by name, and their queries.

    Args:
        reports: complete definitions, each of another name.
        broken: what could not be loaded, and why.

    Raises:
        ReportError: a definition is not complete, or two have one name.
    """

    def __init__(self, reports: Iterable[Report], broken: Iterable[BrokenReport] = ()) -> None:
        self.broken = tuple(broken)
        self.reports: dict[str, Report] = {}
        for report in reports:
            report.check()
            if report.name in self.reports:
                raise ReportError(f"two reports are named {report.name!r}")
            self.reports[report.name] = report
        # Read now: a file that is changed later is another version than the code that was loaded.
        self.versions = {name: report.version for name, report in self.reports.items()}

    def take(self, other: Registry) -> None:
        """Become that registry, in one step: whoever holds this one sees the other's reports from now on."""
        self.reports, self.versions, self.broken = other.reports, other.versions, other.broken

    def __iter__(self) -> Iterator[Report]:
        return iter(self.reports.values())

    def get(self, name: str) -> Report:
        """The report of that name.

        Raises:
            UnknownReport: there is none.
            ReportError: it could not be loaded; the message says why.
        """
        if (found := self.reports.get(name)) is not None:
            return found
        self._refuse_broken(name)
        meant = did_you_mean(name, [*self.reports, *(broken.name for broken in self.broken)])
        raise UnknownReport(
            f"there is no report {name!r}.{meant}" if meant else f"there is no report {name!r}",
            known=sorted(self.reports),
        )

    def _refuse_broken(self, name: str) -> None:
        for broken in self.broken:
            if broken.name == name:
                raise ReportError(str(broken))

    def query(self, name: str) -> tuple[Report, Query]:
        """The query `report.function` and its report.

        Raises:
            UnknownQuery: there is none.
            ReportError: its report could not be loaded.
        """
        report = self.reports.get(name.partition(".")[0])
        if report is None or name not in report.queries:
            self._refuse_broken(name.partition(".")[0])
            known = sorted(q for r in self for q in r.queries)
            meant = did_you_mean(name, known)
            raise UnknownQuery(
                f"there is no query {name!r}.{meant}" if meant else f"there is no query {name!r}", known=known
            )
        return report, report.queries[name]

    def documents(self) -> list[type[Document]]:
        """The Beanie documents that the reports' queries read, each once."""
        queries = (query for report in self for query in report.queries.values())
        return list(dict.fromkeys(q.document for q in queries if q.document is not None))

    def catalogue(self) -> list[ReportSpec]:
        """Every report's spec, sorted by name."""
        return [self.reports[name].spec for name in sorted(self.reports)]
