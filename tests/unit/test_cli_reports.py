"""`holdfast reports`, and what the other commands say of a report that is set aside."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from holdfast.cli.app import app
from holdfast.cli.query import as_served
from holdfast.errors import HoldfastError, ReportError, UnknownReport

GOOD = """\
from typing import Annotated, Literal
from pydantic import Field
from holdfast.reports import Claim, Params, Report, variants

class P(Params):
    month: Annotated[int, Field(ge=1, le=12, description="The month [1-12]")] = 7
    origin: Literal["JFK", "EWR"] | None = None
    tenant: Annotated[str, Claim("org")]

warm = variants(month=[1, 2], tenant=["a"])
late = Report("late", title="Late [red]flights", params=P, ttl=300, schedule=60, warm=warm)

@late.postgres
def rows(p): ...
"""
BAD = 'from holdfast.reports import Report\nearly = Report("early", ttl="5m")\n'


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a report that is right and one that is not."""
    folder = tmp_path / "reports_of_the_command"
    folder.mkdir()
    for name, text in {"__init__": "", "good": GOOD, "bad": BAD}.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("REPORTS", folder.name)
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def holdfast(*arguments: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(app, list(arguments))


def test_the_reports_are_listed_with_what_is_set_aside() -> None:
    """A line for each report with its file; for each that is set aside its line, text and reason."""
    _, late, early, place = holdfast("reports").output.splitlines()
    assert late.split() == [
        *("late", "month", "origin", "tenant", "postgres", "60", "s", "300", "s", "2"),
        "reports_of_the_command/good.py:11",
    ]
    assert early.startswith("set aside: report early is set aside: report 'early': ttl is a whole number")
    assert place.strip() == 'reports_of_the_command/bad.py:2: early = Report("early", ttl="5m")'


def test_one_report_is_shown_whole() -> None:
    """Of one report: title, URL, times, each parameter with what is accepted, and the variants."""
    output = holdfast("reports", "late").output
    for part in ("Late [red]flights", "/api/v1/analytics/late", "300 s", "60 s", "late.rows (postgres)"):
        assert part in output
    lines = {line.split()[0]: " ".join(line.split()) for line in output.splitlines() if line.strip()}
    assert lines["month"] == "month integer 7 from 1 to 12 The month [1-12]"
    assert lines["origin"] == "origin string - EWR, JFK -" or lines["origin"] == "origin string - JFK, EWR -"
    assert "from the token's claim org" in lines["tenant"]
    assert output.count("/api/v1/analytics/late?") == 2


def test_the_reports_are_one_document() -> None:
    """`--json` has every report with its queries and variants, and what is set aside."""
    document = json.loads(holdfast("reports", "--json").output)
    (late,) = document["reports"]
    assert (late["name"], late["ttl"], late["queries"]) == (
        "late",
        300,
        [{"name": "late.rows", "source": "postgres"}],
    )
    (early,) = document["broken"]
    assert (early["name"], early["file"], early["line"]) == ("early", "reports_of_the_command/bad.py", 2)
    assert json.loads(holdfast("reports", "late", "--json").output) == late


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["reports", "lat"], UnknownReport, "there is no report 'lat'. Did you mean 'late'?"),
        (["reports", "early"], ReportError, "report early is set aside: report 'early': ttl is"),
        (["query", "early.rows"], ReportError, "report early is set aside: "),
        (["warm", "early"], ReportError, "report early is set aside: "),
    ],
)
def test_a_report_that_cannot_be_used_ends_the_command(
    arguments: list[str], error: type[HoldfastError], said: str
) -> None:
    """A name that is wrong, or set aside, is an error that says why, before anything is sent."""
    caught = holdfast(*arguments).exception
    assert isinstance(caught, error)
    assert str(caught).startswith(said)


def test_check_names_what_is_set_aside() -> None:
    """`check` fails for a report that is set aside, and names those that are loaded."""
    shown = holdfast("check")
    assert shown.exit_code == 1
    lines = shown.output.splitlines()
    at = lines.index("failed reports: 1: late; 1 set aside")
    assert lines[at + 1].strip().startswith("report early is set aside: ")
    assert lines[at + 2].strip().startswith("reports_of_the_command/bad.py:2: ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1 / 3, "0.3333333333333333"),
        (9007199254740993, "9007199254740993"),
        (Decimal("12345678901234567890.10"), "12345678901234567890.10"),
        (1e300, "1e300"),
        (True, "true"),
        (None, ""),
        (float("nan"), ""),
        ("[red]", "[red]"),
        ([1, {"a": None}], '[1,{"a":null}]'),
    ],
)
def test_a_number_is_shown_as_it_is_served(value: Any, shown: str) -> None:
    """`query` shows every digit of a number, and a text without quotation marks."""
    assert as_served(value) == shown
