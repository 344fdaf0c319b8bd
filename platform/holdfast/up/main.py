"""`holdfast up`: every process on one machine, kept alive, until Ctrl-C.

One loop owns all tasks: a `Child.run` per process, and a boot that ends with the ready screen. Nothing
waits for anything it does not need: all processes start at once and find each other as they come up;
only the loader waits for the databases. Stopping goes from those who ask to those who answer: beat,
flower, gateway, worker, supervisor, then the servers. A second Ctrl-C kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from holdfast.errors import HoldfastError
from holdfast.processes.files import last_words, log_path, open_log
from holdfast.processes.programs import command
from holdfast.processes.spawn import die_with_parent
from holdfast.settings import HomeSettings
from holdfast.settings.unknown import unknown_warnings
from holdfast.up import screen
from holdfast.up.children import Child, ChildState
from holdfast.up.instance import Instance
from holdfast.up.plan import PROCESSES, STOP_ORDER, Plan, make_plan

if TYPE_CHECKING:
    from holdfast.up.reload import SupervisorClient

T = TypeVar("T")
Connect = Callable[[Path], "SupervisorClient"]

# Seconds until a process that was asked to stop is killed; the worker may have tasks to finish.
_STOP_WITHIN = {"worker": 15.0, "supervisor": 15.0}
_GIVE_UP_AFTER = 3
_NOT_ASKED = ("worker", "beat", "flower")
_KILLED = 130


def run(connect: Connect, *, reload: bool = True) -> int:
    """Run until stopped; returns the exit status: 0 stopped, 1 could not start, 130 killed.

    With `reload`, reports are loaded again whenever their files change, through a client of the supervisor
    that `connect` makes for a socket.
    """
    # A shell starts background jobs with SIGINT ignored; `kill -INT` must work before the loop runs too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        home = Path(os.path.abspath(HomeSettings.load().home))
        for warning in unknown_warnings():
            print(f"holdfast up: {warning}", file=sys.stderr)
        with Instance(home) as instance:
            plan = make_plan(home)
            try:
                return asyncio.run(_Up(plan, instance, connect, reload=reload).run())
            finally:
                if plan.scratch is not None:
                    shutil.rmtree(plan.scratch, ignore_errors=True)
    except HoldfastError as error:
        print(f"holdfast up: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"holdfast up: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _KILLED


class _Up:
    def __init__(self, plan: Plan, instance: Instance, connect: Connect, *, reload: bool) -> None:
        self._plan = plan
        self._connect = connect
        self._reloads = reload
        self._instance = instance
        # Without a terminal there is no width to keep to.
        self._console = Console(
            highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 160
        )
        self._children: dict[str, Child] = {}
        self._jobs: list[asyncio.Task[Any]] = []
        self._stop = asyncio.Event()
        self._exit = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        async with asyncio.TaskGroup() as group:
            boot = group.create_task(self._guarded(self._boot(group)))
            await self._stop.wait()
            begun = [boot, *self._jobs]
            for task in begun:
                task.cancel()
            await asyncio.wait(begun)
            await self._shut_down()
        return self._exit

    def _on_signal(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            return
        self._exit = _KILLED
        for child in self._children.values():
            child.kill()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except HoldfastError as error:
            print(f"holdfast up: {error}", file=sys.stderr)
            self._exit = 1
            self._stop.set()

    async def _boot(self, group: asyncio.TaskGroup) -> None:
        plan = self._plan
        self._console.print(f"Holdfast starts in {plan.home}", soft_wrap=True)
        await _together(asyncio.to_thread(server.prepare) for server in plan.servers)
        plan.publish()
        self._make_children()
        self._instance.publish_settings(plan.published)
        if self._instance.example_loaded and not any(each.is_new for each in plan.servers):
            await self._start_again(group)
        else:
            await self._start_first(group)

    async def _start_first(self, group: asyncio.TaskGroup) -> None:
        self._start(group, self._children)
        await self._servers_are_ready()
        if self._plan.loads_example:
            await self._load()
        warm = self._job(self._warm())
        self._job(self._watch_reports())
        await self._show(await self._try())
        await warm

    async def _start_again(self, group: asyncio.TaskGroup) -> None:
        # Reading the cache needs neither Celery nor Flower, whose imports would keep every core busy.
        self._start(group, [name for name in self._children if name not in _NOT_ASKED])
        ready, tried = self._job(self._servers_are_ready()), self._job(self._try())
        await asyncio.wait([tried], timeout=3)
        self._start(group, _NOT_ASKED)
        await ready
        self._job(self._watch_reports())
        await self._show(await tried)
        await screen.listens(self._plan.flower.port, within=15)
        if self._plan.loads_example:
            await self._load(log=(self._plan.home, "load"))
        await self._warm()

    def _start(self, group: asyncio.TaskGroup, names: Iterable[str]) -> None:
        for name in names:
            group.create_task(self._children[name].run())

    def _job(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._jobs.append(task)
        return task

    async def _servers_are_ready(self) -> None:
        await _together(
            server.become_ready(alive=self._still_hopeful(server.name)) for server in self._plan.servers
        )

    async def _show(self, tried: dict[str, list[screen.Answer]]) -> None:
        with contextlib.suppress(TimeoutError):
            spawned = (child.spawned.wait() for child in self._children.values())
            await asyncio.wait_for(asyncio.gather(*spawned), 2)
        states = [child.state for child in self._children.values()]
        screen.show_ready(self._console, self._plan, states, tried)

    def _make_children(self) -> None:
        plan = self._plan
        for server in plan.servers:
            self._children[server.name] = Child(
                server.name,
                server.argv(),
                home=plan.home,
                port=server.port,
                exclusive=True,
                stop_signal=server.stop_signal,
                stop_within=20.0,
                changed=self._changed,
            )
        for name in PROCESSES:
            self._children[name] = Child(
                name,
                [*die_with_parent(signal.SIGTERM), *command(name)],
                home=plan.home,
                env=plan.env_for(name, os.environ),
                port=plan.ports.get(name),
                stop_within=_STOP_WITHIN.get(name, 10.0),
                changed=self._changed,
            )

    def _changed(self, state: ChildState, line: str) -> None:
        with contextlib.suppress(OSError):
            # A full disk must not end what runs.
            self._instance.publish_processes(
                {name: child.state.as_json() for name, child in self._children.items()}
            )
        first_start = state.alive and state.restarts == 0
        if not first_start:
            self._console.print(f"holdfast: {line}", markup=False, soft_wrap=True)

    def _still_hopeful(self, name: str) -> Any:
        return lambda: self._children[name].state.restarts < _GIVE_UP_AFTER

    async def _load(self, log: tuple[Path, str] | None = None) -> None:
        argv = command("load")
        code = await _job(argv, self._plan.env_for("load", os.environ), log=log)
        self._instance.example_loaded = code == 0
        if code != 0:
            self._console.print(f"holdfast: loading the example failed (exit {code})")

    async def _warm(self) -> None:
        # Where no server of ours starts, nothing before this has waited for the supervisor.
        await screen.answers_ready("127.0.0.1", self._plan.supervisor.port, within=30)
        argv = command("warm", "--missing")
        env = self._plan.env_for("warm", os.environ)
        code = await _job(argv, env, log=(self._plan.home, "warm"))
        if code != 0:
            path = log_path(self._plan.home, "warm")
            self._console.print(
                f"holdfast: not every variant is warm: {last_words(path)}; log: {path}", soft_wrap=True
            )

    async def _watch_reports(self) -> None:
        from holdfast.up.reload import Reload

        plan = self._plan
        reload = Reload(
            plan.home,
            plan.reports,
            plan.env_for("trial", os.environ),
            client=self._connect(Path(plan.published["SUPERVISOR_SOCKET"])),
            say=lambda line: self._console.print(f"holdfast: {line}", soft_wrap=True),
        )
        await (reload.run() if self._reloads else reload.say_broken())

    async def _try(self) -> dict[str, list[screen.Answer]]:
        plan = self._plan
        paths = screen.EXAMPLES if self._plan.loads_example else (screen.API,)
        host, port = screen.gateway_host(plan), plan.gateway.port
        token = await self._token() if plan.gateway.auth == "jwt" else None
        await screen.answers_ready(host, port, within=30)
        answers = await asyncio.gather(
            *(screen.fetch_until_hit(host, port, path, token=token) for path in paths)
        )
        return dict(zip(paths, answers, strict=True))

    async def _token(self) -> str | None:
        process = await asyncio.create_subprocess_exec(
            *die_with_parent(signal.SIGTERM),
            *command("token"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._plan.env_for("gateway", os.environ),
        )
        output, _ = await process.communicate()
        return output.decode().strip() or None

    async def _shut_down(self) -> None:
        if not self._children:
            return
        self._console.print("holdfast: stopping")
        for name in STOP_ORDER:
            await self._children[name].stop()
        await asyncio.gather(*(self._children[s.name].stop() for s in self._plan.servers))
        if self._exit == 0:
            self._console.print("holdfast: stopped")


async def _together(work: Any) -> None:
    failures = await asyncio.gather(*work, return_exceptions=True)
    for failure in failures:
        if isinstance(failure, BaseException):
            raise failure


async def _job(argv: list[str], env: Mapping[str, str], *, log: tuple[Path, str] | None = None) -> int:
    """Run a command to its end, in a session of its own, on this terminal or into a log."""
    output = open_log(*log) if log else None
    process = await asyncio.create_subprocess_exec(
        *die_with_parent(signal.SIGTERM),
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=env,
        start_new_session=True,
    )
    if output is not None:
        output.close()
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 5)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
