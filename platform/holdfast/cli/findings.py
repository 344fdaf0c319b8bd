"""What `holdfast check` shows of each report: what it reads, and with `--run` its result.

A program of its own finds it (`holdfast.supervisor.checking`), so that a report which ends its process does
not end the command, and nothing heavy is loaded here.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Shown(Protocol):
    """Takes what is to be shown (`cli.check`)."""

    console: Console | None
    reports: list[dict[str, Any]]

    def line(self, mark: str, text: str) -> None:
        """One line."""


def check_reports(shown: Shown, *, run: bool) -> None:
    """Show what every report reads, and what each computes; at last, which of them failed."""
    from holdfast.processes.programs import command
    from holdfast.processes.spawn import die_with_parent

    arguments = ["--run"] if run else []
    argv = [*die_with_parent(signal.SIGTERM), *command("check-reports", *arguments)]
    failed: dict[str, None] = {}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        if process.stdout is None:
            raise AssertionError
        with _bar(shown.console, run=run) as advance:
            for text in process.stdout:
                finding = json.loads(text)
                advance(finding)
                if finding["kind"] != "begin":
                    shown.reports.append(finding)
                    _show(shown, finding, failed)
    if process.returncode:
        shown.line("failed", f"reports: the check of what they read ended with status {process.returncode}")
    elif failed:
        shown.line(
            "failed", f"{len(failed)} {'report' if len(failed) == 1 else 'reports'}: {', '.join(failed)}"
        )


def _show(shown: Shown, finding: Mapping[str, Any], failed: dict[str, None]) -> None:
    name = finding["report"]
    for note in finding.get("notes", ()):
        shown.line("note", note)
    for problem in finding.get("problems", ()):
        failed[name] = None
        shown.line("failed", problem)
    if finding["kind"] == "run" and not finding.get("problems"):
        shown.line("ok", f"{name}: {_result(finding)}")


def _result(finding: Mapping[str, Any]) -> str:
    given = {key: value for key, value in finding.get("params", {}).items() if value is not None}
    params = f"with {' '.join(f'{key}={value}' for key, value in given.items())}: " if given else ""
    rows, size = finding.get("rows", 0), finding.get("bytes", 0)
    columns = ", ".join(finding.get("columns", ())) or "none, since there are no rows"
    return (
        f"{params}{rows} {'row' if rows == 1 else 'rows'}, {size:,} bytes, "
        f"{finding['milliseconds']:.0f} ms; columns: {columns}"
    )


@contextlib.contextmanager
def _bar(console: Console | None, *, run: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar on a terminal, nothing elsewhere; call what it yields with every finding."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("reports"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = console is None or not console.is_terminal
    with Progress(*columns, console=console or Console(), disable=hidden, transient=True) as progress:
        task = progress.add_task("reports", total=None)

        def advance(finding: Mapping[str, Any]) -> None:
            if finding["kind"] == "begin":
                progress.update(task, total=finding.get("reports", 0) * (2 if run else 1))
            else:
                progress.advance(task)

        yield advance
