"""The ready screen: what runs where, and three requests to try, each shown with its real answer."""

from __future__ import annotations

import asyncio
import http.client
import json
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.processes.files import log_path
from holdfast.processes.ports import port_is_free
from holdfast.processes.programs import shown_command
from holdfast.up.children import ChildState
from holdfast.up.plan import Plan

API = "/api/v1/analytics"
EXAMPLES = (
    f"{API}/carriers?month=7&origin=JFK",
    f"{API}/routes?limit=10&origin=JFK",
    f"{API}/weather-monthly?origin=EWR",
)
_EXCERPT = 110


@dataclass(frozen=True)
class Answer:
    """One HTTP answer: `status` 0 means that nothing answered; `seconds` covers connect to last byte."""

    status: int
    x_cache: str
    seconds: float
    body: bytes

    @property
    def is_hit(self) -> bool:
        """Whether it came from the cache."""
        return self.status == 200 and self.x_cache == "HIT"


def fetch(host: str, port: int, path: str, token: str | None = None) -> Answer:
    """GET `path`; never raises for a server that does not answer."""
    connection = http.client.HTTPConnection(host, port, timeout=15)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    started = time.perf_counter()
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return Answer(0, "", time.perf_counter() - started, b"")
    finally:
        connection.close()
    seconds = time.perf_counter() - started
    return Answer(response.status, response.headers.get("X-Cache", ""), seconds, body)


async def fetch_until_hit(
    host: str, port: int, path: str, *, token: str | None = None, within: float = 30.0
) -> list[Answer]:
    """GET `path` until it is a HIT (or, for a page that is never cached, 200), at most `within` seconds.

    Returns every answer that came, repetitions of the same status and X-Cache left out.
    """
    answers: list[Answer] = []
    deadline = time.monotonic() + within
    while True:
        answer = await asyncio.to_thread(fetch, host, port, path, token)
        known = answers and (answers[-1].status, answers[-1].x_cache)
        if answer.status and known != (answer.status, answer.x_cache):
            answers.append(answer)
        elif answer.status:
            answers[-1] = answer
        if answer.is_hit or (answer.status == 200 and not answer.x_cache):
            return answers
        if answer.status in (401, 403, 404) or time.monotonic() > deadline:
            return answers
        await asyncio.sleep(0.05)


async def answers_ready(host: str, port: int, *, within: float) -> None:
    """Return as soon as the gateway calls itself ready, or after `within` seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if (await asyncio.to_thread(fetch, host, port, "/readyz")).status == 200:
            return
        await asyncio.sleep(0.05)


async def listens(port: int, *, within: float) -> None:
    """Return as soon as something listens on the port of 127.0.0.1, or after `within` seconds."""
    for _ in range(round(within / 0.1)):
        if not port_is_free(port):
            return
        await asyncio.sleep(0.1)


def describe(answers: Iterable[Answer]) -> str:
    """The answers to one request in a line: `200 MISS 41 ms → 200 HIT 0.6 ms`."""
    steps = [
        f"{a.status} {a.x_cache} {a.seconds * 1000:.{0 if a.seconds > 0.01 else 1}f} ms".replace("  ", " ")
        for a in answers
    ]
    return " → ".join(steps) or "no answer yet"


def excerpt(body: bytes) -> str:
    """The first row of a report's body, or the title of a problem, cut to one line."""
    try:
        content = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(content, dict):
        return ""
    rows = content.get("rows")
    if isinstance(rows, list) and rows:
        return f"{len(rows)} rows, the first: {_short(rows[0])}"
    if isinstance(content.get("title"), str):
        return _short(content["title"])
    return _short(content)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"


def show_ready(
    console: Console, plan: Plan, states: Iterable[ChildState], tried: dict[str, list[Answer]]
) -> None:
    """Print the screen."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in ("process", "pid", "address"):
        table.add_column(column, no_wrap=True, justify="right" if column == "pid" else "left")
    for state in states:
        table.add_row(state.name, str(state.pid or "-"), address(plan, state))
    base = gateway_url(plan)
    console.print()
    answered = all(answers and answers[-1].status == 200 for answers in tried.values())
    if answered:
        console.print(Text("Holdfast is ready", style="bold green"))
    else:
        late = f"Holdfast runs, but not everything answers yet: see {_logs(plan)}"
        _line(console, late, style="bold yellow")
    console.print()
    console.print(table)
    console.print()
    bearer = f'-H "Authorization: Bearer $({token_command(plan)})" ' if plan.gateway.auth == "jwt" else ""
    for path, answers in tried.items():
        _line(console, f"curl -i {bearer}'{base}{path}'", style="bold")
        _line(console, f"  {describe(answers)}")
        if answers and (row := excerpt(answers[-1].body)):
            _line(console, f"  {row}", style="dim")
    console.print()
    _line(console, f"Gateway   {base}{API}  (the catalogue of reports)")
    password = plan.flower_password
    held = f"user and password are in {password}" if password else "with FLOWER_BASIC_AUTH"
    _line(console, f"Flower    http://127.0.0.1:{plan.flower.port}/  ({held})")
    _line(console, f"Logs      {_logs(plan)}")
    if plan.gateway.auth == "off":
        _line(console, "GW_AUTH is off: loopback only, no token is asked for.", style="yellow")
    _line(console, "Ctrl-C stops everything.")


def token_command(plan: Plan) -> str:
    """`holdfast token` as it can be pasted into another terminal that is in this folder."""
    # Where the home is another one than `.holdfast` here, that terminal does not know it.
    here = plan.home == Path.cwd() / ".holdfast"
    home = "" if here else f"HOLDFAST_HOME={shlex.quote(str(plan.home))} "
    return home + shown_command("token")


def address(plan: Plan, state: ChildState) -> str:
    """Where a process listens, or what it does when it listens nowhere."""
    if state.name == "supervisor":
        return f"http://127.0.0.1:{state.port} (health, metrics, status)"
    if state.name == "gateway":
        return gateway_url(plan)
    if state.name == "flower":
        starting = state.port is not None and port_is_free(state.port)
        return f"http://127.0.0.1:{state.port}" + (" (starting)" if starting else "")
    return f"127.0.0.1:{state.port}" if state.port else ""


def gateway_host(plan: Plan) -> str:
    """The address under which this machine reaches the gateway."""
    host = plan.gateway.host.removeprefix("[").removesuffix("]")
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104


def gateway_url(plan: Plan) -> str:
    """The gateway's base URL as seen from this machine, without a trailing slash."""
    host = gateway_host(plan)
    return f"http://{f'[{host}]' if ':' in host else host}:{plan.gateway.port}"


def _logs(plan: Plan) -> Path:
    return log_path(plan.home, "any").parent


def _line(console: Console, text: str, style: str | None = None) -> None:
    # One line of output per line of text: a wrapped curl line could not be copied.
    console.print(Text(text, style=style or ""), soft_wrap=True)
