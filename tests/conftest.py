"""Fixtures for every test that needs servers: real ones, started once per run and only when asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.environment import VARIABLES

from holdfast.embedded import Mongo, Postgres, Valkey


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings of whoever runs it."""
    for name in [name for name in os.environ if name.startswith(VARIABLES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def servers_home() -> Iterator[Path]:
    """A folder with a short name for the session's servers: the path of a socket has 107 bytes at most."""
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
    """The settings of databases that hold the complete example; loaded once, by the loader itself."""
    settings = {**postgres.env(), **mongo.env()}
    subprocess.run(
        [sys.executable, "-m", "holdfast_flights.load"],
        env={**os.environ, **settings},
        check=True,
        timeout=120,
    )
    return settings
