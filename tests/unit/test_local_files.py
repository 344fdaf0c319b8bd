"""What `holdfast up` keeps in HOLDFAST_HOME: secrets, ports, logs, and the claim on the folder."""

from __future__ import annotations

import os
import socket
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
from holdfast.processes import files
from holdfast.processes.files import (
    LocalError,
    claim_port,
    log_tail,
    open_log,
    pick_port,
    port_is_free,
    secret_file,
    write_atomic,
)
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


def test_a_secret_is_generated_once_and_private(tmp_path: Path) -> None:
    """A secret keeps its value; its file is 0600 and the folder 0700, under any umask."""
    before = os.umask(0)
    try:
        first = secret_file(tmp_path / "home", "password")
    finally:
        os.umask(before)
    value = first.read_text()
    assert len(value) == 64
    assert secret_file(tmp_path / "home", "password").read_text() == value
    assert mode(first) == 0o600
    assert mode(first.parent) == 0o700
    assert [file.name for file in first.parent.iterdir()] == ["password"]


def test_two_secrets_differ_and_may_have_a_prefix(tmp_path: Path) -> None:
    """Each name has a value of its own; a prefix stands before it."""
    one, two = secret_file(tmp_path, "one"), secret_file(tmp_path, "two", prefix="user:")
    assert one.read_text() != two.read_text().removeprefix("user:")
    assert two.read_text().startswith("user:")


def test_existing_folders_keep_their_modes(tmp_path: Path) -> None:
    """Nothing above the private folder is changed, and neither is one that exists already."""
    tmp_path.chmod(0o755)
    (tmp_path / "secrets").mkdir(mode=0o750)
    secret_file(tmp_path, "password")
    assert mode(tmp_path) == 0o755
    assert mode(tmp_path / "secrets") == 0o750


def test_an_atomic_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    """A file is replaced whole, and a failed write leaves the old one and nothing else."""
    target = tmp_path / "file"
    write_atomic(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(target, "\ud800")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_port_is_remembered_while_it_is_free(tmp_path: Path) -> None:
    """The same home gets the same port again, unless another process listens on it."""
    port = claim_port(tmp_path, "thing")
    assert claim_port(tmp_path, "thing") == port
    with socket.create_server(("127.0.0.1", port)):
        assert not port_is_free(port)
        other = claim_port(tmp_path, "thing")
        assert other != port
    assert claim_port(tmp_path, "thing") == other


def test_picked_ports_are_not_ones_of_outgoing_connections() -> None:
    """A picked port is below those that Linux gives to outgoing connections (32768 and above)."""
    assert 20_000 <= pick_port() < 32_768


def test_a_log_is_bounded_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has grown too large is set aside when the process starts again; one is kept."""
    monkeypatch.setattr(files, "LOG_MAX_BYTES", 10)
    for text in (b"first, and long\n", b"second\n", b"third\n"):
        with open_log(tmp_path, "thing") as log:
            log.write(text)
    assert (tmp_path / "logs" / "thing.log.1").read_bytes() == b"first, and long\n"
    assert log_tail(tmp_path, "thing", lines=1) == "third"
    assert mode(tmp_path / "logs" / "thing.log") == 0o600


def test_a_second_up_on_the_same_home_is_told_who_runs(tmp_path: Path) -> None:
    """The claim is exclusive: the second one learns the pid of the first; afterwards it is free."""
    with Instance(tmp_path), pytest.raises(LocalError, match=f"as pid {os.getpid()}"):
        Instance(tmp_path).__enter__()
    with Instance(tmp_path):
        assert holder(lock_file(tmp_path)) == os.getpid()
    assert holder(lock_file(tmp_path)) is None


def test_a_claim_does_not_outlive_its_process(tmp_path: Path) -> None:
    """An `up` that was killed leaves a lock file, but no claim; its settings are not believed."""
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


def test_unreadable_records_count_as_none(tmp_path: Path) -> None:
    """A damaged record stops neither `holdfast status` nor the next start."""
    (tmp_path / "run").mkdir()
    for content in ("", "{", "[]", "null"):
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
