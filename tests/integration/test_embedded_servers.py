"""The embedded servers: what `holdfast up` and every other integration test rely on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socketserver
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from pymongo.errors import OperationFailure
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from tests.support.process import gone

from holdfast.embedded import Mongo, Postgres, Server, Valkey
from holdfast.errors import LocalError

KINDS: list[type[Server]] = [Postgres, Mongo, Valkey]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server of each kind, for tests that leave it as it is."""
    kind: type[Server] = request.param
    with kind(tmp_path_factory.mktemp("running") / "a home") as made:
        yield made


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A running server of each kind, in a home whose path holds a space."""
    made: Server = request.param(tmp_path / "a home")
    made.start()
    try:
        yield made
    finally:
        made.stop()


async def write(server: Server, value: str) -> None:
    """Store one value, with the credentials that a supervisor would use."""
    if isinstance(server, Postgres):
        connection = await server.connect()
        await connection.execute("CREATE TABLE kept (value text)")
        await connection.execute("INSERT INTO kept VALUES ($1)", value)
        await connection.close()
    elif isinstance(server, Mongo):
        async with server.client() as client:
            await client["holdfast"]["kept"].insert_one({"value": value})
    elif isinstance(server, Valkey):
        cache = server.client()
        await cache.set("gwcache:kept", value)
        await cache.aclose()


async def read(server: Server) -> str:
    """Read the value that `write` stored."""
    if isinstance(server, Postgres):
        connection = await server.connect()
        found = await connection.fetchval("SELECT value FROM kept")
        await connection.close()
        return str(found)
    if isinstance(server, Mongo):
        async with server.client() as client:
            document = await client["holdfast"]["kept"].find_one({})
            return str(document and document["value"])
    assert isinstance(server, Valkey)
    cache = server.client(decode_responses=True)
    found = await cache.get("gwcache:kept")
    await cache.aclose()
    return str(found)


def test_data_and_port_survive_a_crash(server: Server) -> None:
    """After kill -9 and a new start, the server answers on the same port and still has its data."""
    asyncio.run(write(server, "before"))
    port = server.port
    server.kill()
    server.start()
    assert server.port == port
    assert asyncio.run(read(server)) == "before"


def test_a_new_object_finds_the_data_and_the_port(server: Server) -> None:
    """A second start, by another process of the same home, uses the same port, secrets and data."""
    asyncio.run(write(server, "kept"))
    server.stop()
    again = type(server)(server.home)
    with again:
        assert again.env() == server.env()
        assert asyncio.run(read(again)) == "kept"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_taken_port_is_replaced(kind: type[Server], tmp_path: Path) -> None:
    """When another process has taken the remembered port, the server starts on a new one."""
    first = kind(tmp_path)
    first.start()
    first.stop()
    with _Closing(("127.0.0.1", first.port), socketserver.BaseRequestHandler) as taken:
        threading.Thread(target=taken.serve_forever, daemon=True).start()
        with kind(tmp_path) as second:
            assert second.port != first.port
            assert asyncio.run(second.ready())
        taken.shutdown()


class _Closing(socketserver.TCPServer):
    """Somebody else's server, which closes every connection at once."""

    allow_reuse_address = True


async def log_in(server: Server, password: str | None) -> None:
    """Use a server with that password, or without any."""
    if isinstance(server, Postgres):
        await asyncpg.connect(
            host="127.0.0.1",
            port=server.port,
            user="holdfast",
            password=password or "",
            database="holdfast",
        )
    elif isinstance(server, Mongo):
        async with server.client("holdfast" if password else None, password) as client:
            await client["holdfast"]["kept"].find_one({})
    elif isinstance(server, Valkey):
        user = "supervisor" if password else None
        once = Retry(NoBackoff(), 0)
        cache = Redis(port=server.port, username=user, password=password, retry=once)
        try:
            await cache.get("gwcache:kept")
        finally:
            await cache.aclose()


@pytest.mark.parametrize("password", [None, "wrong"])
def test_wrong_or_missing_credentials_are_refused(running: Server, password: str | None) -> None:
    """No server answers without a password, or with a wrong one."""
    with pytest.raises(Exception, match=r"(?i)auth|password|invalid username"):
        asyncio.run(log_in(running, password))


def test_no_secret_is_on_any_command_line(running: Server) -> None:
    """The command lines of a server and of its children show none of the generated secrets."""
    secrets = [file.read_text() for file in (running.home / "secrets").iterdir()]
    assert secrets
    assert running.pid is not None
    process = psutil.Process(running.pid)
    for each in [process, *process.children(recursive=True)]:
        line = " ".join(each.cmdline())
        assert not any(secret in line for secret in secrets)
        variables = " ".join(each.environ().values())
        assert not any(secret in variables for secret in secrets)


def test_secrets_are_private_files_and_env_names_them(running: Server) -> None:
    """Secrets are files of mode 0600 in a folder of mode 0700; the settings hold their names only."""
    folder = running.home / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert not any(file.read_text() in value for value in running.env().values())
    named = {Path(v) for k, v in running.env().items() if k.endswith("_FILE")}
    assert named
    assert all(file.parent == folder and file.exists() for file in named)


def test_only_loopback_listens(running: Server) -> None:
    """A server listens on 127.0.0.1 and its port, on no other address, and on no Unix socket."""
    assert running.pid is not None
    process = psutil.Process(running.pid)
    listening = {c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert {(a.ip, a.port) for a in listening} == {("127.0.0.1", running.port)}
    assert not [c for c in process.net_connections("unix") if c.laddr]


def test_a_server_dies_with_the_process_that_started_it(server: Server) -> None:
    """When the starting process is killed with SIGKILL, the server ends too, and leaves its data usable."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the kernel offers this on Linux only")
    server.stop()
    script = (
        "import sys, pathlib; from holdfast import embedded as servers;"
        "s = getattr(servers, sys.argv[1])(pathlib.Path(sys.argv[2])); s.start();"
        "print(s.pid, flush=True); input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, type(server).__name__, str(server.home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.communicate()
    gone([pid])
    server.start()
    assert asyncio.run(server.ready())


def test_a_stopped_server_leaves_no_process(server: Server) -> None:
    """After stop, neither the server nor any of its children is left."""
    assert server.pid is not None
    process = psutil.Process(server.pid)
    family = [process.pid, *(child.pid for child in process.children(recursive=True))]
    server.stop()
    gone(family)
    assert server.pid is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_killed_first_start_leaves_nothing_half_done(kind: type[Server], tmp_path: Path) -> None:
    """A first start that is killed at any moment is followed by one that works."""
    script = (
        "import sys, pathlib; from holdfast import embedded as servers;"
        "print('go', flush=True);"
        "getattr(servers, sys.argv[1])(pathlib.Path(sys.argv[2])).start()"
    )
    for delay in (0.05, 0.3, 0.6):
        parent = subprocess.Popen(
            [sys.executable, "-c", script, kind.__name__, str(tmp_path)],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert parent.stdout is not None
        parent.stdout.readline()
        # Not a wait for a condition: the point is to kill at moments that nothing announces.
        with contextlib.suppress(subprocess.TimeoutExpired):
            parent.wait(delay)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()
    with kind(tmp_path) as server:
        assert asyncio.run(server.ready())
        assert not list(tmp_path.glob("*.new-*"))


def test_a_stale_lock_of_postgres_does_not_stop_it(tmp_path: Path) -> None:
    """After a crash, a lock file that names a living process of another kind is not obeyed."""
    with Postgres(tmp_path) as server:
        lock = (server.data / "postmaster.pid").read_text().splitlines()
    lock[0] = str(os.getpid())
    (server.data / "postmaster.pid").write_text("\n".join(lock))
    with Postgres(tmp_path) as server:
        assert asyncio.run(server.ready())


def test_a_failed_start_shows_the_log(tmp_path: Path) -> None:
    """A server that cannot start says where its log is and shows the end of it."""
    server = Postgres(tmp_path)
    server.prepare()
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(LocalError, match=r"(?s)postgres ended while starting; see .*initialized"):
        server.start()
    assert server.pid is None


def test_start_works_inside_a_running_loop_and_outlives_it(tmp_path: Path) -> None:
    """A server started within asyncio, or by a thread that ends, lives until it is stopped."""

    async def begin() -> Valkey:
        return await asyncio.to_thread(Valkey(tmp_path).start)

    server = asyncio.run(begin())
    try:
        assert server.pid is not None
        assert asyncio.run(server.ready())
    finally:
        server.stop()


Use = Callable[[Any], Awaitable[Any]]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey that holds an entry and a lease."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as running:
        as_user(running, "supervisor", lambda client: client.set("gwcache:/a", "1", ex=600))
        as_user(running, "supervisor", lambda client: client.set("holdfast:lease", "1"))
        yield running


def as_user(valkey: Valkey, user: str, use: Use) -> Any:
    """What one use of a client of that user returns."""

    async def run() -> Any:
        async with valkey.client(user) as client:
            return await use(client)

    return asyncio.run(run())


READS: dict[str, tuple[Use, Any]] = {
    "get": (lambda client: client.get("gwcache:/a"), b"1"),
    "mget": (lambda client: client.mget(["gwcache:/a"]), [b"1"]),
}
FORBIDDEN_TO_THE_GATEWAY: dict[str, Use] = {
    "set": lambda client: client.set("gwcache:/a", "2"),
    "delete": lambda client: client.delete("gwcache:/a"),
    "expire": lambda client: client.expire("gwcache:/a", 1),
    "lease": lambda client: client.get("holdfast:lease"),
    "eval": lambda client: client.eval("return redis.call('get', KEYS[1])", 1, "gwcache:/a"),
    "keys": lambda client: client.keys("*"),
    "flushall": lambda client: client.flushall(),
    "config": lambda client: client.config_get("*"),
}
FORBIDDEN_TO_CELERY: dict[str, Use] = {
    "get-entry": lambda client: client.get("gwcache:/a"),
    "set-entry": lambda client: client.set("gwcache:/a", "x"),
    "get-lease": lambda client: client.get("holdfast:lease"),
    "set-lease": lambda client: client.set("holdfast:lease", "x"),
}
FORBIDDEN_TO_THE_SUPERVISOR: dict[str, Use] = {
    "flushall": lambda client: client.flushall(),
    "config": lambda client: client.config_get(),
    "keys": lambda client: client.keys("*"),
    "set-elsewhere": lambda client: client.set("elsewhere", "1"),
}


@pytest.mark.parametrize("read", READS)
def test_the_gateways_user_reads_the_cache(valkey: Valkey, read: str) -> None:
    """The gateway's user reads entries."""
    use, expected = READS[read]
    assert as_user(valkey, "gateway", use) == expected


def test_the_gateways_user_sees_how_long_an_entry_lives(valkey: Valkey) -> None:
    """The gateway's user reads the time to live of an entry."""
    assert as_user(valkey, "gateway", lambda client: client.pttl("gwcache:/a")) > 0


@pytest.mark.parametrize("attempt", FORBIDDEN_TO_THE_GATEWAY)
def test_the_gateways_user_may_only_read_the_cache(valkey: Valkey, attempt: str) -> None:
    """The gateway's user can neither write the cache nor look elsewhere."""
    with pytest.raises(NoPermissionError):
        as_user(valkey, "gateway", FORBIDDEN_TO_THE_GATEWAY[attempt])


@pytest.mark.parametrize("attempt", FORBIDDEN_TO_CELERY)
def test_the_brokers_user_cannot_reach_the_cache(valkey: Valkey, attempt: str) -> None:
    """Celery's user, in any database, neither reads nor writes the cache and the supervisor's keys."""
    with pytest.raises(NoPermissionError):
        as_user(valkey, "celery", FORBIDDEN_TO_CELERY[attempt])


def test_the_supervisors_user_scans(valkey: Valkey) -> None:
    """The supervisor's user goes through the keys of the cache."""

    async def scan(client: Redis) -> list[bytes]:
        return [key async for key in client.scan_iter("gwcache:*")]

    assert as_user(valkey, "supervisor", scan) == [b"gwcache:/a"]


def test_the_supervisors_user_runs_scripts(valkey: Valkey) -> None:
    """The supervisor's user runs a script on a key of the cache."""
    script = "return redis.call('get', KEYS[1])"
    assert as_user(valkey, "supervisor", lambda client: client.eval(script, 1, "gwcache:/a")) == b"1"


@pytest.mark.parametrize("attempt", FORBIDDEN_TO_THE_SUPERVISOR)
def test_the_supervisors_user_has_no_dangerous_command(valkey: Valkey, attempt: str) -> None:
    """The supervisor's user cannot flush, reconfigure, list all keys or write outside of its own."""
    with pytest.raises(NoPermissionError):
        as_user(valkey, "supervisor", FORBIDDEN_TO_THE_SUPERVISOR[attempt])


def test_mongo_offers_change_streams_to_the_user_and_one_database(tmp_path: Path) -> None:
    """The user `holdfast` watches its database and its collections, and cannot use another one."""

    async def scenario(server: Mongo) -> None:
        async with server.client() as client:
            database = client["holdfast"]
            async with await database.watch() as all_, await database["kept"].watch() as one:
                await database["kept"].insert_one({"value": "seen"})
                changes = [await asyncio.wait_for(stream.next(), 10) for stream in (all_, one)]
                assert [change["fullDocument"]["value"] for change in changes] == ["seen", "seen"]
            with pytest.raises(OperationFailure, match="not authorized"):
                await client["another"]["kept"].insert_one({})

    with Mongo(tmp_path) as server:
        asyncio.run(scenario(server))


def test_two_homes_run_side_by_side(tmp_path: Path) -> None:
    """Two homes have servers, ports and passwords of their own."""
    with Valkey(tmp_path / "one") as one, Valkey(tmp_path / "two") as two:
        assert one.port != two.port
        assert one.password_file().read_text() != two.password_file().read_text()
        asyncio.run(write(one, "one"))
        assert asyncio.run(read(two)) == "None"
