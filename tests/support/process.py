"""A real process under test, and the processes of this machine."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from tests.support.waiting import eventually

from holdfast.processes.spawn import die_with_parent


class Process:
    """A started process; what it prints is in its log."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._begins = output.tell()
            self._process = subprocess.Popen(
                [*die_with_parent(signal.SIGTERM), *argv],
                env=dict(env),
                # Away from the repository, so that no `.env` of a developer's is read.
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def __repr__(self) -> str:
        return f"<Process {self._log.stem} pid={self.pid} exit={self._process.poll()}>"

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def output(self) -> str:
        """All that it has printed, since this start."""
        return self._log.read_bytes()[self._begins :].decode(errors="replace")

    def family(self) -> list[psutil.Process]:
        """It and its children, while they live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone, not to its children."""
        self._process.send_signal(number)

    def wait(self, within: float = 15.0) -> int:
        """Its exit status, once it has ended."""
        return self._process.wait(within)

    def terminate(self, within: float = 15.0) -> int:
        """SIGTERM, and its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(within)

    def stop(self, within: float = 5.0) -> None:
        """SIGTERM, and wait so many seconds for its end, whatever its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
            self.terminate(within)

    def kill(self) -> None:
        """SIGKILL to it and to every child; returns when all of them are gone."""
        family = self.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        gone([process.pid for process in family])

    def refusal(self) -> str:
        """The one line of a process that has to end at once with status 2."""
        status, text = self.wait(), self.output()
        assert status == 2, f"exit status {status}: {text}"
        assert len(text.splitlines()) == 1, f"not one line: {text}"
        return text


def gone(pids: Sequence[int], within: float = 10.0) -> None:
    """Wait until none of these processes lives."""
    eventually(f"the end of {list(pids)}", lambda: not any(map(lives, pids)), within=within, every=0.01)


def lives(pid: int) -> bool:
    """Whether that process runs: an orphan that has ended is a zombie until init looks at it."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """The addresses on which a process accepts TCP connections."""
    connections: list[Any] = process.net_connections("tcp")
    return {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}


def remote_ports(process: psutil.Process) -> set[int]:
    """The ports that a process is connected to."""
    connections: list[Any] = process.net_connections("inet")
    return {c.raddr.port for c in connections if c.raddr}
