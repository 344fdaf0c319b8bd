"""What a link knows of an address: the port that it watches between attempts, and URLs that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.conditions import until
from tests.support.link_adapter import Exact, Server

from holdfast.backoff import Backoff
from holdfast.errors import (
    AuthenticationFailed,
    HoldfastError,
    LinkLost,
    SettingsError,
)
from holdfast.links.adapter import host_and_port
from holdfast.links.link import Link
from holdfast.links.mongo import MongoAdapter
from holdfast.links.redis import RedisAdapter
from holdfast.settings import MongoSettings, RedisSettings

Leaping = Callable[[Any], Any]


# The port that is watched between attempts


class Port:
    """A TCP port, as `asyncio.open_connection` finds it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = True
        self.hangs = False
        self.tried: list[tuple[str, int]] = []
        self.closed = 0
        monkeypatch.setattr(asyncio, "open_connection", self.open)

    async def open(self, host: str, port: int) -> tuple[None, Port]:
        """A connection."""
        self.tried.append((host, port))
        if self.hangs:
            await asyncio.Event().wait()
        if not self.answers:
            raise ConnectionRefusedError
        return None, self

    def close(self) -> None:
        """The end of a connection."""
        self.closed += 1


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Port:
    """The port of the server."""
    return Port(monkeypatch)


def attempts(server: Server, number: int, run_leaping: Leaping) -> list[float]:
    """The seconds between the first attempts to open a link to that server."""
    server.address = ("db.example", 5432)
    link = Link(server, Backoff(base=1, cap=10), rng=Exact())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await until(lambda: len(server.opened_at) > number, within=1000, every=0.05)
        task.cancel()

    run_leaping(run())
    return [round(b - a) for a, b in zip(server.opened_at, server.opened_at[1:], strict=False)]


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (LinkLost("starting up"), [1, 2, 3, 3, 3, 3]),
        (AuthenticationFailed("wrong password"), [1, 2, 4, 8, 10, 10]),
    ],
    ids=["starting up", "refused"],
)
def test_while_the_port_answers_no_delay_is_long(
    error: HoldfastError, waits: list[float], port: Port, run_leaping: Leaping
) -> None:
    """A server that starts up is tried every three seconds; one that refuses the password is left alone."""
    server = Server()
    server.refuses = error
    assert attempts(server, len(waits), run_leaping) == waits
    assert set(port.tried) == {("db.example", 5432)}
    assert port.closed == len(port.tried)


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_while_the_port_does_not_answer_the_backoff_holds(how: str, port: Port, run_leaping: Leaping) -> None:
    """A server that is gone, or that takes no connections, is tried by its backoff alone."""
    server = Server()
    server.refuses = LinkLost("gone")
    port.answers, port.hangs = False, how == "hangs"
    took = attempts(server, 6, run_leaping)
    assert took == [pytest.approx(delay, abs=1.1) for delay in (1, 2, 4, 8, 10, 10)]


def test_a_server_that_comes_back_is_tried_within_a_second(port: Port, run_leaping: Leaping) -> None:
    """The longest backoff does not hold up a recovery: the port is looked at every second."""
    server = Server()
    server.address = ("db.example", 5432)
    server.refuses = LinkLost("gone")
    port.answers = False
    link = Link(server, Backoff(base=100, cap=100), rng=Exact())

    async def run() -> None:
        task = asyncio.create_task(link.run())
        await asyncio.sleep(30)
        assert len(server.opened_at) == 1
        assert len(port.tried) == pytest.approx(30, abs=2)
        server.refuses, port.answers = None, True
        await asyncio.wait_for(link.wait_up(), 1.5)
        task.cancel()

    run_leaping(run())


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h:6380/0", ("h", 6380)),
        ("redis://u:p@h", ("h", 99)),
        ("postgresql://[::1]:5433/db", ("::1", 5433)),
        ("mongodb://a:1,b:2/", None),
        ("mongodb://h:x/", None),
        ("", None),
    ],
)
def test_the_address_is_the_one_of_the_url(url: str, address: tuple[str, int] | None) -> None:
    """The port to watch is in the URL, or is the system's usual one; several hosts have none."""
    assert host_and_port(lambda: url, 99) == address


def test_without_a_setting_there_is_no_address() -> None:
    """A URL that cannot be read now is no address, and no error: the attempt itself says what is wrong."""

    def url() -> str:
        raise SettingsError("REDIS_URL: is not set")

    assert host_and_port(url, 99) is None


# URLs that a driver refuses


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://h:99999",
        "mongodb://h/?tls=true&tlsCAFile=canary",
        "mongodb://u:canary@%zz:1:2",
    ],
)
def test_a_mongo_url_that_the_driver_refuses_is_a_named_error(url: str, run_leaping: Leaping) -> None:
    """What only PyMongo finds wrong with MONGO_URL is a link that does not open, and no crash."""
    settings = MongoSettings.model_validate({"MONGO_URL": url})
    with pytest.raises(SettingsError, match=r"^MONGO_URL: ") as caught:
        run_leaping(MongoAdapter(lambda: settings, []).open())
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://h?db=canary", "redis://h?socket_timeout=canary", "redis://h?canary=1"]
)
def test_a_redis_url_that_the_driver_refuses_is_a_named_error(url: str, run_leaping: Leaping) -> None:
    """What only redis-py finds wrong with REDIS_URL is a link that does not open, and no crash."""
    settings = RedisSettings.model_validate({"REDIS_URL": url})
    with pytest.raises(SettingsError, match=r"^REDIS_URL: ") as caught:
        run_leaping(RedisAdapter(lambda: settings).open())
    assert "canary" not in str(caught.value)
