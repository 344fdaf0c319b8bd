"""What a load shows: bars on a terminal, and elsewhere one plain line for each part that has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]


class LoadProgress:
    """Shows the parts of a load on standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line, and flush it."""
        self._console.print(line, markup=False)
        self._console.file.flush()

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        """Show the part of that name; call what this yields with each further amount of `total`."""
        if not self._console.is_terminal:
            started = time.monotonic()
            yield lambda _: None
            self.say(f"{name}: read in {time.monotonic() - started:.1f} s")
            return
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as bars:
            task = bars.add_task(name, total=total)
            yield lambda amount: bars.advance(task, amount)
