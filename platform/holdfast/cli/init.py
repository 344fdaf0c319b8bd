"""`holdfast init`: a package of one's own, with models and first reports from the databases."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.new import describe, every_source, reached, say

if TYPE_CHECKING:
    from holdfast.authoring.package_text import PackageText
    from holdfast.authoring.sources import Source

_SERVERS = ("POSTGRES_", "MONGO_", "REDIS_", "BROKER_")
_MOST_DESCRIBED = 100
_IGNORED = ".env\n.holdfast/\n.venv/\n__pycache__/\n"


def init(
    package: Annotated[str, typer.Argument(help="The package's name, as in my_reports.")],
    postgres_url: Annotated[str | None, typer.Option(help="As POSTGRES_URL; it goes into .env.")] = None,
    mongo_url: Annotated[str | None, typer.Option(help="As MONGO_URL; it goes into .env.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="As REDIS_URL; it goes into .env.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Write a package of your own: models, first reports and tests from your databases, and `.env`."""
    from holdfast.authoring.package import check_new_package, write_new
    from holdfast.processes.programs import shown_command, shown_python

    root = Path.cwd()
    check_new_package(package, root)
    given = {"POSTGRES_URL": postgres_url, "MONGO_URL": mongo_url, "REDIS_URL": redis_url}
    for name, url in given.items():
        if url is not None:
            os.environ[name] = url
            os.environ.pop(f"{name}_FILE", None)
    text = asyncio.run(_package(package, root))
    notes = _add_dotenv(text.files, root, package)
    written = write_new(text.files, private=[root / ".env"])
    shown = {
        "package": package,
        "written": [str(path) for path in written],
        "notes": notes,
        "next": [
            shown_command("up"),
            shown_command("query", text.queries[0]),
            f"{shown_python()} -m pytest tests",
        ],
    }
    say(shown, as_json)


async def _package(package: str, root: Path) -> PackageText:
    from holdfast.authoring import postgres
    from holdfast.authoring.package_text import PackageText, usable
    from holdfast.settings import MongoSettings, PostgresSettings

    facts, documents = PostgresSettings.load(), MongoSettings.load()
    models = ""
    if facts.configured:
        models = usable(package, await reached("POSTGRES_URL", postgres.generated_models(facts)))
    text = PackageText(package, root, models)
    found: list[Source] = []
    if facts.configured or documents.configured:
        found = await every_source()
    tables, collections = await _described(found, "postgres"), await _described(found, "mongo")
    where = text.documents(collections)
    for chosen in (_best(tables), _best(collections)):
        if chosen is not None:
            text.report(chosen, where)
    if not text.queries:
        text.clock()
    return text


async def _described(found: list[Source], database: str) -> list[Source]:
    chosen = [source for source in found if source.database == database]
    return [await describe(source) for source in chosen[:_MOST_DESCRIBED]]


def _best(sources: list[Source]) -> Source | None:
    """The source for a first report: one with rows that can be grouped and measured."""

    def worth(source: Source) -> tuple[bool, bool, int]:
        sampled = any(each.distinct for each in source.fields)
        return sampled and source.group is not None, source.measure is not None, len(source.fields)

    return max(sources, key=worth, default=None)


def _add_dotenv(files: dict[Path, str], root: Path, package: str) -> list[str]:
    """Add `.env` and `.gitignore` where there is none; what is to be added to an `.env` that is there."""
    from holdfast.authoring.package import dotenv_line

    lines = [f"REPORTS={package}.reports"]
    lines += [
        dotenv_line(name, value)
        for name, value in sorted(os.environ.items())
        if name.startswith(_SERVERS) and value
    ]
    if not (root / ".gitignore").exists():
        files[root / ".gitignore"] = _IGNORED
    if not (root / ".env").exists():
        files[root / ".env"] = "\n".join(lines) + "\n"
        return []
    names = ", ".join(line.partition("=")[0] for line in lines)
    return [f".env is there already and stays as it is: set {names} in it (REPORTS={package}.reports)"]
