"""A named child process that is kept alive: spawn, wait, back off, spawn again, until it is stopped.

One loop per child (`run`). A death that nobody asked for is followed by a wait of 0.5 s · 2ⁿ up to
10 s; a child that lived for 30 s starts again from the shortest. Each runs in a session of its own, so
that Ctrl-C in the terminal reaches `holdfast up` alone, which stops them in order. Whatever a dead
child leaves in its process group is killed before the next one starts: an orphaned pool process would
continue to take work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.backoff import exponential
from holdfast.processes.files import last_words, log_path, open_log
from holdfast.processes.locks import try_lock

SETTLED_AFTER = 30.0
"""Seconds after which a child counts as healthy: its next death is a first one again."""


def failures_in_row(before: int, lived: float) -> int:
    """The number of failures in a row, when a child that had failed `before` times dies after `lived` s."""
    return 1 if lived >= SETTLED_AFTER else before + 1


def restart_delay(failures: int) -> float:
    """Seconds to wait after the `failures`-th death in a row: 0.5, 1, 2, 4, 8, then 10 each."""
    return exponential(failures, base=0.5, cap=10.0)


def describe_exit(code: int) -> str:
    """A return code in words: `exit 1`, or `SIGKILL`."""
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


@dataclass(frozen=True)
class ChildState:
    """What is known of a child; `since` (Unix time) is when that became true."""

    name: str
    pid: int | None
    alive: bool
    port: int | None
    restarts: int
    since: float
    last_exit: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The state as `run/processes.json` and `holdfast status --json` hold it."""
        shown = {"pid": self.pid, "alive": self.alive, "port": self.port}
        if self.port is None:
            del shown["port"]
        return {**shown, "restarts": self.restarts, "since": self.since}


class Child:
    """One process that `run` keeps alive; `changed` gets each new state and a line about it.

    An `exclusive` one starts only when nothing of its predecessor lives (see `locks.try_lock`).
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        home: Path,
        env: Mapping[str, str] | None = None,
        exclusive: bool = False,
        port: int | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_within: float = 10.0,
        changed: Callable[[ChildState, str], None] = lambda _state, _line: None,
    ) -> None:
        self.state = ChildState(name, None, False, port, 0, time.time())
        self._argv = list(argv)
        self._home = home
        self._env = env
        self._exclusive = exclusive
        self._stop_signal = stop_signal
        self._stop_within = stop_within
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._over = asyncio.Event()
        self._begun = False
        self._log_begins = 0
        self.spawned = asyncio.Event()
        """Set once it was started for the first time."""

    def __repr__(self) -> str:
        state = self.state
        return f"<Child {state.name} pid={state.pid} alive={state.alive} restarts={state.restarts}>"

    async def run(self) -> None:
        """Keep the process alive until `stop`; then return once it is gone."""
        failures, self._begun = 0, True
        try:
            while not self._stopping.is_set():
                started = time.monotonic()
                code = await self._live()
                if self._stopping.is_set():
                    break
                failures = failures_in_row(failures, time.monotonic() - started)
                delay = restart_delay(failures)
                self._say(
                    f"died ({self.state.last_exit}{self._last_words()}); starts again in {delay:g} s"
                    if code is not None
                    else f"cannot be started ({self.state.last_exit}); next attempt in {delay:g} s"
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
        finally:
            self.kill()
            self._over.set()

    async def _live(self) -> int | None:
        state = self.state
        again = state.last_exit is not None
        lock = await self._lock() if self._exclusive else None
        if self._stopping.is_set():
            _close(lock)
            return None
        try:
            with open_log(self._home, state.name) as log:
                self._log_begins = os.fstat(log.fileno()).st_size
                self._process = await asyncio.create_subprocess_exec(
                    *self._argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._env,
                    start_new_session=True,
                    pass_fds=() if lock is None else (lock,),
                )
        except OSError as error:
            self._set(pid=None, alive=False, last_exit=f"{error.strerror}: {error.filename}")
            return None
        finally:
            _close(lock)
        pid = self._process.pid
        self.spawned.set()
        self._set(pid=pid, alive=True, restarts=state.restarts + again, last_exit=state.last_exit)
        self._say(f"is back (pid {pid})" if again else f"started (pid {pid})")
        if self._stopping.is_set():
            # `stop` came while the process was being made and found none to signal.
            self._signal()
        code = await self._process.wait()
        self._kill_group(pid)
        self._set(pid=None, alive=False, last_exit=describe_exit(code))
        return code

    def _last_words(self) -> str:
        """The last line that it logged since its start, and where the log is."""
        path = log_path(self._home, self.state.name)
        words = last_words(path, since=self._log_begins)
        return f": {words}; log: {path}" if words else f"; log: {path}"

    async def _lock(self) -> int | None:
        """Wait until no process of an earlier start holds the lock, or until `stop`."""
        while (lock := try_lock(self._home / "run" / f"{self.state.name}.lock")) is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.05)
                return None
        return lock

    async def stop(self) -> None:
        """Ask it to end, wait `stop_within` seconds, then kill its process group."""
        self._stopping.set()
        if not self._begun:
            return
        self._signal()
        try:
            await asyncio.wait_for(self._over.wait(), self._stop_within)
        except TimeoutError:
            self._say(f"did not stop within {self._stop_within:g} s: killed")
            self.kill()
            await self._over.wait()

    def _signal(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(self._stop_signal)

    def kill(self) -> None:
        """SIGKILL to the process and its group, and no restart."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._kill_group(self._process.pid)

    @staticmethod
    def _kill_group(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def _set(
        self,
        *,
        pid: int | None,
        alive: bool,
        last_exit: str | None,
        restarts: int | None = None,
    ) -> None:
        old = self.state
        count = old.restarts if restarts is None else restarts
        self.state = ChildState(old.name, pid, alive, old.port, count, time.time(), last_exit)

    def _say(self, line: str) -> None:
        self._changed(self.state, f"{self.state.name} {line}")


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
