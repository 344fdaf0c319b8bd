"""The commands that become another program, by exec: signals and the pid are then the program's own."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from holdfast.processes.programs import check_pool, command, pool_of


def supervisor() -> None:
    """Run the supervisor: the owner of every pooled connection."""
    _become("supervisor")


def worker(context: typer.Context) -> None:
    """Run a Celery worker; further arguments go to Celery."""
    _check_celery_settings()
    check_pool(pool_of(context.args, os.environ.get("CELERY_WORKER_POOL") or "prefork"))
    _become("worker", *context.args)


def beat(context: typer.Context) -> None:
    """Run the scheduler; two or more are safe, one leads. Further arguments go to Celery."""
    _check_celery_settings()
    _become("beat", *context.args)


def flower() -> None:
    """Run Flower on loopback, behind its password."""
    _become("flower")


def gateway() -> None:
    """Run the HTTP gateway."""
    _become("gateway")


def load() -> None:
    """Load the bundled example into Postgres and MongoDB, where it is not there yet."""
    _become("load")


def _check_celery_settings() -> None:
    # Celery's programs read them too, but print a banner and warnings before.
    from holdfast.settings import BrokerSettings, ReportsSettings, SupervisorSettings

    BrokerSettings.load().dsn()
    SupervisorSettings.load()
    ReportsSettings.load()


def _become(name: str, *arguments: str) -> NoReturn:
    sys.stdout.flush()
    argv = command(name, *arguments)
    os.execv(argv[0], argv)
