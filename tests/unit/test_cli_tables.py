"""Cells of tables: values without markup, times and durations that a person can read."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.markup import render
from rich.text import Text

from holdfast.cli import tables


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), ("", "-"), (0, "0"), (False, "False"), ("text", "text"), (1 / 3, "0.333333"), (2.0, "2")],
)
def test_a_cell_shows_a_value(value: object, shown: str) -> None:
    """A missing value is a dash, zero is not missing, and a float has six digits."""
    assert tables.cell(value) == shown


def test_an_empty_cell_is_what_the_table_says() -> None:
    """A table of a query's rows leaves a cell empty for NULL."""
    assert tables.cell(None, empty="") == ""


@pytest.mark.parametrize("text", ["[red]no colour[/]", "[1]", "a [link=x] b"])
def test_brackets_are_no_markup(text: str) -> None:
    """What stands in brackets is shown as it is."""
    assert Text.from_markup(tables.cell(text)).plain == text


MARKUP = [
    "[red]no colour[/]",
    "[/]",
    "[/red]",
    "[link=https://x.example]x[/link]",
    "[bold",
    "a [b] [c]",
    "[@click=app.quit]x[/]",
    "[#ff0000]x",
    ":100: :warning: :smile:",
    "back\\slash\\",
    "\\[red]",
    "\\\\[/]",
    "x[1:2]",
    "https://x.example/[a]?b=[/c]",
    "{x} %s $HOME `a`",
]
"""Text that rich would take for markup, for a picture or for a mistake in markup."""


@given(st.text(alphabet="[]\\/a1=#@ :", max_size=12))
@example("\\")
@example("\\[a")
@example("[a\\]")
def test_no_text_is_markup(text: str) -> None:
    """Whatever brackets and backslashes a value has, rich shows exactly that."""
    assert render(tables.escaped(text), emoji=False).plain == text


@pytest.mark.parametrize("text", MARKUP)
def test_a_table_shows_text_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of columns and values of rows come out unchanged, on a real console."""
    table = tables.table(text)
    table.add_row(tables.cell(text))
    tables.console().print(table)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [text, text]


@pytest.mark.parametrize("text", [*MARKUP, "x" * 500])
def test_a_line_shows_text_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of `check` shows its text unchanged behind its mark, and never breaks it."""
    tables.line(tables.console(), text, mark="failed ", style="red")
    assert capsys.readouterr().out == f"failed {text}\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\u241b[31mred"),
        ("a\rb\bc", "a\u240db\u2408c"),
        ("\x9b0m", "\ufffd0m"),
        ("\x7f", "\u2421"),
    ],
)
def test_a_control_character_is_shown_as_its_symbol(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A result cannot colour the terminal, move its cursor or hide what stands there."""
    tables.line(tables.console(), text)
    assert capsys.readouterr().out == f"{shown}\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
        (9000, "2.5 h"),
    ],
)
def test_a_duration_is_in_the_unit_that_fits(seconds: float, shown: str) -> None:
    """Up to two minutes in seconds, up to two hours in minutes, then in hours."""
    assert tables.duration(seconds) == shown


@pytest.mark.parametrize("as_text", [True, False], ids=["ISO 8601", "Unix time"])
@pytest.mark.parametrize(("seconds", "shown"), [(-600, "10 min"), (601, "in 10 min")], ids=["past", "future"])
def test_a_moment_is_shown_from_now(as_text: bool, seconds: int, shown: str) -> None:
    """A moment is shown as the time since then, or the time until then."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    assert tables.ago(moment.isoformat() if as_text else time.time() + seconds) == shown


@pytest.mark.parametrize("moment", [None, "yesterday", {}, ""])
def test_what_is_no_moment_is_a_dash(moment: object) -> None:
    """Nothing is guessed of what is not a time."""
    assert tables.ago(moment) == "-"


def test_a_table_is_wide_where_no_terminal_limits_it(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe a row stays on one line, so that it can be searched."""
    table = tables.table("first", "second [x]")
    table.add_row("a" * 90, "b" * 90)
    tables.console().print(table)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["first", "second", "[x]"]
    assert row.split() == ["a" * 90, "b" * 90]
