"""`holdfast up`: every process on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def up(
    no_reload: Annotated[
        bool, typer.Option("--no-reload", help="Leave the reports as they are when their files change.")
    ] = False,
) -> None:
    """Start everything on this machine, embedded servers included, and load the example."""
    from holdfast.rpc.client import Client
    from holdfast.up.main import run

    raise typer.Exit(run(Client, reload=not no_reload))
