"""`holdfast runs`: the newest refreshes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from holdfast.cli import tables
from holdfast.cli.client import call

COLUMNS = ("when", "report", "parameters", "trigger", "outcome", "ms", "rows", "bytes")


def runs(
    report: Annotated[str | None, typer.Argument(help="One report; all of them without it.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show the newest refreshes: what asked for them, how long they took, and their outcome."""
    newest = call(lambda client: client.runs(report, limit=limit))
    if as_json:
        print(json.dumps(newest))
    else:
        _show(newest)


def _show(runs: Sequence[Mapping[str, Any]]) -> None:
    table = tables.table(*COLUMNS)
    for run in runs:
        table.add_row(*(tables.cell(value, empty="") for value in row(run)))
    tables.console().print(table)


def row(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of a run, in the order of `COLUMNS`: local time, milliseconds, and what it stored."""
    return (
        datetime.fromtimestamp(run["started_at"]).astimezone().strftime("%m-%d %H:%M:%S"),
        run["report"],
        " ".join(f"{name}={value}" for name, value in run["params"].items() if value is not None),
        run["trigger"],
        run["outcome"] + (f": {run['error']}" if run["error"] else ""),
        f"{run['duration_ms']:.0f}",
        str(run["rows"] or ""),
        str(run["bytes"] or ""),
    )
