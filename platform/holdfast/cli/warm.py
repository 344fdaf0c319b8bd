"""`holdfast warm`: has the workers compute the warm variants, and shows how far they are."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.rpc.client import Client

QUIET_SECONDS = 30.0
"""How long no variant may come before the command gives up."""
POLL_SECONDS = 0.5


def warm(
    report: Annotated[str | None, typer.Argument(help="One report; all of them without it.")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Only what is not fresh.")] = False,
) -> None:
    """Have the workers compute the warm variants now, and show how far they are."""
    from holdfast.reports import load_reports
    from holdfast.settings import ReportsSettings

    registry = load_reports(ReportsSettings.load().modules)
    chosen = [registry.get(report)] if report else list(registry)
    began = time.time()
    if status := _send(report, missing):
        raise typer.Exit(status)
    names = {each.name for each in chosen}
    total = sum(len(each.warm) for each in chosen)
    raise typer.Exit(asyncio.run(_watch(names, total, since=None if missing else began)))


def _send(report: str | None, missing: bool) -> int:
    """Send the task, in a process of its own since Celery is not imported here: its exit status."""
    from holdfast.processes.programs import command
    from holdfast.processes.spawn import die_with_parent

    arguments = [*(["--missing"] if missing else []), *([report] if report else [])]
    argv = [*die_with_parent(signal.SIGTERM), *command("warm-task", *arguments)]
    # In a session of its own, Ctrl-C reaches this process alone, which ends the other.
    return subprocess.run(argv, check=False, start_new_session=True).returncode


async def _watch(names: Collection[str], total: int, since: float | None) -> int:
    from holdfast.rpc.client import connect

    client = connect()
    try:
        with _bar(total) as show:
            done = await follow(lambda: warm_variants(client, names, since), total, show)
    except HoldfastError as error:
        print(f"The tasks are sent, but their progress cannot be shown: {error}", file=sys.stderr)
        return 1
    finally:
        await client.aclose()
    if done < total:
        print(
            f"{done} of {total} variants are warm, and none came in {QUIET_SECONDS:g} s: "
            "`holdfast status` and `holdfast runs` show why.",
            file=sys.stderr,
        )
        return 1
    print(f"{total} variants are warm.")
    return 0


async def follow(count: Callable[[], Awaitable[int]], total: int, show: Callable[[int], None]) -> int:
    """Ask for the count until it is `total`, or has not changed for `QUIET_SECONDS`; return the last one."""
    clock = asyncio.get_running_loop().time
    done, changed_at = -1, clock()
    while done < total:
        now_done = await count()
        if now_done != done:
            done, changed_at = now_done, clock()
            show(done)
        elif clock() - changed_at > QUIET_SECONDS:
            break
        await asyncio.sleep(POLL_SECONDS)
    return done


async def warm_variants(client: Client, names: Collection[str], since: float | None) -> int:
    """How many warm variants of these reports are fresh, and computed since then (Unix time), if given."""
    states = await client.report_states()
    now = time.time()
    return sum(
        1
        for state in states
        if state["report"] in names
        and state["state"] == "fresh"
        and (since is None or now - state["age_s"] >= since)
    )


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; call what it yields with the variants that are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console()
    columns = (TextColumn("warming"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("warm", total=total)
        yield lambda done: progress.update(task, completed=done)
