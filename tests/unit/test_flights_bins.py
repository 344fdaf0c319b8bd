"""The bins of the report weather-impact, and what the example keeps warm; no server is needed."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.reports import Data, load_reports
from holdfast_flights.reports.weather_impact import (
    BINS,
    WeatherImpactParams,
    by_bin,
    by_hour,
    observed,
)

DAY = {"origin": "JFK", "year": 2013, "month": 7, "day": 1}
NOVEMBER = {"origin": "JFK", "year": 2013, "month": 11, "day": 3}


def impact(weather: list[dict[str, Any]], flights: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows for this weather and these flights, by wind speed."""
    return by_bin(WeatherImpactParams(), Data({observed: weather, by_hour: flights}))


@pytest.mark.parametrize(
    ("factor", "value", "bounds"),
    [
        ("wind_speed", 0.0, (0, 5)),
        ("wind_speed", 4.999999, (0, 5)),
        ("wind_speed", 5.0, (5, 10)),
        ("wind_speed", 1048.36058, (1045, 1050)),
        ("visib", 0.75, (0, 1)),
        ("visib", 1.0, (1, 2)),
        ("visib", 10.0, (10, 11)),
        ("precip", 0.0, (0, 0)),
        ("precip", 0.01, (0, 0.05)),
        ("precip", 0.05, (0, 0.05)),
        ("precip", 0.06, (0.05, 0.1)),
        ("precip", 0.1, (0.05, 0.1)),
        ("precip", 0.25, (0.1, 0.25)),
        ("precip", 0.26, (0.25, None)),
    ],
)
def test_a_value_on_an_edge_has_one_bin(
    factor: str, value: float, bounds: tuple[float, float | None]
) -> None:
    """Wind and visibility bins hold their lower bound; precipitation bins hold their upper one."""
    assert BINS[factor](value) == bounds


def test_flights_without_weather_are_left_out() -> None:
    """A flight counts only where its origin has a value at its scheduled hour."""
    weather = [DAY | {"hour": [6], "value": [7.0]}]
    flights = [
        DAY | {"hour": [5, 6], "flights": [9, 2], "cancelled": [9, 1], "departed": [0, 1], "delay": [0, 8]},
        DAY
        | {"origin": "LGA"}
        | {"hour": [6], "flights": [5], "cancelled": [0], "departed": [5], "delay": [5]},
    ]
    assert impact(weather, flights) == [
        {"bin_low": 5, "bin_high": 10, "flights": 2, "avg_dep_delay": 8, "cancelled_pct": 50}
    ]


def test_of_a_repeated_hour_the_earlier_observation_counts() -> None:
    """The hour that daylight saving time repeats is judged by the first of its observations."""
    weather = [NOVEMBER | {"hour": [0, 1, 1, 2], "value": [1.0, 6.0, 12.0, 1.0]}]
    flights = [NOVEMBER | {"hour": [1], "flights": [1], "cancelled": [0], "departed": [1], "delay": [3]}]
    assert [row["bin_low"] for row in impact(weather, flights)] == [5]


def test_a_bin_of_cancelled_flights_has_no_average() -> None:
    """Where no flight departed the average delay is null, and all of them are cancelled."""
    weather = [DAY | {"hour": [6], "value": [41.0]}]
    flights = [DAY | {"hour": [6], "flights": [3], "cancelled": [3], "departed": [0], "delay": [0]}]
    assert impact(weather, flights) == [
        {"bin_low": 40, "bin_high": 45, "flights": 3, "avg_dep_delay": None, "cancelled_pct": 100}
    ]


REGISTRY = load_reports(["holdfast_flights.reports"])
WARM = {
    "carriers": 52,
    "routes": 4,
    "hours": 221,
    "daily": 221,
    "fleet": 17,
    "weather-monthly": 4,
    "weather-impact": 12,
}
"""The reports of the example as it is delivered, with how many results of each are kept warm."""


@pytest.mark.parametrize(("name", "count"), WARM.items())
def test_every_choice_of_a_report_is_kept_warm(name: str, count: int) -> None:
    """Each report keeps warm every carrier, month and airport of its parameters, each once."""
    report = REGISTRY.get(name)
    assert len({report.reader.url(params) for params in report.warm}) == len(report.warm) == count


@pytest.mark.parametrize("name", WARM)
def test_a_result_is_computed_again_before_it_is_stale(name: str) -> None:
    """The schedule of each report is shorter than its ttl."""
    report = REGISTRY.get(name)
    assert report.schedule is not None
    assert report.ttl is not None
    assert report.schedule < report.ttl
