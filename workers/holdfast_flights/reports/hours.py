"""How delays grow through the day."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select

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


class HoursParams(Params):
    """Which flights are counted."""

    carrier: Carrier = None
    month: Month = None


hours = Report(
    "hours",
    title="Hours of the day",
    description="Flights, departure delay and cancellations by the scheduled hour of departure.",
    params=HoursParams,
    ttl=900,
    max_stale=86_400,
    schedule=600,
    tags=("postgres:flights",),
    warm=variants(carrier=EVERY_CARRIER, month=EVERY_MONTH),
)


@hours.postgres
def by_hour(p: HoursParams) -> Select[*tuple[Any, ...]]:
    """One row for each scheduled hour, 0–23, in which a flight was to depart; earliest first."""
    return (
        select(
            Flight.hour,
            flights(),
            mean(Flight.dep_delay).label("avg_dep_delay"),
            cancelled(),
        )
        .where(*only(carrier=p.carrier, month=p.month))
        .group_by(Flight.hour)
        .order_by(Flight.hour)
    )
