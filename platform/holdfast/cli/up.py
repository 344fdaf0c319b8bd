"""`holdfast up`: every process on this machine."""

from __future__ import annotations

import typer


def up() -> None:
    """Start everything on this machine, embedded servers included, and load the example."""
    from holdfast.up.main import run

    raise typer.Exit(run())
