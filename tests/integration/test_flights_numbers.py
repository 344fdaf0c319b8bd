"""Every number of the example's reports, against pandas' own computation from the source files."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.support.flights_expected import EXPECTED, table
from tests.support.memory import link_to

from holdfast.links.mongo import MongoAdapter
from holdfast.links.postgres import PostgresAdapter
from holdfast.reports import Registry, Row, load_reports
from holdfast.settings import MongoSettings, PostgresSettings
from holdfast.supervisor.queries import Queries
from holdfast_flights.vocabulary import EVERY_CARRIER, EVERY_MONTH, EVERY_ORIGIN, CarrierCode

REGISTRY: Registry = load_reports(["holdfast_flights.reports"])
PAIRS = random.Random(2013).sample([(c, m) for c in EVERY_CARRIER[1:] for m in EVERY_MONTH[1:]], 40)

CASES: list[tuple[str, dict[str, Any]]] = [
    *(("carriers", {"month": m, "origin": o}) for m in EVERY_MONTH for o in EVERY_ORIGIN),
    *(("routes", {"origin": o, "limit": n}) for o in EVERY_ORIGIN for n in (1, 7, 50, 500)),
    *(("routes", {"origin": o}) for o in EVERY_ORIGIN),
    *((name, {"carrier": c}) for name in ("hours", "daily") for c in EVERY_CARRIER),
    *((name, {"month": m}) for name in ("hours", "daily") for m in EVERY_MONTH),
    *((name, {"carrier": c, "month": m}) for name in ("hours", "daily") for c, m in PAIRS),
    *(("fleet", {"carrier": c}) for c in EVERY_CARRIER),
    *(("weather-monthly", {"origin": o}) for o in EVERY_ORIGIN),
    ("weather-impact", {}),
    *(
        ("weather-impact", {"factor": f, "origin": o})
        for f in ("wind_speed", "precip", "visib")
        for o in EVERY_ORIGIN
    ),
]

COLUMNS = {
    "carriers": "carrier name flights cancelled avg_dep_delay avg_arr_delay p90_arr_delay on_time_pct",
    "routes": "origin dest flights avg_arr_delay avg_air_time",
    "hours": "hour flights avg_dep_delay cancelled",
    "daily": "date flights cancelled avg_dep_delay",
    "fleet": "manufacturer planes flights avg_age_years avg_dep_delay",
    "weather-monthly": "origin month avg_temp avg_wind_speed total_precip observations",
    "weather-impact": "bin_low bin_high flights avg_dep_delay cancelled_pct",
}
COUNTS = {"flights", "cancelled", "planes", "observations", "hour", "month"}


class Reader:
    """Runs reports as the supervisor does, on connections of its own."""

    def __init__(self, env: Mapping[str, str], home: Path) -> None:
        with _only(env, home):
            postgres, mongo = PostgresSettings.load(), MongoSettings.load()
        self._runner = asyncio.Runner()
        self._postgres = PostgresAdapter(lambda: postgres)
        self._mongo = MongoAdapter(lambda: mongo, REGISTRY.documents())
        self._runner.run(self._postgres.open())
        self._runner.run(self._mongo.open())
        self._queries = Queries(REGISTRY, link_to(self._postgres), link_to(self._mongo))

    def rows(self, name: str, params: Mapping[str, Any]) -> list[Row]:
        """The rows of that report."""
        report = REGISTRY.get(name)
        data = {name: self._runner.run(self._fetch(name, params)) for name in report.queries}
        return report.rows(params, data)

    async def _fetch(self, name: str, params: Mapping[str, Any]) -> list[Row]:
        result = await self._queries.run(name, params)
        return [dict(zip(result["columns"], row, strict=True)) for row in result["rows"]]

    def close(self) -> None:
        """Close every connection."""
        self._runner.run(self._postgres.close())
        self._runner.run(self._mongo.close())
        self._runner.close()


@contextmanager
def _only(env: Mapping[str, str], home: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("POSTGRES_", "MONGO_"))]:
            patch.delenv(name)
        for name, value in {**env, "HOLDFAST_HOME": str(home)}.items():
            patch.setenv(name, value)
        patch.chdir(home)
        yield


@pytest.fixture(scope="module")
def reader(flights: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Reports over the loaded example."""
    reader = Reader(flights, tmp_path_factory.mktemp("reader"))
    yield reader
    reader.close()


@pytest.mark.parametrize(
    ("name", "params"), CASES, ids=lambda part: part if isinstance(part, str) else _id(part)
)
def test_numbers_are_those_of_the_source_files(reader: Reader, name: str, params: dict[str, Any]) -> None:
    """A report's rows are what pandas makes of the files: same rows, same order, floats to 1e-9."""
    rows = reader.rows(name, params)
    expected = EXPECTED[name](**params)
    assert [_labels(row) for row in rows] == [_labels(row) for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        assert row == {name: _about(value) for name, value in wanted.items()}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_row_has_the_documented_columns_in_their_order(reader: Reader, name: str) -> None:
    """A row's columns are those of the contract, in its order; counts are whole numbers."""
    rows = reader.rows(name, {})
    assert rows
    for row in rows:
        assert list(row) == COLUMNS[name].split()
        assert all(type(row[column]) is int for column in COUNTS & row.keys())


@pytest.mark.parametrize("name", COLUMNS)
def test_the_same_question_has_the_same_answer_twice(reader: Reader, name: str) -> None:
    """Two computations over the same data give identical rows, so that an entry keeps its ETag."""
    assert reader.rows(name, {}) == reader.rows(name, {})


def test_an_average_of_no_value_is_null(reader: Reader) -> None:
    """The one flight from EWR to LGA was cancelled: it is counted, and its averages are null."""
    (row,) = [r for r in reader.rows("routes", {"limit": 500}) if r["dest"] == "LGA"]
    assert row["flights"] == 1
    assert row["avg_arr_delay"] is None
    assert row["avg_air_time"] is None


@pytest.mark.parametrize("name", ["hours", "daily"])
def test_a_choice_without_flights_has_no_rows(reader: Reader, name: str) -> None:
    """SkyWest did not fly from New York in February: an empty result, not an error."""
    assert reader.rows(name, {"carrier": "OO", "month": 2}) == []


def test_the_carriers_a_report_accepts_are_the_airlines_there_are() -> None:
    """The values of the parameter `carrier` are exactly the codes of the airlines' file."""
    assert set(get_args(CarrierCode)) == set(table("airlines")["carrier"])


def _about(value: Any) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value


def _labels(row: Mapping[str, Any]) -> list[Any]:
    names = ("carrier", "origin", "dest", "hour", "date", "manufacturer", "month", "bin_low", "bin_high")
    return [row[name] for name in names if name in row]


def _id(params: Mapping[str, Any]) -> str:
    return "&".join(f"{name}={value}" for name, value in params.items() if value is not None) or "all"
