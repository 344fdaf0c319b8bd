"""What each of Holdfast's processes is, as arguments of the Python interpreter.

Those that live in other packages are named here and never imported: `holdfast` imports none of them.
"""

from __future__ import annotations

import sys

_CELERY = ("-m", "celery", "-A", "holdfast_workers")

PROGRAMS: dict[str, tuple[str, ...]] = {
    "supervisor": ("-m", "holdfast.supervisor"),
    "worker": (*_CELERY, "worker", "--loglevel=INFO"),
    "beat": (*_CELERY, "beat", "--loglevel=INFO"),
    "flower": ("-m", "holdfast_workers.flower"),
    "gateway": ("-m", "holdfast_gateway"),
    "load": ("-m", "holdfast_flights.load"),
    "warm": ("-m", "holdfast.cli", "warm"),
    "warm-task": ("-m", "holdfast_workers.warm"),
    "token": ("-m", "holdfast.cli", "token"),
}


def command(name: str, *arguments: str) -> list[str]:
    """The command line of one of them: the interpreter first."""
    return [sys.executable, *PROGRAMS[name], *arguments]
