"""One process at a time: a lock on a file that says who holds it.

The lock is the kernel's (flock), so it ends with its holder; that the file exists means nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class LockHeld(Exception):
    """Another process holds the lock; `pid` is its id as text, or "unknown"."""

    def __init__(self, pid: str) -> None:
        super().__init__(f"held by pid {pid}")
        self.pid = pid


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock at that path, whose folder exists.

    Raises:
        LockHeld: another process does.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """The pid of the process that holds the lock at that path, or None."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        _lock(descriptor, fcntl.LOCK_SH)
    except LockHeld as held:
        return int(held.pid) if held.pid.isdecimal() else None
    finally:
        os.close(descriptor)
    return None


def _lock(descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockHeld(os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown") from None
