"""The shape that the three embedded servers share.

A server is prepared (files only, idempotent and atomic), run in the foreground as a child of ours,
bootstrapped once it answers (idempotent too), and ready when an authenticated query succeeds.
`holdfast up` runs `argv()` under its own restart loop and awaits `become_ready`; tests use `start`,
`stop` and `kill`. Data and port outlive a kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from holdfast.embedded.ports import claim_port, remembered_port
from holdfast.errors import LocalError
from holdfast.processes.files import log_path, log_tail, private_folder
from holdfast.processes.locks import try_lock
from holdfast.processes.spawn import spawn
from holdfast.reasons import reason

_POLL = 0.03
_POLL_CAP = 0.25


class Server(ABC):
    """One embedded server: data below `home`, on 127.0.0.1, with generated credentials."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, home: Path, port: int | None = None) -> None:
        self.home = Path(os.path.abspath(home))
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.is_new = False
        """Whether `prepare` made new data."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} port={self._port} pid={self.pid} home={str(self.home)!r}>"

    @property
    def data(self) -> Path:
        """The folder that holds this server's data."""
        return self.home / self.name

    @property
    def port(self) -> int:
        """The port on 127.0.0.1: the one given, or else what `prepare` claimed, now or earlier."""
        port = self._port or remembered_port(self.home, self.name)
        if port is None:
            raise LocalError(f"{self.name} has no port yet: it was never prepared in {self.home}")
        return port

    @property
    def pid(self) -> int | None:
        """The process id while it runs as started by `start`, else None."""
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if alive and self._process else None

    def prepare(self) -> None:
        """Create whatever is missing below `home`, and claim the port.

        Raises LocalError when there is no such server for this platform.
        """
        private_folder(self.home / "run")
        private_folder(self.home / "secrets")
        if self._port is None:
            self._port = claim_port(self.home, self.name)
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None: ...

    @abstractmethod
    def argv(self) -> list[str]:
        """The command that runs this server in the foreground; it shows no secret."""

    @abstractmethod
    async def bootstrap(self) -> None:
        """Do what can only be done once it runs; idempotent.

        Raises the driver's error while it does not answer.
        """

    @abstractmethod
    async def ready(self) -> bool:
        """Whether a real authenticated query is answered now."""

    @abstractmethod
    def env(self) -> dict[str, str]:
        """The settings that point a supervisor here: secrets only as names of files."""

    async def become_ready(self, within: float = 60.0, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Bootstrap and wait until `ready`, at most `within` seconds and while `alive` is true.

        Raises LocalError with the tail of the log.
        """
        deadline = time.monotonic() + within
        bootstrapped, pause = False, _POLL
        last: Exception | None = None
        while alive() and time.monotonic() < deadline:
            try:
                # Drivers wait for half a second and more after a refused connect; this does not.
                await _listens(self.port)
                if not bootstrapped:
                    await self.bootstrap()
                    bootstrapped = True
                if await self.ready():
                    return
            except Exception as error:  # any driver's error means: not yet
                last = error
            await asyncio.sleep(pause)
            pause = min(pause * 1.1, _POLL_CAP)
        fate = f"was not ready within {within:g} s" if alive() else "ended while starting"
        raise LocalError(
            f"{self.name} {fate}; see {log_path(self.home, self.name)}"
            f" (last: {reason(last) if last else 'nothing was tried'})"
            f"\n{log_tail(self.home, self.name)}"
        )

    def start(self, timeout: float = 60.0) -> Self:
        """Prepare, spawn, bootstrap and wait until ready.

        Blocks; may be called inside a running event loop, and from any thread.
        """
        if self.pid is not None:
            return self
        lock = self._await_lock(timeout)
        try:
            self.prepare()
            argv = self.argv()
        except BaseException:
            os.close(lock)
            raise
        process = spawn(argv, home=self.home, log=self.name, lock=lock)
        self._process = process
        try:
            _run(self.become_ready(timeout, alive=lambda: process.poll() is None))
        except BaseException:
            self.kill()
            raise
        return self

    def _await_lock(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (lock := try_lock(self.home / "run" / f"{self.name}.lock")) is None:
            if time.monotonic() > deadline:
                raise LocalError(f"{self.name} still runs on {self.home}: stop that one first")
            time.sleep(_POLL)
        return lock

    def stop(self, timeout: float = 20.0) -> None:
        """Shut down cleanly; kills it after `timeout` seconds."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would: nothing is saved. Returns when no process of it is left."""
        if self._process is None:
            return
        family = _descendants(self._process.pid)
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        # Postgres' backends leave the process group, and a new postmaster is refused while one of
        # them lives.
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(_exists(pid) for pid in family) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


async def _listens(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


def _run(work: Coroutine[Any, Any, None]) -> None:
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, work).result()


def _descendants(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _exists(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
