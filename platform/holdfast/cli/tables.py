"""What the commands print with: the console, tables, and cells of times and durations."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PLAIN_WIDTH = 200
"""Columns of the tables where no terminal says how wide it is."""


def console() -> Console:
    """A console on standard output, which colours nothing that is not marked."""
    from rich.console import Console

    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def table(*columns: str) -> Table:
    """A table without lines; a cell that is too long goes on below, so that nothing is cut."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(cell(column), overflow="fold")
    return made


def cell(value: object, *, empty: str = "-") -> str:
    """A value as the text of a cell, without markup: six digits of a float, `empty` for None and ""."""
    from rich.markup import escape

    if value is None or value == "":
        return empty
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value))


def ago(moment: object) -> str:
    """How long ago a moment was, or in how long it will be: Unix time or ISO 8601; "-" for anything else."""
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
    return duration(seconds) if seconds >= 0 else f"in {duration(-seconds)}"


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: s, min or h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
