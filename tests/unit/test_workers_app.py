"""The Celery application: what it reads, when it reads it, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery.app.utils import find_app

from holdfast_workers.app import app, configuration

BROKER = "redis://celery:secret@127.0.0.1:6379/1"
MODULES = ("app", "registry", "runtime", "schedule", "tasks", "warm", "flower")


def test_an_import_reads_no_settings(tmp_path: Path) -> None:
    """Every module of the workers can be imported where no setting is right: none is read."""
    names = ", ".join(f"holdfast_workers.{name}" for name in MODULES)
    script = (
        "from holdfast.settings import Settings\n"
        "def load(*_): raise AssertionError('a setting is read')\n"
        "Settings.load = classmethod(load)\n"
        f"import {names}\n"
        "print(holdfast_workers.celery.configured)"
    )
    env = {**os.environ, "BROKER_URL": "no URL"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_celery_finds_the_application() -> None:
    """`celery -A holdfast_workers` is enough: the package offers the application by Celery's own name."""
    assert find_app("holdfast_workers") is app


def test_the_broker_is_that_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks, and beat's schedule, are kept by the broker that BROKER_URL names."""
    monkeypatch.setenv("BROKER_URL", BROKER)
    settings = configuration()
    assert settings["broker_url"] == settings["redbeat_redis_url"] == BROKER


def test_nothing_but_json_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that holds anything but JSON does no harm: it is neither read nor written."""
    monkeypatch.setenv("BROKER_URL", BROKER)
    settings = configuration()
    assert (settings["accept_content"], settings["task_serializer"]) == (["json"], "json")


def test_another_beat_takes_over_within_30_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat renews its lock several times before it runs out, and a dead one's lock runs out soon."""
    monkeypatch.setenv("BROKER_URL", BROKER)
    settings = configuration()
    assert settings["beat_max_loop_interval"] * 5 <= settings["redbeat_lock_timeout"] < 30


def test_a_wrong_broker_ends_the_process_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a broker, whatever asks for a setting of Celery's ends with status 2 and one line."""
    with pytest.raises(SystemExit) as ended:
        configuration()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("BROKER_URL: ")
