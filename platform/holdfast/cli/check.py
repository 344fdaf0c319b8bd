"""`holdfast check`: every setting is read and every connection is tried, each with a line of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from holdfast.cli import tables
from holdfast.cli.client import call_async
from holdfast.errors import HoldfastError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.settings import RedisSettings

Probe = Callable[[], Awaitable[str]]
"""Tries one thing and returns what it found, in a few words; what is wrong is raised."""
PROBE_SECONDS = 12.0
_OK, _UNSET, _WRONG, _FAILED = "[green]ok[/]     ", "[yellow]unset[/]  ", "[red]wrong[/]  ", "[red]failed[/] "


def check() -> None:
    """Read every setting, try every connection, and explain what is wrong."""
    console = tables.console()
    wrong = list(wrong_settings())
    for line in wrong:
        console.print(f"{_WRONG}{tables.cell(line)}", soft_wrap=True)
    if wrong:
        raise typer.Exit(1)
    console.print(f"{_OK}settings: every variable is of its type")
    raise typer.Exit(0 if try_all(PROBES, console) else 1)


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
        console.print(f"{mark}{tables.cell(text)}", soft_wrap=True)
    return well


def _try(name: str, probe: Probe) -> tuple[str, str]:
    try:
        return _OK, f"{name}: {asyncio.run(asyncio.wait_for(probe(), PROBE_SECONDS))}"
    except SettingsError as error:
        return _UNSET, f"{name}: {error}"
    except HoldfastError as error:
        return _FAILED, f"{name}: {error}"
    except TimeoutError:
        return _FAILED, f"{name}: no answer in {PROBE_SECONDS:g} s"


async def _reports() -> str:
    from holdfast.reports import load_reports
    from holdfast.settings import ReportsSettings

    registry = load_reports(ReportsSettings.load().modules)
    return f"{len(registry.reports)}: {', '.join(sorted(registry.reports))}"


async def _postgres() -> str:
    from holdfast.links.postgres import PostgresAdapter
    from holdfast.settings import PostgresSettings

    return await _opened(PostgresAdapter(PostgresSettings.load))


async def _mongo() -> str:
    from holdfast.links.mongo import MongoAdapter
    from holdfast.settings import MongoSettings

    return await _opened(MongoAdapter(MongoSettings.load, []))


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
