"""The supervisor process: it owns its tasks, starts while everything is down, and drains on SIGTERM.

Loops: one per link (open, probe every second, start again); the recorder of runs, twice a second; the
catalogue, published whenever Redis comes up and every minute. A loop that dies ends the process: a restart
is better than half a supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn
from starlette.applications import Starlette

from holdfast import logs
from holdfast.backoff import Backoff
from holdfast.cache.clock import StoreClock
from holdfast.errors import HoldfastError, SettingsError
from holdfast.links.link import Link
from holdfast.links.mongo import MongoAdapter
from holdfast.links.postgres import PostgresAdapter
from holdfast.links.redis import RedisAdapter
from holdfast.processes.locks import LockHeld, hold
from holdfast.processes.paths import find_modules_here
from holdfast.processes.ports import bind
from holdfast.reports import Registry, load_reports
from holdfast.reports.broken import warn_of
from holdfast.rpc.dispatch import Dispatcher
from holdfast.rpc.server import SocketServer
from holdfast.settings import (
    CacheSettings,
    MongoSettings,
    PostgresSettings,
    RedisSettings,
    ReportsSettings,
    SupervisorSettings,
)
from holdfast.settings.unknown import warn_of_unknown
from holdfast.supervisor.admin import application
from holdfast.supervisor.backend import SupervisorBackend
from holdfast.supervisor.catalogue import CataloguePublisher
from holdfast.supervisor.metrics import SupervisorMetrics
from holdfast.supervisor.misses import Misses
from holdfast.supervisor.operations import Operations
from holdfast.supervisor.queries import Queries
from holdfast.supervisor.reloading import Reloader
from holdfast.supervisor.runs import Recorder, RunDocument, RunLog, StreamRecorder
from holdfast.supervisor.warming import report_states

if TYPE_CHECKING:
    from beanie import Document

DRAIN_SECONDS = 8.0


class Supervisor:
    """Everything that the process consists of, put together from the settings."""

    def __init__(self) -> None:
        for needed in (PostgresSettings, MongoSettings, RedisSettings):
            # Wrong values are refused now; a database that no setting names is unused.
            needed.load()
        self.settings = SupervisorSettings.load()
        self.metrics = SupervisorMetrics()
        modules = ReportsSettings.load().modules
        registry = load_reports(modules)
        self._registry = registry
        self._make_links(registry)
        queries = Queries(registry, self.postgres, self.mongo, observe=self.metrics.queried)
        self.recorder = self._make_recorder()
        self.backend = SupervisorBackend(self.redis, queries, self.recorder, clock=self.clock.now)
        self.catalogue = CataloguePublisher(registry, self.backend, self.redis)
        ttl = CacheSettings.load().ttl
        self.misses = Misses(self.backend, self.backend.mark_stale, default_ttl=ttl)
        self._report_states = functools.partial(report_states, registry, self.backend)
        self.reloader = Reloader(
            registry, modules, bind=self._bind, publish=self.catalogue.publish, misses=self.misses
        )
        operations = Operations(
            registry=registry,
            queries=queries,
            store=self.backend,
            runs=self.recorder,
            misses=self.misses,
            catalogue=self.catalogue.entry,
            report_states=self._report_states,
            reload=self.reloader.reload,
        )
        self.server = SocketServer(self.settings.path, Dispatcher(operations), self.metrics)
        self._log = structlog.get_logger("supervisor")

    def _make_recorder(self) -> RunLog[Any]:
        if self.mongo.unused:
            return StreamRecorder(self.redis, self.metrics)
        return Recorder(self.mongo, self.metrics)

    def _make_links(self, registry: Registry) -> None:
        note = self.metrics.linked
        postgres = PostgresAdapter(PostgresSettings.load)
        mongo = MongoAdapter(MongoSettings.load, [*registry.documents(), RunDocument])
        self.clock = StoreClock()
        redis = RedisAdapter(
            RedisSettings.load, client_name="holdfast-supervisor", on_time=self.clock.observe
        )
        self.postgres = Link(
            postgres,
            Backoff(base=1, cap=10),
            on_change=note,
            unused=not PostgresSettings.load().configured,
        )
        self.mongo = Link(
            mongo,
            Backoff(base=1, cap=10),
            open_timeout=15,
            on_change=note,
            unused=not MongoSettings.load().configured,
        )
        self.redis = Link(redis, Backoff(base=1, cap=15), on_change=note)
        self.links = (self.postgres, self.mongo, self.redis)

    async def _bind(self, documents: Sequence[type[Document]]) -> None:
        await self.mongo.adapter.bind([*documents, RunDocument])

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then take no more calls, finish those that run, and close."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        listener = bind("SUPERVISOR_PORT", "127.0.0.1", self.settings.port)
        admin = _Admin(
            application(self.links, self._report_states, self.metrics, lambda: self._registry.broken)
        )
        await self.server.start()
        async with asyncio.TaskGroup() as group:
            tasks = [
                *(group.create_task(link.run(), name=link.name) for link in self.links),
                group.create_task(self.recorder.run(), name="recorder"),
                group.create_task(self.catalogue.run(), name="catalogue"),
            ]
            serving = group.create_task(admin.serve(sockets=[listener]), name="admin")
            self._announce()
            await stop.wait()
            self._log.info("The supervisor stops.", action="supervisor_stopping")
            await self._drain()
            for task in tasks:
                task.cancel()
            admin.should_exit = True
            await serving
        self._log.info("The supervisor has stopped.", action="supervisor_stopped")

    def _announce(self) -> None:
        warn_of(self._registry.broken)
        self._log.info(
            "The supervisor serves.",
            action="supervisor_serving",
            port=self.settings.port,
            reports=len(self._registry.reports),
        )

    async def _drain(self) -> None:
        self.reloader.stop()
        async with asyncio.TaskGroup() as drains:
            drains.create_task(self.server.drain(DRAIN_SECONDS))
            drains.create_task(self.misses.drain(DRAIN_SECONDS))
        self.server.close()
        with contextlib.suppress(HoldfastError):
            await self.recorder.flush()


class _Admin(uvicorn.Server):
    """uvicorn in our loop, with our signals."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def sole(path: Path) -> Iterator[None]:
    """Hold the lock beside the socket, so that one supervisor serves it.

    Raises:
        SettingsError: another one does; the message says which process.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with hold(path.with_suffix(".lock")):
            yield
    except LockHeld as held:
        raise SettingsError(
            f"SUPERVISOR_SOCKET: a supervisor (pid {held.pid}) serves {path} already; "
            "stop it, or set another path"
        ) from None


def main() -> None:
    """Run the supervisor until SIGTERM or SIGINT."""
    logs.configure("supervisor")
    warn_of_unknown()
    find_modules_here()
    supervisor = Supervisor()
    with sole(supervisor.settings.path):
        import uvloop

        uvloop.run(supervisor.run())
