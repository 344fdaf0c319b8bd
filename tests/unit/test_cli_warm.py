"""`holdfast warm`: how it counts what is warm, and when it gives up."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.cli.warm import QUIET_SECONDS, follow, warm_variants
from holdfast.errors import UnknownReport
from holdfast.rpc.client import Client

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Counts:
    """Answers one count after the other; the last one forever."""

    def __init__(self, *counts: int) -> None:
        self._left: Iterator[int] = iter(counts)
        self._last = 0
        self.asked = 0

    async def __call__(self) -> int:
        """The next count."""
        self.asked += 1
        self._last = next(self._left, self._last)
        return self._last


def test_it_ends_when_all_are_warm(run_leaping: Run) -> None:
    """It shows each new count, and ends at the total without asking again."""
    counts, shown = Counts(0, 0, 2, 5), list[int]()
    assert run_leaping(follow(counts, 5, shown.append)) == 5
    assert shown == [0, 2, 5]
    assert counts.asked == 4


def test_it_gives_up_when_nothing_moves(run_leaping: Run) -> None:
    """It ends with what is warm once no variant has come for the quiet time."""
    counts = Counts(1, 3)
    assert run_leaping(follow(counts, 5, lambda _: None)) == 3
    assert QUIET_SECONDS < counts.asked / 2 < QUIET_SECONDS + 3


def test_a_variant_that_comes_late_gives_it_more_time(run_leaping: Run) -> None:
    """Whatever comes within the quiet time starts this time again."""
    slow = [n for n in range(4) for _ in range(int(QUIET_SECONDS))]
    assert run_leaping(follow(Counts(*slow, 4), 4, lambda _: None)) == 4


def test_nothing_to_warm_is_done_at_once(run_leaping: Run) -> None:
    """With no variant to wait for, nothing is asked."""
    counts = Counts()
    run_leaping(follow(counts, 0, lambda _: None))
    assert counts.asked <= 1


class States(Client):
    """A client whose supervisor shows these states."""

    def __init__(self, *states: dict[str, Any]) -> None:
        super().__init__(Path("unused"))
        self._states = states

    async def report_states(self) -> list[dict[str, Any]]:
        """Those states."""
        return [{"params": {}, "state": "fresh", "age_s": 1.0, **state} for state in self._states]


@pytest.mark.parametrize(
    ("state", "counted"),
    [
        ({"report": "numbers"}, True),
        ({"report": "other"}, False),
        ({"report": "numbers", "state": "stale"}, False),
        ({"report": "numbers", "state": "missing", "age_s": None}, False),
        ({"report": "numbers", "age_s": 100.0}, False),
    ],
    ids=["fresh", "another report", "stale", "missing", "computed before"],
)
def test_what_counts_as_warm(run_leaping: Run, state: dict[str, Any], counted: bool) -> None:
    """A variant counts when it is of these reports, fresh, and computed since the command began."""
    assert run_leaping(warm_variants(States(state), {"numbers"}, time.time() - 50)) == int(counted)


def test_what_is_fresh_already_counts_when_only_missing_ones_are_asked_for(run_leaping: Run) -> None:
    """With `--missing`, an older result that is fresh is as good as a new one."""
    assert run_leaping(warm_variants(States({"report": "numbers", "age_s": 100.0}), {"numbers"}, None)) == 1


def test_an_unknown_report_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that is not there is an error of the command itself."""
    monkeypatch.setenv("REPORTS", "tests.support.sample_reports")
    assert isinstance(CliRunner().invoke(app, ["warm", "none"]).exception, UnknownReport)
