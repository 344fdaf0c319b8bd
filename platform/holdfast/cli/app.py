"""The command line: `holdfast`, which has one module for each command.

A command imports what it needs when it runs, so `holdfast gateway` loads nothing that it does not use.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli import programs
from holdfast.cli.check import check
from holdfast.cli.extras import check_extras
from holdfast.cli.init import init
from holdfast.cli.new import new
from holdfast.cli.query import query
from holdfast.cli.reports import reports
from holdfast.cli.runs import runs
from holdfast.cli.status import status
from holdfast.cli.token import token
from holdfast.cli.up import up
from holdfast.cli.warm import warm
from holdfast.errors import exit_on_error
from holdfast.processes.paths import find_modules_here

app = typer.Typer(
    name="holdfast",
    help="Analytics that are computed before they are asked for, and served while anything behind is down.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

app.command()(up)
app.command()(programs.supervisor)
app.command(context_settings=PASS_ON)(programs.worker)
app.command(context_settings=PASS_ON)(programs.beat)
app.command()(programs.flower)
app.command()(programs.gateway)
app.command()(programs.load)
app.command()(warm)
app.command()(status)
app.command()(check)
app.command()(init)
app.command()(new)
app.command()(query)
app.command()(reports)
app.command()(runs)
app.command()(token)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before a command."""
    check_extras(context.invoked_subcommand, sys.argv)


def main() -> None:
    """Run the command line; wrong settings or reports end it with one line and no traceback."""
    # REPORTS may name a module of this folder.
    find_modules_here()
    with exit_on_error():
        app()
