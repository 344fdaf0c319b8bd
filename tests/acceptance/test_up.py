"""`holdfast up` from a clean home, as a newcomer meets it: one instance, used by all tests of this module."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from tests.support.http import ANALYTICS
from tests.support.process import Process
from tests.support.servers import Servers
from tests.support.stack import Stack
from tests.support.waiting import eventually

from holdfast.reports import Report, load_reports

READY = "Ctrl-C stops everything"
WARM = (
    "carriers?month=7&origin=JFK",
    "daily?carrier=UA&month=3",
    "hours?carrier=B6",
    "weather-monthly?origin=EWR",
)
REPORTS = tuple(load_reports(["holdfast_flights.reports"]))
"""The reports that `holdfast up` serves: the example's, and those that somebody has added to it."""
EVERY_KEY = {report.reader.key(params) for report in REPORTS for params in report.warm}
BUNDLED = {"carriers", "routes", "hours", "daily", "fleet", "weather-monthly", "weather-impact"}


class Up:
    """One `holdfast up` in a stack of its own, and what a person may ask of it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.process: Process = stack.up(READY)

    @property
    def screen(self) -> str:
        """What it has printed."""
        return self.process.output()

    def restart(self) -> None:
        """Start it again on the same home, once it has ended."""
        self.process = self.stack.up(READY)

    def interrupt(self) -> int:
        """Ctrl-C: the exit status."""
        self.process.signal(signal.SIGINT)
        return self.process.wait(60)

    def status(self) -> dict[str, Any]:
        """What `holdfast status --json` prints."""
        document: dict[str, Any] = json.loads(self.stack.command("status", "--json").stdout)
        return document

    def get(self, target: str) -> tuple[int, str | None, bytes]:
        """GET a result: status, X-Cache, body."""
        url = f"http://127.0.0.1:{self.stack.port('GW_PORT')}{ANALYTICS}/{target}"
        answer = httpx.get(url, timeout=15)
        return answer.status_code, answer.headers.get("x-cache"), answer.content

    def flower(self, path: str) -> Any:
        """GET from Flower's API, with the password from its file."""
        user, _, password = self.stack.secret("flower_basic_auth").partition(":")
        url = f"http://127.0.0.1:{self.stack.port('FLOWER_PORT')}{path}"
        return httpx.get(url, auth=(user, password), timeout=10).raise_for_status().json()


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """A running instance that began with nothing."""
    with Stack() as stack:
        yield Up(stack)


def test_the_example_has_its_reports() -> None:
    """The bundled reports are among those that are served."""
    assert {report.name for report in REPORTS} >= BUNDLED


@pytest.mark.parametrize("report", [report for report in REPORTS if report.warm], ids=lambda r: r.name)
def test_each_report_is_served_and_then_from_the_cache(up: Up, report: Report) -> None:
    """From a clean home, each report answers with rows, and the second time from the cache."""
    target = report.reader.url(report.warm[0]).removeprefix(f"{ANALYTICS}/")
    status, cache, body = up.get(target)
    assert (status, cache) in {(200, "MISS"), (200, "HIT")}
    assert json.loads(body)["rows"]
    assert up.get(target)[:2] == (200, "HIT")


def test_the_screen_shows_real_results(up: Up) -> None:
    """The ready screen names every process and shows three commands with the results they had."""
    names = ("postgres", "mongo", "valkey", "supervisor", "gateway", "worker")
    assert [name for name in names if name not in up.screen] == []
    assert up.screen.count("curl -i") == 3
    assert up.screen.count("200 HIT") == 3
    assert "GW_AUTH is off" in up.screen
    assert str(up.stack.home / "secrets" / "flower_basic_auth") in up.screen


def test_workers_warm_every_variant(up: Up) -> None:
    """Every warm variant that the registry declares comes into Redis under its canonical URL, by Celery tasks
    that Flower shows.
    """
    states = eventually("every warm variant", lambda: _all_fresh(up), within=120, every=1)
    assert len(states) == len(EVERY_KEY)
    with Servers.at(up.stack.home).redis() as cache:
        keys = {key.decode() for key in cache.scan_iter("gwcache:*", count=1000)}
    assert EVERY_KEY - keys == set()
    assert f"gwcache:{ANALYTICS}/carriers?month=7&origin=JFK" in keys
    query = f"taskname=holdfast.refresh&state=SUCCESS&limit={len(EVERY_KEY) + 100}"
    # The first ones may have been done before Flower listened.
    assert len(up.flower(f"/api/tasks?{query}")) > 0.9 * len(EVERY_KEY)


def _all_fresh(up: Up) -> list[dict[str, Any]] | None:
    states: list[dict[str, Any]] = up.status()["reports"]
    return states if {state["state"] for state in states} == {"fresh"} else None


def test_only_the_supervisor_talks_to_the_database(up: Up) -> None:
    """While everything runs, Postgres sees the supervisor and nobody else, within its pool."""
    sessions = Servers.at(up.stack.home).fetch(
        "SELECT application_name AS name, client_port AS port FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    supervisor = psutil.Process(up.status()["processes"]["supervisor"]["pid"])
    own = {connection.laddr.port for connection in supervisor.net_connections("tcp")}
    assert 0 < len(sessions) <= 20
    assert {row["name"] for row in sessions} == {"holdfast-supervisor"}
    assert {row["port"] for row in sessions} <= own


@pytest.mark.parametrize("name", ["postgres", "mongo", "valkey", "supervisor"])
def test_warm_results_outlive_a_crash(up: Up, name: str) -> None:
    """While a server or the supervisor is killed and comes back, every warm URL is answered 200; the one
    that was killed is used again within 10 s of its return.
    """
    assert [up.get(target)[0] for target in WARM] == [200] * len(WARM)
    with _reading(up) as answers:
        before = up.status()["processes"][name]["pid"]
        os.kill(before, signal.SIGKILL)
        eventually(f"{name} to be started again", lambda: _came_back(up, name, before), within=30)
        eventually(f"{name} to be used again", lambda: _is_used(up, name), within=10)
        eventually("some answers", lambda: len(answers) > 20)
    assert set(answers) == {200}


def _came_back(up: Up, name: str, before: int) -> bool:
    state = up.status()["processes"][name]
    return bool(state["alive"] and state["pid"] != before)


def _is_used(up: Up, name: str) -> bool:
    # Each time another result, which has to be computed.
    cold = f"routes?limit={100 + time.monotonic_ns() % 400}"
    if up.get(cold)[0] != 200:
        return False
    link = {"valkey": "redis"}.get(name, name)
    return link == "supervisor" or up.status()["links"][link]["state"] == "up"


@contextlib.contextmanager
def _reading(up: Up) -> Iterator[list[int]]:
    """Somebody reads the warm results again and again: the statuses of the answers."""
    statuses: list[int] = []
    done = threading.Event()

    def read_on() -> None:
        while not done.is_set():
            statuses.extend(up.get(target)[0] for target in WARM)
            done.wait(0.02)

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        yield statuses
    finally:
        done.set()
        reader.join()


def test_a_second_up_on_the_same_home_is_refused(up: Up) -> None:
    """A second `holdfast up` on the same home says in one line that one is running, and changes nothing."""
    refused = up.stack.command("up")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "already runs" in refused.stderr
    assert up.get(WARM[0])[0] == 200


def test_no_secret_shows(up: Up) -> None:
    """No generated secret stands in a process's arguments or environment, in a log or on the screen."""
    home = up.stack.home
    secrets = {path.name: path.read_text().strip() for path in (home / "secrets").iterdir()}
    shown = up.screen + "".join(path.read_text(errors="replace") for path in (home / "logs").iterdir())
    for process in up.stack.family():
        with contextlib.suppress(psutil.Error):
            shown += "\n".join([*process.cmdline(), *process.environ().values()])
    # Flower takes its password from its own environment, which only its user can read.
    assert [name for name, secret in secrets.items() if secret in shown and name != "flower_basic_auth"] == []


def test_ctrl_c_ends_everything_and_a_second_start_finds_its_data(up: Up) -> None:
    """Ctrl-C leaves no process; the next start serves what was cached before."""
    computed = json.loads(up.get(WARM[0])[2])["as_of"]
    assert up.interrupt() == 0
    assert list(up.stack.family()) == []
    up.restart()
    status, cache, body = up.get(WARM[0])
    assert (status, cache) == (200, "HIT")
    assert json.loads(body)["as_of"] >= computed
    assert "367,687 rows loaded" not in up.screen
    assert up.interrupt() == 0
    assert list(up.stack.family()) == []
