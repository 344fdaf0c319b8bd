"""The busiest routes out of New York."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Select, select

from holdfast.reports import Params, Report, variants
from holdfast_flights.models import Flight
from holdfast_flights.vocabulary import EVERY_ORIGIN, Origin, flights, mean, only


class RoutesParams(Params):
    """Which routes, and how many of them."""

    origin: Origin = None
    limit: Annotated[int, Field(ge=1, le=500, description="At most this many routes")] = 50


routes = Report(
    "routes",
    title="Routes",
    description="The busiest routes, with their average arrival delay and time in the air.",
    params=RoutesParams,
    ttl=900,
    max_stale=86_400,
    schedule=600,
    tags=("postgres:flights",),
    warm=variants(origin=EVERY_ORIGIN),
)


@routes.postgres
def by_route(p: RoutesParams) -> Select[*tuple[Any, ...]]:
    """One row for each pair of airports, most flights first."""
    count = flights()
    return (
        select(
            Flight.origin,
            Flight.dest,
            count,
            mean(Flight.arr_delay).label("avg_arr_delay"),
            mean(Flight.air_time).label("avg_air_time"),
        )
        .where(*only(origin=p.origin))
        .group_by(Flight.origin, Flight.dest)
        .order_by(count.desc(), Flight.origin, Flight.dest)
        .limit(p.limit)
    )
