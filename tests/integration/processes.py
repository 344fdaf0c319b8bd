"""Holdfast's processes as tests run them: real ones, on free ports, in a home of their own.

A `Platform` is a home with its settings, and whatever was started in it; leaving its `with` block kills
every process by its pid, its children included, also when the test failed. `Background` is an event loop
in a thread, so that a plain test can wait, with `eventually`, for what happens in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import psutil
import pytest
import uvloop
from tests.conftest import VARIABLES, eventually, free_port

from holdfast.embedded import Mongo, Postgres, Valkey
from holdfast.processes.spawn import die_with_parent
from holdfast.rpc.client import Client

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
SAMPLES = "tests.support.sample_reports"
_CLI = (sys.executable, "-m", "holdfast.cli")


class Background:
    """An event loop in a thread: `run` waits for a coroutine, `start` does not."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self._cancel_all(), within=10)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a coroutine; `.result(seconds)` waits for it and `.cancel()` cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], within: float = 30.0) -> T:
        """What the coroutine returns or raises; it may take so many seconds."""
        return self.start(work).result(within)

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


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
        """All that it has printed, this time."""
        return self._log.read_bytes()[self._begins :].decode(errors="replace")

    def family(self) -> list[psutil.Process]:
        """It and its children, while they live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send it, and it alone, a signal."""
        self._process.send_signal(number)

    def wait(self, within: float = 15.0) -> int:
        """Its exit status, once it has ended."""
        return self._process.wait(within)

    def terminate(self, within: float = 15.0) -> int:
        """SIGTERM, and its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(within)

    def kill(self) -> None:
        """SIGKILL to it and to every child; returns when all of them are gone."""
        family = self.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        gone([process.pid for process in family])


class Platform:
    """A home, settings, and the processes that run by them."""

    def __init__(self, **settings: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="hf-"))
        self.port = free_port()
        self.settings = {"SUPERVISOR_PORT": str(self.port), "REPORTS": SAMPLES, **settings}
        self.started: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.started):
            process.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def socket(self) -> Path:
        """Where the supervisor's socket is."""
        return self.home / "run" / "supervisor.sock"

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """A process's environment: nothing of the tester's own settings, and these."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
        return {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "HOLDFAST_HOME": str(self.home),
            **self.settings,
            **settings,
        }

    def start(self, *argv: str, name: str = "", **settings: str) -> Process:
        """Start `holdfast …`, or any command given with an absolute path."""
        command = argv if argv[0].startswith("/") else (*_CLI, *argv)
        log = self.home / f"{name or argv[0]}.log"
        process = Process(command, self.environment(settings), log)
        self.started.append(process)
        return process

    def refused(self, process: Process) -> str:
        """A process that must end at once with status 2: the one line that it prints."""
        status, text = process.wait(), process.output()
        assert status == 2, f"exit status {status}: {text}"
        assert len(text.splitlines()) == 1, f"not one line: {text}"
        return text

    def supervisor(self, **settings: str) -> Process:
        """Start the supervisor, and wait until it is ready."""
        process = self.start("supervisor", **settings)
        self.answers(process, self.port)
        return process

    def answers(self, process: Process, port: int, path: str = "readyz") -> None:
        """Wait until a supervisor or a gateway answers 200 there."""
        eventually(f"200 of {process} at /{path}", lambda: self._answers(process, port, path), within=30)

    def _answers(self, process: Process, port: int, path: str) -> bool:
        if not process.running:
            pytest.fail(f"{process} ended at its start: {process.output()}")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=2).status_code == 200
        return False

    def status(self) -> dict[str, Any]:
        """The supervisor's /status."""
        document: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.port}/status", timeout=5).json()
        return document

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the supervisor's samples of that name which carry these labels."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=5).text
        return metric(text, name, **labels)

    def client(self) -> Client:
        """A client of the supervisor's socket."""
        return Client(self.socket)


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of that name and those labels in Prometheus' text format."""
    samples = re.findall(rf"^{re.escape(name)}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    return sum(float(value) for found, value in samples if wanted <= set(found.split(",")))


def gone(pids: Sequence[int], within: float = 10.0) -> None:
    """Wait until none of these processes lives."""
    eventually(f"the end of {list(pids)}", lambda: not any(map(_lives, pids)), within=within, every=0.01)


def _lives(pid: int) -> bool:
    # An orphan that has ended stays a zombie until init looks at it.
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Servers:
    """The three servers in one home, for tests that stop or fill them."""

    def __init__(self, home: Path) -> None:
        self.postgres, self.mongo, self.valkey = Postgres(home), Mongo(home), Valkey(home)
        self.every = (self.postgres, self.mongo, self.valkey)

    def prepare(self) -> None:
        """Make their files and claim their ports, without starting them."""
        for server in self.every:
            server.prepare()

    def start(self) -> None:
        """Start those that do not run, all at once."""
        with ThreadPoolExecutor(len(self.every)) as pool:
            for started in [pool.submit(server.start) for server in self.every]:
                started.result()

    def kill(self) -> None:
        """Kill those that run."""
        for server in self.every:
            server.kill()

    def env(self) -> dict[str, str]:
        """The settings of a supervisor."""
        return {**self.postgres.env(), **self.mongo.env(), **self.valkey.env()}


def took(began: float) -> float:
    """Seconds since `began`, a reading of the monotonic clock."""
    return time.monotonic() - began
