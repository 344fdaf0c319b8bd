"""One contract for the three links: when they are up, what they tell, and how they share their pool."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.background import Background
from tests.support.links import (
    POSTGRES,
    Kind,
    RunningLink,
    running_link,
    seen_by_postgres,
    slow_postgres,
)
from tests.support.servers import Servers
from tests.support.waiting import eventually, took

from holdfast.embedded import Postgres, Server
from holdfast.errors import AuthenticationFailed, PoolExhausted
from holdfast.links.postgres import PostgresAdapter
from holdfast.links.state import LinkState, Phase
from holdfast.processes.ports import pick_port
from holdfast.settings import PostgresSettings


@pytest.fixture(scope="module", autouse=True)
def _sleeper(link_servers: Servers) -> None:
    link_servers.on_mongo(lambda database: database["link_sleepers"].insert_one({}))


def test_it_is_up_only_after_a_real_query(
    kind: Kind, server: Server, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts connections but answers no query is never called up; one that answers is."""
    with _silence() as port:
        kind.point_at(monkeypatch, server, **kind.address(port))
        with running_link(kind, background) as running:
            running.fail()
            assert Phase.UP not in running.phases
            kind.point_at(monkeypatch, server)
            running.come_up()
            running.run()
            assert running.link.state.generation == 1


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
    kind.point_at(monkeypatch, server, **kind.address(pick_port()))
    with running_link(kind, background) as running:
        running.fail(times=2)
        state = eventually("a time of the next attempt", lambda: _waiting(running))
        assert state.phase is Phase.BACKING_OFF
        assert state.next_retry_at is not None
        assert state.next_retry_at - state.since <= 10
        assert state.last_error


def _waiting(running: RunningLink) -> LinkState | None:
    state = running.link.state
    return state if state.next_retry_at is not None and state.next_retry_at > time.time() else None


def test_a_corrected_password_is_used_without_a_restart(
    kind: Kind, server: Server, background: Background, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wrong password is reported as such; once its file is corrected, the running link comes up."""
    right = Path(server.env()[kind.password]).read_text()
    secret = tmp_path / "password"
    secret.write_text("wrong-and-secret")
    kind.point_at(monkeypatch, server, **{kind.password: str(secret)})
    with running_link(kind, background) as running:
        running.fail()
        with pytest.raises(AuthenticationFailed):
            background.run(kind.adapter().open())
        error = running.link.state.last_error
        assert error is not None
        assert "refused the user" in error
        assert "wrong-and-secret" not in error
        secret.write_text(right)
        running.come_up(within=10)
        running.run()


def test_the_pool_tells_the_truth(link: RunningLink, server: Server) -> None:
    """size, in_use and max are what the server sees, and no load takes them above the setting."""
    queries = link.fill(0.4)
    pool = link.pool()
    assert pool.size <= pool.max == 4
    assert f"in_use={link.kind.few}" in repr(link.link)
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
    assert highest <= 4
    assert link.seen(server) == link.pool().size


def test_a_busy_pool_makes_callers_wait_and_is_no_dead_server(link: RunningLink) -> None:
    """Beyond the pool, uses wait for their turn; who waits too long gets PoolExhausted, and not before the
    time that the setting says; and the link stays up, however long the pool is busy.
    """
    link.run_many(3 * link.kind.few, 0.1)
    until = time.monotonic() + link.kind.wait + 0.5

    async def again_and_again() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(PoolExhausted):
                await link.use(0.5)

    exhausted: list[tuple[PoolExhausted, float]] = []

    async def ask() -> None:
        began = time.monotonic()
        try:
            await link.use(0.01)
        except PoolExhausted as error:
            exhausted.append((error, took(began)))

    busy = [link.background.start(again_and_again()) for _ in range(8 * link.kind.few)]
    link.be_full()
    asking = [link.background.start(ask()) for _ in range(8 * link.kind.few)]
    for work in [*asking, *busy]:
        work.result(20)
    assert exhausted, "every caller got a connection"
    assert all(error.retryable for error, _ in exhausted)
    # The clock of the pool and this one may differ by a tick.
    assert min(waited for _, waited in exhausted) > link.kind.wait - 0.1
    assert max(waited for _, waited in exhausted) < link.kind.wait + 3
    assert link.link.up
    assert link.link.state.generation == 1, "the link was lost while it was busy"
    link.run()


def test_a_cancelled_query_leaks_no_connection(link: RunningLink, server: Server) -> None:
    """Queries cancelled at any moment give their connections back, and the pool keeps its size."""

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
    queries = [link.start(0.4) for _ in range(link.kind.few)]
    link.be_full()
    assert link.pool().size <= link.pool().max
    for query in queries:
        query.result(10)
    assert link.link.up
    eventually("the cancelled ones to be gone", lambda: link.seen(server) == link.pool().size)


def test_idle_postgres_connections_are_closed(
    postgres: Postgres, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After PG_POOL_IDLE the server has no connection left but the one of the probes, and more on demand."""
    POSTGRES.point_at(monkeypatch, postgres, PG_POOL_IDLE="500")
    with running_link(POSTGRES, background) as running:
        running.come_up()
        for _ in range(2):
            running.run_many(3, 0.1)
            assert running.seen(postgres) == 4
            eventually("the idle ones to be closed", lambda: running.seen(postgres) == 1)
            assert running.pool().size == 1


def test_a_connect_that_is_cancelled_leaves_nothing_open(
    postgres: Postgres, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a caller goes while the pool connects for it, the server is left with no connection."""
    POSTGRES.point_at(monkeypatch, postgres)

    async def hasty(adapter: PostgresAdapter, seconds: float) -> None:
        query = asyncio.create_task(slow_postgres(adapter, 0.1))
        await asyncio.sleep(seconds)
        query.cancel()
        await asyncio.wait([query])

    async def many() -> None:
        for step in range(12):
            adapter = PostgresAdapter(PostgresSettings.load)
            await adapter.open()
            await asyncio.gather(*(hasty(adapter, n * 0.004 + step * 0.0003) for n in range(8)))
            await adapter.close()

    # The garbage collector would close in the end what nobody owns any more, at no known time.
    gc.disable()
    try:
        background.run(many())
        eventually("no connection to be left", lambda: background.run(seen_by_postgres(postgres)) == 0)
    finally:
        gc.enable()
