"""How a process is started: in a session of its own, with its output in a log, ending with its parent.

Two races are handled. A parent that is killed with SIGKILL cannot stop its children, so the kernel
signals them (PR_SET_PDEATHSIG, Linux only). That signal is sent when the *thread* which started the
child ends, not the process, so `spawn` always forks from one thread that lives as long as the
process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from holdfast.processes.files import open_log

_TRAMPOLINE = (
    "import ctypes, os, sys;"
    "ctypes.CDLL(None).prctl(1, int(sys.argv[1]), 0, 0, 0);"
    "os.execvp(sys.argv[2], sys.argv[2:])"
)


def die_with_parent(stop_signal: signal.Signals) -> list[str]:
    """Return what to put before a command so that its parent's death sends it `stop_signal`."""
    if not sys.platform.startswith("linux"):
        return []
    if _setpriv_knows_pdeathsig():
        return ["setpriv", "--pdeathsig", stop_signal.name.removeprefix("SIG"), "--"]
    return [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(int(stop_signal))]


def spawn(argv: Sequence[str], *, home: Path, log: str, lock: int) -> subprocess.Popen[bytes]:
    """Start `argv` in a new session, its output appended to `home/logs/<log>.log`.

    `lock` (see `locks.try_lock`) is handed over: it is closed here.
    """
    with contextlib.closing(os.fdopen(lock, "rb", buffering=0)), open_log(home, log) as output:
        return _lasting_thread().submit(_popen, argv, output.fileno(), lock).result()


def _popen(argv: Sequence[str], output: int, lock: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock,),
    )


@functools.cache
def _lasting_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawn")


@functools.cache
def _setpriv_knows_pdeathsig() -> bool:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return False
    probe = subprocess.run([setpriv, "--pdeathsig", "TERM", "--", "true"], capture_output=True, check=False)
    return probe.returncode == 0
