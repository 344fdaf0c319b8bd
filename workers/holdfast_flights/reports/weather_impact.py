"""The effect of the weather: delays and cancellations by wind, rain or visibility.

The flights are in Postgres and the weather is in MongoDB: one query of each, joined here. A flight belongs
to the observation of its origin at its scheduled year, month, day and hour. Flights without an observation
are left out, and so are those whose observation has no value of the factor, since they have no bin. The end
of daylight saving time repeats a local hour: of two observations with a value, the earlier one counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import Select, func, select

from holdfast.reports import Data, Params, Report, variants
from holdfast_flights.models import Flight, Observation
from holdfast_flights.vocabulary import EVERY_ORIGIN, Origin, cancelled, flights, only

Bin = tuple[float, float | None]
"""The lower and the upper bound; None where there is no upper bound."""

DAY = ("origin", "year", "month", "day")
TOTALS = ("flights", "cancelled", "departed", "delay")
PRECIP_EDGES = (0.0, 0.05, 0.1, 0.25)


class WeatherImpactParams(Params):
    """Which weather is looked at, and where."""

    factor: Annotated[
        Literal["wind_speed", "precip", "visib"],
        Field(description="Wind speed in mph, precipitation in inches, or visibility in miles"),
    ] = "wind_speed"
    origin: Origin = None


weather_impact = Report(
    "weather-impact",
    title="Weather impact",
    description="Departure delay and cancellations by the weather at the scheduled hour.",
    params=WeatherImpactParams,
    ttl=900,
    max_stale=86_400,
    schedule=600,
    tags=("postgres:flights", "mongo:weather"),
    warm=variants(factor=["wind_speed", "precip", "visib"], origin=EVERY_ORIGIN),
)


@weather_impact.postgres
def by_hour(p: WeatherImpactParams) -> Select[*tuple[Any, ...]]:
    """One row for each airport and day, with a list of each column: an item for each scheduled hour.

    `delay` is the sum, in minutes, over the `departed` flights. Lists, because 19,486 rows of one hour
    each take several times as long to carry as 1,095 of one day.
    """
    day = [getattr(Flight, name) for name in DAY]
    by_hour = (
        select(
            *day,
            Flight.hour,
            flights(),
            cancelled(),
            func.count(Flight.dep_delay).label("departed"),
            func.coalesce(func.sum(Flight.dep_delay), 0).label("delay"),
        )
        .where(*only(origin=p.origin))
        .group_by(*day, Flight.hour)
        .subquery()
    )
    by_day = [by_hour.c[name] for name in DAY]
    lists = [func.array_agg(by_hour.c[name]).label(name) for name in ("hour", *TOTALS)]
    return select(*by_day, *lists).group_by(*by_day)


@weather_impact.mongo(Observation)
def observed(p: WeatherImpactParams) -> list[dict[str, Any]]:
    """One row for each airport and day: the hours at which the factor had a value, and the values."""
    at_origin = {"origin": p.origin} if p.origin else {}
    return [
        {"$match": {**at_origin, p.factor: {"$ne": None}}},
        {"$sort": {"origin": 1, "time_hour": 1}},
        {
            "$group": {
                "_id": {name: f"${name}" for name in DAY},
                "hour": {"$push": "$hour"},
                "value": {"$push": f"${p.factor}"},
            }
        },
        {
            "$replaceWith": {
                **{name: f"$_id.{name}" for name in DAY},
                "hour": "$hour",
                "value": "$value",
            }
        },
    ]


@weather_impact.compute
def by_bin(p: WeatherImpactParams, data: Data) -> list[dict[str, Any]]:
    """One row for each bin that has a flight, lowest first.

    Bins of wind speed (5 mph wide) and visibility (1 mile) hold their lower bound and not their upper.
    Those of precipitation hold their upper bound: none, up to 0.05, 0.1 and 0.25 inches, and more.
    """
    bin_of = BINS[p.factor]
    weather: dict[tuple[Any, ...], dict[int, Bin]] = defaultdict(dict)
    for row in data[observed]:
        bins = weather[_day(row)]
        for hour, value in zip(row["hour"], row["value"], strict=True):
            if hour not in bins:
                bins[hour] = bin_of(value)
    totals: dict[Bin, list[int]] = defaultdict(lambda: [0] * len(TOTALS))
    for row in data[by_hour]:
        bins = weather.get(_day(row), {})
        for hour, *counts in zip(row["hour"], *(row[name] for name in TOTALS), strict=True):
            if hour in bins:
                total = totals[bins[hour]]
                for i, count in enumerate(counts):
                    total[i] += count
    return [_row(where, *totals[where]) for where in sorted(totals, key=_by_bounds)]


def _row(where: Bin, flights: int, cancelled: int, departed: int, delay: int) -> dict[str, Any]:
    return {
        "bin_low": where[0],
        "bin_high": where[1],
        "flights": flights,
        "avg_dep_delay": delay / departed if departed else None,
        "cancelled_pct": 100 * cancelled / flights,
    }


def _day(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in DAY)


def _by_bounds(where: Bin) -> tuple[float, float]:
    low, high = where
    return low, math.inf if high is None else high


def _every(width: float) -> Callable[[float], Bin]:
    def bin_of(value: float) -> Bin:
        low = math.floor(value / width) * width
        return low, low + width

    return bin_of


def _precip_bin(value: float) -> Bin:
    low = 0.0
    for high in PRECIP_EDGES:
        if value <= high:
            return low, high
        low = high
    return low, None


BINS: dict[str, Callable[[float], Bin]] = {
    "wind_speed": _every(5.0),
    "visib": _every(1.0),
    "precip": _precip_bin,
}
