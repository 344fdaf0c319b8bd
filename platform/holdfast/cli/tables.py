"""What the commands print with: the console, tables, and cells of times and durations."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_BRACKET = re.compile(r"(\\*)(\[(?:[a-z#/@][^\[]*?\])?)")
"""What rich may take for a tag, or the escape of one, with the backslashes before it."""
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_PICTURES |= {0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}
PLAIN_WIDTH = 200
"""Columns of the tables where no terminal says how wide it is."""


def console() -> Console:
    """A console on standard output, which colours nothing that is not marked."""
    from rich.console import Console

    # Without `emoji`, rich would take :100: for a picture.
    terminal = Console(highlight=False, emoji=False)
    return terminal if terminal.is_terminal else Console(highlight=False, emoji=False, width=PLAIN_WIDTH)


def line(console: Console, text: str, *, mark: str = "", style: str = "") -> None:
    """Print text as it is, on one line, behind a mark that has that style."""
    from rich.text import Text

    console.print(Text.assemble((mark, style), shown(text)), soft_wrap=True)


def table(*columns: str) -> Table:
    """A table without lines; a cell that is too long goes on below, so that nothing is cut."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(cell(column), overflow="fold")
    return made


def cell(value: object, *, empty: str = "-") -> str:
    """A value as the text of a cell, without markup: six digits of a float, `empty` for None and ""."""
    if value is None or value == "":
        return empty
    return f"{value:.6g}" if isinstance(value, float) else escaped(shown(str(value)))


def escaped(text: str) -> str:
    """Text as rich's markup that shows it as it is; rich's own `escape` fails for some backslashes."""

    def escape(match: re.Match[str]) -> str:
        backslashes, bracket = match.groups()
        if bracket != "[":
            return f"{backslashes * 2}\\{bracket}"
        return f"{backslashes}\\{bracket}" if backslashes else bracket

    return _BRACKET.sub(escape, text)


def shown(text: str) -> str:
    """Text for a terminal: a control character, which could move the cursor, is shown as its symbol.

    Line breaks and tabs stay. The symbols are those of Unicode's block "Control Pictures".
    """
    return text.translate(_PICTURES)


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
