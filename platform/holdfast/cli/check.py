"""`holdfast check`: every setting is read and every connection is tried, each with a line of its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import tables
from holdfast.cli.client import call_async
from holdfast.cli.findings import check_reports
from holdfast.errors import HoldfastError, LinkDown, ReportError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.settings import RedisSettings

Probe = Callable[[], Awaitable[str]]
"""Tries one thing and returns what it found, in a few words; what is wrong is raised."""
PROBE_SECONDS = 12.0
_OK, _UNSET, _WRONG, _FAILED, _NOTE = "ok", "unset", "wrong", "failed", "note"
_STYLES = {_OK: "green", _UNSET: "yellow", _WRONG: "red", _FAILED: "red", _NOTE: "yellow"}


def check(
    run: Annotated[bool, typer.Option("--run", help="Compute every report once, storing nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Read every setting, try every connection, look for what the reports read, and explain what is wrong."""
    shown = _Shown(None if as_json else tables.console())
    _check_all(shown, run=run)
    if as_json:
        print(json.dumps({"ok": shown.well, "lines": shown.lines, "reports": shown.reports}))
    raise typer.Exit(0 if shown.well else 1)


def _check_all(shown: _Shown, *, run: bool) -> None:
    if wrong := list(wrong_settings()):
        for line in wrong:
            shown.line(_WRONG, line)
        return
    shown.line(_OK, "settings: every variable is of its type")
    for line in notes():
        shown.line(_NOTE, line)
    for name, probe in PROBES.items():
        shown.line(*_try(name, probe))
    if run or _any_database():
        check_reports(shown, run=run)


class _Shown:
    """What is printed, or collected for one document where there is no console."""

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.well = True
        self.lines: list[dict[str, str]] = []
        self.reports: list[dict[str, Any]] = []

    def line(self, mark: str, text: str) -> None:
        """One line, which may go on below; what is neither right nor a note lets the check fail."""
        self.well = self.well and mark in (_OK, _NOTE)
        self.lines.append({"state": mark, "text": text})
        if self.console is not None:
            _line(self.console, mark, text)


def _any_database() -> bool:
    from holdfast.settings import MongoSettings, PostgresSettings

    return PostgresSettings.load().configured or MongoSettings.load().configured


def notes() -> list[str]:
    """What the settings hold that has no effect, and what they leave to a default that matters."""
    from holdfast.settings import unknown

    return unknown.notes()


def wrong_settings() -> Iterator[str]:
    """A line for each variable that is set to something of another type."""
    from holdfast.settings import EVERY_CLASS

    for cls in EVERY_CLASS:
        try:
            cls.load()
        except SettingsError as error:
            yield from str(error).splitlines()


def try_all(probes: Mapping[str, Probe], console: Console) -> bool:
    """Run each probe, print a line for it, and return whether all is well."""
    well = True
    for name, probe in probes.items():
        mark, text = _try(name, probe)
        well = well and mark == _OK
        _line(console, mark, text)
    return well


def _line(console: Console, mark: str, text: str) -> None:
    tables.line(console, text, mark=f"{mark:7}", style=_STYLES[mark])


def _try(name: str, probe: Probe) -> tuple[str, str]:
    try:
        return _OK, f"{name}: {asyncio.run(asyncio.wait_for(probe(), PROBE_SECONDS))}"
    except SettingsError as error:
        return _UNSET, f"{name}: {error}"
    except HoldfastError as error:
        return _FAILED, f"{name}: {error.full}"
    except TimeoutError:
        return _FAILED, f"{name}: no answer in {PROBE_SECONDS:g} s"


async def _reports() -> str:
    from holdfast.reports import load_reports
    from holdfast.settings import ReportsSettings

    registry = load_reports(ReportsSettings.load().modules)
    loaded = f"{len(registry.reports)}: {', '.join(sorted(registry.reports)) or 'none'}"
    if registry.broken:
        lines = [line for broken in registry.broken for line in str(broken).splitlines()]
        raise ReportError(f"{loaded}; {len(registry.broken)} set aside", lines=lines)
    return loaded


async def _postgres() -> str:
    from holdfast.links.postgres import PostgresAdapter
    from holdfast.settings import PostgresSettings

    return await _opened(PostgresAdapter(PostgresSettings.load))


async def _mongo() -> str:
    from holdfast.links.mongo import MongoAdapter
    from holdfast.settings import MongoSettings

    settings = MongoSettings.load()
    database = f"the database is {settings.database!r}"
    if settings.configured and not settings.names_database:
        database += ", since neither MONGO_URL nor MONGO_DB names one"
    try:
        return f"{await _opened(MongoAdapter(MongoSettings.load, []))}; {database}"
    except LinkDown as error:
        raise LinkDown(f"{error}; {database}") from error


async def _redis() -> str:
    from holdfast.links.redis import RedisAdapter
    from holdfast.settings import RedisSettings

    return await _opened(RedisAdapter(RedisSettings.load))


async def _broker() -> str:
    from holdfast.links.redis import RedisAdapter

    return await _opened(RedisAdapter(_broker_as_redis))


def _broker_as_redis() -> RedisSettings:
    from holdfast.settings import BrokerSettings, RedisSettings

    return RedisSettings.model_validate({"REDIS_URL": BrokerSettings.load().dsn()})


async def _opened(adapter: Any) -> str:
    began = time.perf_counter()
    try:
        await adapter.open()
        return f"a test query was answered in {(time.perf_counter() - began) * 1000:.0f} ms"
    finally:
        await adapter.close()


async def _supervisor() -> str:
    pid = await call_async(lambda client: client.ping(deadline=2))
    return f"answers on its socket (pid {pid})"


async def _authentication() -> str:
    from holdfast.settings import GatewaySettings, JwtSettings
    from holdfast.tokens import secret

    if GatewaySettings.load().auth == "off":
        return "GW_AUTH is off: the gateway answers anybody on this machine"
    secret(JwtSettings.load())
    return "the gateway checks tokens"


PROBES: dict[str, Probe] = {
    "reports": _reports,
    "postgres": _postgres,
    "mongo": _mongo,
    "redis": _redis,
    "broker": _broker,
    "supervisor": _supervisor,
    "authentication": _authentication,
}
