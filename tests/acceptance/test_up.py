"""`holdfast up` from a clean home, as a newcomer meets it: one instance, used by all tests of this module."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
import redis
from tests.conftest import VARIABLES, eventually, free_port

REPORTS = ("carriers", "routes", "hours", "daily", "fleet", "weather-monthly", "weather-impact")
READY = "Ctrl-C stops everything"
WARM = (
    "carriers?month=7&origin=JFK",
    "daily?carrier=UA&month=3",
    "hours?carrier=B6",
    "weather-monthly?origin=EWR",
)


class Up:
    """One `holdfast up` with a home and ports of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = {name: free_port() for name in ("GW_PORT", "SUPERVISOR_PORT", "FLOWER_PORT")}
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
        self.env |= {"HOLDFAST_HOME": str(home), **{name: str(port) for name, port in self.ports.items()}}
        self.base = f"http://127.0.0.1:{self.ports['GW_PORT']}/api/v1/analytics"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def screen(self) -> str:
        """What it has printed."""
        return (self.home.parent / "screen").read_text(errors="replace")

    def start(self) -> float:
        """Start it and wait for its ready screen: the seconds that took."""
        began = time.monotonic()
        with (self.home.parent / "screen").open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli", "up"],
                env=self.env,
                cwd=self.home.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually("the ready screen", lambda: READY in self.screen or not self.running, within=120)
        assert self.running, self.screen
        return time.monotonic() - began

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> int | None:
        """Ctrl-C: the exit status."""
        if self._process is None:
            return None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(60)

    def end(self) -> None:
        """Leave no process behind, whatever happened."""
        if self._process is not None and self.running:
            family = psutil.Process(self._process.pid).children(recursive=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
            for process in [*family, psutil.Process(self._process.pid)] if self.running else family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def processes(self) -> list[psutil.Process]:
        """The processes of this machine that name this home in their command or environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                told = [*process.cmdline(), *process.environ().values()]
                if process.status() != psutil.STATUS_ZOMBIE and any(str(self.home) in text for text in told):
                    found.append(process)
        return found

    def holdfast(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command as in a second terminal, which knows the home and nothing else."""
        env = {k: v for k, v in self.env.items() if k not in self.ports}
        argv = [sys.executable, "-m", "holdfast.cli", *arguments]
        return subprocess.run(
            argv, env=env, cwd=self.home.parent, capture_output=True, text=True, timeout=90, check=False
        )

    def status(self) -> dict[str, Any]:
        """What `holdfast status --json` prints."""
        document: dict[str, Any] = json.loads(self.holdfast("status", "--json").stdout)
        return document

    def get(self, path: str) -> tuple[int, str | None, bytes]:
        """GET a report: status, X-Cache, body."""
        answer = httpx.get(f"{self.base}/{path}", timeout=15)
        return answer.status_code, answer.headers.get("x-cache"), answer.content

    def flower(self, path: str) -> Any:
        """GET from Flower's API, with the password from its file."""
        user, _, password = self.secret("flower_basic_auth").partition(":")
        url = f"http://127.0.0.1:{self.ports['FLOWER_PORT']}{path}"
        return httpx.get(url, auth=(user, password), timeout=10).raise_for_status().json()

    def secret(self, name: str) -> str:
        """A generated secret."""
        return (self.home / "secrets" / name).read_text().strip()


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """A running instance that began with nothing."""
    folder = Path(tempfile.mkdtemp(prefix="hf-"))
    instance = Up(folder / "home")
    try:
        instance.start()
        yield instance
    finally:
        instance.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("report", REPORTS)
def test_each_report_is_served_and_then_from_the_cache(up: Up, report: str) -> None:
    """From a clean home, each report answers with rows, and the second time from the cache."""
    status, cache, body = up.get(report)
    assert (status, cache) in {(200, "MISS"), (200, "HIT")}
    assert json.loads(body)["rows"]
    assert up.get(report)[:2] == (200, "HIT")


def test_the_screen_shows_real_results(up: Up) -> None:
    """The ready screen names every process and shows three commands with the results they had."""
    assert all(
        name in up.screen for name in ("postgres", "mongo", "valkey", "supervisor", "gateway", "worker")
    )
    assert up.screen.count("curl -i") == 3
    assert up.screen.count("200 HIT") == 3
    assert "GW_AUTH is off" in up.screen
    assert str(up.home / "secrets" / "flower_basic_auth") in up.screen


def test_workers_warm_every_variant(up: Up) -> None:
    """Every warm variant comes into Redis under its canonical URL, by Celery tasks that Flower shows."""
    states = eventually(
        "every warm variant",
        lambda: (found := up.status()["reports"]) and all(r["state"] == "fresh" for r in found) and found,
        within=120,
        every=1,
    )
    assert len(states) == 531
    port = int((up.home / "run" / "valkey.port").read_text())
    cache = redis.Redis(
        port=port,
        username="supervisor",
        password=up.secret("valkey_supervisor_password"),
        decode_responses=True,
    )
    with cache:
        keys = set(cache.scan_iter("gwcache:*", count=1000))
    assert len([key for key in keys if key.startswith("gwcache:/api/v1/analytics/")]) >= 531
    assert "gwcache:/api/v1/analytics/carriers?month=7&origin=JFK" in keys
    tasks = up.flower("/api/tasks?taskname=holdfast.cache.refresh&state=SUCCESS&limit=600")
    assert len(tasks) > 500


def test_only_the_supervisor_talks_to_the_database(up: Up) -> None:
    """While everything runs, Postgres sees the supervisor and nobody else, within its pool."""
    port = int((up.home / "run" / "postgres.port").read_text())

    async def sessions() -> list[Any]:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=port,
            user="holdfast",
            password=up.secret("postgres_password"),
            database="holdfast",
        )
        try:
            return list(
                await connection.fetch(
                    "SELECT application_name AS name, client_port AS port FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
            )
        finally:
            await connection.close()

    found = asyncio.run(sessions())
    supervisor = psutil.Process(up.status()["processes"]["supervisor"]["pid"])
    own = {connection.laddr.port for connection in supervisor.net_connections("tcp")}
    assert found
    assert len(found) <= 20
    assert {row["name"] for row in found} == {"holdfast-supervisor"}
    assert {row["port"] for row in found} <= own


@pytest.mark.parametrize("name", ["postgres", "mongo", "valkey", "supervisor"])
def test_warm_results_outlive_a_crash(up: Up, name: str) -> None:
    """While a server or the supervisor is killed and comes back, every warm URL is answered 200; the one
    that was killed is used again within 10 s of its return.
    """
    link = {"valkey": "redis"}.get(name, name)
    for path in WARM:
        assert up.get(path)[0] == 200
    answers: list[tuple[int, str | None]] = []
    done = threading.Event()

    def read_on() -> None:
        while not done.is_set():
            answers.extend(up.get(path)[:2] for path in WARM)
            done.wait(0.02)

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        before = up.status()["processes"][name]["pid"]
        os.kill(before, signal.SIGKILL)

        def back() -> bool:
            state = up.status()["processes"][name]
            return bool(state["alive"] and state["pid"] != before)

        eventually(f"{name} to be started again", back, within=30)

        def used() -> bool:
            cold = f"routes?limit={100 + time.monotonic_ns() % 400}"
            links = up.status()["links"]
            return up.get(cold)[0] == 200 and (link == "supervisor" or links[link]["state"] == "up")

        eventually(f"{name} to be used again", used, within=10)
    finally:
        done.set()
        reader.join()
    assert len(answers) > 20
    assert {status for status, _ in answers} == {200}


def test_a_second_up_on_the_same_home_is_refused(up: Up) -> None:
    """A second `holdfast up` on the same home says in one line that one is running, and changes nothing."""
    refused = up.holdfast("up")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "already runs" in refused.stderr
    assert up.get(WARM[0])[0] == 200


def test_no_secret_shows(up: Up) -> None:
    """No generated secret stands in a process's arguments or environment, in a log or on the screen."""
    secrets = {path.name: path.read_text().strip() for path in (up.home / "secrets").iterdir()}
    shown = up.screen + "".join(p.read_text(errors="replace") for p in (up.home / "logs").iterdir())
    for process in up.processes():
        with contextlib.suppress(psutil.Error):
            shown += "\n".join([*process.cmdline(), *process.environ().values()])
    # Flower takes its password from its own environment, which only its user can read.
    assert [name for name, secret in secrets.items() if secret in shown and name != "flower_basic_auth"] == []


def test_ctrl_c_ends_everything_and_a_second_start_finds_its_data(up: Up) -> None:
    """Ctrl-C leaves no process; the next start serves what was cached before."""
    computed = json.loads(up.get(WARM[0])[2])["as_of"]
    assert up.stop() == 0
    assert up.processes() == []
    up.start()
    status, cache, body = up.get(WARM[0])
    assert (status, cache) == (200, "HIT")
    assert json.loads(body)["as_of"] >= computed
    assert "367,687 rows loaded" not in up.screen
    assert up.stop() == 0
    assert up.processes() == []
