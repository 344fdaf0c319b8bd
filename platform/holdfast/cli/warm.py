"""`holdfast warm`: has the workers compute the warm variants, and shows how far they are.

It counts what was computed since it began, and not what is fresh at one moment: a warm-up may take longer
than a result is fresh. A variant whose computation failed for good is done too, and is listed with its
reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.reports import Report
    from holdfast.rpc.client import Client, EndedRun

QUIET_SECONDS = 30.0
"""For how long nothing may happen, no variant being computed, before the command gives up."""
POLL_SECONDS = 0.25
STATES_EVERY = 5.0


def warm(
    report: Annotated[str | None, typer.Argument(help="One report; all of them without it.")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Only what is not fresh.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Have the workers compute the warm variants now, and show how far they are."""
    from holdfast.reports import load_reports
    from holdfast.settings import BrokerSettings, ReportsSettings

    registry = load_reports(ReportsSettings.load().modules)
    chosen = [registry.get(report)] if report else list(registry)
    BrokerSettings.load().dsn()
    warming = Warming(chosen, missing=missing)
    status = asyncio.run(_warm(warming, report, quiet=as_json))
    if as_json:
        print(json.dumps({**warming.as_json(), "complete": status == 0}))
    raise typer.Exit(status)


class Warming:
    """Which variants are to be warm, which of them are, and which failed; of each, the key is its name.

    With `missing`, a variant that is fresh needs no computation.
    """

    def __init__(self, reports: Sequence[Report], *, missing: bool) -> None:
        self.variants = {
            each.reader.key(params): (each.name, each.reader.url(params))
            for each in reports
            for params in each.warm
        }
        self._readers = {each.name: each.reader for each in reports}
        self.missing = missing
        self.warm: set[str] = set()
        self.failed: dict[str, str] = {}
        self.late: dict[str, str] = {}
        """Errors that may pass: a worker tries again."""

    @property
    def done(self) -> int:
        """How many need no further waiting."""
        return len(self.warm) + len(self.failed)

    @property
    def open(self) -> bool:
        """Whether any variant is waited for."""
        return self.done < len(self.variants)

    def ended(self, runs: Iterable[EndedRun]) -> None:
        """Take the runs that have ended, in their order."""
        for run in runs:
            for key in self._meant(run):
                if run.outcome in ("changed", "unchanged"):
                    self.failed.pop(key, None)
                    self.late.pop(key, None)
                    self.warm.add(key)
                elif run.outcome == "failed" and key not in self.warm:
                    (self.late if run.retryable else self.failed)[key] = run.error or "it failed"

    def _meant(self, run: EndedRun) -> list[str]:
        if run.key in self.variants:
            return [run.key]
        if run.key:
            return []
        # Of a worker that does not know the report.
        return [key for key, (report, _) in self.variants.items() if report == run.report]

    def shown(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Take the states of all warm variants: what is fresh is warm, where that is enough."""
        for state in states:
            reader = self._readers.get(state["report"])
            if self.missing and reader is not None and state["state"] == "fresh":
                key = reader.key(reader.parse(state["params"]))
                if key in self.variants and key not in self.failed:
                    self.warm.add(key)

    def as_json(self) -> dict[str, Any]:
        """The state as `--json` prints it."""
        failed = [{"url": self.variants[key][1], "error": error} for key, error in self.failed.items()]
        open_now = self.variants.keys() - self.warm - self.failed.keys()
        return {
            "variants": len(self.variants),
            "warm": len(self.warm),
            "failed": failed,
            "waiting": [
                {"url": self.variants[key][1], "error": self.late.get(key)} for key in sorted(open_now)
            ],
        }


async def _warm(warming: Warming, report: str | None, *, quiet: bool) -> int:
    from holdfast.rpc.client import connect

    client = connect()
    sent = False
    try:
        # Before the task: what ends while it is being sent counts.
        taken = (await client.progress(0)).taken
        if status := await asyncio.to_thread(_send, report, warming.missing):
            return status
        sent = True
        with _bar(len(warming.variants), quiet=quiet) as show:
            complete = await follow(warming, client, taken, show)
    except HoldfastError as error:
        what = "The tasks are sent, but their progress cannot be shown" if sent else "Nothing is sent"
        print(f"{what}: {error}", file=sys.stderr)
        return 1
    finally:
        await client.aclose()
    return _say(warming, complete=complete, quiet=quiet)


async def follow(warming: Warming, client: Client, taken: int, show: Callable[[int], None]) -> bool:
    """Wait until every variant is warm or has failed; whether that is so.

    It gives up when nothing has happened for QUIET_SECONDS: no run ended, and no variant is being computed.
    """
    clock = asyncio.get_running_loop().time
    last, looked = clock(), -math.inf
    while warming.open:
        progress = await client.progress(taken)
        if progress.taken < taken:
            # The supervisor has started again, and counts from nothing.
            progress = await client.progress(0)
        before, taken = warming.done, progress.taken
        warming.ended(progress.runs)
        if warming.missing and clock() - looked > STATES_EVERY:
            looked = clock()
            warming.shown(await client.report_states())
        show(warming.done)
        if warming.done != before or warming.variants.keys() & set(progress.computing):
            last = clock()
        elif clock() - last > QUIET_SECONDS:
            return False
        if warming.open:
            await asyncio.sleep(POLL_SECONDS)
    return True


def _say(warming: Warming, *, complete: bool, quiet: bool) -> int:
    total = len(warming.variants)
    if not warming.failed and complete:
        if not quiet:
            print(f"{total} variants are warm.")
        return 0
    if quiet:
        return 1
    print(f"{len(warming.warm)} of {total} variants are warm.", file=sys.stderr)
    for key, error in warming.failed.items():
        print(f"failed   {warming.variants[key][1]}\n  {error}", file=sys.stderr)
    for key, error in warming.late.items():
        print(f"waiting  {warming.variants[key][1]}\n  {error}", file=sys.stderr)
    if not complete:
        print(
            f"Nothing happened for {QUIET_SECONDS:g} s: does a worker run? `holdfast status` shows it.",
            file=sys.stderr,
        )
    return 1


def _send(report: str | None, missing: bool) -> int:
    """Send the task, in a process of its own since Celery is not imported here: its exit status."""
    from holdfast.processes.programs import command
    from holdfast.processes.spawn import die_with_parent

    arguments = [*(["--missing"] if missing else []), *([report] if report else [])]
    argv = [*die_with_parent(signal.SIGTERM), *command("warm-task", *arguments)]
    # In a session of its own, Ctrl-C reaches this process alone, which ends the other.
    return subprocess.run(argv, check=False, start_new_session=True).returncode


@contextlib.contextmanager
def _bar(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; call what it yields with the variants that are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console()
    columns = (TextColumn("warming"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    disabled = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=disabled) as progress:
        task = progress.add_task("warm", total=total)
        yield lambda done: progress.update(task, completed=done)
