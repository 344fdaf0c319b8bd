"""`holdfast warm`: have the workers compute the warm variants, and show how far they are."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from kombu.exceptions import OperationalError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from holdfast.errors import HoldfastError, exit_on_error
from holdfast.rpc.client import Client, connect
from holdfast_workers.schedule import registry

QUIET_SECONDS = 30.0
_POLL = 0.5


def main(arguments: list[str]) -> int:
    """Send the tasks, then watch the cache until every variant is there, or nothing moves any more."""
    parser = argparse.ArgumentParser(prog="holdfast warm")
    parser.add_argument("report", nargs="?")
    parser.add_argument("--missing", action="store_true")
    given = parser.parse_args(arguments)
    # The application reads the settings when it is imported: after `exit_on_error` has begun.
    from holdfast_workers.tasks import warm

    chosen = [registry().get(given.report)] if given.report else list(registry())
    names = {report.name for report in chosen}
    total = sum(len(report.warm) for report in chosen)
    began = time.time()
    try:
        warm.apply_async(
            kwargs={"report": given.report, "trigger": "manual", "only_if_due": given.missing},
            retry=False,
        )
    except OperationalError as error:
        reason = type(error.__cause__ or error).__name__
        print(
            f"The broker cannot be reached ({reason}): is Redis up? See `holdfast status`.", file=sys.stderr
        )
        return 1
    return asyncio.run(_watch(names, total, since=None if given.missing else began))


async def _watch(names: set[str], total: int, since: float | None) -> int:
    console = Console()
    client = connect()
    columns = (TextColumn("warming"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("warm", total=total)
            done, moved = -1, time.monotonic()
            while done < total:
                count = await _done(client, names, since)
                if count != done:
                    done, moved = count, time.monotonic()
                    progress.update(bar, completed=done)
                elif time.monotonic() - moved > QUIET_SECONDS:
                    print(
                        f"{done} of {total} variants are warm, and none came in {QUIET_SECONDS:g} s: "
                        "`holdfast status` and `holdfast runs` show why.",
                        file=sys.stderr,
                    )
                    return 1
                await asyncio.sleep(_POLL)
    except HoldfastError as error:
        print(f"The tasks are sent; their progress cannot be seen: {error}", file=sys.stderr)
        return 1
    finally:
        await client.aclose()
    console.print(f"{total} variants are warm.")
    return 0


async def _done(client: Client, names: set[str], since: float | None) -> int:
    states = await client.report_states()
    now = time.time()
    return sum(
        1
        for state in states
        if state["report"] in names
        and state["state"] == "fresh"
        and (since is None or now - state["age_s"] >= since)
    )


if __name__ == "__main__":
    with exit_on_error():
        sys.exit(main(sys.argv[1:]))
