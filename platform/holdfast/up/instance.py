"""What a running `holdfast up` leaves in HOLDFAST_HOME/run for others to find.

`up.lock` is held (flock) for as long as it runs, so that its mere existence means nothing; `up.env`
names the settings that a second terminal needs, never a secret; `processes.json` is kept current. A
previous `up` that was killed may have left processes that are still ending: `end_leftovers` waits for
those, and kills what stays, but only processes that are provably the recorded ones.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import LocalError
from holdfast.processes.files import private_folder, write_atomic
from holdfast.processes.locks import LockHeld, hold

if TYPE_CHECKING:
    import psutil


KEPT_WHILE_UP = ".while-up"
"""Of files in `run/` that hold a secret of this terminal's environment, for as long as `up` runs."""


def processes_file(home: Path) -> Path:
    """Where the states of the processes are written."""
    return home / "run" / "processes.json"


def up_env_file(home: Path) -> Path:
    """Where the settings of the running instance are written."""
    return home / "run" / "up.env"


def lock_file(home: Path) -> Path:
    """What the running `holdfast up` holds."""
    return home / "run" / "up.lock"


class Instance:
    """The claim of one `holdfast up` on its HOLDFAST_HOME: a context manager."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._lock = contextlib.ExitStack()
        self._written = ""

    def __enter__(self) -> Instance:
        private_folder(self.home)
        private_folder(self.home / "run")
        try:
            self._lock.enter_context(hold(lock_file(self.home)))
        except LockHeld as held:
            raise LocalError(
                f"holdfast up already runs on {self.home} as pid {held.pid}: stop it,"
                " or set another HOLDFAST_HOME and other ports"
            ) from None
        # Left by an instance that was killed, it would name servers that no longer run.
        up_env_file(self.home).unlink(missing_ok=True)
        end_leftovers(self.home)
        return self

    def __exit__(self, *_error: object) -> None:
        up_env_file(self.home).unlink(missing_ok=True)
        processes_file(self.home).unlink(missing_ok=True)
        for secret in (self.home / "run").glob(f"*{KEPT_WHILE_UP}"):
            secret.unlink(missing_ok=True)
        self._lock.close()

    @property
    def example_loaded(self) -> bool:
        """Whether an earlier load succeeded: a hint that saves time, not the truth."""
        return (self.home / "run" / "example.loaded").exists()

    @example_loaded.setter
    def example_loaded(self, loaded: bool) -> None:
        mark = self.home / "run" / "example.loaded"
        if loaded:
            mark.touch()
        else:
            mark.unlink(missing_ok=True)

    def publish_settings(self, variables: Mapping[str, str]) -> None:
        """Write `run/up.env` (0600)."""
        lines = [f"{name}={_dotenv_value(value)}\n" for name, value in sorted(variables.items())]
        write_atomic(up_env_file(self.home), "".join(lines))

    def publish_processes(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Write `run/processes.json`, when it changed."""
        text = json.dumps(states, indent=1)
        if text != self._written:
            write_atomic(processes_file(self.home), text, durable=False)
            self._written = text


def recorded_processes(home: Path) -> dict[str, dict[str, Any]]:
    """What `run/processes.json` says; nothing when it is missing or unreadable."""
    try:
        found = json.loads(processes_file(home).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def end_leftovers(home: Path, *, patience: float = 5.0) -> None:
    """Wait `patience` seconds for the processes of a killed instance to end, then kill them."""
    import psutil

    left: list[psutil.Process] = []
    for state in recorded_processes(home).values():
        with contextlib.suppress(psutil.Error, KeyError, TypeError):
            process = psutil.Process(int(state["pid"]))
            # The same pid may be another process by now; `since` was noted right after the start.
            if abs(process.create_time() - float(state["since"])) < 2:
                left += [process, *process.children(recursive=True)]
    _, left = psutil.wait_procs(left, timeout=patience)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + 5
    while any(_lives(process) for process in left) and time.monotonic() < deadline:
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _dotenv_value(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
