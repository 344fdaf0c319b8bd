"""Fixtures for every test that needs servers: real ones, started once per run and only when asked for."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from holdfast.embedded import Mongo, Postgres, Valkey

T = TypeVar("T")
VARIABLES = (
    "POSTGRES_", "PG_", "MONGO_", "REDIS_", "BROKER_", "JWT_", "GW_", "SUPERVISOR_", "FLOWER_", "HOLDFAST_",
    "REPORTS",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings of whoever runs it."""
    for name in [name for name in os.environ if name.startswith(VARIABLES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def servers_home() -> Iterator[Path]:
    """A short-named folder for the session's servers: a socket's path has 107 bytes at the most."""
    home = Path(tempfile.mkdtemp(prefix="hf-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(servers_home: Path) -> Iterator[Postgres]:
    """A running PostgreSQL, shared by the session: tests that stop or fill it start their own."""
    with Postgres(servers_home) as server:
        yield server


@pytest.fixture(scope="session")
def mongo(servers_home: Path) -> Iterator[Mongo]:
    """A running MongoDB replica set, shared by the session."""
    with Mongo(servers_home) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(servers_home: Path) -> Iterator[Valkey]:
    """A running Valkey, shared by the session."""
    with Valkey(servers_home) as server:
        yield server


@pytest.fixture(scope="session")
def flights(postgres: Postgres, mongo: Mongo) -> dict[str, str]:
    """The settings of databases that hold the whole example; loaded once, by the loader itself."""
    settings = {**postgres.env(), **mongo.env()}
    subprocess.run(
        [sys.executable, "-m", "holdfast_flights.load"],
        env={**os.environ, **settings},
        check=True,
        timeout=120,
    )
    return settings


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A home of this test's own, with a path short enough for sockets."""
    home = Path(tempfile.mkdtemp(prefix="hf-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(what: str, condition: Callable[[], T], within: float = 15.0, every: float = 0.05) -> T:
    """Call `condition` until it returns something true, and return that; fail saying what was awaited."""
    deadline = time.monotonic() + within
    last: object = None
    while time.monotonic() < deadline:
        try:
            found = condition()
            if found:
                return found
            last = found
        except (OSError, AssertionError) as error:
            last = error
        time.sleep(every)
    pytest.fail(f"waited {within:g} s for {what}; last: {last!r}")
