"""The version of a report: it changes with what defines the results, and with nothing else."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.reports import Params, Report, load_reports
from holdfast.reports.version import version_of

PACKAGE = "versions_of_a_test"
REPORT = """
from typing import Annotated
from pydantic import Field, field_validator
from sqlalchemy import literal, select
from holdfast.reports import Params, Report, variants

LIMIT = 10

class MonthParams(Params):
    month: Annotated[int, Field(ge=1, le=12)] = 7
    word: str = "a"

report = Report("r", title="A title", params=MonthParams, ttl=60, max_stale=600)

@report.postgres
def rows(p: MonthParams):
    return select(literal(p.month).label("n")).limit(LIMIT)

@report.compute
def together(p, data):
    return data[rows]
"""
HELPED = """
from holdfast.reports import Params, Report
{imports}
report = Report("r")

@report.postgres
def rows(p: Params):
    {inner}
    return None
"""
Files = dict[str, str]
VersionOf = Callable[..., str]


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VersionOf:
    """Loads a package of those files, as a new process would, and gives the version of its report."""
    numbers = itertools.count()

    def load(files: Files) -> str:
        folder = tmp_path / str(next(numbers))
        for name, text in {f"{PACKAGE}/__init__.py": "", **files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        with monkeypatch.context() as patched:
            patched.syspath_prepend(folder)
            importlib.invalidate_caches()
            before = set(sys.modules)
            try:
                return load_reports([PACKAGE]).versions["r"]
            finally:
                for name in set(sys.modules) - before:
                    if name.partition(".")[0] in {PACKAGE, "helpers_of_a_test"}:
                        del sys.modules[name]

    return load


def of(text: str) -> Files:
    """A package whose one module has that text."""
    return {f"{PACKAGE}/one.py": text}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("limit(LIMIT)", "limit(LIMIT + 1)"),
        ("LIMIT = 10", "LIMIT = 11"),
        ("return data[rows]", "return data[rows][:1]"),
        ("] = 7", "] = 8"),
        ("le=12", "le=11"),
        ('word: str = "a"', "word: str | None = None"),
        ('word: str = "a"', 'word: str = "a"\n    more: bool = False'),
        ("ttl=60", "ttl=61"),
        ("max_stale=600", "max_stale=601"),
        ('label("n")', 'label("m")'),
        ("def together(", "def joined("),
        ("class MonthParams(Params):", "class MonthParams(Params):\n    more: int = 1"),
    ],
)
def test_a_change_of_what_defines_a_report_is_another_version(version: VersionOf, old: str, new: str) -> None:
    """A query, a constant, the function, a parameter's type, bound or default, ttl and max_stale count."""
    assert old in REPORT
    assert version(of(REPORT.replace(old, new))) != version(of(REPORT))


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_the_same_code_has_the_same_version_everywhere(version: VersionOf, end: str) -> None:
    """Neither the folder, nor the time of the file, nor the ends of its lines make another version."""
    assert version(of(REPORT.replace("\n", end))) == version(of(REPORT))


@pytest.mark.parametrize(
    "extra",
    [
        {f"{PACKAGE}/other.py": "X = 1"},
        {f"{PACKAGE}/README.md": "text"},
        {f"{PACKAGE}/deeper/__init__.py": "", f"{PACKAGE}/deeper/more.py": "X = 1"},
    ],
    ids=["a module that is not imported", "a text", "a package"],
)
def test_what_a_report_does_not_use_is_not_in_its_version(version: VersionOf, extra: Files) -> None:
    """Another report's file may change, come and go."""
    assert version({**of(REPORT), **extra}) == version(of(REPORT))


WRAPPED = """
from holdfast.reports import Params, Report

def rows(p: Params):
    return {limit}

rows.__module__ = "a_library"
report = Report("r")
report.postgres(rows)
"""


def test_the_module_of_the_report_counts_wherever_its_functions_come_from(version: VersionOf) -> None:
    """A query that a library's wrapper made, which hides where it was written, is a part of its file."""
    assert version(of(WRAPPED.format(limit=10))) != version(of(WRAPPED.format(limit=20)))


IMPORTS = [
    (f"from {PACKAGE}.helpers import X", "", f"{PACKAGE}/helpers.py"),
    (f"from {PACKAGE} import helpers", "", f"{PACKAGE}/helpers.py"),
    (f"import {PACKAGE}.helpers", "", f"{PACKAGE}/helpers.py"),
    ("from .helpers import X", "", f"{PACKAGE}/helpers.py"),
    ("from . import helpers", "", f"{PACKAGE}/helpers.py"),
    ("from .helpers import *", "", f"{PACKAGE}/helpers.py"),
    ("", "from .helpers import X", f"{PACKAGE}/helpers.py"),
    ("", f"import {PACKAGE}.helpers", f"{PACKAGE}/helpers.py"),
    (f"from {PACKAGE}.deep.helpers import X", "", f"{PACKAGE}/deep/helpers.py"),
    (f"from {PACKAGE}.deep import X", "", f"{PACKAGE}/deep/__init__.py"),
    ("from helpers_of_a_test import X", "", "helpers_of_a_test.py"),
    ("", "import helpers_of_a_test", "helpers_of_a_test.py"),
    ("from helpers_of_a_test.deep import X", "", "helpers_of_a_test/deep.py"),
]


@pytest.mark.parametrize(("imports", "inner", "file"), IMPORTS)
def test_a_change_of_what_a_report_imports_is_another_version(
    version: VersionOf, imports: str, inner: str, file: str
) -> None:
    """A helper counts wherever it is and however it is imported: at the top, in a function, by dots."""
    report = of(HELPED.format(imports=imports, inner=inner or "pass"))
    packages = {f"{Path(file).parent}/__init__.py": ""} if "/" in file else {}
    one, two = ({**packages, file: f"X = {n}", **report} for n in (1, 2))
    assert version(one) == version(one)
    assert version(one) != version(two)


def test_what_is_imported_by_what_is_imported_counts(version: VersionOf) -> None:
    """Helpers of helpers count, also where they import each other."""
    report = of(HELPED.format(imports="from .a import A", inner="pass"))
    a = {f"{PACKAGE}/a.py": "A = 1\ndef f():\n    from .b import B\n    return B\n"}
    one, two = ({**report, **a, f"{PACKAGE}/b.py": f"from .a import A\nB = {n}\n"} for n in (1, 2))
    assert version(one) != version(two)


@pytest.mark.parametrize("file", ["query.sql", "sql/query.sql"])
def test_sql_beside_a_report_counts(version: VersionOf, file: str) -> None:
    """A query that is kept in a file of its own is a part of the report."""
    one, two = ({**of(REPORT), f"{PACKAGE}/{file}": f"SELECT {n}"} for n in (1, 2))
    assert len({version(of(REPORT)), version(one), version(two)}) == 3


@pytest.mark.parametrize(
    "imports",
    ["import library_of_a_test", "from library_of_a_test import X", "import json", "import nothing_such"],
)
def test_libraries_do_not_count(
    version: VersionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports: str
) -> None:
    """What lies among the installed libraries may change, and what is not there is no error."""
    libraries = tmp_path / "site-packages"
    libraries.mkdir()
    monkeypatch.syspath_prepend(libraries)
    report = of(HELPED.format(imports="", inner=imports))
    (libraries / "library_of_a_test.py").write_text("X = 1")
    before = version(report)
    (libraries / "library_of_a_test.py").write_text("X = 1000")
    assert version(report) == before


def test_a_helper_that_cannot_be_parsed_is_no_error(version: VersionOf) -> None:
    """A file that is only imported later, and is wrong, is its own problem when that happens."""
    report = of(HELPED.format(imports="", inner="from .wrong import X"))
    assert version({**report, f"{PACKAGE}/wrong.py": "def"}) != version(report)


def test_the_version_is_that_of_the_code_that_was_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is changed after a process loaded it does not change that process' version."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "version_of_a_file.py"
    file.write_text(REPORT)
    registry = load_reports([file.stem])
    before = registry.versions["r"]
    file.write_text(REPORT.replace("10", "20"))
    assert registry.get("r").version == registry.versions["r"] == before
    del sys.modules[file.stem]


def test_code_without_a_file_has_a_version() -> None:
    """A report that was typed into a notebook has a version too, which its code makes."""

    def made(text: str) -> Any:
        names: dict[str, Any] = {"__name__": "a_notebook"}
        exec(text, names)  # noqa: S102 - what a notebook does
        return names["f"]

    one, two = made("def f(p): return 1"), made("def f(p): return 2")
    nested = made("def f(p):\n    def g(): return 1\n    return g")
    assert version_of(b"", [one]) == version_of(b"", [made("def f(p): return 1")])
    assert len({version_of(b"", [one]), version_of(b"", [two]), version_of(b"", [nested, None])}) == 3


@pytest.mark.parametrize("seed", ["0", "1"])
def test_every_process_has_the_same_version(seed: str) -> None:
    """Supervisor, workers and command line agree: no hash seed and no order of imports matters."""
    script = (
        "from holdfast.reports import load_reports\n"
        "print(load_reports(['holdfast_flights.reports']).versions['daily'])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONHASHSEED": seed, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()
    assert printed == load_reports(["holdfast_flights.reports"]).versions["daily"]
    assert len(printed) == 16


def test_reports_of_one_name_differ_by_what_they_say() -> None:
    """Of two reports in one module, what each says of itself makes its version."""
    one, two = Report("one", ttl=1), Report("one", ttl=2)

    class Other(Params):
        n: int = 1

    three = Report("one", ttl=1, params=Other)
    assert len({one.version, two.version, three.version}) == 3
