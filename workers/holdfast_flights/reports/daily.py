"""The year, day by day."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func, select

from holdfast.reports import Params, Report, variants
from holdfast_flights.models import Flight
from holdfast_flights.vocabulary import (
    EVERY_CARRIER,
    EVERY_MONTH,
    Carrier,
    Month,
    cancelled,
    flights,
    mean,
    only,
)


class DailyParams(Params):
    """Which flights are counted."""

    carrier: Carrier = None
    month: Month = None


daily = Report(
    "daily",
    title="Days",
    description="Flights, cancellations and departure delay of each day.",
    params=DailyParams,
    ttl=900,
    max_stale=86_400,
    schedule=600,
    tags=("postgres:flights",),
    warm=variants(carrier=EVERY_CARRIER, month=EVERY_MONTH),
)


@daily.postgres
def by_day(p: DailyParams) -> Select[*tuple[Any, ...]]:
    """One row for each day that had a flight, earliest first."""
    day = (Flight.year, Flight.month, Flight.day)
    return (
        select(
            func.make_date(*day).label("date"),
            flights(),
            cancelled(),
            mean(Flight.dep_delay).label("avg_dep_delay"),
        )
        .where(*only(carrier=p.carrier, month=p.month))
        .group_by(*day)
        .order_by(*day)
    )
