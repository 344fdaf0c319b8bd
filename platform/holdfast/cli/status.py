"""`holdfast status`: the processes as `holdfast up` records them, links and reports as the supervisor says.

Two sources that fail independently: `run/processes.json`, believed only while the `up` that writes it
holds its lock and each pid exists; and the supervisor's admin port. Either may be missing.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from holdfast.processes.locks import holder
from holdfast.settings import HomeSettings, SupervisorSettings
from holdfast.up.instance import lock_file, recorded_processes

_COLOURS = {"up": "green", "connecting": "yellow", "backing-off": "yellow", "down": "red"}


def show(as_json: bool) -> int:
    """Print the status and return the exit status: 1 when nothing runs, else 0."""
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
    if as_json:
        print(json.dumps(content, indent=2))
    else:
        _show(Console(highlight=False), home, port, content, answered)
    return 0 if answered or any(p["alive"] for p in processes.values()) else 1


def living_processes(home: Path) -> dict[str, dict[str, Any]]:
    """The recorded processes, `alive` checked against the system; empty when no `up` runs here."""
    if holder(lock_file(home)) is None:
        return {}
    found = recorded_processes(home)
    for state in found.values():
        state["alive"] = bool(state.get("alive")) and _exists(state.get("pid"))
    return found


def ask_supervisor(port: int, timeout: float = 3.0) -> dict[str, Any] | None:
    """What the supervisor's admin port answers to `GET /status`, or None."""
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


def _processes_table(processes: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("process", "pid", "port", "state", "restarts")
    for name, state in processes.items():
        shown = "[green]alive[/]" if state["alive"] else "[red]down[/]"
        table.add_row(name, _cell(state.get("pid")), _cell(state.get("port")), shown, *_restarts(state))
    return table


def _restarts(state: Mapping[str, Any]) -> tuple[str]:
    return (str(state.get("restarts", 0)),)


def _links_table(links: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("link", "state", "for", "pool: in use / size / max", "next attempt", "last error")
    for name, link in links.items():
        state = str(link.get("state", "unknown"))
        pool = link.get("pool") or {}
        table.add_row(
            name,
            f"[{_COLOURS.get(state, 'white')}]{state}[/]",
            _ago(link.get("since")),
            " / ".join(_cell(pool.get(key)) for key in ("in_use", "size", "max")),
            _ago(link.get("next_retry_at")),
            _cell(link.get("last_error")),
        )
    return table


def _reports_table(reports: Sequence[Mapping[str, Any]]) -> Table:
    """One row per report: hundreds of warm variants would scroll everything else away."""
    table = _table("report", "variants", "states", "oldest")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in reports:
        groups.setdefault(str(entry.get("report")), []).append(entry)
    for name, entries in sorted(groups.items()):
        states = [str(entry.get("state")) for entry in entries]
        counted = ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states)))
        ages = [float(entry["age_s"]) for entry in entries if entry.get("age_s") is not None]
        table.add_row(name, str(len(entries)), counted, _duration(max(ages)) if ages else "-")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value).replace("[", r"\[")


def _ago(moment: object) -> str:
    """Seconds from or to a moment given as Unix time or in ISO 8601."""
    try:
        if isinstance(moment, str):
            at = datetime.fromisoformat(moment).timestamp()
        elif isinstance(moment, (int, float)):
            at = float(moment)
        else:
            return "-"
    except ValueError:
        return "-"
    seconds = time.time() - at
    return _duration(seconds) if seconds >= 0 else f"in {_duration(-seconds)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
