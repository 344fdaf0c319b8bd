"""Settings: one small class per concern. How they are read is in `holdfast.settings.sources`.

For every secret, and every URL that can hold one, `X_FILE` names a file that holds `X`; when the file
exists it wins. A process loads the classes it needs and no others, so a worker never reads a database's
password.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from pydantic import Field, SecretStr, model_validator

from holdfast.errors import SettingsError
from holdfast.settings.sources import Milliseconds, Port, Seconds, Settings, StringList

SOCKET_PATH_LIMIT = 107
"""Bytes that the path of a Unix socket may have on Linux (`sun_path` less its terminator, unix(7))."""


class HomeSettings(Settings):
    """Where Holdfast keeps its sockets, logs, generated secrets and the embedded servers' data."""

    home: Path = Field(Path(".holdfast"), alias="HOLDFAST_HOME")


class PostgresSettings(Settings):
    """The facts. Times are in milliseconds.

    The supervisor opens `pool_max` connections at the most, one of which is kept for its probes.
    """

    _may_be_files = frozenset({"POSTGRES_URL", "POSTGRES_PASSWORD"})

    url: SecretStr | None = Field(None, alias="POSTGRES_URL")
    host: str | None = Field(None, alias="POSTGRES_HOST")
    port: Port = Field(5432, alias="POSTGRES_PORT")
    db: str = Field("holdfast", alias="POSTGRES_DB")
    user: str = Field("holdfast", alias="POSTGRES_USER")
    password: SecretStr | None = Field(None, alias="POSTGRES_PASSWORD")
    pool_max: int = Field(20, alias="PG_POOL_MAX", ge=2, le=1000)
    pool_idle: Milliseconds = Field(30_000, alias="PG_POOL_IDLE")
    conn_timeout: Milliseconds = Field(2_000, alias="PG_CONN_TIMEOUT")
    statement_timeout: Milliseconds = Field(30_000, alias="PG_STATEMENT_TIMEOUT")

    @model_validator(mode="after")
    def _scheme(self) -> Self:
        _check_scheme("POSTGRES_URL", self.url, ("postgresql", "postgres"))
        if self.host is not None and set(self.host) & set("/@?# "):
            raise ValueError("POSTGRES_HOST: must be a host name or an IP address")
        return self

    @property
    def configured(self) -> bool:
        """Whether a server was named at all."""
        return self.url is not None or self.host is not None

    def dsn(self) -> str:
        """`postgresql://user:password@host:port/db`, for asyncpg and (by its scheme) SQLAlchemy.

        Raises:
            SettingsError: neither POSTGRES_URL nor POSTGRES_HOST is set.
        """
        if self.url is not None:
            parts = urlsplit(self.url.get_secret_value())._replace(scheme="postgresql")
            before, at, hosts = parts.netloc.rpartition("@")
            if self.password is not None and ":" not in before:
                # A password of its own completes a URL that has none, so that the URL may be public.
                user = before if at else quote(self.user, safe="")
                parts = parts._replace(netloc=f"{user}:{_secret(self.password)}@{hosts}")
            return urlunsplit(parts)
        if self.host is None:
            raise SettingsError("POSTGRES_URL: set it, or POSTGRES_HOST, or start with `holdfast up`")
        login = _login(self.user, self.password)
        return f"postgresql://{login}{_host(self.host)}:{self.port}/{quote(self.db, safe='')}"


class MongoSettings(Settings):
    """The documents. Times are in milliseconds."""

    _may_be_files = frozenset({"MONGO_URL", "MONGO_PASSWORD"})

    url: SecretStr | None = Field(None, alias="MONGO_URL")
    user: str | None = Field(None, alias="MONGO_USER")
    password: SecretStr | None = Field(None, alias="MONGO_PASSWORD")
    db: str = Field("holdfast", alias="MONGO_DB")
    max_pool: int = Field(50, alias="MONGO_MAX_POOL", ge=2, le=1000)
    min_pool: int = Field(5, alias="MONGO_MIN_POOL", ge=0, le=1000)
    selection_timeout: Milliseconds = Field(10_000, alias="MONGO_SRV_SELECT_TIMEOUT")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_scheme("MONGO_URL", self.url, ("mongodb", "mongodb+srv"))
        if self.min_pool > self.max_pool:
            raise ValueError("MONGO_MIN_POOL: must not be above MONGO_MAX_POOL")
        if self.password is not None and self.user is None:
            raise ValueError("MONGO_USER: must be set where MONGO_PASSWORD is")
        return self

    @property
    def configured(self) -> bool:
        """Whether a server was named at all."""
        return self.url is not None

    def uri(self) -> str:
        """The URL without credentials of its own: these are `credentials()`, or within MONGO_URL.

        Raises:
            SettingsError: MONGO_URL is not set.
        """
        if self.url is None:
            raise SettingsError("MONGO_URL: set it, or start with `holdfast up`")
        return self.url.get_secret_value()

    def credentials(self) -> dict[str, str]:
        """`username` and `password` as PyMongo takes them, or nothing."""
        if self.user is None:
            return {}
        secret = self.password.get_secret_value() if self.password else ""
        return {"username": self.user, "password": secret}


class RedisSettings(Settings):
    """The cache."""

    _may_be_files = frozenset({"REDIS_URL", "REDIS_PASSWORD"})

    url: SecretStr | None = Field(None, alias="REDIS_URL")
    username: str | None = Field(None, alias="REDIS_USERNAME")
    password: SecretStr | None = Field(None, alias="REDIS_PASSWORD")

    @model_validator(mode="after")
    def _scheme(self) -> Self:
        _check_scheme("REDIS_URL", self.url, ("redis", "rediss"))
        return self

    @property
    def configured(self) -> bool:
        """Whether a server was named at all."""
        return self.url is not None

    def dsn(self) -> str:
        """The URL with user name and password in it, for redis-py.

        Raises:
            SettingsError: REDIS_URL is not set.
        """
        if self.url is None:
            raise SettingsError("REDIS_URL: set it, or start with `holdfast up`")
        text = self.url.get_secret_value()
        if self.username is None and self.password is None:
            return text
        parts = urlsplit(text)
        # What the URL has of the login stays, where no setting takes its place.
        hosts = parts.netloc.rpartition("@")[2]
        user = unquote(parts.username or "") if self.username is None else self.username
        password = self.password or (SecretStr(unquote(parts.password)) if parts.password else None)
        return urlunsplit(parts._replace(netloc=_login(user, password) + hosts))


class BrokerSettings(Settings):
    """Celery's broker: a Redis of its own in production, another database of the cache's otherwise."""

    _may_be_files = frozenset({"BROKER_URL"})

    url: SecretStr | None = Field(None, alias="BROKER_URL")

    @model_validator(mode="after")
    def _scheme(self) -> Self:
        _check_scheme("BROKER_URL", self.url, ("redis", "rediss"))
        return self

    def dsn(self) -> str:
        """The broker's URL; without BROKER_URL, database 1 of the cache's server (2 where the cache has 1).

        Raises:
            SettingsError: neither BROKER_URL nor REDIS_URL is set.
        """
        if self.url is not None:
            return self.url.get_secret_value()
        cache = RedisSettings.load()
        if not cache.configured:
            raise SettingsError("BROKER_URL: set it, or REDIS_URL, or use `holdfast up`")
        parts = urlsplit(cache.dsn())
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        # redis-py lets the option `db` win over the path.
        taken = options.pop("db", parts.path.strip("/"))
        query = f"?{urlencode(options)}" if options else ""
        return f"{parts.scheme}://{parts.netloc}/{2 if taken == '1' else 1}{query}"


class JwtSettings(Settings):
    """Access tokens: HS256. Times to live are in seconds. RFC 7518 §3.2: a key of 32 bytes or more."""

    _may_be_files = frozenset({"JWT_SECRET", "JWT_REFRESH_SECRET"})

    secret: SecretStr | None = Field(None, alias="JWT_SECRET", min_length=32)
    refresh_secret: SecretStr | None = Field(None, alias="JWT_REFRESH_SECRET", min_length=32)
    issuer: str = Field("holdfast", alias="JWT_ISSUER", min_length=1)
    audience: str = Field("holdfast", alias="JWT_AUDIENCE", min_length=1)
    access_ttl: Seconds = Field(900, alias="JWT_ACCESS_TTL")
    refresh_ttl: Seconds = Field(30 * 86_400, alias="JWT_REFRESH_TTL")


class CacheSettings(Settings):
    """How long a result is fresh, in seconds, where its report does not say."""

    ttl: Seconds = Field(30, alias="GW_CACHE_TTL")


class GatewaySettings(Settings):
    """The HTTP side. `miss_timeout` is in milliseconds, `l1_max_bytes` in bytes."""

    host: str = Field("127.0.0.1", alias="GW_HOST")
    port: Port = Field(8080, alias="GW_PORT")
    workers: int = Field(1, alias="GW_WORKERS", ge=1, le=64)
    auth: Literal["jwt", "off"] = Field("jwt", alias="GW_AUTH")
    miss_timeout: Milliseconds = Field(10_000, alias="GW_MISS_TIMEOUT")
    l1_max_bytes: int = Field(256 * 2**20, alias="GW_L1_MAX_BYTES", ge=0)
    cors_origins: StringList = Field(default_factory=list, alias="GW_CORS_ORIGINS")

    @model_validator(mode="after")
    def _off_on_loopback_only(self) -> Self:
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError("GW_AUTH: off is allowed only while GW_HOST is a loopback address")
        return self


class SupervisorSettings(Settings):
    """The supervisor's Unix socket and its admin port (loopback)."""

    socket: Path | None = Field(None, alias="SUPERVISOR_SOCKET")
    port: Port = Field(9400, alias="SUPERVISOR_PORT")
    home: Path = Field(Path(".holdfast"), alias="HOLDFAST_HOME")

    @model_validator(mode="after")
    def _short_enough(self) -> Self:
        if len(os.fsencode(self.path)) > SOCKET_PATH_LIMIT:
            raise ValueError(
                f"SUPERVISOR_SOCKET: a socket's path has at most {SOCKET_PATH_LIMIT} bytes; "
                "set it, or HOLDFAST_HOME, to a shorter one"
            )
        return self

    @property
    def path(self) -> Path:
        """The socket's path: SUPERVISOR_SOCKET, or `run/supervisor.sock` in HOLDFAST_HOME."""
        return (self.socket or self.home / "run" / "supervisor.sock").absolute()


class FlowerSettings(Settings):
    """Flower's loopback port and its `user:password`."""

    _may_be_files = frozenset({"FLOWER_BASIC_AUTH"})

    port: Port = Field(5555, alias="FLOWER_PORT")
    basic_auth: SecretStr | None = Field(None, alias="FLOWER_BASIC_AUTH")

    @model_validator(mode="after")
    def _user_and_password(self) -> Self:
        if self.basic_auth is not None:
            user, _, password = self.basic_auth.get_secret_value().partition(":")
            if not user or not password:
                raise ValueError("FLOWER_BASIC_AUTH: must be user:password")
        return self


class ReportsSettings(Settings):
    """Which Python modules hold reports."""

    modules: StringList = Field(
        default_factory=lambda: ["holdfast_flights.reports"], alias="REPORTS", min_length=1
    )


EVERY_CLASS: tuple[type[Settings], ...] = (
    HomeSettings,
    PostgresSettings,
    MongoSettings,
    RedisSettings,
    BrokerSettings,
    JwtSettings,
    CacheSettings,
    GatewaySettings,
    SupervisorSettings,
    FlowerSettings,
    ReportsSettings,
)


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be reached from this machine."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check_scheme(name: str, url: SecretStr | None, schemes: tuple[str, ...]) -> None:
    if url is None:
        return
    text = url.get_secret_value()
    # urlsplit would pass over white space that the drivers do not accept.
    valid = text.startswith(tuple(f"{scheme}://" for scheme in schemes)) and text.split() == [text]
    try:
        valid = valid and urlsplit(text).port != 0
    except ValueError:
        # A MongoDB URL may name several hosts, each with a port, which urlsplit does not know.
        valid = valid and "mongodb" in schemes
    if not valid:
        raise ValueError(f"{name}: must be a URL that starts with {schemes[0]}://")


def _login(user: str, password: SecretStr | None) -> str:
    secret = f":{_secret(password)}" if password else ""
    return f"{quote(user, safe='')}{secret}@"


def _secret(password: SecretStr) -> str:
    return quote(password.get_secret_value(), safe="")


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
