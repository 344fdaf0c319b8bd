"""What the reports share: types of parameters with their values, and expressions over flights."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from sqlalchemy import ColumnElement, Double, cast, func
from sqlalchemy.orm import InstrumentedAttribute

from holdfast_flights.models import Flight

CarrierCode = Literal[
    "9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"
]
OriginCode = Literal["EWR", "JFK", "LGA"]

Carrier = Annotated[CarrierCode | None, Field(description="Only this airline's flights")]
Origin = Annotated[OriginCode | None, Field(description="Only this New York airport")]
Month = Annotated[int | None, Field(ge=1, le=12, description="Only this month of 2013")]

EVERY_CARRIER: tuple[str | None, ...] = (None, *get_args(CarrierCode))
EVERY_ORIGIN: tuple[str | None, ...] = (None, *get_args(OriginCode))
EVERY_MONTH: tuple[int | None, ...] = (None, *range(1, 13))


def only(**values: object) -> list[ColumnElement[bool]]:
    """Conditions for `where`: each named column of a flight has that value; None means any value."""
    return [getattr(Flight, name) == value for name, value in values.items() if value is not None]


def flights() -> ColumnElement[int]:
    """The number of flights, cancelled ones among them."""
    return func.count().label("flights")


def cancelled() -> ColumnElement[int]:
    """The number of flights that never departed: those without a `dep_time`."""
    return func.count().filter(Flight.dep_time.is_(None)).label("cancelled")


def mean(column: InstrumentedAttribute[Any]) -> ColumnElement[float]:
    """The average of a column's values as a double, NULLs left out; NULL where there is no value."""
    return cast(func.avg(column), Double)
