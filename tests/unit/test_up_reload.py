"""Trials of edits by real processes, and what `holdfast up` says of them with a supervisor in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import watchfiles

from holdfast.reports.outcome import ReloadedReports, SetAside
from holdfast.up.reload import Reload, Trial

GOOD = """
from sqlalchemy import literal, select
from holdfast.reports import Params, Report
one = Report("one", ttl=60)


@one.postgres
def rows(p: Params):
    return select(literal(1).label("n"))
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one report, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "acme"
    folder.mkdir()
    (folder / "__init__.py").write_text(GOOD)
    return folder


def environment() -> dict[str, str]:
    """The variables of a trial."""
    return {**os.environ, "REPORTS": "acme"}


def tried(tmp_path: Path, scenario: Callable[[Trial], Awaitable[None]]) -> None:
    """Run a scenario with a trial's process."""

    async def run() -> None:
        trial = Trial(tmp_path / "home", environment())
        try:
            await scenario(trial)
        finally:
            await trial.close()

    asyncio.run(run())


def test_one_process_tries_every_edit(tmp_path: Path, package: Path) -> None:
    """Edits are tried one after another by one process, whatever became of the trial before."""

    async def scenario(trial: Trial) -> None:
        assert await trial.run() == ()
        (package / "__init__.py").write_text(GOOD + "x = = 1\n")
        broken, gone, back = await trial.run(), await ended(trial), await mended(trial)
        assert isinstance(broken, tuple)
        (one,) = broken
        assert (one.name, one.line, one.text) == ("one", 10, "x = = 1")
        assert gone == "a module ends the process that loads it\n  acme/__init__.py"
        assert back == ()

    async def ended(trial: Trial) -> object:
        (package / "__init__.py").write_text("import os\nos._exit(0)\n")
        return await trial.run()

    async def mended(trial: Trial) -> object:
        (package / "__init__.py").write_text("print('what a module prints is no answer')\n" + GOOD)
        return await trial.run()

    tried(tmp_path, scenario)


@pytest.mark.parametrize("after", [0.0, 0.01, 0.3, 1.5], ids=lambda after: f"{after} s")
def test_a_trial_that_is_given_up_does_not_answer_the_next(
    tmp_path: Path, package: Path, after: float
) -> None:
    """Whenever a trial is cancelled, its child ends, and the next trial has an answer of its own."""

    async def scenario(trial: Trial) -> None:
        (package / "__init__.py").write_text("import time\ntime.sleep(600)\n")
        first = asyncio.create_task(trial.run())
        await asyncio.sleep(after)
        first.cancel()
        await asyncio.wait([first])
        (package / "__init__.py").write_text(GOOD)
        assert await trial.run() == ()
        children = psutil.Process().children(recursive=True)
        assert len([child for child in children if "holdfast.up.trial" in child.cmdline()]) == 1

    tried(tmp_path, scenario)


def test_a_process_that_was_killed_is_started_again(tmp_path: Path) -> None:
    """When somebody kills the trial's process, the next edit is tried all the same."""

    async def scenario(trial: Trial) -> None:
        assert await trial.run() == ()
        for child in psutil.Process().children(recursive=True):
            child.kill()
        outcomes = [await trial.run() for _ in range(2)]
        assert outcomes[-1] == ()

    tried(tmp_path, scenario)


class Supervisor:
    """Answers each request to load reports again."""

    def __init__(self, *answers: ReloadedReports) -> None:
        self._answers = list(answers)
        self.asked = asyncio.Event()

    async def reload(self) -> ReloadedReports:
        """The next answer; the last one forever."""
        self.asked.set()
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    async def aclose(self) -> None:
        """Nothing is open."""


BROKEN = SetAside(
    "one", "acme", "the file is no Python", kept=True, file="acme/x.py", line=3, text="x = = [1]"
)
NOTHING = ReloadedReports([], [], [], [])


def said_after(tmp_path: Path, supervisor: Supervisor, lines: int) -> list[str]:
    """What is said from the start until there are so many lines."""
    said: list[str] = []
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)

    async def run() -> None:
        reload = Reload(home, ["acme"], environment(), client=supervisor, say=said.append)
        running = asyncio.create_task(reload.run())
        async with asyncio.timeout(20):
            await supervisor.asked.wait()
            while len(said) < lines:  # noqa: ASYNC110 - what says the lines has no event
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(run())
    return said


def test_what_is_broken_at_the_start_is_said(tmp_path: Path) -> None:
    """The line has the report, what is served in its place, the reason, the file, the line and its text."""
    (line,) = said_after(tmp_path, Supervisor(ReloadedReports([], [], [], [BROKEN])), 1)
    assert line.splitlines() == [
        "report one is set aside; its last good version is served: the file is no Python",
        "  acme/x.py:3: x = = [1]",
    ]


def test_each_change_has_a_line(tmp_path: Path) -> None:
    """What was added, changed and removed is said by name."""
    answer = ReloadedReports(["a"], ["b"], ["c"], [])
    assert said_after(tmp_path, Supervisor(answer), 3) == [
        "report a is new and live",
        "report b has changed and is live",
        "report c is removed",
    ]


def test_where_nothing_can_be_watched_that_is_said(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may allow no further watch: the line has the folder, the reason, and what to do."""

    def refuses(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(watchfiles, "awatch", refuses)
    (line,) = said_after(tmp_path, Supervisor(NOTHING), 1)
    assert line.startswith(f"{package} is not watched: no space left on device")
    assert "holdfast up" in line
