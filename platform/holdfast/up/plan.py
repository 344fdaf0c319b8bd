"""Who runs, and which settings each of them gets: decided before anything starts.

A process gets the settings of its own role and none of another's, so that a worker or the gateway
cannot reach a database even by mistake. Secrets travel as names of files.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.embedded import Mongo, Postgres, Server, Valkey
from holdfast.embedded.secrets import secret_file
from holdfast.errors import LocalError
from holdfast.processes.files import private_folder, write_atomic
from holdfast.processes.ports import address_of, bind, port_is_free
from holdfast.settings import (
    SOCKET_PATH_LIMIT,
    BrokerSettings,
    FlowerSettings,
    GatewaySettings,
    JwtSettings,
    MongoSettings,
    PostgresSettings,
    RedisSettings,
    ReportsSettings,
    SupervisorSettings,
    is_loopback,
)
from holdfast.settings.sources import environment
from holdfast.up.instance import KEPT_WHILE_UP

EXAMPLE = "holdfast_flights.reports"
PROCESSES = ("supervisor", "gateway", "worker", "beat", "flower")
STOP_ORDER = ("beat", "flower", "gateway", "worker", "supervisor")

FIRST_START_BYTES = 700 * 2**20
LATER_START_BYTES = 100 * 2**20
"""Free disk: a new home grows to about 490 MiB, most of it journals that are made in advance."""

_DATABASES = ("POSTGRES_", "PG_", "PGPASS", "MONGO_")
_CACHE = ("REDIS_",)
_BROKER = ("BROKER_",)
_OWNED = (*_DATABASES, *_CACHE, *_BROKER, "JWT_", "FLOWER_", "GW_")
_ROLES: dict[str, tuple[str, ...]] = {
    "supervisor": (*_DATABASES, *_CACHE, *_BROKER, "GW_CACHE_TTL"),
    "gateway": (*_CACHE, "JWT_", "GW_"),
    "worker": (*_BROKER, "GW_CACHE_TTL"),
    "beat": _BROKER,
    "flower": (*_BROKER, "FLOWER_"),
    "load": _DATABASES,
    "warm": _BROKER,
    "trial": (),
}


@dataclass
class Plan:
    """The servers to start, the settings to publish, and where everything will listen."""

    home: Path
    postgres: Postgres | None
    mongo: Mongo | None
    valkey: Valkey | None
    gateway: GatewaySettings
    supervisor: SupervisorSettings
    flower: FlowerSettings
    reports: Sequence[str]
    flower_password: Path | None
    has_own_broker: bool
    published: dict[str, str] = field(default_factory=dict)
    scratch: Path | None = None

    @property
    def loads_example(self) -> bool:
        """Whether the example is wanted, and both of its databases are embedded."""
        return self.postgres is not None and self.mongo is not None and EXAMPLE in self.reports

    @property
    def servers(self) -> list[Server]:
        """The embedded servers, in the order in which the screen names them."""
        return [each for each in (self.postgres, self.mongo, self.valkey) if each is not None]

    @property
    def ports(self) -> dict[str, int]:
        """The ports of the processes that have one."""
        return {
            "supervisor": self.supervisor.port,
            "gateway": self.gateway.port,
            "flower": self.flower.port,
        }

    def publish(self) -> None:
        """Collect the settings of the prepared servers into `published`."""
        for server in self.servers:
            self.published |= server.env()
        if self.valkey is not None and self.has_own_broker:
            del self.published["BROKER_URL_FILE"]

    def env_for(self, role: str, variables: Mapping[str, str]) -> dict[str, str]:
        """The environment of one process: `variables` (ours), less what belongs to other roles."""
        allowed = _ROLES[role]
        # A Redis of the user's own, and no BROKER_URL: that Redis is the broker.
        if self.valkey is None and not self.has_own_broker and _BROKER[0] in allowed:
            allowed += _CACHE
        everything = {**variables, **self.published}
        if role == "gateway" and self.valkey is not None:
            everything |= self.valkey.gateway_env()
        return {
            name: value
            for name, value in everything.items()
            if not name.startswith(_OWNED) or name.startswith(allowed)
        }


def make_plan(home: Path, given: Mapping[str, str] | None = None) -> Plan:
    """Decide by the variables given, or else by the environment; neither is changed.

    Raises:
        SettingsError: a setting is wrong.
        LocalError: a port is taken, or the disk is full.
    """
    given = environment() if given is None else given
    socket, scratch = _socket(home, given)
    try:
        return _decide(home, given, socket, scratch)
    except BaseException:
        if scratch is not None:
            scratch.rmdir()
        raise


def _decide(home: Path, given: Mapping[str, str], socket: str, scratch: Path | None) -> Plan:
    published = {"HOLDFAST_HOME": str(home), "SUPERVISOR_SOCKET": socket}
    if "GW_AUTH" not in given and is_loopback(given.get("GW_HOST", "127.0.0.1")):
        published["GW_AUTH"] = "off"
    variables = {**given, **published}
    gateway, supervisor = GatewaySettings.load(variables), SupervisorSettings.load(variables)
    flower, broker = FlowerSettings.load(variables), BrokerSettings.load(variables)
    reports = ReportsSettings.load(variables).modules
    published |= {
        "REPORTS": json.dumps(reports),
        "GW_PORT": str(gateway.port),
        "SUPERVISOR_PORT": str(supervisor.port),
        "FLOWER_PORT": str(flower.port),
    }
    published |= _token_settings(home, variables)
    password = None
    if flower.basic_auth is None:
        password = secret_file(home, "flower_basic_auth", prefix="holdfast:", size=16)
        published["FLOWER_BASIC_AUTH_FILE"] = str(password)
    check_ports(gateway, supervisor, flower)
    plan = Plan(
        home=home,
        postgres=None if PostgresSettings.load(variables).configured else Postgres(home),
        mongo=None if MongoSettings.load(variables).configured else Mongo(home),
        valkey=None if RedisSettings.load(variables).configured else Valkey(home),
        gateway=gateway,
        supervisor=supervisor,
        flower=flower,
        reports=reports,
        flower_password=password,
        published=published,
        scratch=scratch,
        has_own_broker=broker.url is not None,
    )
    check_space(home, plan.servers)
    return plan


def _token_settings(home: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """What `holdfast token` in another terminal needs: a file for each signing secret, and the rest.

    A secret that is not set is generated. One that stands in a variable of this terminal alone is put into a
    private file for as long as `holdfast up` runs.
    """
    jwt = JwtSettings.load(variables)
    published = {
        name: value
        for name, value in variables.items()
        if name.startswith("JWT_") and name not in ("JWT_SECRET", "JWT_REFRESH_SECRET")
    }
    for name, secret in (("JWT_SECRET", jwt.secret), ("JWT_REFRESH_SECRET", jwt.refresh_secret)):
        given = variables.get(f"{name}_FILE")
        if secret is None:
            path = secret_file(home, name.lower())
        elif given is not None and Path(given).exists():
            path = Path(given).absolute()
        else:
            private_folder(home)
            path = private_folder(home / "run") / f"{name.lower()}{KEPT_WHILE_UP}"
            write_atomic(path, secret.get_secret_value(), durable=False)
        published[f"{name}_FILE"] = str(path)
    return published


def check_space(home: Path, servers: Sequence[Server]) -> None:
    """Raise LocalError when the disk has no room for the embedded servers' data."""
    if not servers:
        return
    first = any(not server.data.exists() for server in servers)
    needed = FIRST_START_BYTES if first else LATER_START_BYTES
    free = shutil.disk_usage(home).free
    if free < needed:
        raise LocalError(
            f"HOLDFAST_HOME: {home} has {free // 2**20:,} MiB free, and the embedded servers need"
            f" {needed // 2**20:,}; free some, or set HOLDFAST_HOME to a folder on another disk"
        )


def check_ports(gateway: GatewaySettings, supervisor: SupervisorSettings, flower: FlowerSettings) -> None:
    """Raise LocalError or SettingsError, naming the setting, when a port or the address cannot be used."""
    address = address_of("GW_HOST", gateway.host)
    # Any free port first: what is wrong then is the address.
    bind("GW_PORT", address, 0, host_variable="GW_HOST").close()
    wanted = {
        "GW_PORT": (address, gateway.port),
        "SUPERVISOR_PORT": ("127.0.0.1", supervisor.port),
        "FLOWER_PORT": ("127.0.0.1", flower.port),
    }
    seen: dict[int, str] = {}
    for name, (host, port) in wanted.items():
        if port in seen:
            raise LocalError(f"{name}: {port} is also {seen[port]}; set {name} to another port")
        if not port_is_free(port, host):
            raise LocalError(f"{name}: {host}:{port} is in use; set {name} to a free port")
        seen[port] = name


def _socket(home: Path, given: Mapping[str, str]) -> tuple[str, Path | None]:
    if given.get("SUPERVISOR_SOCKET"):
        return str(Path(given["SUPERVISOR_SOCKET"]).absolute()), None
    path = home / "run" / "supervisor.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return str(path), None
    # mkdtemp makes a new 0700 folder; a fixed name in the shared temp folder could be someone else's.
    scratch = Path(tempfile.mkdtemp(prefix="holdfast-"))
    return str(scratch / "supervisor.sock"), scratch
