"""The three links while their servers are killed, stopped and brought back."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from statistics import median

import psutil
import pytest
from tests.support.background import Background
from tests.support.links import KINDS, RunningLink, running_link
from tests.support.servers import Servers
from tests.support.stack import Stack
from tests.support.waiting import eventually, took

from holdfast.embedded import Server
from holdfast.errors import HoldfastError, LinkDown


@pytest.fixture(scope="module")
def link_servers() -> Iterator[Servers]:
    """Servers that these tests may kill."""
    with Stack(servers=True) as stack:
        stack.servers.start()
        stack.servers.on_mongo(lambda database: database["link_sleepers"].insert_one({}))
        yield stack.servers


@pytest.fixture
def links(
    link_servers: Servers, background: Background, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[RunningLink]]:
    """All three links, up: for what takes long, and so is looked at in the three at the same time."""
    link_servers.start()
    for kind in KINDS:
        kind.point_at(monkeypatch, kind.of(link_servers))
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(running_link(kind, background)) for kind in KINDS]
        for link in running:
            link.come_up()
        yield running


def test_a_killed_server_is_seen_and_used_again(link: RunningLink, server: Server) -> None:
    """After kill -9 what is under way fails within 1 s, and the link is up for 3 s at most; from then on
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
    link.leave_up(within=3 - took(killed))
    _fails_fast(link)
    link.fail()
    server.start()
    link.come_up(within=10)
    assert link.link.state.generation == before + 1
    assert link.link.state.failures == 0
    link.run()
    pool = link.pool()
    assert link.seen(server) == pool.size <= pool.max
    # This time nobody uses the link, so that the probes alone have to see it.
    server.kill()
    link.leave_up(within=3)


def _fails_fast(link: RunningLink) -> None:
    times = []
    for _ in range(11):
        began = time.monotonic()
        with pytest.raises(LinkDown) as refused:
            link.run()
        times.append(took(began))
        assert refused.value.retryable
        assert 0 <= refused.value.details["retry_in"] <= 10
    assert median(times) < 0.05, times


def test_stopped_servers_are_seen(links: list[RunningLink], link_servers: Servers) -> None:
    """A server that hangs (SIGSTOP) is not up within 4 s, although its pool is in use; what is under way
    fails, it is tried again, and it is back within 10 s, without leaks.
    """
    under_way = [query for link in links for query in link.fill(4)]
    with _stopped(link_servers):
        stopped = time.monotonic()
        for link in links:
            link.leave_up(within=4 - took(stopped))
        for link in links:
            link.fail()
        for query in under_way:
            with pytest.raises(HoldfastError) as lost:
                query.result(2)
            assert lost.value.retryable, repr(lost.value)
    continued = time.monotonic()
    for link in links:
        link.come_up(within=10 - took(continued))
        link.run()
    for link in links:
        _is_all_there_is(link, link.kind.of(link_servers))


@contextlib.contextmanager
def _stopped(servers: Servers) -> Iterator[None]:
    """The servers hang as long as the body runs."""
    pids = [pid for server in servers.every for pid in _family(server)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _family(server: Server) -> list[int]:
    assert server.pid is not None
    return [server.pid, *(child.pid for child in psutil.Process(server.pid).children(recursive=True))]


def _is_all_there_is(link: RunningLink, server: Server) -> None:
    eventually(f"{link} to be all there is", lambda: link.seen(server) == link.pool().size)
    assert link.pool().size <= link.pool().max
