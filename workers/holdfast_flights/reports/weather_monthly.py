"""The weather at each airport, month by month, from MongoDB alone."""

from __future__ import annotations

from typing import Any

from holdfast.reports import Params, Report, variants
from holdfast_flights.models import Observation
from holdfast_flights.vocabulary import EVERY_ORIGIN, Origin


class WeatherMonthlyParams(Params):
    """Whose weather."""

    origin: Origin = None


weather_monthly = Report(
    "weather-monthly",
    title="Weather by month",
    description="Temperature, wind and precipitation at each airport in each month.",
    params=WeatherMonthlyParams,
    ttl=900,
    max_stale=86_400,
    schedule=600,
    tags=("mongo:weather",),
    warm=variants(origin=EVERY_ORIGIN),
)


@weather_monthly.mongo(Observation)
def monthly(p: WeatherMonthlyParams) -> list[dict[str, Any]]:
    """One row for each airport and month, 1–12: °F, mph and inches over its hourly observations.

    Every observation counts, both of the hour that daylight saving time repeated among them.
    """
    return [
        {"$match": {"origin": p.origin} if p.origin else {}},
        {
            "$group": {
                "_id": {"origin": "$origin", "month": "$month"},
                "avg_temp": {"$avg": "$temp"},
                "avg_wind_speed": {"$avg": "$wind_speed"},
                "total_precip": {"$sum": "$precip"},
                "observations": {"$sum": 1},
            }
        },
        {"$sort": {"_id.origin": 1, "_id.month": 1}},
        {
            "$replaceWith": {
                "origin": "$_id.origin",
                "month": "$_id.month",
                "avg_temp": "$avg_temp",
                "avg_wind_speed": "$avg_wind_speed",
                "total_precip": "$total_precip",
                "observations": "$observations",
            }
        },
    ]
