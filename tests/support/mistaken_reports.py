"""Files of reports as an author writes them, right and wrong, for a package in a folder of a test's."""

from __future__ import annotations

from pathlib import Path

PACKAGE = "author_reports"
HEAD = """\
from beanie import Document
from sqlalchemy import Column, Integer, MetaData, Table, Text
from sqlalchemy import column, func, insert, select, text, union_all
from holdfast.reports import Params, Report, variants

metadata = MetaData()
orders = Table("orders", metadata, Column("id", Integer), Column("city", Text), Column("amount", Integer))

class Reading(Document):
    place: str

    class Settings:
        name = "author_readings"

class Nowhere(Document):
    class Settings:
        name = "author_raedings"

class Quiet(Document):
    class Settings:
        name = "author_quiet"

"""


def on_postgres(name: str, body: str, *, head: str = "") -> str:
    """A report with one query on Postgres, whose function has that body."""
    return f'{HEAD}{head}late = Report("{name}", ttl=600)\n\n@late.postgres\ndef rows(p):\n    {body}\n'


def on_mongo(name: str, body: str, document: str = "Reading") -> str:
    """A report with one query on MongoDB, whose function has that body."""
    return f'{HEAD}late = Report("{name}", ttl=600)\n\n@late.mongo({document})\ndef rows(p):\n    {body}\n'


def computed(name: str, body: str) -> str:
    """A report with a function of its own, which has that body."""
    return (
        on_postgres(name, "return select(orders.c.city, orders.c.amount)")
        + f"\n@late.compute\ndef join(p, data):\n    {body}\n"
    )


def write_reports(folder: Path, files: dict[str, str], package_name: str = PACKAGE) -> None:
    """Write a package into that folder: a file for each module."""
    package = folder / package_name
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    for name, source in files.items():
        (package / f"{name}.py").write_text(source)
