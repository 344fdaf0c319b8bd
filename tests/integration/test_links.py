"""One contract for the three links, on real servers that are killed, stopped and brought back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, cast

import psutil
import pytest
from beanie import Document
from sqlalchemy import func, select
from tests.conftest import eventually, free_port
from tests.integration.processes import Background, took

from holdfast.backoff import Schedule
from holdfast.embedded import Mongo, Postgres, Server, Valkey
from holdfast.embedded.mongo import ADMIN
from holdfast.errors import AuthenticationFailed, HoldfastError, LinkDown, PoolExhausted
from holdfast.links.link import Link, LinkState, Phase, PoolStatus
from holdfast.links.mongo import MongoAdapter
from holdfast.links.postgres import PostgresAdapter
from holdfast.links.redis import RedisAdapter, translated
from holdfast.settings import MongoSettings, PostgresSettings, RedisSettings

APPLICATION = "holdfast-supervisor"


class Sleeper(Document):
    """A document that a slow pipeline can be run over."""

    class Settings:
        name = "link_sleepers"


async def _slow_postgres(adapter: PostgresAdapter, seconds: float) -> None:
    await adapter.select(select(func.pg_sleep(seconds)))


async def _slow_mongo(adapter: MongoAdapter, seconds: float) -> None:
    # In small steps, between which MongoDB sees whether its client is still there.
    body = "function(ms) { const end = Date.now() + ms; while (Date.now() < end) sleep(5); return true }"
    wait = {"body": body, "args": [seconds * 1000], "lang": "js"}
    await adapter.aggregate(Sleeper, [{"$match": {"$expr": {"$function": wait}}}], seconds=30)


async def _slow_redis(adapter: RedisAdapter, seconds: float) -> None:
    with translated():
        await cast("Awaitable[Any]", adapter.client.blpop(["holdfast:nothing"], timeout=seconds))


async def _seen_by_postgres(server: Server) -> int:
    connection = await cast("Postgres", server).connect()
    try:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
        return int(await connection.fetchval(query, APPLICATION))
    finally:
        await connection.close()


async def _seen_by_mongo(server: Server) -> int:
    # A connection that runs nothing shows up here too, once it said hello; monitors name no effective user.
    stage = {"$currentOp": {"allUsers": True, "idleConnections": True}}
    async with cast("Mongo", server).client(ADMIN) as admin:
        operations = await (await admin.admin.aggregate([stage])).to_list()
    return sum(1 for o in operations if o.get("appName") == APPLICATION and o.get("effectiveUsers"))


async def _seen_by_redis(server: Server) -> int:
    # The users of the ACL may not ask for the client list, so the kernel is asked.
    port = cast("Valkey", server).port
    return sum(1 for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port == port)


@dataclass(frozen=True)
class Kind:
    """What a test has to know of one of the three."""

    name: str
    server: type[Server]
    address: Callable[[int], dict[str, str]]
    """The settings that name another port."""
    password: str
    adapter: Callable[[], Any]
    slow: Callable[[Any, float], Awaitable[None]]
    seen: Callable[[Server], Awaitable[int]]
    few: int
    """How many queries can run at once, with the settings of `settings`."""
    wait: float
    """Seconds that a use may wait for a connection, with the same settings."""
    settings: dict[str, str] = field(default_factory=dict)


KINDS = [
    Kind(
        name="postgres",
        server=Postgres,
        address=lambda port: {"POSTGRES_PORT": str(port)},
        password="POSTGRES_PASSWORD_FILE",
        adapter=lambda: PostgresAdapter(PostgresSettings.load),
        slow=_slow_postgres,
        seen=_seen_by_postgres,
        few=3,
        wait=1.0,
        settings={"PG_POOL_MAX": "4", "PG_CONN_TIMEOUT": "1000"},
    ),
    Kind(
        name="mongo",
        server=Mongo,
        address=lambda port: {"MONGO_URL": f"mongodb://127.0.0.1:{port}/?directConnection=true"},
        password="MONGO_PASSWORD_FILE",
        adapter=lambda: MongoAdapter(MongoSettings.load, [Sleeper]),
        slow=_slow_mongo,
        seen=_seen_by_mongo,
        few=3,
        wait=2.0,
        settings={"MONGO_MAX_POOL": "4", "MONGO_MIN_POOL": "0"},
    ),
    Kind(
        name="redis",
        server=Valkey,
        address=lambda port: {"REDIS_URL": f"redis://127.0.0.1:{port}/0"},
        password="REDIS_PASSWORD_FILE",
        adapter=lambda: RedisAdapter(RedisSettings.load, max_connections=4),
        slow=_slow_redis,
        seen=_seen_by_redis,
        few=3,
        wait=1.0,
    ),
]


class Fixture:
    """A link that runs, with all that its state has ever been."""

    def __init__(self, kind: Kind, background: Background) -> None:
        self.kind = kind
        self.background = background
        self.phases: list[Phase] = []
        self.adapter = kind.adapter()
        # A supervisor's begin at one second; here nothing is learnt from waiting for it.
        self.link = Link(self.adapter, Schedule(base=0.3, cap=10), on_change=self._note)

    def _note(self, _: str, state: LinkState) -> None:
        self.phases.append(state.phase)

    @contextmanager
    def running(self) -> Iterator[Fixture]:
        """Let the link live."""
        life = self.background.start(self.link.run())
        try:
            yield self
            assert not life.done(), f"the link ended: {life.exception()!r}"
        finally:
            life.cancel()
            eventually("the link's connections to be closed", lambda: self.adapter.pool().size == 0)

    def come_up(self, within: float = 15.0) -> None:
        """Wait until it is up."""
        eventually(f"{self.link!r} to be up", lambda: self.link.up, within=within, every=0.01)

    async def use(self, seconds: float) -> None:
        """Pass through the link for a query that takes so long."""
        async with self.link.use():
            await self.kind.slow(self.adapter, seconds)

    def start(self, seconds: float) -> Future[None]:
        """Begin such a query."""
        return self.background.start(self.use(seconds))

    def fill(self, seconds: float) -> list[Future[None]]:
        """Begin as many such queries as can run at once, on connections that are there already."""
        for query in [self.start(0.1) for _ in range(self.kind.few)]:
            query.result(10)
        queries = [self.start(seconds) for _ in range(self.kind.few)]
        eventually("a full pool", lambda: self.pool().in_use == self.kind.few, every=0.005)
        return queries

    def pool(self) -> PoolStatus:
        """What the link's pool says of itself."""
        return self.adapter.pool()

    def run(self, seconds: float = 0.01) -> None:
        """Do such a query."""
        self.background.run(self.use(seconds))

    def seen(self, server: Server) -> int:
        """How many of our connections the server has."""
        return self.background.run(cast("Any", self.kind.seen(server)))


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the three in turn."""
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Servers that these tests may kill, by their kind."""
    home = tmp_path_factory.mktemp("links")
    made = {kind.name: kind.server(home) for kind in KINDS}
    try:
        for server in made.values():
            server.start()
        asyncio.run(_insert(cast("Mongo", made["mongo"])))
        yield made
    finally:
        for server in made.values():
            _continue(server)
            server.kill()


async def _insert(server: Mongo) -> None:
    async with server.client() as client:
        await client["holdfast"]["link_sleepers"].insert_one({})


def _family(server: Server) -> list[int]:
    pid = cast("int", server.pid)
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def _stop(server: Server) -> None:
    for pid in _family(server):
        os.kill(pid, signal.SIGSTOP)


def _continue(server: Server) -> None:
    for pid in _family(server) if server.pid is not None else []:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def server(kind: Kind, servers: dict[str, Server]) -> Server:
    """A server of that kind, running again if the last test has killed it."""
    return servers[kind.name].start()


@pytest.fixture
def background() -> Iterator[Background]:
    """The loop that the link lives in."""
    with Background() as running:
        yield running


@pytest.fixture
def link(
    kind: Kind, server: Server, background: Background, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fixture]:
    """A link to that server, up."""
    for name, value in {**server.env(), **kind.settings}.items():
        monkeypatch.setenv(name, value)
    with Fixture(kind, background).running() as running:
        running.come_up()
        yield running


@pytest.fixture
def links(
    servers: dict[str, Server], background: Background, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Fixture]]:
    """All three links, up: for what takes long, and so is looked at in the three at the same time."""
    for kind in KINDS:
        for name, value in {**servers[kind.name].start().env(), **kind.settings}.items():
            monkeypatch.setenv(name, value)
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(Fixture(kind, background).running()) for kind in KINDS]
        for link in running:
            link.come_up()
        yield running


def test_it_is_up_only_after_a_real_query(
    kind: Kind, server: Server, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts connections but answers no query is never called up; one that answers is."""
    with _silence() as port:
        for name, value in {**server.env(), **kind.settings, **kind.address(port)}.items():
            monkeypatch.setenv(name, value)
        with Fixture(kind, background).running() as made:
            eventually("a failed attempt", lambda: made.link.state.failures)
            assert Phase.UP not in made.phases
            for name, value in {**server.env(), **kind.settings}.items():
                monkeypatch.setenv(name, value)
            made.come_up()
            made.run()
            assert made.link.state.generation == 1


@contextmanager
def _silence() -> Iterator[int]:
    """A port where connections are accepted and nothing is ever said."""
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    accepted.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in accepted:
                connection.close()


def test_it_lives_without_a_server(
    kind: Kind, server: Server, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing at its address a link goes on trying, and says when it tries next."""
    for name, value in {**server.env(), **kind.settings, **kind.address(free_port())}.items():
        monkeypatch.setenv(name, value)
    with Fixture(kind, background).running() as made:
        eventually("two failed attempts", lambda: made.link.state.failures >= 2)
        state = eventually("a time of the next attempt", lambda: _waiting(made.link))
        assert state.phase is Phase.BACKING_OFF
        assert 0 < cast("float", state.next_retry_at) - time.time() <= 10
        assert state.last_error


def _waiting(link: Link) -> LinkState | None:
    state = link.state
    return state if state.next_retry_at is not None and state.next_retry_at > time.time() else None


def test_a_killed_server_is_seen_and_used_again(link: Fixture, server: Server) -> None:
    """After kill -9 what is under way fails within 1 s, and the link is up for 3 s at the most; from then on
    use() fails within 50 ms, with a time to come back; and once the server is there again, it is used within
    10 s, as the next generation.
    """
    before = link.link.state.generation
    under_way = link.start(20)
    eventually("the query to run", lambda: link.pool().in_use >= 1)
    server.kill()
    killed = time.monotonic()
    with pytest.raises(HoldfastError) as lost:
        under_way.result(1)
    assert lost.value.retryable, f"a query that was under way failed for good: {lost.value!r}"
    eventually("the link to leave up", lambda: not link.link.up, within=3 - took(killed), every=0.01)
    times = []
    for _ in range(11):
        began = time.monotonic()
        with pytest.raises(LinkDown) as refused:
            link.run()
        times.append(took(began))
    assert median(times) < 0.05, times
    assert refused.value.retryable
    assert 0 <= refused.value.details["retry_in"] <= 10
    eventually("a failed attempt", lambda: link.link.state.failures)
    server.start()
    link.come_up(within=10)
    assert link.link.state.generation == before + 1
    assert link.link.state.failures == 0
    link.run()
    pool = link.pool()
    assert link.seen(server) == pool.size <= pool.max
    # This time nobody uses the link, so that the probes alone have to see it.
    server.kill()
    eventually("the link to leave up", lambda: not link.link.up, within=3, every=0.01)


def test_stopped_servers_are_seen(links: list[Fixture], servers: dict[str, Server]) -> None:
    """A server that hangs (SIGSTOP) is not up within 4 s, although its pool is in use; what is under way
    fails, it is tried again, and it is back within 10 s, without leaks.
    """
    under_way = {link.kind.name: link.fill(4) for link in links}
    for server in servers.values():
        _stop(server)
    stopped = time.monotonic()
    try:
        for link in links:
            left = 4 - took(stopped)
            eventually(
                f"{link.link!r} to leave up", lambda link=link: not link.link.up, within=left, every=0.01
            )
        for link in links:
            eventually(f"{link.link!r} to fail again", lambda link=link: link.link.state.failures)
            for query in under_way[link.kind.name]:
                with pytest.raises(HoldfastError) as lost:
                    query.result(2)
                assert lost.value.retryable, repr(lost.value)
    finally:
        for server in servers.values():
            _continue(server)
    continued = time.monotonic()
    for link in links:
        link.come_up(within=10 - took(continued))
        link.run()
        server = servers[link.kind.name]
        eventually(f"{link.link!r} to be all there is", lambda s=server, x=link: x.seen(s) == x.pool().size)
        assert link.pool().size <= link.pool().max


def test_a_corrected_password_is_used_without_a_restart(
    kind: Kind, server: Server, background: Background, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wrong password is told as such; once its file is corrected, the running link comes up."""
    settings = {**server.env(), **kind.settings}
    right = Path(settings[kind.password]).read_text()
    secret = tmp_path / "password"
    secret.write_text("wrong-and-secret")
    for name, value in {**settings, kind.password: str(secret)}.items():
        monkeypatch.setenv(name, value)
    with Fixture(kind, background).running() as made:
        eventually("a refused attempt", lambda: made.link.state.failures)
        with pytest.raises(AuthenticationFailed):
            background.run(made.kind.adapter().open())
        assert "refused the user" in cast("str", made.link.state.last_error)
        assert "wrong-and-secret" not in cast("str", made.link.state.last_error)
        secret.write_text(right)
        made.come_up(within=10)
        made.run()


def test_the_pool_tells_the_truth(link: Fixture, server: Server) -> None:
    """size, in_use and max are what the server sees, and no load takes them above the setting."""
    few = link.kind.few
    queries = [link.start(0.4) for _ in range(few)]
    eventually("all of them to run", lambda: link.pool().in_use == few, every=0.005)
    pool = link.pool()
    assert pool.size <= pool.max == 4
    assert f"in_use={few}" in repr(link.link)
    assert link.seen(server) == pool.size
    for query in queries:
        query.result(10)
    assert link.pool().in_use == 0
    many = [link.start(0.02) for _ in range(15)]
    highest = 0
    while not all(query.done() for query in many):
        highest = max(highest, link.seen(server))
    for query in many:
        query.result(10)
    assert 1 <= highest <= 4
    assert link.seen(server) == link.pool().size


def test_busy_pools_make_callers_wait_and_are_no_dead_servers(links: list[Fixture]) -> None:
    """Beyond the pool, uses wait for their turn; who waits too long gets PoolExhausted, at about the time
    that the setting says; and the link stays up, however long the pool is busy.
    """
    for query in [link.start(0.1) for link in links for _ in range(3 * link.kind.few)]:
        query.result(10)
    until = time.monotonic() + 3.2

    async def again_and_again(link: Fixture) -> None:
        while time.monotonic() < until:
            with contextlib.suppress(PoolExhausted):
                await link.use(0.5)

    busy = [link.background.start(again_and_again(link)) for link in links for _ in range(8 * link.kind.few)]
    told: dict[str, list[tuple[PoolExhausted, float]]] = {link.kind.name: [] for link in links}

    async def ask(link: Fixture) -> None:
        began = time.monotonic()
        try:
            await link.use(0.01)
        except PoolExhausted as error:
            told[link.kind.name].append((error, took(began)))

    for link in links:
        eventually("a full pool", lambda link=link: link.pool().in_use == link.kind.few, every=0.005)
    asking = [link.background.start(ask(link)) for link in links for _ in range(8 * link.kind.few)]
    for work in [*asking, *busy]:
        work.result(15)
    for link in links:
        assert told[link.kind.name], f"{link.link!r}: nobody was told that the pool is exhausted"
        for error, waited in told[link.kind.name]:
            assert error.retryable
            assert waited < link.kind.wait + 0.5
        assert link.link.up
        assert link.link.state.generation == 1, f"{link.link!r} was lost while it was busy"
        link.run()


def test_a_cancelled_query_leaks_no_connection(link: Fixture, server: Server) -> None:
    """Queries cancelled at any moment give their connections back, and the pool keeps its whole size."""
    few = link.kind.few

    async def cancelled(delay: float) -> None:
        query = asyncio.create_task(link.use(0.5))
        await asyncio.sleep(delay)
        query.cancel()
        await asyncio.wait([query])

    async def many() -> None:
        for batch in range(3):
            await asyncio.gather(*(cancelled(n * 0.004 + batch * 0.001) for n in range(8)))

    link.background.run(many())
    eventually("no connection in use", lambda: link.pool().in_use == 0)
    full = [link.start(0.4) for _ in range(few)]
    eventually("the whole pool", lambda: link.pool().in_use == few, every=0.005)
    assert link.pool().size <= link.pool().max
    for query in full:
        query.result(10)
    assert link.link.up
    eventually("the cancelled ones to be gone", lambda: link.seen(server) == link.pool().size)


def test_idle_postgres_connections_are_closed(
    postgres: Postgres, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After PG_POOL_IDLE the server has no connection left but the one of the probes, and more on demand."""
    kind = KINDS[0]
    for name, value in {**postgres.env(), **kind.settings, "PG_POOL_IDLE": "500"}.items():
        monkeypatch.setenv(name, value)
    with Fixture(kind, background).running() as made:
        made.come_up()
        for _ in range(2):
            for query in [made.start(0.1) for _ in range(3)]:
                query.result(10)
            assert made.seen(postgres) == 4
            eventually("the idle ones to be closed", lambda: made.seen(postgres) == 1, within=4)
            assert made.adapter.pool().size == 1


def test_a_connect_that_is_cancelled_leaves_nothing_open(
    postgres: Postgres, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a caller goes while the pool connects for it, the server is left with no connection."""
    for name, value in {**postgres.env(), **KINDS[0].settings}.items():
        monkeypatch.setenv(name, value)

    async def hasty(adapter: PostgresAdapter, seconds: float) -> None:
        query = asyncio.create_task(_slow_postgres(adapter, 0.1))
        await asyncio.sleep(seconds)
        query.cancel()
        await asyncio.wait([query])

    async def many() -> None:
        for step in range(12):
            adapter = PostgresAdapter(PostgresSettings.load)
            await adapter.open()
            await asyncio.gather(*(hasty(adapter, n * 0.004 + step * 0.0003) for n in range(8)))
            await adapter.close()

    def left() -> int:
        return background.run(_seen_by_postgres(postgres))

    # The garbage collector would close in the end what nobody owns any more, at no known time.
    gc.disable()
    try:
        background.run(many())
        eventually("no connection to be left", lambda: left() == 0, within=5)
    finally:
        gc.enable()
