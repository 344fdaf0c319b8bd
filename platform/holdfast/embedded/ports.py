"""The port of an embedded server: picked once, and then kept in HOLDFAST_HOME/run."""

from __future__ import annotations

from pathlib import Path

from holdfast.processes.files import private_folder, write_atomic
from holdfast.processes.ports import pick_port, port_is_free


def remembered_port(home: Path, name: str) -> int | None:
    """Return the port kept in `home/run/<name>.port`, or None."""
    try:
        return int((home / "run" / f"{name}.port").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def claim_port(home: Path, name: str) -> int:
    """Return the remembered port when it is still free, else a new one, and remember it."""
    port = remembered_port(home, name)
    if port is None or not port_is_free(port):
        port = pick_port()
    private_folder(home / "run")
    write_atomic(home / "run" / f"{name}.port", f"{port}\n")
    return port
