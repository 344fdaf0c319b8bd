"""Files of a running Holdfast: private folders, atomic writes, bounded logs.

Every write goes to a temporary name in the same folder and is renamed into place, so that a killed process
leaves the old file or the new one and nothing between.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import BinaryIO

LOG_MAX_BYTES = 5 * 1024 * 1024
_TAIL_BYTES = 16_384
_LONGEST_LINE = 500


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
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(empty log)"


def last_words(path: Path, *, since: int = 0) -> str:
    """The last line of a log after byte `since`, as a person reads it; nothing where nothing was logged.

    A line that is JSON is its event and its error. It is cut at 500 characters.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(since, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _sentence(lines[-1])[:_LONGEST_LINE] if lines else ""


def _sentence(line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict) or "event" not in record:
        return line
    said = [str(record["event"]), str(record.get("error") or _last_line(record.get("exception")))]
    return " ".join(part for part in said if part)


def _last_line(text: object) -> str:
    lines = str(text or "").strip().splitlines()
    return lines[-1].strip() if lines else ""
