"""`holdfast status`: the processes that `holdfast up` records, the links and reports of the supervisor.

These two sources fail independently, and either may be missing: `run/processes.json`, which counts only
while the `up` that writes it holds its lock and each pid exists, and the supervisor's admin port.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import tables
from holdfast.cli.tables import ago, cell, duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLOURS = {"up": "green", "connecting": "yellow", "backing-off": "yellow", "down": "red", "unused": "dim"}


def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show processes, links, pools and reports."""
    raise typer.Exit(show(as_json))


def show(as_json: bool) -> int:
    """Print the status and return the exit status: 1 when nothing runs, else 0."""
    from holdfast.settings import HomeSettings, SupervisorSettings

    home = Path(os.path.abspath(HomeSettings.load().home))
    port = SupervisorSettings.load().port
    processes = living_processes(home)
    supervisor = ask_supervisor(port)
    answered = supervisor is not None
    content = {
        "processes": processes,
        "links": (supervisor or {}).get("links", {}),
        "reports": (supervisor or {}).get("reports", []),
    }
    if broken := (supervisor or {}).get("broken"):
        content["broken"] = broken
    if as_json:
        print(json.dumps(content, indent=2))
    else:
        _show(tables.console(), home, port, content, answered)
    return 0 if answered or any(p["alive"] for p in processes.values()) else 1


def living_processes(home: Path) -> dict[str, dict[str, Any]]:
    """The recorded processes, with `alive` checked against the system; empty where no `up` runs."""
    from holdfast.processes.locks import holder
    from holdfast.up.instance import lock_file, recorded_processes

    if holder(lock_file(home)) is None:
        return {}
    processes = recorded_processes(home)
    for state in processes.values():
        state["alive"] = bool(state.get("alive")) and _exists(state.get("pid"))
    return processes


def ask_supervisor(port: int, timeout: float = 3.0) -> dict[str, Any] | None:
    """What the supervisor's admin port answers to `GET /status`, or None."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        content = json.loads(response.read()) if response.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return content if isinstance(content, dict) else None


def _exists(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _show(console: Console, home: Path, port: int, content: Mapping[str, Any], answered: bool) -> None:
    if content["processes"]:
        console.print(_processes_table(content["processes"]))
    elif not answered:
        console.print(
            f"Nothing runs in {home}, and no supervisor answers on 127.0.0.1:{port}:"
            " start it with `holdfast up`.",
            soft_wrap=True,
            markup=False,
        )
        return
    console.print()
    if not answered:
        console.print(
            f"The supervisor does not answer on 127.0.0.1:{port}: links and reports are unknown.",
            style="yellow",
            soft_wrap=True,
        )
        return
    console.print(_links_table(content["links"]))
    console.print()
    console.print(_reports_table(content["reports"]))
    if content.get("broken"):
        console.print()
        console.print(_broken_table(content["broken"]))


def _processes_table(processes: Mapping[str, Mapping[str, Any]]) -> Table:
    from rich.text import Text

    table = tables.table("process", "pid", "port", "state", "restarts")
    for name, state in processes.items():
        shown = Text("alive", style="green") if state["alive"] else Text("down", style="red")
        table.add_row(
            name, cell(state.get("pid")), cell(state.get("port")), shown, str(state.get("restarts", 0))
        )
    return table


def _links_table(links: Mapping[str, Mapping[str, Any]]) -> Table:
    from rich.text import Text

    table = tables.table("link", "state", "for", "pool: in use / size / max", "next attempt", "last error")
    for name, link in links.items():
        state = str(link.get("state", "unknown"))
        pool = link.get("pool") or {}
        table.add_row(
            name,
            Text(state, style=_COLOURS.get(state, "white")),
            ago(link.get("since")),
            " / ".join(str(cell(pool.get(key))) for key in ("in_use", "size", "max")),
            ago(link.get("next_retry_at")),
            cell(link.get("last_error")),
        )
    return table


def _broken_table(broken: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each report that could not be loaded, with the line to mend."""
    table = tables.table("set aside", "file", "line", "reason")
    for each in broken:
        file, number = each.get("file"), each.get("line")
        place = f"{file}:{number}" if number else file or each.get("module")
        values = (each.get("name"), place, each.get("text"), each.get("reason"))
        table.add_row(*(cell(value) for value in values))
    return table


def _reports_table(reports: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each report: a row for each of hundreds of variants would hide the rest."""
    table = tables.table("report", "variants", "states", "oldest")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in reports:
        groups.setdefault(str(entry.get("report")), []).append(entry)
    for name, entries in sorted(groups.items()):
        states = [str(entry.get("state")) for entry in entries]
        counted = ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states)))
        ages = [float(entry["age_s"]) for entry in entries if entry.get("age_s") is not None]
        table.add_row(name, str(len(entries)), counted, duration(max(ages)) if ages else "-")
    return table
