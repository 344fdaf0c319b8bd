"""The claim of one `holdfast up` on its home, and what it leaves there for others to find."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli.status import living_processes
from holdfast.errors import LocalError
from holdfast.processes.locks import holder
from holdfast.up.instance import (
    Instance,
    end_leftovers,
    lock_file,
    processes_file,
    recorded_processes,
    up_env_file,
)


def mode(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_second_up_on_the_same_home_learns_who_runs(tmp_path: Path) -> None:
    """The claim is exclusive: the second one learns the pid of the first; afterwards it is free."""
    with Instance(tmp_path), pytest.raises(LocalError, match=f"as pid {os.getpid()}"):
        Instance(tmp_path).__enter__()
    with Instance(tmp_path):
        assert holder(lock_file(tmp_path)) == os.getpid()
    assert holder(lock_file(tmp_path)) is None


def test_a_claim_does_not_outlive_its_process(tmp_path: Path) -> None:
    """An `up` that was killed leaves a lock file, but no claim; its settings are not used."""
    script = (
        "import os, pathlib, signal, sys; from holdfast.up.instance import Instance\n"
        "claim = Instance(pathlib.Path(sys.argv[1])).__enter__()\n"
        "claim.publish_settings({'GW_PORT': '1'})\n"
        "claim.publish_processes({'x': {'pid': os.getpid(), 'alive': True, 'since': 0}})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert up_env_file(tmp_path).exists()
    assert living_processes(tmp_path) == {}
    with Instance(tmp_path):
        assert not up_env_file(tmp_path).exists()


def test_leftovers_are_ended_and_strangers_are_not(tmp_path: Path) -> None:
    """A recorded process that still lives is killed; one that got its pid later is left alone."""
    command = [sys.executable, "-c", "input()"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE) as left,
        subprocess.Popen(command, stdin=subprocess.PIPE) as stranger,
    ):
        born = psutil.Process(left.pid).create_time()
        with Instance(tmp_path) as instance:
            instance.publish_processes(
                {
                    "left": {"pid": left.pid, "since": born},
                    "stranger": {"pid": stranger.pid, "since": born - 3600},
                    "gone": {"pid": None, "since": born},
                }
            )
            assert set(recorded_processes(tmp_path)) == {"left", "stranger", "gone"}
            end_leftovers(tmp_path, patience=0.1)
        assert left.wait(5) < 0
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_unreadable_records_count_as_none(tmp_path: Path, content: str) -> None:
    """A damaged record stops neither `holdfast status` nor the next start."""
    (tmp_path / "run").mkdir()
    processes_file(tmp_path).write_text(content)
    assert recorded_processes(tmp_path) == {}
    end_leftovers(tmp_path)


@given(st.text(st.characters(exclude_categories=["C"]), max_size=40))
def test_published_settings_are_read_back_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, value: str
) -> None:
    """Whatever a path holds (quotes, spaces, dollar signs), `up.env` gives it back; its mode is 0600."""
    home = tmp_path_factory.mktemp("home")
    with Instance(home) as instance:
        instance.publish_settings({"NAME": value, "OTHER": "1"})
        assert dotenv_values(up_env_file(home), interpolate=False) == {"NAME": value, "OTHER": "1"}
        assert mode(up_env_file(home)) == 0o600
    assert not up_env_file(home).exists()
