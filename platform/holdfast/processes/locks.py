"""One process at a time: locks on files.

A lock is the kernel's (flock), so it ends with its holder; that the file exists means nothing. `hold` is a
lock that says who holds it. `try_lock` is one that a child inherits: it lasts until the last process that
inherited it is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from holdfast.processes.files import private_folder


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


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock at that path, or None while another holds it.

    A child that inherits the descriptor holds the lock too, so two servers never share a data folder, even
    when the parent of the first one was killed.
    """
    private_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(descriptor, fcntl.LOCK_EX)
    except LockHeld:
        os.close(descriptor)
        return None
    return descriptor


def _lock(descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockHeld(os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown") from None
