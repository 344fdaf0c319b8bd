"""Stacks and links that several modules here use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis
from tests.support.background import Background
from tests.support.http import TOKENS, Gateway
from tests.support.links import KINDS, Kind, RunningLink, running_link
from tests.support.servers import Servers
from tests.support.stack import Stack

from holdfast.embedded import Mongo, Postgres, Server, Valkey
from holdfast.rpc.client import Client

POOL = 5
"""PG_POOL_MAX of `supervised`."""

# Two gateways, one open and one that wants tokens, on one supervisor and servers of their own.


@pytest.fixture(scope="session")
def gateways() -> Iterator[Stack]:
    """The stack with the two gateways, for all modules; the last test may have left parts of it down."""
    with Stack(servers=True) as stack:
        stack.supervisor(until="")
        stack.gateway("open", GW_AUTH="off", GW_MISS_TIMEOUT="700")
        stack.gateway("closed", **TOKENS)
        yield stack


@pytest.fixture
def stack(gateways: Stack) -> Stack:
    """The same stack, with everything in it running."""
    gateways.mend()
    return gateways


@pytest.fixture
def gateway(stack: Stack) -> Gateway:
    """The gateway that is open to everybody; it waits for a miss for 700 ms."""
    return stack.gateways["open"]


@pytest.fixture
def closed(stack: Stack) -> Gateway:
    """The gateway that wants tokens."""
    return stack.gateways["closed"]


@pytest.fixture
def cache(stack: Stack) -> Redis:
    """A client of the cache behind them."""
    return stack.cache


# A supervisor with a small pool on the session's servers.


@pytest.fixture(scope="module")
def supervised(postgres: Postgres, mongo: Mongo, valkey: Valkey) -> Iterator[Stack]:
    """A supervisor on the session's servers, in a Postgres database that holds the sample's facts."""
    servers = Servers(postgres, mongo, valkey, database="sample_supervisor")
    _create_facts(servers)
    with Stack(servers=servers, PG_POOL_MAX=str(POOL), PG_CONN_TIMEOUT="1500") as stack:
        stack.supervisor()
        yield stack


def _create_facts(servers: Servers) -> None:
    servers.create_database()
    servers.execute(
        "CREATE TABLE IF NOT EXISTS ledger (account text PRIMARY KEY, amount integer NOT NULL);"
        "CREATE SEQUENCE IF NOT EXISTS ledger_sequence;"
        "INSERT INTO ledger VALUES ('north', 10), ('south', 20) ON CONFLICT DO NOTHING"
    )
    servers.on_mongo(lambda database: database["sample_readings"].delete_many({}))
    places = [{"place": "a", "value": 1.0}, {"place": "a", "value": 2.0}]
    servers.on_mongo(lambda database: database["sample_readings"].insert_many(places))


@pytest.fixture
def client(supervised: Stack) -> Client:
    """A client of that supervisor's socket."""
    return supervised.client


# A link to each of the three servers.


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the three in turn."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def background() -> Iterator[Background]:
    """The loop that a link lives in."""
    with Background() as running:
        yield running


@pytest.fixture(scope="module")
def link_servers(postgres: Postgres, mongo: Mongo, valkey: Valkey) -> Servers:
    """The servers that the links lead to: the session's, where the module does not harm them."""
    return Servers(postgres, mongo, valkey)


@pytest.fixture
def server(kind: Kind, link_servers: Servers) -> Server:
    """The server of that kind, running again if the last test has killed it."""
    return kind.of(link_servers).start()


@pytest.fixture
def link(
    kind: Kind, server: Server, background: Background, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningLink]:
    """A link to that server, up."""
    kind.point_at(monkeypatch, server)
    with running_link(kind, background) as running:
        running.come_up()
        yield running
