"""A link under test: what the three kinds have in common, and what a test has to know of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import psutil
import pytest
from beanie import Document
from sqlalchemy import func, select
from tests.support.background import Background
from tests.support.servers import Servers
from tests.support.waiting import eventually

from holdfast.backoff import Backoff
from holdfast.embedded import Mongo, Postgres, Server, Valkey
from holdfast.embedded.mongo import ADMIN
from holdfast.links.adapter import PoolStatus
from holdfast.links.link import Link
from holdfast.links.mongo import MongoAdapter
from holdfast.links.postgres import PostgresAdapter
from holdfast.links.redis import RedisAdapter, translated
from holdfast.links.state import LinkState, Phase
from holdfast.settings import MongoSettings, PostgresSettings, RedisSettings

APPLICATION = "holdfast-supervisor"


class Sleeper(Document):
    """A document that a slow pipeline can be run over."""

    class Settings:
        """The collection."""

        name = "link_sleepers"


async def slow_postgres(adapter: PostgresAdapter, seconds: float) -> None:
    """A query that takes so long."""
    await adapter.select(select(func.pg_sleep(seconds)))


async def _slow_mongo(adapter: MongoAdapter, seconds: float) -> None:
    # In small steps, between which MongoDB sees whether its client is still there.
    body = "function(ms) { const end = Date.now() + ms; while (Date.now() < end) sleep(5); return true }"
    wait = {"body": body, "args": [seconds * 1000], "lang": "js"}
    await adapter.aggregate(Sleeper, [{"$match": {"$expr": {"$function": wait}}}], seconds=30)


async def _slow_redis(adapter: RedisAdapter, seconds: float) -> None:
    with translated():
        await cast("Awaitable[Any]", adapter.client.blpop(["holdfast:nothing"], timeout=seconds))


async def seen_by_postgres(server: Server) -> int:
    """How many of our connections Postgres has."""
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
    seen: Callable[[Server], Coroutine[Any, Any, int]]
    few: int
    """How many queries can run at once, with the settings of `settings`."""
    wait: float
    """Seconds that a use may wait for a connection, with the same settings."""
    settings: dict[str, str] = field(default_factory=dict)

    def of(self, servers: Servers) -> Server:
        """The server of this kind."""
        (server,) = (server for server in servers.every if isinstance(server, self.server))
        return server

    def point_at(self, environment: pytest.MonkeyPatch, server: Server, **others: str) -> None:
        """Set the settings of a link to that server, with some others in their place."""
        for name, value in {**server.env(), **self.settings, **others}.items():
            environment.setenv(name, value)


POSTGRES = Kind(
    name="postgres",
    server=Postgres,
    address=lambda port: {"POSTGRES_PORT": str(port)},
    password="POSTGRES_PASSWORD_FILE",
    adapter=lambda: PostgresAdapter(PostgresSettings.load),
    slow=slow_postgres,
    seen=seen_by_postgres,
    few=3,
    wait=1.0,
    settings={"PG_POOL_MAX": "4", "PG_CONN_TIMEOUT": "1000"},
)
MONGO = Kind(
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
)
REDIS = Kind(
    name="redis",
    server=Valkey,
    address=lambda port: {"REDIS_URL": f"redis://127.0.0.1:{port}/0"},
    password="REDIS_PASSWORD_FILE",
    adapter=lambda: RedisAdapter(RedisSettings.load, max_connections=4),
    slow=_slow_redis,
    seen=_seen_by_redis,
    few=3,
    wait=1.0,
)
KINDS = (POSTGRES, MONGO, REDIS)


class RunningLink:
    """A link that runs, with every phase it has ever been in."""

    def __init__(self, kind: Kind, background: Background) -> None:
        self.kind = kind
        self.background = background
        self.phases: list[Phase] = []
        # A supervisor's begins at one second; nothing would be learnt from waiting for it.
        self.link: Link[Any] = Link(kind.adapter(), Backoff(base=0.3, cap=10), on_change=self._note)

    def __repr__(self) -> str:
        return repr(self.link)

    def _note(self, _: str, state: LinkState) -> None:
        self.phases.append(state.phase)

    def come_up(self, within: float = 15.0) -> None:
        """Wait until it is up."""
        eventually(f"{self} to be up", lambda: self.link.up, within=within, every=0.01)

    def leave_up(self, within: float) -> None:
        """Wait until it is not up."""
        eventually(f"{self} to leave up", lambda: not self.link.up, within=within, every=0.01)

    def fail(self, times: int = 1) -> None:
        """Wait until so many attempts to open it have failed."""
        eventually(f"{times} failed attempts of {self}", lambda: self.link.state.failures >= times)

    async def use(self, seconds: float) -> None:
        """Pass through the link for a query that takes so long."""
        async with self.link.use() as adapter:
            await self.kind.slow(adapter, seconds)

    def start(self, seconds: float) -> Future[None]:
        """Begin such a query."""
        return self.background.start(self.use(seconds))

    def run(self, seconds: float = 0.01) -> None:
        """Do such a query."""
        self.background.run(self.use(seconds))

    def run_many(self, count: int, seconds: float) -> None:
        """Do so many of such queries at the same time."""
        for query in [self.start(seconds) for _ in range(count)]:
            query.result(15)

    def fill(self, seconds: float) -> list[Future[None]]:
        """Begin as many such queries as can run at once, on connections that are there already."""
        self.run_many(self.kind.few, 0.1)
        queries = [self.start(seconds) for _ in range(self.kind.few)]
        self.be_full()
        return queries

    def be_full(self) -> None:
        """Wait until as many queries run as can run at once."""
        eventually(f"a full pool of {self}", lambda: self.pool().in_use == self.kind.few, every=0.005)

    def pool(self) -> PoolStatus:
        """What the link's pool says of itself."""
        status: PoolStatus = self.link.adapter.pool()
        return status

    def seen(self, server: Server) -> int:
        """How many of our connections the server has."""
        return self.background.run(self.kind.seen(server))


@contextmanager
def running_link(kind: Kind, background: Background) -> Iterator[RunningLink]:
    """A link of that kind, by the settings in the environment; it has to live until the end."""
    running = RunningLink(kind, background)
    life = background.start(running.link.run())
    try:
        yield running
        assert not life.done(), f"the link ended: {life.exception()!r}"
    finally:
        life.cancel()
        eventually("the link's connections to be closed", lambda: running.pool().size == 0)
