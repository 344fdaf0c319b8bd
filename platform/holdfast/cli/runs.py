"""`holdfast runs`: the newest refreshes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import tables
from holdfast.cli.client import call
from holdfast.cli.status import ask_supervisor
from holdfast.errors import ProtocolError, ReportError, UnknownReport
from holdfast.reasons import did_you_mean

if TYPE_CHECKING:
    from holdfast.rpc.client import Client

COLUMNS = ("when", "report", "parameters", "trigger", "outcome", "ms", "rows", "bytes")


def runs(
    report: Annotated[str | None, typer.Argument(help="One report; all of them without it.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show the newest refreshes: what asked for them, how long they took, and their outcome."""
    newest = call(lambda client: client.runs(report, limit=limit))
    if report is not None and not newest:
        _check_known(report)
    if as_json:
        print(json.dumps(newest))
    else:
        _show(newest)


def _check_known(report: str) -> None:
    """Raise where the supervisor has no report of that name; one of which nothing ran yet is no mistake."""
    from holdfast.settings import SupervisorSettings

    known = call(_names)
    if report in known:
        return
    for broken in (ask_supervisor(SupervisorSettings.load().port) or {}).get("broken", ()):
        if broken.get("name") == report:
            place = f"{broken.get('file') or broken.get('module')}:{broken.get('line')}: {broken.get('text')}"
            raise ReportError(f"report {report} is set aside: {broken.get('reason')}", lines=[place])
    meant = did_you_mean(report, known)
    raise UnknownReport(f"there is no report {report!r}{'.' if meant else ''}{meant}", known=known)


async def _names(client: Client) -> list[str]:
    from holdfast.cache.entry import Unusable

    entry = await client.catalogue()
    if isinstance(entry, Unusable):
        raise ProtocolError(f"the supervisor's catalogue is {entry.value}")
    return sorted(report["name"] for report in json.loads(entry.body)["reports"])


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
        run["outcome"] + (f": {reason}" if (reason := run.get("reason") or run["error"]) else ""),
        f"{run['duration_ms']:.0f}",
        str(run["rows"] or ""),
        str(run["bytes"] or ""),
    )
