"""`holdfast warm`: how it counts what is warm, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.cli.warm import POLL_SECONDS, QUIET_SECONDS, Warming, follow
from holdfast.errors import UnknownReport
from holdfast.reports import Params, Report
from holdfast.rpc.client import Client, EndedRun, Progress

RunLeaping = Callable[[Coroutine[Any, Any, Any]], Any]


class UptoParams(Params):
    """One number."""

    upto: int = 0


def report(name: str = "numbers", variants: int = 3) -> Report:
    """A report with so many warm variants."""
    return Report(name, params=UptoParams, warm=[{"upto": n} for n in range(1, variants + 1)])


NUMBERS = report()
KEYS = [NUMBERS.reader.key(params) for params in NUMBERS.warm]


def ended(key: str, outcome: str = "changed", error: str | None = None, *, again: bool = False) -> EndedRun:
    """A run of that key."""
    return EndedRun(report="numbers", key=key, outcome=outcome, error=error, retryable=again)


class Steps(Client):
    """A client whose supervisor shows one step after the other: the runs that ended, what is computed."""

    def __init__(self, *steps: list[EndedRun], computing: list[str] | None = None) -> None:
        super().__init__(Path("unused"))
        self._steps = list(steps)
        self._taken = 0
        self._computing = computing or []
        self.states: list[dict[str, Any]] = []
        self.asked = 0

    async def progress(self, after: int) -> Progress:
        """The next step."""
        self.asked += 1
        runs = self._steps.pop(0) if self._steps else []
        self._taken += len(runs)
        return Progress(self._taken, runs, self._computing)

    async def report_states(self) -> list[dict[str, Any]]:
        """The states that it was given."""
        return [{"params": {}, "state": "fresh", "age_s": 100.0, **state} for state in self.states]


def test_it_ends_when_all_are_warm(run_leaping: RunLeaping) -> None:
    """It shows each new count, and ends with the last variant without asking again."""
    client, warming, shown = Steps([], [ended(KEYS[0])], [*map(ended, KEYS[1:])]), one(), list[int]()
    assert run_leaping(follow(warming, client, 0, shown.append))
    assert shown == [0, 1, 3]
    assert client.asked == 3


def one(*, missing: bool = False) -> Warming:
    """The report with three variants."""
    return Warming([NUMBERS], missing=missing)


def test_what_is_warm_counts_however_long_the_others_take(run_leaping: RunLeaping) -> None:
    """Each variant counts once it was computed, whether or not it is still fresh when the last one comes."""
    late: list[list[EndedRun]] = [[] for _ in range(int(QUIET_SECONDS / POLL_SECONDS) - 2)]
    client, warming = Steps([ended(KEYS[0])], *late, [ended(KEYS[1])], *late, [ended(KEYS[2])]), one()
    assert run_leaping(follow(warming, client, 0, lambda _: None))
    assert warming.warm == set(KEYS)


def test_a_failure_ends_it_at_once_with_its_reason(run_leaping: RunLeaping) -> None:
    """When every variant has failed for good there is nothing to wait for, and each reason is kept."""
    failures = [ended(key, "failed", f"no table {n}") for n, key in enumerate(KEYS)]
    client, warming = Steps(failures), one()
    assert run_leaping(follow(warming, client, 0, lambda _: None))
    assert client.asked == 1
    assert warming.failed == {key: f"no table {n}" for n, key in enumerate(KEYS)}


@pytest.mark.parametrize(
    ("runs", "warm", "failed", "waiting"),
    [
        ([ended(KEYS[0], "unchanged")], 1, 0, 2),
        ([ended(KEYS[0], "unstored")], 0, 0, 3),
        ([ended(KEYS[0], "failed", "away", again=True)], 0, 0, 3),
        ([ended(KEYS[0], "failed", "away", again=True), ended(KEYS[0])], 1, 0, 2),
        ([ended(KEYS[0], "failed", "no"), ended(KEYS[0])], 1, 0, 2),
        ([ended(KEYS[0]), ended(KEYS[0], "failed", "no")], 1, 0, 2),
        ([ended("", "failed", "there is no report")], 0, 3, 0),
        ([ended("gwcache:/of/another")], 0, 0, 3),
    ],
    ids=[
        "the same rows",
        "not stored",
        "tried again",
        "the second attempt",
        "computed after a failure",
        "failed after it was warm",
        "a worker without the report",
        "another variant",
    ],
)
def test_what_counts(runs: list[EndedRun], warm: int, failed: int, waiting: int) -> None:
    """A variant is warm when it was computed and stored, and has failed when nobody tries again."""
    warming = one()
    warming.ended(runs)
    assert (len(warming.warm), len(warming.failed)) == (warm, failed)
    assert len(warming.as_json()["waiting"]) == waiting
    assert warming.open is (waiting > 0)


def test_the_error_of_an_attempt_that_is_repeated_is_shown() -> None:
    """What is waited for has the last error, and nothing of it once it is warm."""
    warming = one()
    warming.ended([ended(KEYS[0], "failed", "postgres is down", again=True)])
    assert {each["error"] for each in warming.as_json()["waiting"]} == {"postgres is down", None}
    warming.ended([ended(KEYS[0])])
    assert warming.late == {}


def test_it_gives_up_when_nothing_happens(run_leaping: RunLeaping) -> None:
    """It ends with what is warm once no run has ended for the quiet time."""
    client, warming = Steps([ended(KEYS[0])]), one()
    assert not run_leaping(follow(warming, client, 0, lambda _: None))
    assert QUIET_SECONDS < client.asked * POLL_SECONDS < QUIET_SECONDS + 2


def test_a_variant_that_is_being_computed_is_waited_for(run_leaping: RunLeaping) -> None:
    """However long a computation takes, it is no silence while a worker holds its lease."""
    quiet: list[list[EndedRun]] = [[] for _ in range(int(3 * QUIET_SECONDS / POLL_SECONDS))]
    client = Steps(*quiet, [*map(ended, KEYS)], computing=[KEYS[1]])
    assert run_leaping(follow(one(), client, 0, lambda _: None))


def test_a_supervisor_that_starts_again_counts_from_nothing(run_leaping: RunLeaping) -> None:
    """Runs after the start of another supervisor are seen, although their numbers are smaller."""
    client, warming = Steps([], [*map(ended, KEYS)]), one()
    assert run_leaping(follow(warming, client, 1000, lambda _: None))


@pytest.mark.parametrize(
    ("state", "missing", "counted"),
    [
        ({"report": "numbers", "params": {"upto": 1}}, True, 1),
        ({"report": "numbers", "params": {"upto": 1}}, False, 0),
        ({"report": "other", "params": {"upto": 1}}, True, 0),
        ({"report": "numbers", "params": {"upto": 9}}, True, 0),
        ({"report": "numbers", "params": {"upto": 1}, "state": "stale"}, True, 0),
        ({"report": "numbers", "params": {"upto": 1}, "state": "missing"}, True, 0),
    ],
    ids=["fresh", "all are wanted", "another report", "not warmed", "stale", "missing"],
)
def test_what_is_fresh_counts_when_only_missing_ones_are_asked_for(
    run_leaping: RunLeaping, state: dict[str, Any], missing: bool, counted: int
) -> None:
    """With `--missing`, an older result that is fresh is as good as a new one."""
    client, warming = Steps(), one(missing=missing)
    client.states = [state]
    run_leaping(follow(warming, client, 0, lambda _: None))
    assert len(warming.warm) == counted


def test_nothing_to_warm_is_done_at_once(run_leaping: RunLeaping) -> None:
    """With no variant to wait for, nothing is asked."""
    client = Steps()
    assert run_leaping(follow(Warming([], missing=False), client, 0, lambda _: None))
    assert client.asked == 0


def test_an_unknown_report_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that is not there is an error of the command itself."""
    monkeypatch.setenv("REPORTS", "tests.support.sample_reports")
    assert isinstance(CliRunner().invoke(app, ["warm", "none"]).exception, UnknownReport)
