"""Mistakes in a definition: each is refused when its file is loaded, with the line and what is accepted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from holdfast.errors import InvalidParams, UnknownQuery, UnknownReport
from holdfast.reports import BrokenReport, Params, Registry, Report, load_reports

HEAD = """\
from datetime import date, timedelta
from typing import Annotated, Literal
from beanie import Document
from pydantic import BaseModel, Field
from holdfast.reports import Params, Report, variants

class Reading(Document):
    pass

class Months(Params):
    month: int | None = None

"""
QUERY = "@late.postgres\ndef rows(p): ...\n"


@pytest.fixture
def set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> BrokenReport:
    """What is said of a module with that text; its neighbour is loaded all the same."""
    text: str = request.getfixturevalue("text")
    folder = tmp_path / "reports_with_mistakes"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "good.py").write_text(HEAD + 'late = Report("good")\n' + QUERY)
    (folder / "bad.py").write_text(HEAD + text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    try:
        registry = load_reports([folder.name])
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
            del sys.modules[name]
    assert list(registry.reports) == ["good"]
    (broken,) = registry.broken
    return broken


def report(arguments: str, before: str = "") -> str:
    """A module with one report, made with these arguments."""
    return f'{before}late = Report("late", {arguments})\n{QUERY}'


def field(written: str) -> str:
    """A module with one report that has this parameter."""
    return report("params=P", before=f"class P(Params):\n    {written}\n\n")


CALL = 'late = Report("late")\n'
SECONDS = "is a whole number of seconds from"


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        # Times
        (report('ttl="5m"'), f"ttl {SECONDS} 1", 'late = Report("late", ttl="5m")'),
        (report("ttl=True"), f"ttl {SECONDS} 1", 'late = Report("late", ttl=True)'),
        (report("ttl=2.5"), "not 2.5", 'late = Report("late", ttl=2.5)'),
        (report("ttl=timedelta(minutes=5)"), "ttl is", 'late = Report("late", ttl=timedelta(minutes=5))'),
        (report("ttl=10**12"), "ttl is", 'late = Report("late", ttl=10**12)'),
        (report("schedule=0"), f"schedule {SECONDS} 1", 'late = Report("late", schedule=0)'),
        (report('schedule="* * * * *"'), "schedule is", 'late = Report("late", schedule="* * * * *")'),
        (report("max_stale=None"), f"max_stale {SECONDS} 0", 'late = Report("late", max_stale=None)'),
        # Texts
        (report('tags="postgres:flights"'), "tags is a list", "late = Report"),
        (report('tags=["flights"]'), "postgres:TABLE", 'late = Report("late", tags=["flights"])'),
        (report("title=5"), "title is text", 'late = Report("late", title=5)'),
        # Keywords
        (report("tll=5"), "no 'tll' (did you mean 'ttl'?): it takes title,", 'late = Report("late", tll=5)'),
        (report("every=5"), "no 'every': it takes title,", 'late = Report("late", every=5)'),
        (f"late = Report()\n{QUERY}", "a report has a name", "late = Report()"),
        (f'late = Report("late", "Late")\n{QUERY}', "by keyword", 'late = Report("late", "Late")'),
        (f"late = Report(5)\n{QUERY}", "a name is lower-case words", "late = Report(5)"),
        # Parameters
        (report("params=Months()"), "a class derived from", 'late = Report("late", params=Months())'),
        (report("params=BaseModel"), "BaseModel is a class that is not", "late = Report"),
        (report('params={"month": int}'), "a class derived", 'late = Report("late", params={"month": int})'),
        (field('month: int = "seven"'), "parameter month: its default 'seven'", 'month: int = "seven"'),
        (field('month: int = "7"'), "it must be a valid integer", 'month: int = "7"'),
        (field("month: int = None"), "write `| None` after its type", "month: int = None"),
        (field("month: Annotated[int, Field(le=12)] = 13"), "less than or equal to 12", "month: Annotated"),
        (field('origin: Literal["JFK", "EWR"] = "LGA"'), "'JFK' or 'EWR'", "origin: Literal"),
        (field('day: date = "2013-01-01"'), "parameter day", "day: date"),
        (field("days: list[int] = []"), "a parameter is an int, float, str", "days: list[int] = []"),
        (field("n: int = Field(default_factory=lambda: 5)"), "default_factory", "n: int = Field"),
        (field('n: Annotated[int, Field(alias="m")] = 5'), "alias 'm'", "class P(Params):"),
        # Warm variants
        (report('params=Months, warm=[{"month": 1.5}]'), "a warm variant is wrong: month", "late = Report"),
        (report('params=Months, warm={"month": 1}'), "warm is variants(...)", "late = Report"),
        (report("params=Months, warm=[1, 2]"), "1 is no mapping", "late = Report"),
        (report("params=Months, warm=variants"), "not the function variants", "late = Report"),
        (report("params=Months, warm=variants(month=7)"), "month is a list of values", "late = Report"),
        (report('warm=variants(origin="JFK")'), "origin is a list of values such as ['JFK']", "late ="),
        (report('params=Months, warm=[{"mnoth": 1}]'), "did you mean 'month'?", "late = Report"),
        # Queries
        (CALL + "@late.postgres()\ndef rows(p): ...", "without parentheses", "@late.postgres()"),
        (CALL + "@late.postgres\ndef rows(): ...", "called as rows(params)", "def rows(): ..."),
        (CALL + "@late.postgres\ndef rows(a, b): ...", "defined as rows(a, b)", "def rows(a, b): ..."),
        (CALL + "@late.postgres\ndef rows(*, p): ...", "called as rows(params)", "def rows(*, p): ..."),
        (CALL + "@late.postgres\nasync def rows(p): ...", "is an async function", "async def rows(p): ..."),
        (CALL + "@late.postgres\ndef rows(p):\n    yield p", "yields", "def rows(p):"),
        (CALL + "late.postgres(lambda p: p)", "not a lambda", "late.postgres("),
        (CALL + "@late.postgres(Reading)\ndef rows(p): ...", "not <class", "@late.postgres(Reading)"),
        (CALL + "@late.mongo\ndef rows(p): ...", "needs the Document that it reads", "def rows(p): ..."),
        (CALL + "@late.mongo()\ndef rows(p): ...", "needs the Document that it reads", "@late.mongo()"),
        (CALL + '@late.mongo("readings")\ndef rows(p): ...', "not 'readings'", '@late.mongo("readings")'),
        (CALL + "@late.mongo(Months)\ndef rows(p): ...", "needs the Document", "@late.mongo(Months)"),
        (CALL + "@late.mongo(Reading)\ndef rows(): ...", "called as rows(params)", "def rows(): ..."),
        (CALL + QUERY + QUERY, "is defined twice: reports_with_mistakes/bad.py:15 and", "def rows(p): ..."),
        (CALL, "has no query", 'late = Report("late")'),
        (CALL + QUERY + QUERY.replace("rows", "more"), "has several queries", 'late = Report("late")'),
        # The function
        (CALL + QUERY + "@late.compute\ndef join(data): ...", "called as join(params, data)", "def join("),
        (CALL + QUERY + "@late.compute\ndef join(a, b, c): ...", "defined as join(a, b, c)", "def join("),
        (CALL + QUERY + "@late.compute\nasync def join(p, data): ...", "not an async one", "async def join("),
        (CALL + QUERY + "@late.compute()\ndef join(p, data): ...", "without parentheses", "@late.compute()"),
        (CALL + QUERY + "late.compute(5)", "compute is a function", "late.compute(5)"),
        (CALL + QUERY + 2 * "@late.compute\ndef b(p, d): ...\n", "compute is defined twice: ", "def b("),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_and_what_is_accepted(
    text: str, said: str, line: str, set_aside: BrokenReport
) -> None:
    """A mistake in a definition sets that report aside: with its name, the reason, the file and the line."""
    assert set_aside.name in {"late", "reports_with_mistakes.bad"}
    assert said in set_aside.reason
    assert set_aside.file == "reports_with_mistakes/bad.py"
    assert set_aside.text.startswith(line)
    written = (HEAD + text).splitlines()
    assert written[set_aside.line - 1].strip() == set_aside.text


def sample(name: str) -> Report:
    """A report with one query."""

    class Known(Params):
        month: int | None = None
        origin: str | None = None

    made = Report(name, params=Known)

    @made.postgres
    def by_carrier(p: Params) -> None: ...

    return made


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("late-flight", "late-flights"),
        ("late_flights", "late-flights"),
        ("LateFlights", "late-flights"),
        ("carier", "carriers"),
        ("carriers.by_carrier", None),
        ("something-else", None),
    ],
)
def test_a_report_that_was_meant_is_named(name: str, meant: str | None) -> None:
    """An unknown report's message names the one with almost that name, and no other."""
    registry = Registry([sample("late-flights"), sample("carriers")])
    with pytest.raises(UnknownReport) as unknown:
        registry.get(name)
    assert (f"Did you mean {meant!r}?" in str(unknown.value)) is (meant is not None)


@pytest.mark.parametrize(
    "name", ["carriers.by_carier", "carrier.by_carrier", "carriers-by-carrier", "by_carrier"]
)
def test_a_query_that_was_meant_is_named(name: str) -> None:
    """An unknown query's message names the one with almost that name."""
    with pytest.raises(UnknownQuery, match=r"Did you mean 'carriers\.by_carrier'\?"):
        Registry([sample("carriers")]).query(name)


@pytest.mark.parametrize(
    ("given", "meant"), [("mnth", "month"), ("Month", "month"), ("orign", "origin"), ("x", None)]
)
def test_a_parameter_that_was_meant_is_named(given: str, meant: str | None) -> None:
    """An unknown parameter's message names the one with almost that name."""
    with pytest.raises(InvalidParams) as unknown:
        sample("carriers").reader.parse({given: "7"})
    assert (f"(did you mean {meant!r}?)" in str(unknown.value)) is (meant is not None)
