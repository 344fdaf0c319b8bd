"""What people's environments hold, on real servers: URLs, addresses, passwords, pools and misspelt names."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest
from tests.support.celery import Sender, celery_stack
from tests.support.http import TOKENS, bearer
from tests.support.process import listening
from tests.support.sample_reports import numbers
from tests.support.stack import Stack
from tests.support.variants import fresh
from tests.support.waiting import eventually

from holdfast.embedded import Mongo, Postgres
from holdfast.embedded.secrets import read_secret
from holdfast.errors import AuthenticationFailed, HoldfastError
from holdfast.links.mongo import MongoAdapter
from holdfast.links.postgres import PostgresAdapter, open_connection
from holdfast.processes.ports import pick_port
from holdfast.settings import MongoSettings, PostgresSettings

# Postgres


def target(server: Postgres, hosts: str = "", query: str = "", host: str = "") -> dict[str, str]:
    """POSTGRES_URL of that server; `{}` in `hosts` or `host` is its address."""
    env = server.env()
    login = f"{env['POSTGRES_USER']}:{quote(read_secret(server.password_file), safe='')}"
    address = f"127.0.0.1:{server.port}"
    where = (hosts or "{}").replace("{}", address)
    url = f"postgresql://{login}@{where}/{env['POSTGRES_DB']}?{query}".removesuffix("?")
    return {"POSTGRES_URL": url.replace("HOST", host)}


async def _answer(given: dict[str, str], sql: str) -> Any:
    connection = await open_connection(PostgresSettings.load(given))
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def answer(given: dict[str, str], sql: str = "SELECT 1") -> Any:
    """What Postgres answers on a connection of the supervisor's kind."""
    return asyncio.run(_answer(given, sql))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "target_session_attrs=any",
        "target_session_attrs=read-write",
        "target_session_attrs=primary",
        "target_session_attrs=prefer-standby",
        "channel_binding=prefer",
        "channel_binding=disable&gssencmode=prefer&sslcompression=0&client_encoding=auto",
        "sslmode=prefer&sslsni=1",
        "sslmode=disable",
        "connect_timeout=10&keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3",
        "tcp_user_timeout=20000&load_balance_hosts=random",
        "max_protocol_version=latest&min_protocol_version=3.0",
        "krbsrvname=postgres&gsslib=gssapi",
    ],
)
def test_what_hosters_put_into_urls_connects(postgres: Postgres, query: str) -> None:
    """Options that libpq documents do not keep a connection from being made."""
    assert answer(target(postgres, query=query)) == 1


@pytest.mark.parametrize(
    ("query", "sql", "value"),
    [
        ("application_name=board", "SHOW application_name", "board"),
        ("fallback_application_name=board", "SHOW application_name", "board"),
        ("", "SHOW application_name", "holdfast-supervisor"),
        ("options=-csearch_path%3Dpg_catalog%20-cjit%3Doff", "SHOW search_path", "pg_catalog"),
        ("options=-c%20work_mem=7MB", "SHOW work_mem", "7MB"),
    ],
)
def test_an_option_has_its_effect(postgres: Postgres, query: str, sql: str, value: str) -> None:
    """What an option asks for is what the server says of the connection."""
    assert answer(target(postgres, query=query), sql) == value


@pytest.mark.parametrize(
    "hosts", ["127.0.0.1:1,{}", "{},127.0.0.1:1", "no-such-host.invalid:1,{}", "[::1]:1,{}"]
)
def test_the_first_host_that_answers_is_used(postgres: Postgres, hosts: str) -> None:
    """Of several hosts, one that refuses, is unknown or is down is passed over, as psql does it."""
    assert answer(target(postgres, hosts)) == 1


def test_a_host_that_does_not_answer_leaves_time_for_the_next(postgres: Postgres) -> None:
    """A host that accepts and stays silent does not use up PG_CONN_TIMEOUT."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        given = target(postgres, f"127.0.0.1:{port},{{}}")
        assert answer({**given, "PG_CONN_TIMEOUT": "3000"}) == 1


def test_a_primary_is_no_standby(postgres: Postgres) -> None:
    """Where no host is what target_session_attrs asks for, the link is down; nothing else is used."""
    adapter = PostgresAdapter(
        lambda: PostgresSettings.load(target(postgres, query="target_session_attrs=standby"))
    )
    with pytest.raises(HoldfastError):
        asyncio.run(adapter.open())


# MongoDB


async def _open_and_close(given: dict[str, str]) -> None:
    adapter = MongoAdapter(lambda: MongoSettings.load(given), [])
    await adapter.open()
    await adapter.close()


@pytest.mark.parametrize(
    ("path", "further"),
    [
        ("/shop?{}&authSource=admin", {}),
        ("/?{}", {"MONGO_DB": "shop"}),
        ("/shop?{}&authSource=admin", {"MONGO_DB": "shop"}),
    ],
)
def test_the_database_of_the_url_is_used(mongo: Mongo, path: str, further: dict[str, str]) -> None:
    """The database in MONGO_URL, or MONGO_DB, is the one that is asked for; the login is another's."""
    env = mongo.env()
    base, _, options = env.pop("MONGO_URL").partition("/?")
    del env["MONGO_DB"]
    given = {**env, "MONGO_URL": base + path.replace("{}", options), **further}
    # The user of the embedded server may use one database: the refusal names the one that was asked for.
    with pytest.raises(AuthenticationFailed) as refused:
        asyncio.run(_open_and_close(given))
    assert "not authorized on shop" in str(refused.value.__cause__)
    own = {**given, "MONGO_URL": f"{base}/holdfast?{options}&authSource=admin", "MONGO_DB": "holdfast"}
    asyncio.run(_open_and_close(own))


# Processes


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Servers, and a supervisor whose environment has what Kubernetes injects and a misspelt name."""
    with celery_stack() as made:
        made.supervisor(POSTGRES_SERVICE_HOST="10.0.0.1", PG_POOL_MX="5")
        yield made


def test_the_supervisor_names_a_misspelt_variable(stack: Stack) -> None:
    """At its start a process logs a warning that names the variable, and the one that was meant."""
    lines = [json.loads(line) for line in stack.supervisor().output().splitlines() if line.startswith("{")]
    warnings = [line for line in lines if line.get("action") == "setting_unknown"]
    assert [(line["variable"], line["meant"], line["level"]) for line in warnings] == [
        ("PG_POOL_MX", "PG_POOL_MAX", "warning")
    ]


def _host(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("localhost", {"127.0.0.1", "::1"}),
        ("[::1]", {"::1"}),
        ("::1", {"::1"}),
        ("LOCALHOST", {"127.0.0.1", "::1"}),
        ("127.0.0.2", {"127.0.0.2"}),
    ],
)
def test_the_gateway_listens_on_a_name_or_an_address(stack: Stack, host: str, addresses: set[str]) -> None:
    """GW_HOST may be a host name or an IPv6 address, with brackets or without."""
    port = pick_port()
    process = stack.start("gateway", name="named", GW_HOST=host, GW_PORT=str(port), GW_AUTH="off")
    try:
        found = eventually("the gateway to listen", lambda: _listens(process.pid, port), within=20)
        assert found <= addresses
        assert httpx.get(f"{_host(found.pop(), port)}/livez", timeout=5).status_code == 200
    finally:
        process.kill()


def _listens(pid: int, port: int) -> set[str]:
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return {host for process in processes for host, at in listening(process) if at == port}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"GW_HOST": "192.0.2.7", "GW_AUTH": "jwt"}, "GW_HOST: 192.0.2.7 "),
        ({"GW_HOST": "no-such-host.invalid"}, "GW_HOST: no-such-host.invalid "),
        ({"GW_HOST": "127.0.0.1", "GW_PORT": "taken"}, "GW_PORT: 127.0.0.1:"),
    ],
)
def test_the_gateway_names_what_is_wrong(stack: Stack, settings: dict[str, str], named: str) -> None:
    """The line names GW_HOST where the host is wrong, and GW_PORT where the port is."""
    taken = str(stack.port())
    given = {"GW_PORT": str(pick_port()), "JWT_SECRET": "x" * 40, **settings}
    given["GW_PORT"] = given["GW_PORT"].replace("taken", taken)
    assert stack.start("gateway", name="refused", **given).refusal().startswith(named)


@pytest.mark.parametrize(
    "text",
    ["\u0646\u0645\u06cc\u200c\u062e", "\u6771\u4eac\u3000\u99c5", "1\u00a0000", "\u0915\u094d\u200d\u0937"],
)
def test_text_of_every_script_is_served(stack: Stack, text: str) -> None:
    """A text parameter with the spaces and joiners of its script is computed, stored and served unchanged."""
    gateway = stack.gateways.get("text") or stack.gateway("text", until="readyz", GW_AUTH="off")
    variant = fresh(numbers)
    word = f"{text}{next(iter(variant.params.values()))}"
    answer = gateway.get(f"numbers?word={quote(word)}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["params"]["word"] == word
    assert gateway.get(f"numbers?word={quote(word)}").headers["x-cache"] == "HIT"
    assert gateway.get(f"numbers?word={quote(word + chr(27))}").status_code == 422


def test_a_token_of_a_clock_that_is_ahead_is_accepted(stack: Stack) -> None:
    """The gateway takes a token whose `iat` is 30 seconds ahead, and none that is minutes ahead."""
    gateway = stack.gateway("tokens", until="readyz", **TOKENS)
    now = int(time.time())
    ahead: dict[str, Any] = {"iat": now + 30, "exp": now + 300, "scope": "analytics:read"}
    assert gateway.get("numbers?word=ahead", **bearer(**ahead)).status_code == 200
    assert gateway.get("numbers?word=ahead", **bearer(**{**ahead, "iat": now + 180})).status_code == 401


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_worker_may_have_threads_or_none(stack: Stack, pool: str) -> None:
    """With either pool a worker computes several results, one after another and at the same time."""
    worker = stack.worker(f"--pool={pool}", "--concurrency=4", name=f"worker-{pool}")
    try:
        eventually("the worker", lambda: " ready." in worker.output(), within=30)
        variants = [fresh(numbers) for _ in range(6)]
        with Sender(stack.servers.valkey.broker_url_file.read_text()) as sender:
            for variant in variants:
                sender.refresh(variant)
        eventually("the entries", lambda: all(stack.cache.get(v.key) for v in variants), within=20)
        assert "Traceback" not in worker.output()
        assert worker.terminate() == 0, worker.output()
        assert "Traceback" not in worker.output()
    finally:
        worker.kill()


@pytest.mark.parametrize("arguments", [("--pool=gevent",), ("-P", "eventlet"), ("--pool", "custom")])
def test_a_pool_that_cannot_work_ends_the_worker_at_its_start(
    stack: Stack, arguments: tuple[str, ...]
) -> None:
    """`holdfast worker` refuses a pool by its name, in one line."""
    refused = stack.worker(*arguments, name="refused-worker").refusal()
    assert refused.startswith(f"--pool={arguments[-1].removeprefix('--pool=')}: ")


def test_celerys_own_broker_does_not_count(stack: Stack) -> None:
    """With CELERY_BROKER_URL and its like set to others, tasks and the lock are where BROKER_URL says."""
    elsewhere = "redis://127.0.0.1:1/7"
    theirs = {
        "CELERY_BROKER_URL": elsewhere,
        "CELERY_BROKER_READ_URL": elsewhere,
        "CELERY_RESULT_BACKEND": elsewhere,
    }
    worker = stack.worker("--concurrency=1", name="worker-theirs", **theirs)
    beat = stack.beat(name="beat-theirs", **theirs)
    try:
        eventually("the worker", lambda: " ready." in worker.output(), within=30)
        variant = fresh(numbers)
        with Sender(stack.servers.valkey.broker_url_file.read_text()) as sender:
            sender.refresh(variant)
        eventually("the entry", lambda: stack.cache.get(variant.key), within=20)
        broker = stack.servers.redis("celery", 1)
        eventually("the lock of beat", lambda: broker.exists("redbeat::lock"), within=20)
        assert "127.0.0.1:1/" not in worker.output() + beat.output()
    finally:
        worker.kill()
        beat.kill()


@pytest.mark.parametrize("password", ["a,b:c;d", "p@ss/w#rd:1 50%{x}", "ops:x,y"])
def test_flowers_password_arrives_whole(stack: Stack, password: str) -> None:
    """A comma, a colon or a percent sign in Flower's password is a part of it; its options are handed on."""
    flower = stack.flower("flower-own", FLOWER_BASIC_AUTH=f"ops:{password}", FLOWER_URL_PREFIX="tasks")
    url = f"http://127.0.0.1:{stack.port('FLOWER_PORT')}/tasks/workers"
    try:
        eventually("Flower", lambda: _status(url, ("ops", "wrong")) == 401 or not flower.running, within=30)
        assert _status(url, ("ops", password)) == 200, flower.output()
        for cut in {password.partition(",")[0], password.partition(":")[0], password.partition("%")[0]}:
            assert cut == password or _status(url, ("ops", cut)) == 401
    finally:
        flower.kill()


def _status(url: str, login: tuple[str, str]) -> int:
    try:
        return httpx.get(url, auth=login, timeout=5).status_code
    except httpx.TransportError:
        return 0


def test_flower_alone_says_how_to_get_its_password(stack: Stack) -> None:
    """Without a password the line says how to make one, or where `holdfast up` keeps one."""
    assert "secrets.token_hex" in stack.flower("no-password").refusal()
    made = stack.home / "secrets" / "flower_basic_auth"
    made.write_text("holdfast:secret")
    try:
        assert f"FLOWER_BASIC_AUTH_FILE={made}" in stack.flower("no-password").refusal()
    finally:
        made.unlink()
