"""How each airline did: flights, cancellations, delays, punctuality."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double, Select, cast, func, select

from holdfast.reports import Params, Report, variants
from holdfast_flights.models import Airline, Flight
from holdfast_flights.vocabulary import (
    EVERY_MONTH,
    EVERY_ORIGIN,
    Month,
    Origin,
    cancelled,
    flights,
    mean,
    only,
)


class CarriersParams(Params):
    """Which flights are counted."""

    month: Month = None
    origin: Origin = None


carriers = Report(
    "carriers",
    title="Carriers",
    description="Flights, cancellations, delays and punctuality of each airline.",
    params=CarriersParams,
    ttl=900,
    max_stale=86_400,
    schedule=600,
    tags=("postgres:flights", "postgres:airlines"),
    warm=variants(month=EVERY_MONTH, origin=EVERY_ORIGIN),
)


@carriers.postgres
def by_carrier(p: CarriersParams) -> Select[*tuple[Any, ...]]:
    """One row for each airline, most flights first; on time is arriving less than 15 minutes late."""
    arrived = func.count(Flight.arr_delay)
    on_time = func.count().filter(Flight.arr_delay < 15)
    totals = (
        select(
            Flight.carrier,
            flights(),
            cancelled(),
            mean(Flight.dep_delay).label("avg_dep_delay"),
            mean(Flight.arr_delay).label("avg_arr_delay"),
            func.percentile_cont(0.9).within_group(Flight.arr_delay).label("p90_arr_delay"),
            (100.0 * cast(on_time, Double) / func.nullif(arrived, 0)).label("on_time_pct"),
        )
        .where(*only(month=p.month, origin=p.origin))
        .group_by(Flight.carrier)
        .subquery()
    )
    return (
        select(
            totals.c.carrier,
            Airline.name,
            totals.c.flights,
            totals.c.cancelled,
            totals.c.avg_dep_delay,
            totals.c.avg_arr_delay,
            totals.c.p90_arr_delay,
            totals.c.on_time_pct,
        )
        .outerjoin_from(totals, Airline, Airline.carrier == totals.c.carrier)
        .order_by(totals.c.flights.desc(), totals.c.carrier)
    )
