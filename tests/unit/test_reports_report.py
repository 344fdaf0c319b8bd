"""Reports: what an engineer writes, what is said of mistakes in it, and how reports are found."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pytest
from beanie import Document
from pydantic import Field, field_validator, model_validator
from sqlalchemy import TextClause, text

from holdfast.errors import InvalidParams, ReportError, UnknownQuery, UnknownReport
from holdfast.reports import BrokenReport, Claim, Data, Params, Registry, Report, load_reports, variants

README = Path(__file__).parents[2] / "README.md"


class Reading(Document):
    """A document of MongoDB."""


class MonthParams(Params):
    """One parameter."""

    month: Annotated[int, Field(ge=1, le=12)] | None = None


def whole(name: str = "whole", **settings: Any) -> Report:
    """A report with one query."""
    report = Report(name, **settings)

    @report.postgres
    def rows(p: Params) -> str:
        return f"query of {p}"

    return report


def nothing(p: Params, data: Data) -> list[Any]:
    """A report's function that makes no rows."""
    return []


Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules of a package of the test's own, and gives the package's name."""
    before = set(sys.modules)
    name = "reports_of_a_test"
    monkeypatch.syspath_prepend(tmp_path)

    def write(**modules: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        for module, source in {"__init__": "", **modules}.items():
            path = folder.joinpath(*module.split("__in__")).with_suffix(".py")
            if module != "__init__":
                path.parent.mkdir(exist_ok=True)
                (path.parent / "__init__.py").touch()
            path.write_text(source)
        return name

    yield write
    for loaded in set(sys.modules) - before:
        if loaded.partition(".")[0] == name:
            del sys.modules[loaded]


def source(report: str, variable: str = "report") -> str:
    """A module that defines one report."""
    return (
        "from holdfast.reports import Params, Report\n"
        f"{variable} = Report({report!r})\n"
        f"@{variable}.postgres\n"
        "def rows(p: Params): ...\n"
    )


# Definitions


@pytest.mark.parametrize(
    "name", ["", "Carriers", "by_carrier", "9lives", "a--b", "-a", "a-", "a/b", "a.b", "ä"]
)
def test_a_name_that_a_url_could_misread_is_refused(name: str) -> None:
    """A report's name is lower-case words joined by hyphens, since it is the last part of a URL."""
    with pytest.raises(ReportError, match=re.escape(repr(name))):
        Report(name)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ttl": 0}, "ttl"),
        ({"ttl": -5}, "ttl"),
        ({"schedule": 0}, "schedule"),
        ({"max_stale": -1}, "max_stale"),
        ({"tags": ["flights"]}, "'flights'"),
        ({"tags": ["postgres:flights", "mysql:flights"]}, "'mysql:flights'"),
        ({"params": MonthParams, "warm": [{"month": 13}]}, "month"),
        ({"params": MonthParams, "warm": variants(month=[1], year=[2013])}, "year"),
    ],
)
def test_a_wrong_definition_says_which_report_and_what(settings: dict[str, Any], said: str) -> None:
    """A mistake in a definition is a ReportError that names the report and the argument."""
    with pytest.raises(ReportError) as caught:
        Report("some-report", **settings)
    assert "'some-report'" in str(caught.value)
    assert said in str(caught.value)


def test_zero_max_stale_is_a_choice() -> None:
    """A report may say that nothing but fresh results is ever served."""
    assert Report("r", max_stale=0).spec.max_stale == 0


def test_a_report_without_a_query_is_refused() -> None:
    """What computes nothing is no report; the message says what to add."""
    with pytest.raises(ReportError, match=r"'empty' has no query: add one with @empty\.postgres"):
        Registry([Report("empty")])


def test_several_queries_need_a_function() -> None:
    """With two queries it is the author who says how they join."""
    report = whole("two")

    @report.mongo(Reading)
    def more(p: Params) -> list[Any]:
        return []

    with pytest.raises(ReportError, match="'two' has several queries"):
        Registry([report])
    report.compute(nothing)
    assert Registry([report]).query("two.more")[1].source == "mongo"


def test_nothing_is_defined_twice() -> None:
    """Two queries of one name, two functions and two reports of one name are refused: none wins silently."""
    report = whole("twice")

    def rows(p: Params) -> str:
        return ""

    with pytest.raises(ReportError, match=r"'twice\.rows' is defined twice"):
        report.postgres(rows)
    report.compute(nothing)
    with pytest.raises(ReportError, match="compute is defined twice"):
        report.compute(nothing)
    with pytest.raises(ReportError, match="two reports are named 'twice'"):
        Registry([report, whole("twice")])


def test_decorators_leave_functions_callable() -> None:
    """A query and a function stay what they were, so that they can be tested by calling them."""
    report = Report("r", params=MonthParams)

    @report.postgres
    def rows(p: MonthParams) -> str:
        return f"month {p.month}"

    @report.compute
    def total(p: MonthParams, data: Data) -> list[dict[str, int]]:
        return [{"n": len(data[rows])}]

    assert rows(MonthParams(month=3)) == "month 3"
    assert total(MonthParams(), Data({rows: [{}, {}]})) == [{"n": 2}]


# What a report does


def test_a_function_gets_typed_parameters_and_the_rows_by_query() -> None:
    """The function is called with the author's own model and finds each query's rows by its function."""
    report = Report("joined", params=MonthParams)

    @report.postgres
    def flights(p: MonthParams) -> str:
        return ""

    @report.mongo(Reading)
    def weather(p: MonthParams) -> list[Any]:
        return []

    @report.compute
    def join(p: MonthParams, data: Data) -> Iterator[dict[str, Any]]:
        assert isinstance(p, MonthParams)
        assert set(data) == {flights, weather}
        assert len(data) == 2
        yield {"month": p.month, "n": len(data[flights]), "w": data[weather][0]["w"]}

    rows = report.rows({"month": 7}, {"joined.flights": [{}, {}], "joined.weather": [{"w": 5}]})
    assert rows == [{"month": 7, "n": 2, "w": 5}]


def test_a_report_of_one_query_has_its_rows() -> None:
    """Without a function the rows are the query's, in its order."""
    assert whole().rows({}, {"whole.rows": [{"a": 2}, {"a": 1}]}) == [{"a": 2}, {"a": 1}]


def test_variants_are_every_combination() -> None:
    """`variants` crosses its axes; None stands for a parameter that is left out."""
    assert variants(month=[None, 1], origin=["EWR", "JFK"]) == (
        {"month": None, "origin": "EWR"},
        {"month": None, "origin": "JFK"},
        {"month": 1, "origin": "EWR"},
        {"month": 1, "origin": "JFK"},
    )
    assert variants() == ({},)


def test_warm_variants_are_complete_parameters() -> None:
    """A variant to keep warm has the key of the request that it is for."""
    report = Report("r", params=MonthParams, warm=[*variants(month=[None, 7]), {}])
    assert [report.reader.url(params) for params in report.warm] == [
        "/api/v1/analytics/r",
        "/api/v1/analytics/r?month=7",
        "/api/v1/analytics/r",
    ]


class Span(Params):
    """Two days and a step, with rules of the model's own."""

    first: Annotated[date, Field(ge=date(2013, 1, 1))] = date(2013, 1, 1)
    last: date = date(2013, 12, 31)
    step: int = 1

    @field_validator("step")
    @classmethod
    def odd(cls, value: int) -> int:
        """A rule of one parameter."""
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value

    @model_validator(mode="after")
    def ordered(self) -> Span:
        """A rule over two parameters."""
        if self.first > self.last:
            raise ValueError("first is after last")
        return self


@pytest.mark.parametrize(
    ("given", "name", "reason"),
    [
        ({"step": 2}, "step", "must be odd"),
        ({"first": "2012-01-01"}, "first", "2013"),
        ({"first": "2013-03-01", "last": "2013-02-01"}, "parameters", "first is after last"),
    ],
)
def test_a_models_own_rules_are_reported_by_parameter(given: dict[str, Any], name: str, reason: str) -> None:
    """A rule that only the author's model knows is refused like any other: by the parameter's name."""
    report = Report("span", params=Span)
    assert report.typed({"first": "2013-02-03"}) == Span(first=date(2013, 2, 3))
    with pytest.raises(InvalidParams, match=reason) as caught:
        report.typed(given)
    assert [problem["name"] for problem in caught.value.details["errors"]] == [name]


def test_a_parameter_can_come_from_the_token() -> None:
    """A parameter bound to a claim is in the catalogue as such, and is filled in for the query."""

    class Mine(Params):
        tenant: Annotated[str, Claim("org")]

    report = Report("mine", params=Mine)
    assert [spec.claim for spec in report.spec.params] == ["org"]
    assert report.typed(report.reader.parse_query("", {"org": "acme"})) == Mine(tenant="acme")


@pytest.mark.parametrize(("given", "shown"), [({}, "delays"), ({"title": "Delays"}, "Delays")])
def test_a_report_is_shown_by_its_title(given: dict[str, Any], shown: str) -> None:
    """The catalogue has the title, or else the name, and every setting that clients may plan with."""
    report = Report("delays", ttl=5, max_stale=7, schedule=9, tags=["postgres:flights"], **given)
    spec = report.spec
    assert (spec.name, spec.title, spec.description) == ("delays", shown, "")
    assert (spec.ttl, spec.max_stale, spec.schedule, spec.tags) == (5, 7, 9, ("postgres:flights",))


def test_without_settings_a_report_has_the_documented_ones() -> None:
    """No ttl of its own, a day of staleness, no schedule, no tags, nothing kept warm."""
    report = Report("delays")
    assert (report.ttl, report.max_stale, report.schedule) == (None, 86_400, None)
    assert (report.spec.tags, report.warm) == ((), ())


# The registry


def test_an_unknown_report_is_answered_with_the_known_ones() -> None:
    """An unknown report is an error that lists the known ones."""
    with pytest.raises(UnknownReport, match="'c'") as caught:
        Registry([whole("b"), whole("a")]).get("c")
    assert caught.value.details["known"] == ["a", "b"]


@pytest.mark.parametrize("name", ["a.nothing", "c.rows", "a", "rows", "", "b.rows.x"])
def test_an_unknown_query_is_answered_with_the_known_ones(name: str) -> None:
    """An unknown query is an error that lists the known ones; half a name is no name."""
    with pytest.raises(UnknownQuery) as caught:
        Registry([whole("b"), whole("a")]).query(name)
    assert caught.value.details["known"] == ["a.rows", "b.rows"]


def test_a_query_is_found_with_its_report() -> None:
    """The name of a query is that of its report and of its function."""
    one, two = whole("a"), whole("b")
    report, query = Registry([one, two]).query("b.rows")
    assert report is two
    assert query is two.queries["b.rows"]


def test_the_catalogue_is_sorted() -> None:
    """The catalogue does not depend on the order in which modules were imported."""
    assert [spec.name for spec in Registry([whole("b"), whole("a")]).catalogue()] == ["a", "b"]


# Loading


def test_every_module_of_a_package_counts(write: Write) -> None:
    """A new report is one new file: modules of a package, and of packages within it, are all loaded."""
    package = write(one=source("one"), two=source("two"), deeper__in__three=source("three"))
    assert sorted(report.name for report in load_reports([package])) == ["one", "three", "two"]


def test_one_module_may_hold_several_reports(write: Write) -> None:
    """Every report at the top of a module counts, and one that is imported elsewhere counts once."""
    package = write(
        one=source("a", "first") + source("b", "second").replace("def rows", "def others"),
        two=f"from {'reports_of_a_test'}.one import first as again\n",
    )
    assert sorted(r.name for r in load_reports([package])) == ["a", "b"]
    assert sorted(r.name for r in load_reports([f"{package}.one", package])) == ["a", "b"]


def broken(package: str) -> BrokenReport:
    """The one report of a package that is set aside."""
    (found,) = load_reports([package]).broken
    return found


def test_two_reports_of_one_name_are_refused(write: Write) -> None:
    """Of two files that define the same name neither is served, and both are named."""
    package = write(one=source("same"), two=source("same"), other=source("other"))
    registry = load_reports([package])
    assert list(registry.reports) == ["other"]
    (set_aside,) = registry.broken
    assert set_aside.name == "same"
    assert re.search(r"2 reports are named 'same': \S*one\.py:2 and \S*two\.py:2", set_aside.reason)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("from holdfast.reports import no_such_name", "cannot import name 'no_such_name'"),
        ("def broken(:", "the file is no Python: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("assert 1 > 2", "AssertionError: what the code asserts does not hold"),
        ("open('/no/such/file')", "no such file: /no/such/file"),
        ("raise SystemExit", "the module ends the process"),
        ("x = nothing_here", "NameError: name 'nothing_here' is not defined"),
        ("  indented = 1", "the file is no Python: unexpected indent"),
    ],
)
def test_a_module_that_cannot_be_imported_is_set_aside(text: str, said: str, write: Write) -> None:
    """Whatever goes wrong in a module, it is named with file, line and text, and the others are loaded."""
    package = write(good=source("good"), bad=f"# a comment\n{text}\n")
    registry = load_reports([package])
    assert list(registry.reports) == ["good"]
    (set_aside,) = registry.broken
    assert (set_aside.name, set_aside.module) == (f"{package}.bad", f"{package}.bad")
    assert said in set_aside.reason
    assert set_aside.file.endswith("bad.py")
    assert (set_aside.line, set_aside.text) == (2, text.strip())


def test_a_report_in_a_module_that_fails_is_set_aside_by_its_own_name(write: Write) -> None:
    """What a broken file would define is known from its text, also where the file is no Python."""
    package = write(good=source("good"), bad=source("late") + source("early") + "def broken(:\n")
    registry = load_reports([package])
    assert [each.name for each in registry.broken] == ["late", "early"]
    with pytest.raises(ReportError, match=r"report late is set aside: .*\n  \S*bad\.py:9: def broken\(:"):
        registry.get("late")
    with pytest.raises(ReportError, match="set aside"):
        registry.query("late.rows")


@pytest.mark.parametrize(
    "name", ["no_such_package_anywhere", "no_such_package_anywhere.reports", ".relative", "holdfast_flihgts"]
)
def test_a_module_that_is_not_there_is_named(name: str) -> None:
    """A wrong name in REPORTS is reported with that name, and a process without reports still starts."""
    registry = load_reports([name])
    assert list(registry) == []
    (set_aside,) = registry.broken
    assert set_aside.name == name
    assert set_aside.reason.startswith("REPORTS: ")
    assert name.partition(".")[0] in set_aside.reason
    assert ("Did you mean 'holdfast_flights'?" in set_aside.reason) is (name == "holdfast_flihgts")


def test_a_wrong_definition_keeps_its_message(write: Write) -> None:
    """What is wrong with a definition is said as it is, not wrapped into an import error."""
    package = write(bad="from holdfast.reports import Report\nReport('Wrong')")
    set_aside = broken(package)
    assert set_aside.reason.startswith("report 'Wrong': ")
    assert (set_aside.line, set_aside.text) == (2, "Report('Wrong')")


def test_a_module_without_reports_is_refused(write: Write) -> None:
    """A module in REPORTS that holds no report is a mistake: a typing error must not serve nothing."""
    assert "holds no report" in broken(write(nothing="x = 1")).reason


def test_a_report_that_no_variable_holds_is_set_aside(write: Write) -> None:
    """A second report under the variable of the first does not make the first one vanish silently."""
    package = write(bad=source("first") + source("second"))
    registry = load_reports([package])
    assert list(registry.reports) == ["second"]
    (set_aside,) = registry.broken
    assert (set_aside.name, set_aside.line) == ("first", 2)
    assert "no variable" in set_aside.reason


def test_a_file_whose_name_has_points_is_set_aside(write: Write, tmp_path: Path) -> None:
    """A file that Python cannot import does not vanish silently."""
    package = write(good=source("good"))
    (tmp_path / package / "late.v2.py").write_text(source("late"))
    (tmp_path / package / ".late.v2.py").write_text("an editor's copy")
    set_aside = broken(package)
    assert "'late.v2.py'" in set_aside.reason


def test_the_readmes_sql_works() -> None:
    """The query that the README writes as SQL is a statement that has its value bound."""
    (code,) = re.findall(r"```py\n(.*?)```", README.read_text(), re.DOTALL)
    report = Report("delays", params=MonthParams)
    names = {"delays": report, "DelaysParams": MonthParams, "text": text, "TextClause": TextClause}
    exec(code, names)  # noqa: S102 - the README's own code
    (query,) = report.queries.values()
    assert query.build(MonthParams(month=7)).compile().params == {"month": 7}


def test_the_readmes_report_works(write: Write) -> None:
    """The report that the README shows in full has fewer than 30 lines, and is one when saved as a file."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    text = next(block for block in blocks if "Report(" in block)
    assert len(text.strip().splitlines()) < 30
    (report,) = load_reports([write(shown=text)])
    assert report.warm
    (query,) = report.queries.values()
    built = [str(query.build(report.typed(params))) for params in report.warm]
    assert [statement[:6] for statement in built] == ["SELECT"] * len(built)
    assert inspect.isfunction(query.build)
