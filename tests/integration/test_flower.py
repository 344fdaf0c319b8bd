"""Flower as Holdfast starts it: never without a password, and on loopback alone."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from tests.support.celery import Sender, celery_stack
from tests.support.process import Process, listening
from tests.support.sample_reports import numbers
from tests.support.stack import Stack
from tests.support.variants import fresh
from tests.support.waiting import eventually

PASSWORD = "a-password-of-flower"
LOGIN = ("ops", PASSWORD)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Servers, a supervisor and a worker."""
    with celery_stack() as made:
        made.supervisor(until="")
        made.worker("--concurrency=1")
        yield made


@pytest.fixture(scope="module")
def flower(stack: Stack) -> Process:
    """A Flower that answers."""
    secret = stack.folder / "flower-login"
    secret.write_text(f"ops:{PASSWORD}\n")
    process = stack.flower(FLOWER_BASIC_AUTH_FILE=str(secret))
    eventually("Flower to answer", lambda: _answers(stack, process), within=30)
    return process


def _answers(stack: Stack, flower: Process) -> bool:
    if not flower.running:
        pytest.fail(flower.output())
    try:
        return bool(httpx.get(_url(stack, "/"), timeout=5).status_code)
    except httpx.TransportError:
        return False


def _url(stack: Stack, path: str) -> str:
    return f"http://127.0.0.1:{stack.port('FLOWER_PORT')}{path}"


@pytest.mark.parametrize("login", [None, ("ops", "wrong")], ids=["none", "wrong"])
@pytest.mark.parametrize("path", ["/", "/workers", "/api/tasks", "/api/workers", "/broker"])
def test_flower_wants_its_password(
    stack: Stack, flower: Process, path: str, login: tuple[str, str] | None
) -> None:
    """Flower answers 401 without the password, and with a wrong one."""
    assert httpx.get(_url(stack, path), auth=login).status_code == 401


def test_flower_listens_on_loopback(flower: Process) -> None:
    """Flower accepts connections on 127.0.0.1 alone."""
    addresses = listening(psutil.Process(flower.pid))
    assert {host for host, _ in addresses} == {"127.0.0.1"}


def test_flower_shows_the_tasks(stack: Stack, flower: Process) -> None:
    """With the password Flower answers 200, and shows a task that a worker has done."""
    assert httpx.get(_url(stack, "/workers"), auth=LOGIN).status_code == 200
    with Sender(stack.servers.valkey.broker_url_file.read_text()) as sender:
        task = sender.refresh(fresh(numbers))
    shown = eventually("the task in Flower", lambda: _done(stack, task), within=30)
    assert shown["name"] == "holdfast.refresh"


def _done(stack: Stack, task: str) -> dict[str, Any] | None:
    answer = httpx.get(_url(stack, f"/api/task/info/{task}"), auth=LOGIN)
    info: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return info if info.get("state") == "SUCCESS" else None


def test_the_password_of_flower_is_on_no_command_line(flower: Process) -> None:
    """No process of this machine has the password among its arguments."""
    hidden = (PASSWORD, base64.b64encode(f"ops:{PASSWORD}".encode()).decode())
    showing = [process for process in psutil.process_iter() if any(h in _arguments(process) for h in hidden)]
    assert showing == []


def _arguments(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_flower_does_not_start_without_a_password(stack: Stack) -> None:
    """Without FLOWER_BASIC_AUTH, `holdfast flower` ends at once with one line that names it."""
    assert stack.flower(name="no-password").refusal().startswith("FLOWER_BASIC_AUTH: ")


def test_flower_prints_no_secret(stack: Stack, flower: Process) -> None:
    """No password, neither its own nor a server's, stands in what Flower prints or in its arguments."""
    files = [path for path in (stack.home / "secrets").iterdir() if path.name.endswith("_password")]
    secrets = [PASSWORD, *(stack.secret(path.name) for path in files)]
    assert len(secrets) > 4
    shown = flower.output() + " ".join(_arguments(process) for process in flower.family())
    assert not any(secret in shown for secret in secrets)
