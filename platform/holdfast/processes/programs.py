"""What each of Holdfast's processes is, as arguments of the Python interpreter.

Those that live in other packages are named here and never imported: `holdfast` imports none of them.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from holdfast.errors import SettingsError

POOLS = ("prefork", "threads", "solo")
"""The pools that a Celery worker may have here, by Celery's names."""

_CELERY = ("-m", "celery", "-A", "holdfast_workers")

PROGRAMS: dict[str, tuple[str, ...]] = {
    "supervisor": ("-m", "holdfast.supervisor"),
    "worker": (*_CELERY, "worker", "--loglevel=INFO"),
    "beat": (*_CELERY, "beat", "--loglevel=INFO"),
    "flower": ("-m", "holdfast_workers.flower"),
    "gateway": ("-m", "holdfast_gateway"),
    "load": ("-m", "holdfast_flights.load"),
    "check-reports": ("-m", "holdfast.supervisor.checking"),
    "trial": ("-m", "holdfast.up.trial"),
    "warm": ("-m", "holdfast.cli", "warm"),
    "warm-task": ("-m", "holdfast_workers.warm"),
    "token": ("-m", "holdfast.cli", "token"),
}


def command(name: str, *arguments: str) -> list[str]:
    """The command line of one of them: the interpreter first."""
    return [sys.executable, *PROGRAMS[name], *arguments]


def check_pool(name: str) -> None:
    """Raise SettingsError unless a worker may have the pool of that name."""
    if name not in POOLS:
        raise SettingsError(
            f"--pool={name}: is not supported, since a task runs on an event loop of its own; "
            f"use {', '.join(POOLS[:-1])} or {POOLS[-1]}"
        )


def pool_of(arguments: Sequence[str], default: str = "prefork") -> str:
    """The pool that the arguments of a worker name: `--pool=x`, `--pool x`, `-P x` or `-Px`."""
    pool = default
    for position, word in enumerate(arguments):
        if word in ("-P", "--pool"):
            pool = "".join(arguments[position + 1 : position + 2])
        elif word.startswith("--pool="):
            pool = word.removeprefix("--pool=")
        elif word.startswith("-P"):
            pool = word.removeprefix("-P").removeprefix("=")
    return {"processes": "prefork"}.get(pool, pool)


def shown_command(*arguments: str) -> str:
    """`holdfast …` as a person can paste it where this process runs: by its path, where it is not on PATH."""
    script = Path(sys.prefix) / "bin" / "holdfast"
    found = shutil.which("holdfast")
    if found is not None and Path(found).absolute() == script:
        program = "holdfast"
    else:
        program = _shown(script) if script.exists() else f"{shown_python()} -m holdfast.cli"
    return " ".join([program, *map(shlex.quote, arguments)])


def shown_python() -> str:
    """This interpreter as a person can paste it: relative to the working directory, if it lies below."""
    return _shown(Path(sys.executable))


def _shown(program: Path) -> str:
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
