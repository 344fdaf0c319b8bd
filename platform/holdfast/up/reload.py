"""Report files that change while `holdfast up` runs: tried, loaded again, and said in the terminal.

Watch → trial → supervisor → workers. A file that hangs or ends its process fails in the trial and goes no
further. The supervisor loads the reports again in place and computes their warm variants; workers and beat do
so when they see that the mark in `run/` is another one. No process is restarted, so no request is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import watchfiles

from holdfast.errors import HoldfastError
from holdfast.processes.files import log_path, open_log, write_atomic
from holdfast.processes.programs import command
from holdfast.processes.spawn import die_with_parent
from holdfast.reports.outcome import ReloadedReports, SetAside
from holdfast.reports.reloading import MARK, watched_folders
from holdfast.up.trial import SECONDS, place_of_end

RETRY_SECONDS = 0.5
_BEGINS = 0.1
SETTLE_MS = 60
"""For how long files have to be left alone: an editor writes a file in several steps."""
_LONGEST_ANSWER = 4 * 2**20
_COUNTED = {".py", ".sql"}


class _ReportFiles(watchfiles.DefaultFilter):
    """Python and SQL, and folders, which have no suffix."""

    def __call__(self, change: watchfiles.Change, path: str) -> bool:
        suffix = Path(path).suffix
        return (suffix in _COUNTED or not suffix) and super().__call__(change, path)


class SupervisorClient(Protocol):
    """The supervisor as it is asked to load the reports again (`rpc.client.Client`)."""

    async def reload(self) -> ReloadedReports:
        """Load them: what has changed, and what is broken."""

    async def aclose(self) -> None:
        """Close the connection."""


class Trial:
    """The process that meets an edit first (`up.trial`): started once, it forks a child for each edit."""

    def __init__(self, home: Path, env: Mapping[str, str]) -> None:
        self._home = home
        self._env = dict(env)
        self._process: asyncio.subprocess.Process | None = None
        self._child: int | None = None
        self._pending = False
        """Whether the answers to a line have not all been read."""

    async def prepare(self) -> None:
        """Start the process, unless it runs."""
        if self._process is not None and self._process.returncode is None:
            return
        self._child, self._pending = None, False
        with open_log(self._home, "trial") as log:
            self._process = await asyncio.create_subprocess_exec(
                *die_with_parent(signal.SIGTERM),
                *command("trial"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._env,
                start_new_session=True,
                limit=_LONGEST_ANSWER,
            )

    async def run(self) -> str | tuple[SetAside, ...]:
        """Load the reports: those that are broken, or why the child did not come to its end.

        Where it is cancelled, the child is killed, and the next run begins with its end.
        """
        log = log_path(self._home, "trial")
        begins = 0
        try:
            await self._ready()
            begins = log.stat().st_size
            answers = await asyncio.wait_for(self._asked(), SECONDS + 2)
        except TimeoutError:
            self._kill_child()
            answers = ["end -9"]
        except asyncio.CancelledError:
            self._kill_child()
            raise
        if answers[-1:] == ["end 0"] and len(answers) > 1:
            broken = msgspec.json.decode(answers[-2], type=list[dict[str, str | int]])
            return tuple(msgspec.convert({**each, "kept": False}, SetAside) for each in broken)
        said = log.read_bytes()[begins:].decode(errors="replace")
        late = answers == ["end -9"] or "Timeout (" in said
        what = f"is not loaded within {SECONDS:g} s" if late else "ends the process that loads it"
        return f"a module {what}\n  {place_of_end(said) or f'log: {log}'}"

    async def _ready(self) -> None:
        """Have a process that waits for a line: what was given up has ended, and a dead one is replaced."""
        await self.prepare()
        if self._pending and not await self._answers(unwanted=True):
            await self._replace()

    async def _replace(self) -> None:
        if self._process is not None:
            await self._process.wait()
        await self.prepare()

    async def _asked(self) -> list[str]:
        assert self._process is not None  # noqa: S101 - `prepare` has set it
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        for _ in range(2):
            self._pending = True
            self._process.stdin.write(b"load\n")
            if answers := await self._answers():
                return answers
            # The process itself was killed, and no child of it.
            await self._replace()
        return []

    async def _answers(self, *, unwanted: bool = False) -> list[str]:
        """The lines of one trial, its `pid` left out; an `unwanted` one is killed. None after its end."""
        assert self._process is not None  # noqa: S101 - `prepare` has set it
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        lines: list[str] = []
        while line := (await self._process.stdout.readline()).decode().strip():
            if line.startswith("pid "):
                self._child = int(line[4:])
                if unwanted:
                    self._kill_child()
                continue
            lines.append(line)
            if line.startswith("end "):
                self._child, self._pending = None, False
                break
        return lines

    def _kill_child(self) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)

    async def close(self) -> None:
        """End the process and its child."""
        self._kill_child()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Reload:
    """Keeps the running processes at what the report files say, until cancelled.

    Args:
        home: HOLDFAST_HOME.
        modules: what the setting REPORTS says.
        env: the environment of a trial.
        client: the supervisor's.
        say: prints a line in the terminal.
    """

    def __init__(
        self,
        home: Path,
        modules: Sequence[str],
        env: Mapping[str, str],
        *,
        client: SupervisorClient,
        say: Callable[[str], None],
    ) -> None:
        self._mark = home / "run" / MARK
        self._modules = modules
        self._trial = Trial(home, env)
        self._client = client
        self._say = say
        self._said: list[str] = []
        self._begun = False
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch the files; what is broken at the start is said too."""
        watching = asyncio.create_task(self._watch())
        try:
            while not watching.done():
                await _either(watching, self._changed.wait())
                self._changed.clear()
                await self._reload()
            watching.result()
        finally:
            watching.cancel()
            await self._trial.close()
            await self._client.aclose()
            self._mark.unlink(missing_ok=True)

    async def _watch(self) -> None:
        while True:
            folders = watched_folders(self._modules)
            moved = asyncio.Event()
            kinds = [
                (below, [f for f, is_below in folders.items() if is_below is below])
                for below in (True, False)
            ]
            async with asyncio.TaskGroup() as group:
                for below, paths in kinds:
                    if paths:
                        group.create_task(self._note(paths, below, folders, moved))
                # What changed before the watch began, or between two.
                await asyncio.sleep(_BEGINS)
                self._changed.set()
                await moved.wait()

    async def _note(
        self, paths: Sequence[Path], below: bool, folders: Mapping[Path, bool], moved: asyncio.Event
    ) -> None:
        """Note each change, until the folders are others."""
        try:
            async for _ in watchfiles.awatch(
                *paths, watch_filter=_ReportFiles(), recursive=below, step=SETTLE_MS, stop_event=moved
            ):
                self._changed.set()
                if watched_folders(self._modules) != folders:
                    moved.set()
        except (OSError, RuntimeError) as error:
            # The system allows no more watches, for example.
            where = ", ".join(map(str, paths))
            self._say(f"{where} is not watched: {error}; start `holdfast up` again after an edit")

    async def say_broken(self) -> None:
        """Say what is broken now, without watching anything."""
        try:
            tried = await self._trial.run()
            if not isinstance(tried, str):
                self._show_broken([_broken_line(each) for each in tried])
        finally:
            await self._trial.close()
            await self._client.aclose()

    async def _reload(self) -> None:
        # At the start the supervisor has just loaded these files; the trial gets ready for the first edit.
        tried = await self._tried() if self._begun else ()
        if not self._begun:
            await self._trial.prepare()
        if isinstance(tried, str):
            self._show_broken([f"the reports stay as they were: {tried}"])
        elif tried is not None:
            loaded = await self._loaded()
            if self._begun or loaded.added or loaded.changed or loaded.removed:
                write_atomic(self._mark, secrets.token_hex(8), durable=False)
            self._begun = True
            self._show(loaded)
        await self._trial.prepare()

    async def _tried(self) -> str | tuple[SetAside, ...] | None:
        """The outcome of a trial; None where the files have changed again before it came to its end."""
        trial = asyncio.create_task(self._trial.run())
        try:
            await _either(trial, self._changed.wait())
            return trial.result() if trial.done() else None
        finally:
            trial.cancel()
            await asyncio.wait([trial])

    async def _loaded(self) -> ReloadedReports:
        while True:
            try:
                return await self._client.reload()
            except HoldfastError:
                # The supervisor starts, or starts again.
                await asyncio.sleep(RETRY_SECONDS)

    def _show(self, loaded: ReloadedReports) -> None:
        for what, names in (
            ("is new and live", loaded.added),
            ("has changed and is live", loaded.changed),
            ("is removed", loaded.removed),
        ):
            for name in names:
                self._say(f"report {name} {what}")
        self._show_broken([_broken_line(each) for each in loaded.broken])

    def _show_broken(self, lines: list[str]) -> None:
        for line in lines:
            if line not in self._said:
                self._say(line)
        self._said = lines


def _broken_line(each: SetAside) -> str:
    kept = "; its last good version is served" if each.kept else ""
    place = f"{each.file}:{each.line}" if each.file else each.module
    text = f": {each.text}" if each.text else ""
    return f"report {each.name} is set aside{kept}: {each.reason}\n  {place}{text}"


async def _either(task: asyncio.Task[Any], event: Coroutine[None, None, object]) -> None:
    """Wait until the task is done or the event is there."""
    waiting = asyncio.ensure_future(event)
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
