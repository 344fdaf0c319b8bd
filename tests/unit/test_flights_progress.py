"""What a load prints, on a terminal and elsewhere."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from holdfast_flights.progress import LoadProgress


def shown(*, terminal: bool) -> str:
    """What a part named flights, and a line of its own, leave on the screen."""
    file = StringIO()
    progress = LoadProgress(Console(file=file, force_terminal=terminal, width=80))
    with progress.bar("flights", 10) as advance:
        advance(4)
        advance(6)
    progress.say("done [in] 2 s")
    return file.getvalue()


def test_a_terminal_shows_a_bar_that_fills() -> None:
    """On a terminal each part is a bar that ends at 100%."""
    text = shown(terminal=True)
    assert "flights" in text
    assert "100%" in text


def test_a_log_gets_plain_lines() -> None:
    """Elsewhere each part is one line, without control characters, when it has ended."""
    first, second = shown(terminal=False).splitlines()
    assert first.startswith("flights: read in ")
    assert second == "done [in] 2 s"
    assert (first + second).isprintable()
