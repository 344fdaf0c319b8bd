"""The supervisor process: it owns its tasks, starts with nothing up, and drains on SIGTERM.

Loops: one per link (open, probe each second, start over); the run recorder, twice a second; the
catalogue, published whenever Redis comes up and every minute. A loop that dies ends the process, since
half a supervisor is worse than a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn
from starlette.applications import Starlette

from holdfast import logs
from holdfast.backoff import Schedule
from holdfast.cache.store import Store
from holdfast.errors import HoldfastError, SettingsError
from holdfast.links.link import Link, LinkState
from holdfast.links.mongo import MongoAdapter
from holdfast.links.postgres import PostgresAdapter
from holdfast.links.redis import RedisAdapter
from holdfast.processes.locks import Held, hold
from holdfast.processes.ports import bind
from holdfast.reports import load_reports
from holdfast.rpc.server import SocketServer
from holdfast.settings import (
    CacheSettings,
    MongoSettings,
    PostgresSettings,
    RedisSettings,
    ReportsSettings,
    SupervisorSettings,
)
from holdfast.supervisor.admin import application
from holdfast.supervisor.metrics import SupervisorMetrics
from holdfast.supervisor.operations import Dispatcher, Services
from holdfast.supervisor.queries import Queries
from holdfast.supervisor.runs import Recorder, RunDocument

DRAIN_SECONDS = 8.0
CATALOGUE_EVERY = 60.0


class Supervisor:
    """Everything the process is made of, put together from the settings."""

    def __init__(self) -> None:
        for settings in (PostgresSettings, MongoSettings, RedisSettings):
            # Wrong values are refused now; absent ones leave that link down until they are there.
            settings.load()
        self.settings = SupervisorSettings.load()
        registry = load_reports(ReportsSettings.load().modules)
        self.metrics = SupervisorMetrics()
        self._phases: dict[str, str] = {}
        postgres = PostgresAdapter(PostgresSettings.load)
        mongo = MongoAdapter(MongoSettings.load, [*registry.documents(), RunDocument])
        redis = RedisAdapter(RedisSettings.load, client_name="holdfast-supervisor")
        slow, slower = Schedule(base=1, cap=10), Schedule(base=1, cap=15)
        self.postgres = Link(postgres, slow, on_change=self._note)
        self.mongo = Link(mongo, slow, open_timeout=15, on_change=self._note)
        self.redis = Link(redis, slower, on_change=self._note)
        self.links = (self.postgres, self.mongo, self.redis)
        self.recorder = Recorder(self.mongo, self.metrics)
        self.services = Services(
            registry=registry,
            queries=Queries(registry, (self.postgres, postgres), (self.mongo, mongo)),
            store=Store(self.redis, redis),
            recorder=self.recorder,
            metrics=self.metrics,
            default_ttl=CacheSettings.load().ttl,
        )
        self.server = SocketServer(self.settings.path, Dispatcher(self.services), self.metrics)
        self._log = structlog.get_logger("supervisor")

    def _note(self, name: str, state: LinkState) -> None:
        self.metrics.link_up.labels(name).set(state.phase == "up")
        if self._phases.get(name) != state.phase:
            self._phases[name] = state.phase
            self.metrics.link_changes.labels(name, state.phase.value).inc()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then stop taking calls, finish those taken, and close."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        listener = bind("SUPERVISOR_PORT", "127.0.0.1", self.settings.port)
        admin = _Admin(application(self.links, self.services, self.metrics))
        await self.server.start()
        async with asyncio.TaskGroup() as group:
            tasks = [
                *(group.create_task(link.run(), name=link.adapter.name) for link in self.links),
                group.create_task(self.recorder.run(), name="recorder"),
                group.create_task(self._publish(), name="catalogue"),
            ]
            serving = group.create_task(admin.serve(sockets=[listener]), name="admin")
            self._log.info("serving", port=self.settings.port, reports=len(self.services.registry.reports))
            await stop.wait()
            self._log.info("stopping")
            async with asyncio.TaskGroup() as drains:
                drains.create_task(self.server.drain(DRAIN_SECONDS))
                drains.create_task(self.services.misses.drain(DRAIN_SECONDS))
            self.server.close()
            with contextlib.suppress(HoldfastError):
                await self.recorder.flush()
            for task in tasks:
                task.cancel()
            admin.should_exit = True
            await serving
        self._log.info("stopped")

    async def _publish(self) -> None:
        while True:
            await self.redis.wait_up()
            try:
                await self.services.publish_catalogue()
            except HoldfastError as error:
                self._log.warning("the catalogue could not be published", error=str(error))
                await asyncio.sleep(1)
                continue
            generation, waited = self.redis.state.generation, 0.0
            while waited < CATALOGUE_EVERY and self.redis.state.generation == generation:
                await asyncio.sleep(1)
                waited += 1


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
    except Held as held:
        raise SettingsError(
            f"SUPERVISOR_SOCKET: a supervisor (pid {held.pid}) serves {path} already; "
            "stop it, or set another path"
        ) from None


def main() -> None:
    """Run the supervisor until it is told to stop."""
    logs.configure("supervisor")
    supervisor = Supervisor()
    with sole(supervisor.settings.path):
        import uvloop

        uvloop.run(supervisor.run())
