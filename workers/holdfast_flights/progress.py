"""What a load shows: moving bars on a terminal, one plain line for each finished part elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

Advance = Callable[[int], None]


class Progress:
    """Reports the parts of a load on standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line of its own, at once."""
        self._console.print(line, markup=False)
        self._console.file.flush()

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        """Show a part named `name`; call what it yields with each further amount of `total`."""
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
        with Bars(*columns, console=self._console) as bars:
            task = bars.add_task(name, total=total)
            yield lambda amount: bars.advance(task, amount)
