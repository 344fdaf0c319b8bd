"""Holdfast's processes as tests run them: real ones, on free ports, in a home of their own.

A `Stack` is a home with its settings, and whatever a test asks it for: servers, a supervisor, gateways,
Celery's processes, `holdfast up`, clients. Nothing is started that is not asked for. Leaving its `with` block
closes the clients, kills every process by its pid, its children included, and removes the home, also when the
test failed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import psutil
import pytest
from redis import Redis
from tests.support.background import Background
from tests.support.environment import environment_without_settings
from tests.support.http import Gateway
from tests.support.metrics import metric
from tests.support.process import Process
from tests.support.servers import Servers
from tests.support.waiting import eventually

from holdfast.processes.ports import pick_port
from holdfast.rpc.client import Client

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
SAMPLES = "tests.support.sample_reports"
CLI = (sys.executable, "-m", "holdfast.cli")
MEASURES_COVERAGE = "COVERAGE_PROCESS_CONFIG" in os.environ
"""Whether this is `make coverage`: a process that is killed writes no figures, so it is stopped first."""


class Stack:
    """A home, settings, and the processes that run by them.

    Args:
        servers: the servers behind it: some that are there already, or True for some of its own.
        settings: environment variables of every process of this stack.
    """

    def __init__(self, *, servers: Servers | bool = False, **settings: str) -> None:
        # A short name: the path of a socket has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="hf-"))
        self.home = self.folder / "home"
        self.settings = {"REPORTS": SAMPLES, **settings}
        self.processes: list[Process] = []
        self.gateways: dict[str, Gateway] = {}
        self._servers = Servers.at(self.home) if servers is True else (servers or None)
        self._owns_servers = servers is True
        self._supervisor: Process | None = None
        self._ports: dict[str, int] = {}
        self._exit = ExitStack()

    def __repr__(self) -> str:
        return f"<Stack {self.folder.name} {self.processes}>"

    def __enter__(self) -> Self:
        self._exit.callback(shutil.rmtree, self.folder, ignore_errors=True)
        if self._owns_servers:
            self._exit.callback(self.servers.kill)
        self._exit.callback(self._kill_processes)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _kill_processes(self) -> None:
        for process in reversed(self.processes):
            if MEASURES_COVERAGE:
                process.stop()
            process.kill()

    # Places and settings.

    @property
    def servers(self) -> Servers:
        """The servers behind it, which it was made with."""
        assert self._servers is not None, "this stack was made without servers"
        return self._servers

    @property
    def socket(self) -> Path:
        """Where the supervisor's socket is."""
        return self.home / "run" / "supervisor.sock"

    def port(self, variable: str = "SUPERVISOR_PORT") -> int:
        """The port that this setting has in this stack."""
        return self._ports.setdefault(variable, pick_port())

    def secret(self, name: str) -> str:
        """A secret that was generated in this home."""
        return (self.home / "secrets" / name).read_text().strip()

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        return {
            **environment_without_settings(),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "HOLDFAST_HOME": str(self.home),
            "SUPERVISOR_PORT": str(self.port()),
            **self.settings,
            **settings,
        }

    # Processes.

    def start(self, *argv: str, name: str = "", **settings: str) -> Process:
        """Start `holdfast …`, or any command given with an absolute path."""
        command = argv if argv[0].startswith("/") else (*CLI, *argv)
        process = Process(command, self._environment(settings), self.folder / f"{name or argv[0]}.log")
        self.processes.append(process)
        return process

    def command(self, *argv: str, within: float = 90.0) -> subprocess.CompletedProcess[str]:
        """Run `holdfast …` to its end, as in a second terminal: it knows the home and nothing else."""
        return subprocess.run(
            [*CLI, *argv],
            env={**environment_without_settings(), "HOLDFAST_HOME": str(self.home)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )

    def supervisor(self, *, until: str = "readyz", **settings: str) -> Process:
        """The supervisor: the one that runs, or a new one; returns once it answers 200 there.

        It alone is given the settings of the databases.
        """
        if self._supervisor is None or not self._supervisor.running:
            env = self._servers.env() if self._servers else {}
            self._supervisor = self.start("supervisor", **env, **settings)
        if until:
            self.answers(self._supervisor, self.port(), until)
        return self._supervisor

    def end_supervisor(self) -> None:
        """SIGTERM to the supervisor, if it runs."""
        if self._supervisor is not None and self._supervisor.running:
            assert self._supervisor.terminate() == 0, self._supervisor.output()

    def gateway(self, name: str = "gateway", *, until: str = "", **settings: str) -> Gateway:
        """Start a gateway of that name, on a port of its own; returns once it answers 200 there."""
        port = self.port(f"GW_PORT of {name}")
        reader = self._servers.valkey.gateway_env() if self._servers else {}
        process = self.start("gateway", name=name, **{**reader, "GW_PORT": str(port), **settings})
        gateway = self.gateways[name] = Gateway(process, port)
        self._exit.callback(gateway.close)
        if until:
            self.answers(process, port, until)
        return gateway

    def end_gateway(self, name: str) -> None:
        """SIGTERM to a gateway, which ends with 0 and is forgotten."""
        gateway = self.gateways.pop(name)
        assert gateway.process.terminate() == 0, gateway.process.output()

    def worker(self, *arguments: str, **settings: str) -> Process:
        """Start `holdfast worker` on the broker of the servers."""
        return self.start("worker", *arguments, **{**self._broker, **settings})

    def beat(self, **settings: str) -> Process:
        """Start `holdfast beat` on the broker of the servers."""
        return self.start("beat", **{**self._broker, **settings})

    def flower(self, name: str = "flower", **settings: str) -> Process:
        """Start `holdfast flower` on the broker of the servers."""
        port = {"FLOWER_PORT": str(self.port("FLOWER_PORT"))}
        return self.start("flower", name=name, **{**self._broker, **port, **settings})

    @property
    def _broker(self) -> dict[str, str]:
        return self.servers.valkey.broker_env()

    def up(self, ready: str, *arguments: str) -> Process:
        """Start `holdfast up`; returns once its screen shows those words.

        It begins with nothing but the ports of its programs: servers, secrets and reports are its own affair.
        """
        ports = {name: str(self.port(name)) for name in ("GW_PORT", "SUPERVISOR_PORT", "FLOWER_PORT")}
        env = {**environment_without_settings(), "HOLDFAST_HOME": str(self.home), **ports}
        process = Process((*CLI, "up", *arguments), env, self.folder / "up.log")
        self.processes.append(process)
        eventually("the ready screen", lambda: ready in process.output() or not process.running, within=120)
        assert process.running, process.output()
        return process

    def answers(self, process: Process, port: int, path: str = "readyz") -> None:
        """Wait until a supervisor or a gateway answers 200 there; fail if it ends before."""

        def answered() -> bool:
            if not process.running:
                pytest.fail(f"{process} ended at its start: {process.output()}")
            with contextlib.suppress(httpx.TransportError):
                return self._http.get(f"http://127.0.0.1:{port}/{path}").status_code == 200
            return False

        eventually(f"200 of {process} at /{path}", answered, within=30)

    def mend(self) -> None:
        """Start whatever does not run of servers and supervisor, and wait until every link is up."""
        self.supervisor(until="")
        self.servers.start()
        self.supervisor()
        for gateway in self.gateways.values():
            self.answers(gateway.process, gateway.port)
        eventually("the supervisor's links to be up", lambda: set(self.link_states().values()) == {"up"})
        for gateway in self.gateways.values():
            eventually(f"the links of {gateway} to be up", gateway.linked)

    def family(self) -> Iterator[psutil.Process]:
        """The processes of this machine that name this home in their arguments or their environment."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                texts = [*process.cmdline(), *process.environ().values()]
                named = any(str(self.home) in text for text in texts)
                if named and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    # What the supervisor shows.

    @cached_property
    def _http(self) -> httpx.Client:
        # One client, since each loads its certificates; no kept connection, since processes come and go.
        unkept = httpx.Limits(max_keepalive_connections=0)
        return self._exit.enter_context(httpx.Client(timeout=5, limits=unkept))

    def admin(self, path: str) -> httpx.Response:
        """GET of the supervisor's admin port."""
        return self._http.get(f"http://127.0.0.1:{self.port()}/{path}")

    def ready(self) -> bool:
        """Whether the supervisor says that it is ready."""
        return self.admin("readyz").status_code == 200

    def status(self) -> dict[str, Any]:
        """The supervisor's /status."""
        document: dict[str, Any] = self.admin("status").json()
        return document

    def link_states(self) -> dict[str, str]:
        """The state of each of the supervisor's links."""
        return {name: link["state"] for name, link in self.status()["links"].items()}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the supervisor's samples of that name which carry these labels."""
        return metric(self.admin("metrics").text, name, **labels)

    def runs(self, report: str) -> float:
        """How many runs of a report the supervisor has recorded in its metrics."""
        return self.metric("holdfast_runs_total", report=report)

    # Clients.

    @cached_property
    def background(self) -> Background:
        """The loop that the clients of the socket live in."""
        return self._exit.enter_context(Background())

    def run(self, work: Coroutine[Any, Any, T], within: float = 30.0) -> T:
        """What a coroutine in that loop returns or raises."""
        return self.background.run(work, within)

    @cached_property
    def client(self) -> Client:
        """A client of the supervisor's socket, for all tests of this stack."""
        return self.connect()

    def connect(self) -> Client:
        """A further client of the supervisor's socket."""
        # The loop first: it has to outlive the client.
        background = self.background
        client = Client(self.socket)
        self._exit.callback(lambda: background.run(client.aclose()))
        return client

    @cached_property
    def cache(self) -> Redis:
        """A client of the cache, with the rights of the supervisor."""
        client = self.servers.redis()
        self._exit.callback(client.close)
        return client
