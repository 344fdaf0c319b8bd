"""Which process gets which settings under `holdfast up`, and which servers are embedded."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from holdfast.errors import LocalError, SettingsError
from holdfast.processes.ports import pick_port
from holdfast.up.instance import Instance
from holdfast.up.plan import PROCESSES, STOP_ORDER, Plan, make_plan
from holdfast.up.screen import token_command

PORTS = ("GW_PORT", "SUPERVISOR_PORT", "FLOWER_PORT")


@pytest.fixture
def given() -> dict[str, str]:
    """Variables with free ports and nothing else; a test adds its own."""
    return {name: str(pick_port()) for name in PORTS}


def planned(home: Path, given: Mapping[str, str]) -> Plan:
    """A plan whose servers have ports, without any of them being installed or started."""
    plan = make_plan(home, given)
    (home / "run").mkdir(parents=True, exist_ok=True)
    for server in plan.servers:
        (home / "run" / f"{server.name}.port").write_text("20001")
    plan.publish()
    return plan


def test_everything_is_embedded_unless_it_was_set(tmp_path: Path, given: dict[str, str]) -> None:
    """Without settings all three servers are ours, and the example is loaded into them."""
    plan = planned(tmp_path / "home", given)
    assert [server.name for server in plan.servers] == ["postgres", "mongo", "valkey"]
    assert plan.loads_example


def test_a_server_of_ones_own_is_used(tmp_path: Path, given: dict[str, str]) -> None:
    """A server that the settings name is not embedded, its settings are not replaced, and the example is
    not loaded into it.
    """
    given["POSTGRES_URL"] = "postgresql://me@db.example/facts"
    plan = planned(tmp_path / "home", given)
    assert [server.name for server in plan.servers] == ["mongo", "valkey"]
    assert not plan.loads_example
    assert not any(name.startswith("POSTGRES") for name in plan.published)
    assert plan.env_for("supervisor", given)["POSTGRES_URL"] == given["POSTGRES_URL"]


@pytest.mark.parametrize("name", [*PROCESSES, "load", "warm"])
def test_workers_and_gateway_get_no_database(tmp_path: Path, given: dict[str, str], name: str) -> None:
    """Only the supervisor and the loader get any setting of Postgres or MongoDB."""
    given["POSTGRES_URL"] = "postgresql://me:secret@db.example/facts"
    given["MONGO_URL"] = "mongodb://db.example"
    plan = planned(tmp_path / "home", given)
    databases = [key for key in plan.env_for(name, given) if key.startswith(("POSTGRES", "MONGO"))]
    assert bool(databases) == (name in ("supervisor", "load"))


def test_the_gateway_reads_the_cache_as_its_own_user(tmp_path: Path, given: dict[str, str]) -> None:
    """The gateway gets the user who may only read, and no broker."""
    plan = planned(tmp_path / "home", given)
    assert plan.env_for("gateway", given)["REDIS_USERNAME"] == "gateway"
    assert plan.env_for("supervisor", given)["REDIS_USERNAME"] == "supervisor"
    assert "BROKER_URL_FILE" not in plan.env_for("gateway", given)


@pytest.mark.parametrize("name", ["worker", "beat", "flower"])
def test_celerys_processes_get_the_broker_and_no_cache(
    tmp_path: Path, given: dict[str, str], name: str
) -> None:
    """Workers, beat and Flower get the broker's credentials alone."""
    env = planned(tmp_path / "home", given).env_for(name, given)
    assert "BROKER_URL_FILE" in env
    assert not any(key.startswith("REDIS") for key in env)


def test_a_broker_that_is_the_cache_is_passed_on(tmp_path: Path, given: dict[str, str]) -> None:
    """With a Redis of one's own and no BROKER_URL, Celery's processes get that Redis: it is the broker."""
    given["REDIS_URL"] = "redis://cache.example"
    plan = planned(tmp_path / "home", given)
    assert plan.env_for("worker", given)["REDIS_URL"] == "redis://cache.example"


def test_a_broker_of_ones_own_is_not_replaced(tmp_path: Path, given: dict[str, str]) -> None:
    """With BROKER_URL set, the embedded Valkey is the cache alone."""
    given["BROKER_URL"] = "redis://broker.example"
    plan = planned(tmp_path / "home", given)
    env = plan.env_for("worker", given)
    assert env["BROKER_URL"] == "redis://broker.example"
    assert "BROKER_URL_FILE" not in env


@pytest.mark.parametrize("name", PROCESSES)
def test_no_published_setting_is_a_secret(tmp_path: Path, given: dict[str, str], name: str) -> None:
    """What is published, and what is added to any environment, are names of files, addresses and names."""
    home = tmp_path / "home"
    plan = planned(home, given)
    secrets = [file.read_text() for file in (home / "secrets").iterdir()]
    assert secrets
    shown = [*plan.published.values(), *plan.env_for(name, {}).values()]
    assert [secret for secret in secrets if any(secret in value for value in shown)] == []


def test_authentication_is_off_on_loopback_only(tmp_path: Path, given: dict[str, str]) -> None:
    """`holdfast up` turns GW_AUTH off, unless it was set or the gateway is reachable from elsewhere."""
    assert planned(tmp_path / "home", given).gateway.auth == "off"
    given["GW_AUTH"] = "jwt"
    assert planned(tmp_path / "home", given).gateway.auth == "jwt"
    del given["GW_AUTH"]
    given["GW_HOST"] = "0.0.0.0"  # noqa: S104
    assert planned(tmp_path / "home", given).gateway.auth == "jwt"


def test_a_taken_port_is_named_with_its_setting(tmp_path: Path, given: dict[str, str]) -> None:
    """A port in use, or wanted twice, is one line that names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given["GW_PORT"] = str(port)
        expected = f"GW_PORT: 127.0.0.1:{port} is in use; set GW_PORT to a free port"
        with pytest.raises(LocalError, match=expected):
            make_plan(tmp_path / "home", given)
    given["GW_PORT"] = given["FLOWER_PORT"]
    with pytest.raises(LocalError, match=r"FLOWER_PORT: .* is also GW_PORT"):
        make_plan(tmp_path / "home", given)


def test_a_deep_home_gets_a_short_socket(tmp_path: Path, given: dict[str, str]) -> None:
    """Where a socket's path would be too long, it lies in a new private folder for temporary files."""
    plan = planned(tmp_path / ("deep" * 30), given)
    assert plan.scratch is not None
    assert plan.supervisor.path.parent == plan.scratch
    assert stat.S_IMODE(plan.scratch.stat().st_mode) == 0o700
    assert len(os.fsencode(plan.supervisor.path)) <= 107
    plan.scratch.rmdir()


def test_a_wrong_setting_is_refused_before_anything_starts(tmp_path: Path, given: dict[str, str]) -> None:
    """A wrong value is refused by the plan, naming the variable."""
    given["MONGO_URL"] = "http://not-a-mongo"
    with pytest.raises(SettingsError, match="MONGO_URL"):
        make_plan(tmp_path / "home", given)


def test_a_plan_changes_no_environment(
    tmp_path: Path, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decided is in the plan alone: neither the process's environment nor what was given changes."""
    monkeypatch.setenv("GW_AUTH", "jwt")
    environment, before = dict(os.environ), dict(given)
    assert planned(tmp_path / "home", given).gateway.auth == "off"
    assert (dict(os.environ), given) == (environment, before)


def test_without_variables_it_is_the_environment_that_decides(
    tmp_path: Path, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`holdfast up` plans by the environment."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    plan = make_plan(tmp_path / "home")
    assert {name: plan.published[name] for name in PORTS} == given


def test_every_process_is_stopped() -> None:
    """Each process that is started has its place in the order of stopping."""
    assert sorted(PROCESSES) == sorted(STOP_ORDER)


SECRET = "a-signing-secret-of-more-than-32-characters"


@pytest.mark.parametrize("kind", ["nothing", "variable", "file"])
def test_another_terminal_finds_the_signing_secret(tmp_path: Path, given: dict[str, str], kind: str) -> None:
    """Whether it is generated, in a variable of this terminal alone, or in a file with a relative path: a
    file that holds it is published, and never the secret itself.
    """
    home = tmp_path / "home"
    if kind == "variable":
        given["JWT_SECRET"] = SECRET
    elif kind == "file":
        (tmp_path / "secret").write_text(SECRET)
        given["JWT_SECRET_FILE"] = os.path.relpath(tmp_path / "secret")
    given["JWT_ISSUER"] = "us"
    plan = planned(home, given)
    path = Path(plan.published["JWT_SECRET_FILE"])
    assert path.is_absolute()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 or kind == "file"
    assert (path.read_text() == SECRET) is (kind != "nothing")
    assert plan.published["JWT_ISSUER"] == "us"
    assert SECRET not in plan.published.values()


def test_a_secret_of_this_terminal_is_gone_with_it(tmp_path: Path, given: dict[str, str]) -> None:
    """The file that holds it for other terminals is removed when `holdfast up` ends."""
    given["JWT_SECRET"] = SECRET
    with Instance(tmp_path / "home"):
        path = Path(planned(tmp_path / "home", given).published["JWT_SECRET_FILE"])
        assert path.exists()
    assert not path.exists()


def test_the_token_command_can_be_pasted(
    tmp_path: Path, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the program by a path that exists, and the home where another terminal would not find it."""
    monkeypatch.chdir(tmp_path)
    home, program, *rest = token_command(planned(tmp_path / "my home", given)).rsplit(" ", 2)
    assert (home, rest) == (f"HOLDFAST_HOME='{tmp_path / 'my home'}'", ["token"])
    assert program == "holdfast" or Path(program).exists()
    assert not token_command(planned(tmp_path / ".holdfast", given)).startswith("HOLDFAST_HOME")
