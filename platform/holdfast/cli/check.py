"""What a person asks of a running Holdfast: `holdfast check`, `holdfast query` and `holdfast runs`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from holdfast import settings
from holdfast.errors import HoldfastError, SettingsError
from holdfast.rpc.client import Client, connect

CHECK_SECONDS = 12.0
SHOWN_ROWS = 50
PLAIN_WIDTH = 200
"""Columns of the tables where no terminal says how wide it is."""
CheckItem = tuple[str, Callable[[], Awaitable[str]]]


def check() -> int:
    """Read every setting, try every connection, and print a line for each; 0 when all is well."""
    console = _console()
    problems = 0
    for cls in settings.EVERY_CLASS:
        try:
            cls.load()
        except SettingsError as error:
            for line in str(error).splitlines():
                problems += 1
                console.print(f"[red]wrong[/]  {line}", soft_wrap=True)
    if problems:
        return 1
    console.print("[green]ok[/]     settings: every variable is of its type")
    for name, probe in _probes():
        try:
            told = asyncio.run(asyncio.wait_for(probe(), CHECK_SECONDS))
            console.print(f"[green]ok[/]     {name}: {told}", soft_wrap=True)
        except SettingsError as error:
            problems += 1
            console.print(f"[yellow]unset[/]  {name}: {error}", soft_wrap=True)
        except HoldfastError as error:
            problems += 1
            console.print(f"[red]failed[/] {name}: {error}", soft_wrap=True)
        except TimeoutError:
            problems += 1
            console.print(f"[red]failed[/] {name}: no answer in {CHECK_SECONDS:g} s")
    return 1 if problems else 0


def _probes() -> list[CheckItem]:
    async def reports() -> str:
        from holdfast.reports import load_reports

        registry = load_reports(settings.ReportsSettings.load().modules)
        return f"{len(registry.reports)}: {', '.join(sorted(registry.reports))}"

    async def postgres() -> str:
        from holdfast.links.postgres import PostgresAdapter

        return await _opened(PostgresAdapter(settings.PostgresSettings.load))

    async def mongo() -> str:
        from holdfast.links.mongo import MongoAdapter

        return await _opened(MongoAdapter(settings.MongoSettings.load, []))

    async def redis() -> str:
        from holdfast.links.redis import RedisAdapter

        return await _opened(RedisAdapter(settings.RedisSettings.load))

    async def broker() -> str:
        from holdfast.links.redis import RedisAdapter

        return await _opened(RedisAdapter(_broker_as_redis))

    async def supervisor() -> str:
        client = connect()
        try:
            pid = await client.ping(deadline=2)
        finally:
            await client.aclose()
        return f"answers on its socket (pid {pid})"

    async def tokens() -> str:
        gateway = settings.GatewaySettings.load()
        if gateway.auth == "off":
            return "GW_AUTH is off: the gateway answers anybody on this machine"
        from holdfast.tokens import secret

        secret(settings.JwtSettings.load())
        return "the gateway checks tokens"

    return [
        ("reports", reports),
        ("postgres", postgres),
        ("mongo", mongo),
        ("redis", redis),
        ("broker", broker),
        ("supervisor", supervisor),
        ("authentication", tokens),
    ]


def _broker_as_redis() -> settings.RedisSettings:
    return settings.RedisSettings.model_validate({"REDIS_URL": settings.BrokerSettings.load().dsn()})


async def _opened(adapter: Any) -> str:
    began = time.perf_counter()
    try:
        await adapter.open()
        return f"a test query was answered in {(time.perf_counter() - began) * 1000:.0f} ms"
    finally:
        await adapter.close()


def query(name: str, given: Sequence[str]) -> int:
    """Run a named query through the supervisor and print its rows; without a name, list the queries."""
    from holdfast.reports import load_reports

    registry = load_reports(settings.ReportsSettings.load().modules)
    if not name:
        for report in registry:
            for known in report.queries.values():
                options = " ".join(f"[{spec.name}=…]" for spec in report.spec.params)
                print(f"{known.name:36} {known.source:9} {options}")
        return 0
    report, _ = registry.query(name)
    pairs = [text.partition("=") for text in given]
    if bad := [text for text, (_, equals, _) in zip(given, pairs, strict=True) if not equals]:
        raise SettingsError(f"{bad[0]!r} is not key=value")
    params = report.reader.parse({key: value for key, _, value in pairs})
    began = time.perf_counter()
    rows = _call(lambda client: client.query(name, params))
    took = (time.perf_counter() - began) * 1000
    console = _console()
    if rows:
        table = Table(*rows[0].keys(), box=None)
        for row in rows[:SHOWN_ROWS]:
            table.add_row(*(_cell(value) for value in row.values()))
        console.print(table)
    hidden = f", the first {SHOWN_ROWS} shown" if len(rows) > SHOWN_ROWS else ""
    console.print(f"{len(rows)} rows in {took:.1f} ms{hidden}", style="dim")
    return 0


def runs(report: str | None, limit: int, as_json: bool) -> int:
    """Print the newest runs."""
    found: list[dict[str, Any]] = _call(lambda client: client.runs(report, limit=limit))
    if as_json:
        print(json.dumps(found))
        return 0
    table = Table("when", "report", "parameters", "trigger", "outcome", "ms", "rows", "bytes", box=None)
    for run in found:
        params = " ".join(f"{k}={v}" for k, v in run["params"].items() if v is not None)
        when = datetime.fromtimestamp(run["started_at"]).astimezone().strftime("%m-%d %H:%M:%S")
        cells = [f"{run['duration_ms']:.0f}", str(run["rows"] or ""), str(run["bytes"] or "")]
        outcome = run["outcome"] + (f": {run['error']}" if run["error"] else "")
        table.add_row(when, run["report"], params, run["trigger"], outcome, *cells)
    _console().print(table)
    return 0


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _call(work: Callable[[Client], Awaitable[Any]]) -> Any:
    async def one() -> Any:
        client = connect()
        try:
            return await work(client)
        finally:
            await client.aclose()

    return asyncio.run(one())
