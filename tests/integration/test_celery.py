"""Real Celery processes: workers, beat and Flower, on a broker and a supervisor of their own."""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import pytest
from celery import Celery
from redis import Redis
from tests.conftest import eventually, free_port
from tests.integration.processes import Background, Platform, Process, Servers
from tests.support.sample_reports import UPTO

from holdfast.cache.entry import Entry, unpack
from holdfast.processes.files import read_secret

NUMBERS = "gwcache:/api/v1/analytics/numbers"


class Shop:
    """A supervisor, a worker and a broker; tasks are sent by an application that is not Holdfast's own."""

    def __init__(self, platform: Platform, servers: Servers, background: Background) -> None:
        self.platform = platform
        self.servers = servers
        self.background = background
        self.broker = {**servers.valkey.broker_env()}
        self.cache = _redis(servers, "supervisor", 0)
        self.queues = _redis(servers, "celery", 1)
        self.sender = _sender(servers.valkey.broker_url_file.read_text())
        self.supervisor: Process | None = None
        self.worker = platform.start("worker", "--concurrency=2", **self.broker)
        self.beat = platform.start("beat", **self.broker)
        self.plain_broker = servers.valkey.broker_url_file.read_text().strip().removesuffix("/1") + "/2"
        plain = ("-m", "celery", "-A", "holdfast_workers", "worker", "--pool=prefork", "--concurrency=1")
        self.plain = platform.start(sys.executable, *plain, name="plain", BROKER_URL=self.plain_broker)

    def supervised(self) -> None:
        """Start the supervisor unless it runs: it alone is told where the databases are."""
        if self.supervisor is None or not self.supervisor.running:
            self.supervisor = self.platform.supervisor(**self.servers.env())

    def send(self, task: str = "holdfast.cache.refresh", **arguments: Any) -> str:
        """Send a task: its id."""
        return str(self.sender.send_task(task, kwargs=arguments).id)

    def entry(self, key: str) -> Entry | None:
        """The entry under a key, if there is one."""
        found = unpack(key, cast("bytes | None", self.cache.get(key)))
        return found if isinstance(found, Entry) else None

    def told(self, task: str, *words: str) -> list[str]:
        """The lines in which the worker tells of that task, with one of these words."""
        lines = self.worker.output().splitlines()
        return [line for line in lines if f"[{task}]" in line and any(word in line for word in words)]


def _redis(servers: Servers, user: str, database: int) -> Redis:
    password = read_secret(servers.valkey.password_file(user))
    return Redis(port=servers.valkey.port, db=database, username=user, password=password)


def _sender(url: str) -> Celery:
    app = Celery("sender", broker=url, set_as_current=False)
    app.conf.update(
        task_default_queue="holdfast",
        task_ignore_result=True,
        broker_transport_options={"global_keyprefix": "celery:"},
    )
    return app


@pytest.fixture(scope="module")
def unsupervised() -> Iterator[Shop]:
    """The shop of this module's tests, with its worker but perhaps without its supervisor."""
    with Platform() as platform, Background() as background:
        servers = Servers(platform.home)
        try:
            servers.start()
            made = Shop(platform, servers, background)
            eventually("the worker", lambda: " ready." in made.worker.output(), within=30)
            yield made
            made.sender.close()
            made.cache.close()
            made.queues.close()
        finally:
            servers.kill()


@pytest.fixture
def shop(unsupervised: Shop) -> Shop:
    """The shop, with everything in it running."""
    unsupervised.supervised()
    return unsupervised


def test_what_may_pass_is_tried_again(unsupervised: Shop) -> None:
    """A refresh that finds no supervisor is tried again later, and succeeds once there is one."""
    shop = unsupervised
    if shop.supervisor is not None:
        assert shop.supervisor.terminate() == 0
    task = shop.send(report="numbers", params={"upto": 12})
    eventually("a retry", lambda: shop.told(task, "Retry in", "retry: "))
    assert shop.entry(f"{NUMBERS}?upto=12") is None
    shop.supervised()
    eventually("the entry", lambda: shop.entry(f"{NUMBERS}?upto=12"), within=20)


def test_a_refresh_task_puts_the_entry_into_redis(shop: Shop) -> None:
    """A refresh that was sent to the queue ends as an entry in Redis, made by a worker."""
    shop.send(report="numbers", params={"upto": 7}, trigger="schedule")
    entry = eventually("the entry", lambda: shop.entry(f"{NUMBERS}?upto=7"))
    assert entry.rows == 7


def test_warm_fans_out_to_every_variant(shop: Shop) -> None:
    """`holdfast warm REPORT` has the workers compute each warm variant, and ends when all are there."""
    command = shop.platform.start("warm", "numbers", **shop.broker)
    assert command.wait(30) == 0, command.output()
    assert f"{len(UPTO)} variants are warm" in command.output()
    for upto in UPTO:
        entry = shop.entry(f"{NUMBERS}?upto={upto}")
        assert entry is not None
        assert entry.rows == upto


def test_workers_hold_no_database_connection(shop: Shop) -> None:
    """After their work, the worker and its children are connected to the broker and to no database."""
    shop.send(report="numbers", params={"upto": 6})
    eventually("the entry", lambda: shop.entry(f"{NUMBERS}?upto=6"))
    family = shop.worker.family()
    assert len(family) >= 3
    ports = {
        connection.raddr.port
        for process in family
        for connection in process.net_connections("inet")
        if connection.raddr
    }
    assert ports == {shop.servers.valkey.port}
    names = asyncio.run(_applications(shop.servers))
    assert names == {"holdfast-supervisor"}


async def _applications(servers: Servers) -> set[str]:
    connection = await servers.postgres.connect()
    try:
        query = (
            "SELECT DISTINCT application_name FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return {row[0] for row in await connection.fetch(query)}
    finally:
        await connection.close()


def test_a_wrong_task_fails_without_a_retry(shop: Shop) -> None:
    """An unknown report, a wrong parameter and a wrong trigger each fail once and for all; the worker goes
    on with the next task.
    """
    wrong = {
        "UnknownReport": {"report": "none", "params": {}},
        "InvalidParams": {"report": "numbers", "params": {"upto": 0}},
        "InvalidParams: limit": {"report": "numbers", "params": {"limit": 1}},
        "InvalidParams: trigger": {"report": "numbers", "params": {}, "trigger": "never"},
        "QueryFailed": {"report": "failing", "params": {}},
        "ComputeFailed": {"report": "failing", "params": {"where": "function"}},
        "TypeError": {"report": "numbers", "params": {}, "sql": "SELECT 1"},
    }
    sent = {error: shop.send(**arguments) for error, arguments in wrong.items()}
    for error, task in sent.items():
        lines = eventually(f"{error} to be told", lambda task=task: shop.told(task, "raised"))
        assert error.partition(":")[0] in lines[0]
    shop.send(report="numbers", params={"upto": 9})
    eventually("the next task", lambda: shop.entry(f"{NUMBERS}?upto=9"))
    for task in sent.values():
        assert shop.told(task, "retry", "Retry") == []


class Bomb:
    """Creates a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


def test_nothing_from_the_queue_is_unpickled(shop: Shop, tmp_path: Path) -> None:
    """A message that is a pickle is thrown away unread, and the worker goes on."""
    target = tmp_path / "unpickled"
    with shop.sender.connection_for_write() as connection:
        connection.Producer(serializer=None).publish(
            pickle.dumps(((Bomb(target),), {}, {})),
            exchange="",
            routing_key="holdfast",
            content_type="application/x-python-serialize",
            content_encoding="binary",
            headers={"task": "holdfast.cache.refresh", "id": "bomb", "lang": "py"},
        )
    eventually("it to be refused", lambda: "ContentDisallowed" in shop.worker.output())
    shop.send(report="numbers", params={"upto": 11})
    eventually("the next task", lambda: shop.entry(f"{NUMBERS}?upto=11"))
    assert not target.exists()


def test_plain_celery_is_enough(shop: Shop) -> None:
    """`celery -A holdfast_workers worker`, without `holdfast`, does the same work."""
    sender = _sender(shop.plain_broker)
    sender.send_task("holdfast.cache.refresh", kwargs={"report": "numbers", "params": {"upto": 14}})
    eventually("the entry", lambda: shop.entry(f"{NUMBERS}?upto=14"), within=30)
    sender.close()
    assert shop.plain.terminate() == 0


def test_beat_leads_and_sends_what_is_due(shop: Shop) -> None:
    """`holdfast beat` takes the lead and has the warm variants of a scheduled report computed, over and
    over, as often as its schedule says.
    """
    eventually("the lead", lambda: shop.queues.exists("redbeat::lock"), within=20)
    runs = eventually("three rounds", lambda: _rounds(shop, 3), within=20)
    assert {run["trigger"] for run in runs} == {"schedule"}
    assert {run["params"]["upto"] for run in runs} == {2, 3}
    starts = sorted(run["started_at"] for run in runs if run["params"]["upto"] == 2)
    assert 1.0 < starts[-1] - starts[-2] < 3.5
    assert shop.beat.terminate() == 0


def _rounds(shop: Shop, count: int) -> list[dict[str, Any]]:
    client = shop.platform.client()

    async def fetch() -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = await client.call("runs", report="ticking", limit=100)
            return found
        finally:
            await client.aclose()

    runs = shop.background.run(fetch())
    return runs if len(runs) >= 2 * count else []


def test_flower_wants_its_password(shop: Shop, tmp_path: Path) -> None:
    """Flower answers 401 without the password and 200 with it, on loopback alone; it shows the tasks; and
    no process has the password among its arguments.
    """
    secret = tmp_path / "flower"
    secret.write_text("ops:a-password-of-flower\n")
    port = free_port()
    flower = shop.platform.start(
        "flower", **shop.broker, FLOWER_BASIC_AUTH_FILE=str(secret), FLOWER_PORT=str(port)
    )
    url = f"http://127.0.0.1:{port}"
    eventually("Flower to answer", lambda: _status(url, flower), within=30)
    for path in ("/", "/workers", "/api/tasks", "/api/workers", "/broker"):
        assert httpx.get(url + path).status_code == 401, path
        assert httpx.get(url + path, auth=("ops", "wrong")).status_code == 401, path
    login = ("ops", "a-password-of-flower")
    assert httpx.get(url + "/workers", auth=login).status_code == 200
    listening = [c.laddr.ip for c in psutil.Process(flower.pid).net_connections("inet") if _listens(c)]
    assert listening == ["127.0.0.1"]
    task = shop.send(report="numbers", params={"upto": 15})
    shown = eventually("the task in Flower", lambda: _shown(url, login, task))
    assert shown["name"] == "holdfast.cache.refresh"
    hidden = (b"a-password-of-flower", base64.b64encode(b"ops:a-password-of-flower"))
    for process in psutil.process_iter():
        try:
            arguments = " ".join(process.cmdline()).encode()
        except psutil.Error:
            continue
        assert not any(word in arguments for word in hidden), process


def _status(url: str, flower: Process) -> int:
    if not flower.running:
        pytest.fail(flower.output())
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return 0


def _listens(connection: Any) -> bool:
    return connection.status == psutil.CONN_LISTEN and connection.type == socket.SOCK_STREAM


def _shown(url: str, login: tuple[str, str], task: str) -> dict[str, Any] | None:
    answer = httpx.get(f"{url}/api/task/info/{task}", auth=login)
    found: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
    return found if found and found.get("state") == "SUCCESS" else None


def test_flower_does_not_start_without_a_password(shop: Shop) -> None:
    """Without FLOWER_BASIC_AUTH, `holdfast flower` ends at once with one line that names it."""
    line = shop.platform.refused(shop.platform.start("flower", name="no-password", **shop.broker))
    assert line.startswith("FLOWER_BASIC_AUTH: ")


def test_no_secret_is_told(shop: Shop) -> None:
    """No password of a server stands in what any process printed, nor among any process's arguments."""
    valkey, servers = shop.servers.valkey, shop.servers
    files = [
        servers.postgres.password_file,
        servers.mongo.password_file,
        valkey.password_file("supervisor"),
        valkey.password_file("celery"),
    ]
    secrets = [read_secret(file) for file in files]
    assert all(len(secret) > 12 for secret in secrets)
    for process in shop.platform.started:
        text = process.output()
        assert not any(secret in text for secret in secrets), process
        for member in process.family():
            arguments = " ".join(member.cmdline())
            assert not any(secret in arguments for secret in secrets), member
