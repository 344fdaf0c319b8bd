"""Generated secrets: files in HOLDFAST_HOME/secrets, each made once and kept."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from holdfast.processes.files import private_folder, write_atomic


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
    # link() refuses to overwrite: two processes that generate at the same time both end with one value.
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink(missing_ok=True)
    return path


def read_secret(path: Path) -> str:
    """Return what a secret file holds, without a trailing newline."""
    return path.read_text(encoding="utf-8").rstrip("\r\n")
