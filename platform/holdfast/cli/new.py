"""`holdfast new`: a working report with its test, from a table or a collection that exists."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from holdfast.errors import LocalError

if TYPE_CHECKING:
    from holdfast.authoring.package import Place
    from holdfast.authoring.sources import Source

T = TypeVar("T")


def new(
    name: Annotated[str, typer.Argument(help="The report's name, as in late-orders.")],
    source: Annotated[
        str, typer.Option("--from", help="As postgres:orders, postgres:shop.orders or mongo:readings.")
    ] = "",
    package: Annotated[
        str | None, typer.Option(help="The package to write into; without it, that of REPORTS.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Write a report and its test, from a table or a collection that exists."""
    from holdfast.authoring.package import place_of, write_new
    from holdfast.processes.programs import shown_command
    from holdfast.settings import ReportsSettings

    modules = ReportsSettings.load().modules
    _check_name(name, modules)
    place = place_of(modules, package)
    chosen = asyncio.run(_chosen(source))
    files, query = _files(name, chosen, place)
    written = write_new(files)
    steps = [shown_command("query", query), f"{_python()} -m pytest {_here(written[-1])}"]
    shown = {
        "report": name,
        "source": str(chosen),
        "url": f"/api/v1/analytics/{name}",
        "written": [str(path) for path in written],
        "next": steps,
    }
    say(shown, as_json)


def say(shown: dict[str, Any], as_json: bool) -> None:
    """Print what was written, and the next commands."""
    if as_json:
        print(json.dumps(shown))
        return
    for path in shown["written"]:
        print(f"wrote  {_here(Path(path))}")
    for note in shown.get("notes", ()):
        print(note)
    print("next:")
    for command in shown["next"]:
        print(f"  {command}")


def _check_name(name: str, modules: list[str]) -> None:
    from holdfast.authoring.names import REPORT_NAME, report_name
    from holdfast.reports import load_reports

    if not REPORT_NAME.fullmatch(name):
        raise LocalError(
            f"{name!r} is no name for a report: lower-case words with hyphens, as in {report_name(name)!r}"
        )
    if name in load_reports(modules).reports:
        raise LocalError(f"there is a report {name!r} already: choose another name")


async def _chosen(text: str) -> Source:
    from holdfast.authoring.sources import listed, pick

    found = await every_source(text.partition(":")[0])
    if not text:
        raise LocalError(f"say what it is made from, by --from. {listed(found)}")
    return await describe(pick(text, found))


async def every_source(database: str = "") -> list[Source]:
    """The tables and collections of the databases that are configured; of one of them, where it is named.

    Raises:
        HoldfastError: a database cannot be reached, or none is configured.
    """
    from holdfast.authoring import mongo, postgres
    from holdfast.settings import MongoSettings, PostgresSettings

    facts, documents = PostgresSettings.load(), MongoSettings.load()
    found: list[Source] = []
    if facts.configured and database != "mongo":
        found += await reached("POSTGRES_URL", postgres.sources(facts))
    if documents.configured and database != "postgres":
        found += await reached("MONGO_URL", mongo.sources(documents))
    if not facts.configured and not documents.configured:
        raise LocalError("no database is configured: set POSTGRES_URL or MONGO_URL, or start `holdfast up`")
    return found


async def describe(source: Source) -> Source:
    """The source with its fields."""
    from holdfast.authoring import mongo, postgres
    from holdfast.settings import MongoSettings, PostgresSettings

    if source.database == "mongo":
        return await reached("MONGO_URL", mongo.described(MongoSettings.load(), source))
    return await reached("POSTGRES_URL", postgres.described(PostgresSettings.load(), source))


async def reached(variable: str, work: Coroutine[Any, Any, T]) -> T:
    """What reading a database gives.

    Raises:
        LocalError: it cannot be reached, or refuses; the message names the setting.
    """
    import asyncpg
    from sqlalchemy.exc import SQLAlchemyError

    from holdfast.reasons import outage

    try:
        return await work
    except asyncpg.PostgresError as error:
        raise LocalError(f"{variable}: {error.args[0]}") from None
    except (OSError, TimeoutError, SQLAlchemyError, asyncpg.InterfaceError) as error:
        raise LocalError(f"{variable}: {outage(error)}") from None


def _files(name: str, source: Source, place: Place) -> tuple[dict[Path, str], str]:
    from holdfast.authoring.report import ReportText

    module = name.replace("-", "_")
    path = f"{place.package}.{module}"
    text = ReportText(name, source, path).written()
    return {
        place.folder / f"{module}.py": text.report,
        place.tests / f"test_{module}.py": text.test,
    }, text.query


def _python() -> str:
    from holdfast.processes.programs import shown_python

    return shown_python()


def _here(path: Path) -> str:
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
