"""Loads the reports of the modules that the setting REPORTS names. In a package every module counts.

A module that cannot be imported, or a report whose definition is wrong, is set aside by name, with the file
and the line; every other report is loaded. Nothing here ends a process: one without any report is alive and
says so.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from holdfast.errors import ReportError
from holdfast.reasons import CodePlace, did_you_mean
from holdfast.reports.broken import BrokenReport, broken_by
from holdfast.reports.registry import Registry
from holdfast.reports.report import CREATED, Report


def load_reports(modules: Sequence[str]) -> Registry:
    """Import the modules, and the modules within packages, and collect the reports found in them.

    What cannot be loaded is in `Registry.broken`.
    """
    loading = _Loading()
    created: list[Report] = []
    # A new list for each load: what earlier imports have made is found in their modules.
    token = CREATED.set(created)
    try:
        for name in modules:
            loading.load(name)
    finally:
        CREATED.reset(token)
    loading.refuse_unkept(created)
    return loading.registry()


class _Loading:
    """What is found while modules are imported."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.found: dict[int, tuple[str, Report]] = {}
        self.broken: list[BrokenReport] = []

    def load(self, name: str) -> None:
        """Import a module that REPORTS names, and those within it."""
        reports, broken = len(self.found), len(self.broken)
        seen = set(self.modules)
        for module in self._walk(name):
            self.modules[module.__name__] = module
            for value in vars(module).values():
                if isinstance(value, Report):
                    self.found.setdefault(id(value), (module.__name__, value))
        known = set(self.modules) == seen
        if not known and reports == len(self.found) and broken == len(self.broken):
            self._set_aside(
                name, f"REPORTS: module {name!r} holds no report: it needs a Report at the top of a module"
            )

    def _walk(self, name: str) -> Iterator[ModuleType]:
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:
            if (absent := _absent(name, error)) is not None:
                self._set_aside(name, absent)
            else:
                self.broken += broken_by(name, error)
            return
        yield module
        paths = list(getattr(module, "__path__", []))
        self._refuse_file_names(name, paths)
        for info in pkgutil.iter_modules(paths, f"{name}."):
            yield from self._walk(info.name)

    def _refuse_file_names(self, package: str, paths: Iterable[str]) -> None:
        for path in paths:
            for file in sorted(Path(path).glob("[!.#]*.*.py")):
                self._set_aside(
                    f"{package}.{file.stem}",
                    f"the file's name has points: Python cannot import {file.name!r}",
                )

    def _set_aside(self, name: str, reason: str) -> None:
        self.broken.append(BrokenReport(name=name, module=name, reason=reason))

    def refuse_unkept(self, created: Sequence[Report]) -> None:
        """Set aside what a module made and did not keep: its variable was assigned again, or it has none."""
        for report in created:
            if id(report) in self.found or report.module not in self.modules:
                continue
            error = ReportError(
                f"no variable at the top of its module holds report {report.name!r}: each has one of its own",
                **_details(report.place),
            )
            self.broken += broken_by(report.module, error, name=report.name)

    def registry(self) -> Registry:
        """The registry of what is right."""
        by_name: dict[str, list[tuple[str, Report]]] = defaultdict(list)
        for module, report in self.found.values():
            by_name[report.name].append((module, report))
        right = [report for reports in by_name.values() for report in self._right(reports)]
        return Registry(right, self.broken)

    def _right(self, reports: Sequence[tuple[str, Report]]) -> Iterator[Report]:
        """The report of a name; none where several have it: each would be served in another's place."""
        module, report = reports[0]
        if len(reports) > 1:
            where = " and ".join(f"{r.place.file}:{r.place.line}" for _, r in reports if r.place)
            error = ReportError(
                f"{len(reports)} reports are named {report.name!r}: {where}", **_details(reports[-1][1].place)
            )
            self.broken += broken_by(reports[-1][0], error, name=report.name)
            return
        try:
            report.check()
        except ReportError as error:
            located = ReportError(str(error), **(error.details or _details(report.place)))
            self.broken += broken_by(module, located, name=report.name)
            return
        yield report


def _details(place: CodePlace | None) -> dict[str, str | int]:
    return {} if place is None else {"file": place.file, "line": place.line, "text": place.text}


def _absent(name: str, error: BaseException) -> str | None:
    """What is said of a module of REPORTS that is not there; None where it is there and fails."""
    if name.startswith(".") or not name:
        return f"REPORTS: {name!r} is no module's name: it begins with a package, as in my_reports.reports"
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    if name != error.name and not name.startswith(f"{error.name}."):
        return None
    package, _, last = error.name.rpartition(".")
    folders = getattr(sys.modules.get(package), "__path__", None) if package else sys.path
    known = [info.name for info in pkgutil.iter_modules(list(folders) if folders is not None else [])]
    meant = did_you_mean(last, known)
    where = package or "the working directory or among what is installed"
    return f"REPORTS: there is no module {error.name!r} in {where}.{meant}"
