"""What the documents name exists: files, tests, targets of make, decision records."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from holdfast.reports import Registry
from holdfast.testing import compute

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
FOLDERS = ("platform", "workers", "gateway", "compose", "tests", "docs", ".ci")


def code(text: str) -> list[str]:
    """What stands in backticks within a line, and every line of a block of code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*re.findall(r"`([^`]+)`", prose), *(line for block in blocks for line in block.splitlines())]


def named_paths(text: str) -> set[str]:
    """The paths of the repository that a document names as code, with `::test` where it names a test."""
    words = {word for item in code(text) for word in item.split()}
    return {word for word in words if re.match(rf"({'|'.join(map(re.escape, FOLDERS))})/[\w.]", word)}


def linked_paths(text: str) -> set[str]:
    """The targets of a document's links that are no URLs and no places within a page."""
    targets = re.findall(r"\]\(([^)#\s]+)\)", text)
    return {target for target in targets if "://" not in target}


def named_targets(text: str) -> set[str]:
    """The targets of make that a document has its reader call."""
    calls = re.findall(r"\bmake((?: [A-Z_]+=\S+)*) ([a-z][a-z-]*)", "\n".join(code(text)))
    return {target for _, target in calls}


def makefile_targets() -> set[str]:
    """The targets that `make help` lists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def made_by_a_run() -> set[str]:
    """The paths that git ignores, since a run makes them."""
    return {line.lstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request: pytest.FixtureRequest) -> Path:
    """Each document in turn."""
    path: Path = request.param
    return path


@pytest.fixture
def text(document: Path) -> str:
    """What the document says."""
    return document.read_text(encoding="utf-8")


def test_every_path_that_is_named_exists(document: Path, text: str) -> None:
    """A reader finds each file, folder and test that a document names in backticks."""
    missing = set()
    for path in named_paths(text):
        file, _, test = path.partition("::")
        found = ROOT / file
        if not found.exists() or (test and f"def {test}(" not in found.read_text(encoding="utf-8")):
            missing.add(path)
    # README has its reader make one file: the report of its example.
    missing -= {*re.findall(r"save it as\s+`([^`]+)`", text), *made_by_a_run()}
    assert missing == set(), f"{document.name} names what is not there"


def test_every_link_leads_somewhere(document: Path, text: str) -> None:
    """A link to another document or file of the repository leads there."""
    missing = {link for link in linked_paths(text) if not (document.parent / link).exists()}
    assert missing == set(), f"{document.name} links to what is not there"


def test_every_make_target_that_is_named_exists(document: Path, text: str) -> None:
    """Each `make …` that a document tells its reader to run is a target of the Makefile."""
    assert named_targets(text) - makefile_targets() == set(), f"in {document.name}"


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name[:4])
def test_a_decision_has_status_and_date_and_is_in_the_index(record: Path) -> None:
    """Each record says whether it holds and since when, and the index says the same."""
    text = record.read_text(encoding="utf-8")
    head = re.match(r"# (\d+)\. (.+)\n\n- Status: (.+)\n- Date: (\S+)\n", text)
    assert head, f"{record.name} does not begin with number, title, status and date"
    number, title, status, day = head.groups()
    assert int(number) == int(record.name[:4])
    assert re.fullmatch(r"accepted|proposed|replaced by \d{4}", status)
    assert date.fromisoformat(day)
    index = (record.parent / "README.md").read_text(encoding="utf-8")
    assert f"| {record.name[:4]} | [{title}]({record.name}) | {status} | {day} |" in index


def test_a_path_is_seen_in_prose_and_in_a_block() -> None:
    """The checks above see a path, a test and a target wherever they stand, and nothing in plain text."""
    text = (
        "See `tests/unit/test_docs.py::test_x` and platform/nowhere.\n"
        "```sh\nmake PYTHON=python3 install # then\ncat docs/a.md\n```\n"
    )
    assert named_paths(text) == {"tests/unit/test_docs.py::test_x", "docs/a.md"}
    assert named_targets(text) == {"install"}


def test_the_test_of_a_report_in_the_docs_passes() -> None:
    """What a reader copies from the page about reports runs as it stands, and its test passes."""
    text = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Callable[[], None]] = {}
    exec(compile(block, "docs", "exec", dont_inherit=True), names)  # noqa: S102 - the docs' own code
    names["test_a_flight_counts_in_the_bin_of_its_weather"]()


def test_the_report_in_the_readme_is_whole() -> None:
    """README's report loads as it stands, and computes what its own test would give it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs", "exec", dont_inherit=True), names)  # noqa: S102 - the docs' own code
    rows = [{"dest": "ATL", "flights": 2, "avg_arr_delay": 7.5}]
    report = names["delays"]
    assert Registry([report]).query("delays.by_destination")[0] is report
    assert len(report.warm) == 13
    assert compute(report, {names["by_destination"]: rows}, month=7) == rows
