"""Celery's programs with a wrong setting: each ends at once, and says in a line what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.environment import environment_without_settings
from tests.support.stack import Stack
from tests.support.waiting import eventually

CELERY = ("-m", "celery", "-A", "holdfast_workers")
HOLDFAST = ("-m", "holdfast.cli")
BROKER = "redis://127.0.0.1:1/1"


def run(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A program, run to its end with these settings alone."""
    env = {**environment_without_settings(), "HOLDFAST_HOME": str(folder / "home"), **settings}
    return subprocess.run(
        [sys.executable, *arguments],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "program",
    [
        (*CELERY, "worker"),
        (*CELERY, "beat"),
        (*CELERY, "inspect", "ping"),
        (*CELERY, "flower"),
        (*HOLDFAST, "worker"),
        (*HOLDFAST, "flower"),
        (*HOLDFAST, "warm"),
    ],
    ids=lambda program: " ".join(program[1:]),
)
def test_without_a_broker_a_program_ends_with_one_line(program: tuple[str, ...], tmp_path: Path) -> None:
    """Celery's programs, started by `celery` or by `holdfast`, end with status 2 and one line."""
    done = run(tmp_path, *program)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("BROKER_URL: ")


@pytest.mark.parametrize(
    ("program", "variable", "value"),
    [("worker", "SUPERVISOR_PORT", "none"), ("worker", "GW_CACHE_TTL", "0"), ("beat", "REPORTS", "[1]")],
)
def test_another_wrong_setting_ends_it_too(program: str, variable: str, value: str, tmp_path: Path) -> None:
    """`holdfast worker` and `holdfast beat` end with status 2; the last line names the variable."""
    done = run(tmp_path, *HOLDFAST, program, BROKER_URL=BROKER, **{variable: value})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{variable}: ")


@pytest.mark.parametrize(("variable", "value"), [("REPORTS", "[1]"), ("SUPERVISOR_PORT", "none")])
def test_plain_celery_looks_at_them_before_it_takes_a_task(variable: str, value: str, tmp_path: Path) -> None:
    """A worker that `celery` starts ends with status 2 as well, and not task by task."""
    done = run(tmp_path, *CELERY, "worker", BROKER_URL=BROKER, **{variable: value})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{variable}: ")


@pytest.mark.parametrize(
    "program",
    [(*HOLDFAST, "worker"), (*HOLDFAST, "beat"), (*CELERY, "worker")],
    ids=lambda program: " ".join(program[1:]),
)
def test_reports_that_are_not_there_end_nothing(program: tuple[str, ...]) -> None:
    """A program whose REPORTS names no module that can be loaded runs on, and its log names the module."""
    with Stack() as stack:
        argv = program if program[0] == "-m" and program[1] == "celery" else program[2:]
        command = (sys.executable, *argv) if argv is program else argv
        process = stack.start(*command, name="it", BROKER_URL=BROKER, REPORTS="no_such_module")
        eventually("the report to be named", lambda: "no_such_module" in process.output(), within=60)
        assert "report_set_aside" in process.output()
        assert process.running
