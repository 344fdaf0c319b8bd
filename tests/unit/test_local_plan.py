"""Which process gets which settings under `holdfast up`, and which servers are embedded."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import LocalError, SettingsError
from holdfast.processes.ports import pick_port
from holdfast.up.plan import PROCESSES, STOP_ORDER, Plan, make_plan

KEPT = ("PATH", "HOME", "TMPDIR", "LANG")


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of this machine, no `.env`, and free ports; restored afterwards."""
    before = dict(os.environ)
    for name in before:
        if name not in KEPT:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for name in ("GW_PORT", "SUPERVISOR_PORT", "FLOWER_PORT"):
        os.environ[name] = str(pick_port())
    yield
    os.environ.clear()
    os.environ.update(before)


def planned(home: Path) -> Plan:
    """A plan whose servers have ports, without any of them being installed or started."""
    plan = make_plan(home)
    (home / "run").mkdir(parents=True, exist_ok=True)
    for server in plan.servers:
        (home / "run" / f"{server.name}.port").write_text("20001")
    plan.publish()
    return plan


def test_everything_is_embedded_unless_it_was_set(tmp_path: Path) -> None:
    """Without settings all three servers are ours, and the example is loaded into them."""
    plan = planned(tmp_path / "home")
    assert [server.name for server in plan.servers] == ["postgres", "mongo", "valkey"]
    assert plan.loads_example


def test_a_server_of_ones_own_is_used(tmp_path: Path) -> None:
    """A server that the settings name is not embedded, its settings are not replaced, and the example is
    not loaded into it.
    """
    os.environ["POSTGRES_URL"] = "postgresql://me@db.example/facts"
    plan = planned(tmp_path / "home")
    assert [server.name for server in plan.servers] == ["mongo", "valkey"]
    assert not plan.loads_example
    assert not any(name.startswith("POSTGRES") for name in plan.published)
    assert plan.env_for("supervisor", os.environ)["POSTGRES_URL"] == os.environ["POSTGRES_URL"]


def test_workers_and_gateway_get_no_database(tmp_path: Path) -> None:
    """Only the supervisor and the loader get any setting of Postgres or MongoDB."""
    os.environ["POSTGRES_URL"] = "postgresql://me:secret@db.example/facts"
    os.environ["MONGO_URL"] = "mongodb://db.example"
    plan = planned(tmp_path / "home")
    for name in (*PROCESSES, "load", "warm"):
        env = plan.env_for(name, os.environ)
        databases = [key for key in env if key.startswith(("POSTGRES", "MONGO"))]
        assert bool(databases) == (name in ("supervisor", "load")), name


def test_the_gateway_reads_the_cache_as_its_own_user(tmp_path: Path) -> None:
    """The gateway gets the read-only user; workers, beat and Flower get the broker and no cache."""
    plan = planned(tmp_path / "home")
    assert plan.env_for("gateway", os.environ)["REDIS_USERNAME"] == "gateway"
    assert plan.env_for("supervisor", os.environ)["REDIS_USERNAME"] == "supervisor"
    assert "BROKER_URL_FILE" not in plan.env_for("gateway", os.environ)
    for name in ("worker", "beat", "flower"):
        env = plan.env_for(name, os.environ)
        assert "BROKER_URL_FILE" in env
        assert not any(key.startswith("REDIS") for key in env)


def test_a_broker_that_is_the_cache_is_passed_on(tmp_path: Path) -> None:
    """With a Redis of one's own and no BROKER_URL, Celery's processes get that Redis: it is the broker."""
    os.environ["REDIS_URL"] = "redis://cache.example"
    plan = planned(tmp_path / "home")
    assert plan.env_for("worker", os.environ)["REDIS_URL"] == "redis://cache.example"


def test_a_broker_of_ones_own_is_not_replaced(tmp_path: Path) -> None:
    """With BROKER_URL set, the embedded Valkey is the cache alone."""
    os.environ["BROKER_URL"] = "redis://broker.example"
    plan = planned(tmp_path / "home")
    env = plan.env_for("worker", os.environ)
    assert env["BROKER_URL"] == "redis://broker.example"
    assert "BROKER_URL_FILE" not in env


def test_no_published_setting_is_a_secret(tmp_path: Path) -> None:
    """What is published, and what is added to any environment, are names of files, addresses and names."""
    home = tmp_path / "home"
    plan = planned(home)
    secrets = [file.read_text() for file in (home / "secrets").iterdir()]
    for name in PROCESSES:
        for value in plan.env_for(name, {}).values():
            assert not any(secret in value for secret in secrets)


def test_authentication_is_off_on_loopback_only(tmp_path: Path) -> None:
    """`holdfast up` turns GW_AUTH off, unless it was set or the gateway is reachable from elsewhere."""
    assert planned(tmp_path / "home").gateway.auth == "off"
    os.environ["GW_AUTH"] = "jwt"
    assert planned(tmp_path / "home").gateway.auth == "jwt"
    del os.environ["GW_AUTH"]
    os.environ["GW_HOST"] = "0.0.0.0"  # noqa: S104
    assert planned(tmp_path / "home").gateway.auth == "jwt"


def test_a_taken_port_is_named_with_its_setting(tmp_path: Path) -> None:
    """A port in use, or wanted twice, is one line that names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        os.environ["GW_PORT"] = str(port)
        expected = f"GW_PORT: 127.0.0.1:{port} is in use; set GW_PORT to a free port"
        with pytest.raises(LocalError, match=expected):
            make_plan(tmp_path / "home")
    os.environ["GW_PORT"] = os.environ["FLOWER_PORT"]
    with pytest.raises(LocalError, match=r"FLOWER_PORT: .* is also GW_PORT"):
        make_plan(tmp_path / "home")


def test_a_deep_home_gets_a_short_socket(tmp_path: Path) -> None:
    """Where a socket's path would be too long, it lies in a new private folder for temporary files."""
    plan = planned(tmp_path / ("deep" * 30))
    assert plan.scratch is not None
    assert plan.supervisor.path.parent == plan.scratch
    assert stat.S_IMODE(plan.scratch.stat().st_mode) == 0o700
    assert len(os.fsencode(plan.supervisor.path)) <= 107
    plan.scratch.rmdir()


def test_a_wrong_setting_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """A wrong value is refused by the plan, naming the variable."""
    os.environ["MONGO_URL"] = "http://not-a-mongo"
    with pytest.raises(SettingsError, match="MONGO_URL"):
        make_plan(tmp_path / "home")


def test_every_process_is_stopped() -> None:
    """Each process that is started has its place in the order of stopping."""
    assert sorted(PROCESSES) == sorted(STOP_ORDER)
