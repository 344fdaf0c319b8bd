"""Children that are kept alive: the rules, and the real thing with small programs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.waiting import eventually

from holdfast.processes.spawn import die_with_parent
from holdfast.up.children import (
    Child,
    ChildState,
    describe_exit,
    failures_in_row,
    restart_delay,
)

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('up', flush=True); time.sleep(600)"
    ),
]
PARENT = [
    sys.executable,
    "-c",
    (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(p.pid, flush=True); time.sleep(600)"
    ),
]


@given(st.integers(1, 100))
def test_restart_delays_double_up_to_the_cap(failures: int) -> None:
    """The wait is 0.5 s after a first death, doubles with each further one, and never exceeds 10 s."""
    delay = restart_delay(failures)
    assert delay == min(10.0, 0.5 * 2.0 ** (failures - 1))


@given(st.integers(0, 50), st.floats(0, 1e6))
def test_a_child_that_lived_starts_from_the_shortest_delay(before: int, lived: float) -> None:
    """Thirty seconds of life forgive all earlier deaths."""
    assert failures_in_row(before, lived) == (1 if lived >= 30 else before + 1)


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit 0"), (3, "exit 3"), (-9, "SIGKILL"), (-15, "SIGTERM"), (-63, "signal 63")]
)
def test_exits_are_described_in_words(code: int, words: str) -> None:
    """An exit status is shown as such, and a signal by its name."""
    assert describe_exit(code) == words


def test_only_a_process_that_listens_has_a_port() -> None:
    """`port` is left out for a process that has none, as the contract of `status --json` says."""
    state = ChildState("worker", 1, True, None, 0, 0.0)
    assert "port" not in state.as_json()
    assert ChildState("gateway", 1, True, 8080, 0, 0.0).as_json()["port"] == 8080


async def until(condition: Callable[[], bool], what: str, within: float = 10.0) -> None:
    """Wait for `condition` beside the event loop, which runs the child meanwhile."""
    await asyncio.to_thread(eventually, what, condition, within, 0.01)


def run_child(child: Child, scenario: Callable[[Child], Awaitable[None]]) -> None:
    """Run `child` beside `scenario`, then stop it."""

    async def both() -> None:
        task = asyncio.create_task(child.run())
        try:
            await scenario(child)
        finally:
            await child.stop()
            await task

    asyncio.run(both())


def says(home: Path, text: str) -> Callable[[], bool]:
    """Whether the child's log holds `text`."""
    log = home / "logs" / "thing.log"
    return lambda: log.exists() and text in log.read_text()


def test_a_killed_child_is_back_and_says_so(tmp_path: Path) -> None:
    """A child that is killed starts again within a second, counts it, and both are reported."""
    lines: list[str] = []
    child = Child("thing", SLEEPER, home=tmp_path, changed=lambda _state, line: lines.append(line))

    async def scenario(child: Child) -> None:
        await until(lambda: child.state.alive, "the first start")
        first = child.state.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.state.alive and child.state.pid != first, "the second start")
        assert child.state.restarts == 1
        assert child.state.last_exit == "SIGKILL"

    run_child(child, scenario)
    assert [line.split(" (")[0] for line in lines] == ["thing started", "thing died", "thing is back"]
    assert not child.state.alive


def test_a_program_that_does_not_exist_is_tried_again(tmp_path: Path) -> None:
    """What cannot be started is a state that is shown, and never ends `holdfast up`."""
    lines: list[str] = []
    child = Child(
        "thing",
        [str(tmp_path / "missing")],
        home=tmp_path,
        changed=lambda _state, line: lines.append(line),
    )

    async def scenario(_: Child) -> None:
        await until(lambda: len(lines) >= 2, "two attempts")

    run_child(child, scenario)
    assert lines[0].startswith(f"thing cannot be started (No such file or directory: {tmp_path / 'missing'})")


def test_a_child_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    """A child that does not stop within its deadline is killed."""
    child = Child("thing", STUBBORN, home=tmp_path, stop_within=0.2)

    async def scenario(child: Child) -> None:
        await until(says(tmp_path, "up"), "the output of the child")

    run_child(child, scenario)
    assert child.state.last_exit == "SIGKILL"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_grandchild_is_left(tmp_path: Path, number: signal.Signals) -> None:
    """What a dead child leaves in its process group ends before the child starts again."""
    child = Child("thing", PARENT, home=tmp_path)

    async def scenario(child: Child) -> None:
        await until(says(tmp_path, "\n"), "the pid of the grandchild")
        grandchild = int((tmp_path / "logs" / "thing.log").read_text().split()[0])
        assert psutil.pid_exists(grandchild)
        assert child.state.pid is not None
        os.kill(child.state.pid, number)
        await until(lambda: not lives(grandchild), "the end of the grandchild")

    run_child(child, scenario)


def lives(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_an_exclusive_child_waits_for_its_predecessor(tmp_path: Path) -> None:
    """A server is not started on a folder that a process of an earlier start still uses."""
    first = Child("thing", SLEEPER, home=tmp_path, exclusive=True)
    second = Child("thing", SLEEPER, home=tmp_path, exclusive=True)

    async def scenario(first: Child) -> None:
        await until(lambda: first.state.alive, "the start of the first")
        task = asyncio.create_task(second.run())
        await asyncio.wait([task], timeout=0.3)
        assert not second.state.alive
        await first.stop()
        await until(lambda: second.state.alive, "the start of the second")
        await second.stop()
        await task

    run_child(first, scenario)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('first'); print('the last'); sys.exit(2)", "died (exit 2: the last; log: {log})"),
        ("raise ValueError('no [such] table')", "died (exit 1: ValueError: no [such] table; log: {log})"),
        (
            'print(\'{"event": "It stops.", "error": "port 1", "action": "x"}\'); sys.exit(3)',
            "died (exit 3: It stops. port 1; log: {log})",
        ),
        (
            'print(\'{"event": "It fell.", "exception": "a\\\\nKeyError: 1"}\'); sys.exit(3)',
            "died (exit 3: It fell. KeyError: 1; log: {log})",
        ),
        ("print('{\"a\": 1}'); sys.exit(3)", 'died (exit 3: {{"a": 1}}; log: {log})'),
        ("print(); print('x' * 9000); sys.exit(4)", "died (exit 4: " + "x" * 500 + "; log: {log})"),
        ("sys.stdout.buffer.write(bytes([255, 10])); sys.exit(5)", "died (exit 5: \ufffd; log: {log})"),
        ("sys.exit(6)", "died (exit 6; log: {log})"),
        ("os.kill(os.getpid(), 9)", "died (SIGKILL; log: {log})"),
    ],
)
def test_a_death_shows_what_was_logged_last(tmp_path: Path, program: str, words: str) -> None:
    """The line about a child that died has its last log line since its start, and the log's path."""
    log = tmp_path / "logs" / "thing.log"
    log.parent.mkdir()
    log.write_text("of an earlier start\n")
    lines: list[str] = []
    child = Child(
        "thing",
        [sys.executable, "-c", f"import os, sys; {program}"],
        home=tmp_path,
        changed=lambda _state, line: lines.append(line),
    )

    async def scenario(_: Child) -> None:
        await until(lambda: len(lines) >= 2, "its death")

    run_child(child, scenario)
    assert lines[1] == f"thing {words.format(log=log)}; starts again in 0.5 s"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel offers it on Linux only")
def test_children_end_when_up_is_killed(tmp_path: Path) -> None:
    """When the process that keeps the children is killed with SIGKILL, they end too."""
    script = (
        "import asyncio, pathlib, sys, signal\n"
        "from holdfast.up.children import Child\n"
        "from holdfast.processes.spawn import die_with_parent\n"
        "argv = [*die_with_parent(signal.SIGTERM), sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = Child('thing', argv, home=pathlib.Path(sys.argv[1]),\n"
        "              changed=lambda state, line: print(state.pid, flush=True))\n"
        "asyncio.run(child.run())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        # `setpriv` sets the signal before it becomes the program.
        eventually("the program in place of setpriv", lambda: "python" in psutil.Process(pid).name())
        assert lives(pid)
        parent.kill()
    eventually("the end of the child", lambda: not lives(pid))


def test_the_words_before_a_command_name_the_signal() -> None:
    """The prefix runs the command unchanged."""
    done = subprocess.run(
        [*die_with_parent(signal.SIGINT), sys.executable, "-c", "print('ran')"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "ran\n"
