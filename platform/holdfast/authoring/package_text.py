"""The files of a new package: models reflected from the database, documents, and a first report of each."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from holdfast.authoring.names import class_name, free, identifier, report_name
from holdfast.authoring.report import ReportText, TableImport, Written, document_class
from holdfast.authoring.sources import Source

_CONFTEST = '''"""Tests find the package wherever they are started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
'''
_CLOCK = '''"""The clock of Postgres: a report that needs no table. `holdfast new` writes one from a table."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from holdfast.reports import Params, Report

clock = Report("clock", ttl=5, warm=[{}])


@clock.postgres
def now(p: Params) -> sa.Select[Any]:
    return sa.select(sa.func.now().label("now"), sa.func.version().label("version"))
'''
_CLOCK_TEST = '''"""The report clock, computed from given rows: no server runs."""

from __future__ import annotations

from holdfast.testing import compute
from {package}.reports.clock import clock, now

ROWS = [{{"now": "2026-01-31T12:00:00+00:00", "version": "PostgreSQL"}}]


def test_the_rows_of_the_query_are_served() -> None:
    """Without a function of its own, the report serves what its query gives."""
    assert compute(clock, {{now: ROWS}}) == ROWS
'''


def models_text(package: str, generated: str) -> str:
    """The module of the tables, with a first line that says where it is from."""
    return (
        f'"""The tables of {package}, as they were in the database. Change what you like."""\n\n{generated}\n'
    )


def imports_of(package: str, generated: str) -> dict[str, TableImport]:
    """Where each table is found in the models: by the full name of the table."""
    module = ModuleType(f"{package}.models")
    # Annotations are resolved in the module of their class.
    sys.modules[module.__name__] = module
    try:
        # Generated here, from names alone: nobody else's code is run.
        exec(compile(generated, f"{package}/models.py", "exec"), module.__dict__)  # noqa: S102
        return dict(_tables(package, module))
    finally:
        del sys.modules[module.__name__]


def usable(package: str, candidates: Sequence[str]) -> str:
    """The first of these texts that can be imported; nothing where none can."""
    for generated in candidates:
        with contextlib.suppress(Exception):
            imports_of(package, generated)
            return generated
    return ""


def _tables(package: str, module: ModuleType) -> Iterator[tuple[str, TableImport]]:
    for name, value in vars(module).items():
        table: Any = getattr(value, "__table__", value)
        full_name = getattr(table, "fullname", None)
        if isinstance(full_name, str) and not name.startswith("_"):
            expression = name if table is value else f"{name}.__table__"
            yield full_name, TableImport(f"from {package}.models import {name}", expression)


class PackageText:
    """Collects the files of a package.

    Args:
        package: its name.
        root: the folder that it is made in.
        models: the text of its models; empty without tables.
    """

    def __init__(self, package: str, root: Path, models: str) -> None:
        self.package = package
        self.root = root
        self.queries: list[str] = []
        self._names: set[str] = set()
        self._models = models
        self._tables = imports_of(package, models) if models else {}
        folder = root / package
        self.files: dict[Path, str] = {
            folder / "__init__.py": "",
            folder / "reports" / "__init__.py": '"""Every module here holds reports."""\n',
        }
        if models:
            self.files[folder / "models.py"] = models_text(package, models)
        self.files[root / "tests" / "conftest.py"] = _CONFTEST

    def documents(self, sources: Sequence[Source]) -> dict[str, TableImport]:
        """Add a module with a document for each collection: where each of them is found."""
        found: dict[str, TableImport] = {}
        taken = {"Document", "Any"}
        lines: list[str] = []
        for source in sources:
            name = free(class_name(source.name), taken)
            found[source.name] = TableImport(f"from {self.package}.documents import {name}", name)
            lines += document_class(name, source)
        if lines:
            text = [f'"""The collections of {self.package}, by a sample of their documents."""', ""]
            text += [
                "from __future__ import annotations",
                "",
                "import datetime as dt",
                "from typing import Any",
                "",
            ]
            text += ["from beanie import Document", *lines]
            self.files[self.root / self.package / "documents.py"] = "\n".join(text) + "\n"
        return found

    def report(self, source: Source, documents: Mapping[str, TableImport]) -> Written:
        """Add a report of a table or a collection, and its test."""
        module = free(identifier(report_name(source.name)), self._names)
        table = (
            documents.get(source.name) if source.database == "mongo" else self._tables.get(source.full_name)
        )
        path = f"{self.package}.reports.{module}"
        written = ReportText(module.strip("_").replace("_", "-"), source, path, table).written()
        self._add(module, written.report, written.query)
        self.files[self.root / "tests" / f"test_{module}.py"] = written.test
        return written

    def clock(self) -> None:
        """Add a report that needs no table, and its test."""
        self._add("clock", _CLOCK, "clock.now")
        self.files[self.root / "tests" / "test_clock.py"] = _CLOCK_TEST.format(package=self.package)

    def _add(self, module: str, text: str, query: str) -> None:
        self.files[self.root / self.package / "reports" / f"{module}.py"] = text
        self.queries.append(query)
