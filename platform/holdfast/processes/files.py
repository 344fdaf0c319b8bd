"""The files of HOLDFAST_HOME: atomic writes, generated secrets, remembered ports, bounded logs.

No state and no loop. Every write goes to a temporary name in the same folder and is renamed (or
linked) into place, so that a killed process leaves the old file or the new one and nothing between.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import socket
from pathlib import Path
from typing import BinaryIO

from holdfast.errors import HoldfastError

LOG_MAX_BYTES = 5 * 1024 * 1024
_PORTS = range(20_000, 32_000)


class LocalError(HoldfastError):
    """Something on this machine keeps Holdfast from starting."""

    code = "local"


def private_folder(path: Path) -> Path:
    """Create `path` (mode 0700) and its parents, and return it; what exists keeps its mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    return path


def write_atomic(path: Path, content: str, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path` by `content` in one step; `mode` holds from the first byte on.

    Only a `durable` file survives a loss of power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def secret_file(home: Path, name: str, *, prefix: str = "", size: int = 32) -> Path:
    """Return the file `home/secrets/name`, generated on first use and kept from then on.

    It holds `prefix` followed by `size` random bytes in hexadecimal, without a newline. File 0600,
    folder 0700.
    """
    folder = private_folder(home / "secrets")
    path = folder / name
    if path.exists():
        return path
    temporary = folder / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"
    write_atomic(temporary, prefix + secrets.token_hex(size))
    # link() refuses to overwrite: of two processes that generate at once, both end up reading one
    # value.
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink(missing_ok=True)
    return path


def read_secret(path: Path) -> str:
    """Return what a secret file holds, without a trailing newline."""
    return path.read_text(encoding="utf-8").rstrip("\r\n")


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `host:port` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def pick_port(rng: random.Random | None = None) -> int:
    """Return a free port of 127.0.0.1.

    It lies below the range from which kernels take the source ports of outgoing connections: one of
    those could otherwise sit on the port of a server that is being restarted.
    """
    rng = rng or random.SystemRandom()
    for _ in range(200):
        port = rng.choice(_PORTS)
        if port_is_free(port):
            return port
    raise LocalError(
        "no free port found on 127.0.0.1 between 20000 and 32000; stop something that listens there"
    )


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


def open_log(home: Path, name: str) -> BinaryIO:
    """Open `home/logs/<name>.log` for appending; above LOG_MAX_BYTES it first becomes `.log.1`."""
    path = log_path(home, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_MAX_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)


def log_path(home: Path, name: str) -> Path:
    """Where the output of the process `name` goes."""
    return home / "logs" / f"{name}.log"


def log_tail(home: Path, name: str, lines: int = 12) -> str:
    """Return the last `lines` lines of a log, for an error message."""
    try:
        with log_path(home, name).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16_384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(empty log)"
