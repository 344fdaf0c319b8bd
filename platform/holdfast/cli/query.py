"""`holdfast query`: a report's named query by hand, through the supervisor."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import tables
from holdfast.cli.client import call
from holdfast.errors import SettingsError

if TYPE_CHECKING:
    from holdfast.reports import Registry

SHOWN_ROWS = 50


def query(
    name: Annotated[str, typer.Argument(help="As report.function; without it, all are listed.")] = "",
    params: Annotated[list[str] | None, typer.Argument(help="As key=value.")] = None,
) -> None:
    """Run a named query through the supervisor, by hand."""
    from holdfast.reports import load_reports
    from holdfast.settings import ReportsSettings

    registry = load_reports(ReportsSettings.load().modules)
    if name:
        _run(registry, name, params or [])
    else:
        _list(registry)


def _list(registry: Registry) -> None:
    for report in registry:
        options = " ".join(f"[{spec.name}=…]" for spec in report.spec.params)
        for query in report.queries.values():
            print(f"{query.name:36} {query.source:9} {options}")


def _run(registry: Registry, name: str, given: Sequence[str]) -> None:
    report, _ = registry.query(name)
    params = report.reader.parse(pairs(given))
    began = time.perf_counter()
    rows = call(lambda client: client.query(name, params))
    _show(rows, (time.perf_counter() - began) * 1000)


def pairs(given: Sequence[str]) -> dict[str, str]:
    """The parameters of a command line by name; of two with one name the last counts.

    Raises:
        SettingsError: one is not key=value.
    """
    read: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"{text!r} is not key=value")
        read[key] = value
    return read


def _show(rows: Sequence[Mapping[str, Any]], milliseconds: float) -> None:
    console = tables.console()
    if rows:
        table = tables.table(*rows[0].keys())
        for row in rows[:SHOWN_ROWS]:
            table.add_row(*(tables.cell(value, empty="") for value in row.values()))
        console.print(table)
    hidden = f", the first {SHOWN_ROWS} shown" if len(rows) > SHOWN_ROWS else ""
    console.print(f"{len(rows)} rows in {milliseconds:.1f} ms{hidden}", style="dim")
