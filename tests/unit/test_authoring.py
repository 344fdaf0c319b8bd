"""What `holdfast new` and `holdfast init` write: names, what a report is made of, and where files go."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from holdfast.authoring.mongo import fields_of
from holdfast.authoring.names import REPORT_NAME, class_name, free, identifier, report_name
from holdfast.authoring.package import check_new_package, dotenv_line, place_of, write_new
from holdfast.authoring.report import ReportText
from holdfast.authoring.sources import Field, Source, distinct_values, pick
from holdfast.errors import LocalError
from holdfast.settings.files import dotenv

SOURCES = [
    Source("postgres", "orders", "shop"),
    Source("postgres", "orders", "archive"),
    Source("postgres", "Order"),
    Source("postgres", "a.b"),
    Source("postgres", "readings"),
    Source("mongo", "readings"),
]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("place", "place"),
        ("Unit price (€)", "unit_price"),
        ("orderId", "order_id"),
        ("class", "class_"),
        ("match", "match_"),
        ("schema", "schema_"),
        ("model_dump", "model_dump_"),
        ("2nd", "c_2nd"),
        ("", "c"),
        ("___", "c"),
        ("it's", "it_s"),
        ("имя", "имя"),
        ("back\\slash", "back_slash"),
        ("a.b", "a_b"),
    ],
)
def test_a_column_has_a_python_name(text: str, name: str) -> None:
    """A generated name is an identifier, and none of Python's or pydantic's own."""
    assert identifier(text) == name


@given(st.text(max_size=30))
def test_every_text_has_names(text: str) -> None:
    """Whatever a column or a table is named, what is generated for it can be compiled."""
    assert identifier(text).isidentifier()
    assert class_name(f"x-{text}").isidentifier()
    assert REPORT_NAME.fullmatch(report_name(f"x {text}"))


def test_names_are_used_once() -> None:
    """A second thing of the same name gets a number."""
    taken = {"count"}
    assert [free("count", taken), free("count", taken), free("n", taken)] == ["count_2", "count_3", "n"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("postgres:shop.orders", "postgres:shop.orders"),
        ("shop.orders", "postgres:shop.orders"),
        ("postgres:Order", "postgres:Order"),
        ("order", "postgres:Order"),
        ('postgres:"Order"', "postgres:Order"),
        ("public.Order", "postgres:Order"),
        ("postgres:a.b", "postgres:a.b"),
        ("mongo:readings", "mongo:readings"),
        ("postgres:readings", "postgres:readings"),
    ],
)
def test_a_source_is_found_as_people_name_it(text: str, found: str) -> None:
    """By its full name, by its own name, in quotes, or in lower case."""
    assert str(pick(text, SOURCES)) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("orders", "postgres:shop.orders or postgres:archive.orders"),
        ("readings", "postgres:readings or mongo:readings"),
        ("mongo:orders", "there is no 'mongo:orders'"),
        ("postgres:shop.ordres", "Did you mean 'postgres:shop.orders'?"),
        ("", "There are postgres:shop.orders"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_choices(text: str, words: str) -> None:
    """A name that is nobody's, or several have, is an error that names what there is."""
    with pytest.raises(LocalError) as raised:
        pick(text, SOURCES)
    assert words in str(raised.value)


def test_without_any_source_the_settings_are_named() -> None:
    """An empty database is probably the wrong one."""
    with pytest.raises(LocalError, match="POSTGRES_URL or MONGO_URL"):
        pick("orders", [])


def columns(*fields: Field) -> Source:
    """A table with these columns."""
    return Source("postgres", "t", None, fields)


ID = Field("id", "integer", "bigint", 300, key=True)
STATE = Field("state", "text", "text", 3)
EMAIL = Field("email", "text", "text", 290)
YEAR = Field("year", "integer", "integer", 5)
AMOUNT = Field("amount", "number", "numeric", 280)
DAY = Field("day", "date", "date", 30)
ONE = Field("one", "text", "text", 1)
UNSEEN = Field("kind", "text", "text")
UNSEEN_NUMBER = Field("size", "integer", "integer")


@pytest.mark.parametrize(
    ("fields", "group", "condition", "measure"),
    [
        ((ID, STATE, AMOUNT), "state", "state", "amount"),
        ((ID, STATE, YEAR, AMOUNT), "state", "year", "amount"),
        ((ID, EMAIL, AMOUNT, DAY), "day", "day", "amount"),
        ((ONE, DAY), "day", "one", None),
        ((ID,), None, None, None),
        ((UNSEEN, UNSEEN_NUMBER), "kind", "kind", "size"),
        ((), None, None, None),
    ],
)
def test_a_report_groups_by_what_has_few_values(
    fields: tuple[Field, ...], group: str | None, condition: str | None, measure: str | None
) -> None:
    """It groups by text with few values before numbers and dates, and never by a key."""
    source = columns(*fields)
    chosen = [each.name if each else None for each in (source.group, source.condition, source.measure)]
    assert chosen == [group, condition, measure]


@pytest.mark.parametrize(
    ("values", "kind", "annotation"),
    [
        (["a", "b"], "text", "str"),
        ([1, Int64(2)], "integer", "int"),
        ([1, 2.5], "number", "float"),
        ([Decimal128("1.5")], "number", "Any"),
        ([True], "boolean", "bool"),
        ([dt.datetime(2026, 1, 1)], "time", "dt.datetime"),
        ([1, "a"], "other", "Any"),
        ([[1]], "other", "Any"),
        ([ObjectId()], "other", "Any"),
        ([None], "other", "Any"),
        ([None, "a"], "text", "str"),
        ([True, 1], "other", "Any"),
    ],
)
def test_a_field_of_documents_has_one_kind_or_is_left_alone(
    values: list[Any], kind: str, annotation: str
) -> None:
    """A field whose documents disagree is no column to group by."""
    (field,) = fields_of([{"v": value} for value in values])
    assert (field.kind, field.type) == (kind, annotation)


@pytest.mark.parametrize("name", ["a.b", "$c", "_id"])
def test_a_name_that_is_no_path_is_left_alone(name: str) -> None:
    """Such a field is neither grouped by nor selected by."""
    (field,) = fields_of([{name: "x"}])
    assert field.kind == "other"


def test_values_are_counted_by_what_they_are() -> None:
    """Lists and documents are counted too; nothing at all is None."""
    assert distinct_values([[1], [1], {"a": 1}, None]) == 2
    assert distinct_values([None]) is None


NASTY = st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(NASTY, st.lists(NASTY, unique=True, max_size=5), st.sampled_from(["postgres", "mongo"]))
def test_whatever_the_names_are_the_modules_are_python(table: str, names: list[str], database: Any) -> None:
    """Quotes, backslashes and other scripts in the names of a table never break what is written."""
    fields = tuple(Field(name, "text", "text", 3, sql="sa.Text") for name in names)
    source = Source(database, table, table if database == "postgres" else None, fields)
    written = ReportText("late-orders", source, "acme.reports.late_orders").written()
    compile(written.report, "report.py", "exec")
    compile(written.test, "test.py", "exec")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_env_gives_back_what_was_written(value: str) -> None:
    """A password with quotes, backslashes or dollar signs is the same when `.env` is read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ".env"
        path.write_text(dotenv_line("POSTGRES_URL", value) + "\n", encoding="utf-8")
        assert dotenv(path, {"POSTGRES_URL"}, {"POSTGRES_URL"}) == {"POSTGRES_URL": value}


def test_files_are_written_all_or_none(tmp_path: Path) -> None:
    """Where one file is there already, none is written, and that one stays as it is."""
    there = tmp_path / "b.py"
    there.write_text("mine")
    with pytest.raises(LocalError, match="nothing is overwritten"):
        write_new({tmp_path / "a.py": "1", there: "2"})
    assert there.read_text() == "mine"
    assert not (tmp_path / "a.py").exists()


def test_a_file_that_cannot_be_written_leaves_none(tmp_path: Path) -> None:
    """An error in the middle takes back what was written before it."""
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match="file"):
        write_new({tmp_path / "a.py": "1", tmp_path / "file" / "b.py": "2"})
    assert not (tmp_path / "a.py").exists()


def test_a_private_file_is_private(tmp_path: Path) -> None:
    """`.env` may hold a password."""
    write_new({tmp_path / ".env": "x"}, private=[tmp_path / ".env"])
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["json", "pytest", "holdfast", "tests", "Acme", "my-reports", "2nd", "a.b"])
def test_a_package_needs_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    """A name that Python, an installed package or Holdfast has would hide it."""
    with pytest.raises(LocalError):
        check_new_package(name, tmp_path)


def test_a_report_goes_into_the_first_package_that_is_the_authors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed package, and a module that is no package, are passed over; tests go beside the top one."""
    (tmp_path / "mine_only" / "inner").mkdir(parents=True)
    (tmp_path / "mine_only" / "__init__.py").touch()
    (tmp_path / "mine_only" / "inner" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    place = place_of(["pydantic", "json.decoder", "mine_only.inner"], None)
    assert (place.folder, place.tests) == (tmp_path / "mine_only" / "inner", tmp_path / "tests")
