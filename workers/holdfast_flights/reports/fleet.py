"""Who built the planes that flew, how old they are and how late they leave."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Double, Select, cast, func, select

from holdfast.reports import Params, Report, variants
from holdfast_flights.models import Flight, Plane
from holdfast_flights.vocabulary import EVERY_CARRIER, Carrier, only


class FleetParams(Params):
    """Whose flights are counted."""

    carrier: Carrier = None


fleet = Report(
    "fleet",
    title="Fleet",
    description="Planes, their age, flights and departure delay by manufacturer.",
    params=FleetParams,
    ttl=900,
    max_stale=86_400,
    schedule=600,
    tags=("postgres:flights", "postgres:planes"),
    warm=variants(carrier=EVERY_CARRIER),
)


@fleet.postgres
def by_manufacturer(p: FleetParams) -> Select[*tuple[Any, ...]]:
    """One row for each manufacturer, most flights first.

    Flights are summed by plane first, so that a plane's age counts once however often it flew. The age
    is in years in 2013 and leaves out planes without a year; the delay is over flights, not over planes.
    """
    flown = (
        select(
            Flight.tailnum,
            func.count().label("flights"),
            func.count(Flight.dep_delay).label("departed"),
            func.sum(Flight.dep_delay).label("delay"),
        )
        .where(*only(carrier=p.carrier))
        .group_by(Flight.tailnum)
        .subquery()
    )
    flights = func.sum(flown.c.flights)
    delay = cast(func.sum(flown.c.delay), Double) / func.nullif(func.sum(flown.c.departed), 0)
    return (
        select(
            Plane.manufacturer,
            func.count().label("planes"),
            cast(flights, BigInteger).label("flights"),
            cast(func.avg(2013 - Plane.year), Double).label("avg_age_years"),
            delay.label("avg_dep_delay"),
        )
        .join_from(flown, Plane, Plane.tailnum == flown.c.tailnum)
        .group_by(Plane.manufacturer)
        .order_by(flights.desc(), Plane.manufacturer.collate("C"))
    )
