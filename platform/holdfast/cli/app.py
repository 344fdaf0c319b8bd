"""The command line. Each command imports what it needs when it runs: `holdfast gateway` stays slim."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from holdfast.errors import exit_on_error
from holdfast.processes.programs import command
from holdfast.settings import BrokerSettings, ReportsSettings, SupervisorSettings

app = typer.Typer(
    name="holdfast",
    help="Analytics that are computed before they are asked for, and served while anything behind is down.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def _become(name: str, *arguments: str) -> NoReturn:
    """Turn this process into that program, so that signals and the pid are the program's own."""
    sys.stdout.flush()
    argv = command(name, *arguments)
    os.execv(argv[0], argv)


@app.command()
def up() -> None:
    """Start everything on this machine, embedded servers included, and load the example."""
    from holdfast.up.main import run

    raise typer.Exit(run())


@app.command()
def supervisor() -> None:
    """Run the supervisor: the owner of every pooled connection."""
    _become("supervisor")


@app.command(context_settings=PASS_ON)
def worker(context: typer.Context) -> None:
    """Run a Celery worker; further arguments go to Celery."""
    _check_celery_settings()
    _become("worker", *context.args)


@app.command(context_settings=PASS_ON)
def beat(context: typer.Context) -> None:
    """Run the scheduler; two or more are safe, one leads. Further arguments go to Celery."""
    _check_celery_settings()
    _become("beat", *context.args)


def _check_celery_settings() -> None:
    """Celery would bury a wrong setting under a traceback of its own."""
    BrokerSettings.load().dsn()
    SupervisorSettings.load()
    ReportsSettings.load()


@app.command()
def flower() -> None:
    """Run Flower on loopback, behind its password."""
    _become("flower")


@app.command()
def gateway() -> None:
    """Run the HTTP gateway."""
    _become("gateway")


@app.command()
def load() -> None:
    """Load the bundled example into Postgres and MongoDB, where it is not there yet."""
    _become("load")


@app.command()
def warm(
    report: Annotated[str | None, typer.Argument(help="One report; all of them without it.")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Only what is not fresh.")] = False,
) -> None:
    """Have the workers compute the warm variants now, and show how far they are."""
    arguments = [*(["--missing"] if missing else []), *([report] if report else [])]
    _become("warm", *arguments)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show processes, links, pools and reports."""
    from holdfast.cli.status import show

    raise typer.Exit(show(as_json))


@app.command()
def check() -> None:
    """Read every setting, try every connection, and explain what is wrong."""
    from holdfast.cli.check import check as run

    raise typer.Exit(run())


@app.command()
def query(
    name: Annotated[str, typer.Argument(help="As report.function; without it, all are listed.")] = "",
    params: Annotated[list[str] | None, typer.Argument(help="As key=value.")] = None,
) -> None:
    """Run a named query through the supervisor, by hand."""
    from holdfast.cli.check import query as run

    raise typer.Exit(run(name, params or []))


@app.command()
def runs(
    report: Annotated[str | None, typer.Argument(help="One report; all of them without it.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show the newest refreshes: what asked for them, how long they took, what they came to."""
    from holdfast.cli.check import runs as run

    raise typer.Exit(run(report, limit, as_json))


@app.command()
def token(
    subject: Annotated[str, typer.Argument(help="Who it is for (the claim `sub`).")] = "me",
    scope: Annotated[str, typer.Option(help="Scopes, separated by spaces.")] = "analytics:read",
    claim: Annotated[list[str] | None, typer.Option(help="A further claim, as name=value.")] = None,
    ttl: Annotated[int | None, typer.Option(min=1, help="Seconds; JWT_ACCESS_TTL without it.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="A refresh token instead.")] = False,
) -> None:
    """Print an access token signed with JWT_SECRET."""
    from holdfast.tokens import issue

    further = dict(_pair(text) for text in claim or [])
    print(issue(subject, scope=scope, claims=further, ttl=ttl, refresh=refresh))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not name=value")
    return name, value


def main() -> None:
    """Run the command line; what is wrong with settings or reports is told in a line, not a traceback."""
    # As `python -m` has it for the other processes: REPORTS may name a module beside the user.
    sys.path.insert(0, str(Path.cwd()))
    with exit_on_error():
        app()
