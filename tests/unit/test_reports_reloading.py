"""Reports that are loaded again in a running process: what is new, what stays, and what is watched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.reports.reloading import watched_folders
from holdfast.up.trial import place_of_end

REPORT = """
from sqlalchemy import literal, select

from holdfast.reports import Params, Report

{name} = Report("{name}", ttl={ttl})


@{name}.postgres
def rows(p: Params):
    return select(literal({value}).label("n"))
"""
PROGRAM = """
import json, pathlib, sys
sys.path.insert(0, ".")
from holdfast.reports import load_reports, Params
from holdfast.reports.reloading import reload_reports
edits = json.loads(sys.argv[1])
registry = load_reports(["acme"])
shown = []
for edit in edits:
    for name, text in edit.items():
        path = pathlib.Path("acme") / name
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    before = registry
    registry = reload_reports(["acme"], registry)
    values = {}
    for report in registry:
        (query,) = report.queries.values()
        values[report.name] = query.build(Params()).compile().params["param_1"]
    shown.append([values, sorted(b.name for b in registry.broken), sorted(registry.versions)])
print(json.dumps(shown))
"""


def report(name: str, value: int, *, ttl: int = 600) -> str:
    """The text of a report's module."""
    return REPORT.format(name=name, value=value, ttl=ttl)


def after(tmp_path: Path, *edits: dict[str, str | None]) -> list[Any]:
    """What a process shows that loads its reports again after each edit, all within a second."""
    package = tmp_path / "acme"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text(report("one", 1))
    (package / "two.py").write_text(report("two", 2))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(edits)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown: list[Any] = json.loads(done.stdout)
    return shown


@pytest.mark.parametrize(
    ("edit", "values", "broken"),
    [
        ({"one.py": report("one", 9)}, {"one": 9, "two": 2}, []),
        ({"three.py": report("three", 3)}, {"one": 1, "two": 2, "three": 3}, []),
        ({"two.py": None}, {"one": 1}, []),
        ({"one.py": report("uno", 9)}, {"uno": 9, "two": 2}, []),
        ({"one.py": report("one", 9) + "x = = 1"}, {"one": 1, "two": 2}, ["one"]),
        ({"one.py": "import nothing_of_that_name"}, {"one": 1, "two": 2}, ["acme.one"]),
        ({"one.py": report("one", 9, ttl=-1)}, {"one": 1, "two": 2}, ["one"]),
        ({"one.py": "raise SystemExit"}, {"one": 1, "two": 2}, ["acme.one"]),
        ({"one.py": report("two", 9)}, {"two": 2}, ["two"]),
        ({"__init__.py": "x = = 1"}, {"one": 1, "two": 2}, ["acme"]),
        ({"inner/__init__.py": "", "inner/deep.py": report("deep", 4)}, {"one": 1, "two": 2, "deep": 4}, []),
    ],
    ids=[
        "changed",
        "added",
        "removed",
        "renamed",
        "no Python",
        "no such module",
        "a wrong ttl",
        "exit",
        "a name that another has",
        "the package",
        "a new package",
    ],
)
def test_an_edit_is_taken_or_the_last_good_version_stays(
    tmp_path: Path, edit: dict[str, str | None], values: dict[str, int], broken: list[str]
) -> None:
    """What can be loaded is there as its file says; what cannot be is set aside and stays as it was."""
    ((found, aside, _),) = after(tmp_path, edit)
    assert found == values
    assert aside == broken


def test_edits_within_a_second_and_of_one_size_are_seen(tmp_path: Path) -> None:
    """A compiled file whose time and size fit is never taken for the source."""
    edits: list[dict[str, str | None]] = [{"one.py": report("one", n)} for n in (2, 3, 4, 5)]
    assert [values["one"] for values, *_ in after(tmp_path, *edits)] == [2, 3, 4, 5]


def test_what_is_mended_is_no_longer_aside(tmp_path: Path) -> None:
    """A file that was broken twice and is right again counts as it is."""
    broken = report("one", 9) + "x = = 1"
    shown = after(tmp_path, {"one.py": broken}, {"one.py": broken}, {"one.py": report("one", 7)})
    assert [(values["one"], aside) for values, aside, _ in shown] == [(1, ["one"]), (1, ["one"]), (7, [])]


def test_the_folder_of_a_package_is_watched_with_all_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package counts as a whole, a module with its folder, and one that is not there yet by its place."""
    (tmp_path / "watched_package").mkdir()
    (tmp_path / "watched_package" / "__init__.py").write_text("raise RuntimeError('nobody imports it')")
    (tmp_path / "watched_module.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert watched_folders(["watched_package.reports"]) == {tmp_path / "watched_package": True}
    assert watched_folders(["watched_module"]) == {tmp_path: False}
    assert watched_folders(["not_there_yet.reports"]) == {tmp_path: False}


@pytest.mark.parametrize(
    ("log", "place"),
    [
        ("", ""),
        ("loading {file}\n", "bad.py"),
        ("loading {file}\nloading {other}\n", "other.py"),
        (
            'loading {file}\nTimeout (0:00:10)!\n  File "{file}", line 2 in f\n',
            "bad.py:2: while True: pass",
        ),
        ('Fatal Python error: Aborted\n  File "/none/holdfast.py", line 9\n', "/none/holdfast.py:9: "),
    ],
)
def test_a_trial_that_did_not_end_says_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, place: str
) -> None:
    """The line that it was at, or else the file that it had begun."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("import time\nwhile True: pass\n")
    said = place_of_end(log.format(file=tmp_path / "bad.py", other=tmp_path / "other.py"))
    assert said == place
