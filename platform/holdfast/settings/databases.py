"""The servers behind Holdfast: Postgres, MongoDB, Redis and Celery's broker."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from pydantic import Field, SecretStr, model_validator

from holdfast.errors import SettingsError
from holdfast.settings.libpq import PostgresTarget, read_url, split_url
from holdfast.settings.sources import Milliseconds, Port, Settings
from holdfast.settings.urls import check_scheme, in_url, login, mongo_database, quoted


class PostgresSettings(Settings):
    """The facts. Times are in milliseconds.

    The supervisor opens at most `pool_max` connections, one of which is kept for its probes.
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
        check_scheme("POSTGRES_URL", self.url, ("postgresql", "postgres"))
        if self.host is not None and not _is_host(self.host):
            raise ValueError(
                "POSTGRES_HOST: must be a host name, an IP address, or the folder of a Unix socket"
            )
        if self.configured:
            try:
                self.target()
            except ValueError as error:
                name = "POSTGRES_HOST" if self.url is None else "POSTGRES_URL"
                raise ValueError(f"{name}: {error}") from None
        return self

    @property
    def configured(self) -> bool:
        """Whether a server was named at all."""
        return self.url is not None or self.host is not None

    def dsn(self) -> str:
        """`postgresql://user:password@host:port/db`; what POSTGRES_URL lacks comes from the other variables.

        Raises:
            SettingsError: neither POSTGRES_URL nor POSTGRES_HOST is set.
        """
        if self.url is not None:
            return self._completed(self.url.get_secret_value())
        if self.host is None:
            raise SettingsError("POSTGRES_URL: set it, or POSTGRES_HOST, or start with `holdfast up`")
        hosts = ",".join(f"{_quoted_host(host)}:{self.port}" for host in self.host.split(","))
        return f"postgresql://{login(self.user, self.password)}{hosts}/{quote(self.db, safe='')}"

    def target(self) -> PostgresTarget:
        """Where and how to connect, with every option of POSTGRES_URL checked.

        Raises:
            SettingsError: neither POSTGRES_URL nor POSTGRES_HOST is set.
            ValueError: the URL is wrong; no loaded settings have one that is.
        """
        return read_url(self.dsn())

    def _completed(self, url: str) -> str:
        given, (before, rest) = self.model_fields_set, split_url(url)
        user, colon, password = before.partition(":")
        if not user and "user" in given:
            user = quote(self.user, safe="")
        if self.password is not None and not colon:
            # A password of its own completes a URL that has none, so that the URL may be public.
            user, colon, password = user or quote(self.user, safe=""), ":", quoted(self.password)
        hosts, question, query = rest.partition("?")
        if "db" in given and "dbname=" not in query and hosts.partition("/")[2] == "":
            hosts = f"{hosts.partition('/')[0]}/{quote(self.db, safe='')}"
        before = f"{user}{colon}{password}"
        return f"postgresql://{before}{'@' if before else ''}{hosts}{question}{query}"


def _is_host(text: str) -> bool:
    """Whether each host of a list is a name, an address or an absolute path."""
    return all(
        (part and (part.startswith("/") or not set(part) & set("/@?#%[] \t\r\n"))) or _is_ipv6(part)
        for part in text.split(",")
    )


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ip_address(text.removeprefix("[").removesuffix("]")), IPv6Address)
    except ValueError:
        return False


def _quoted_host(host: str) -> str:
    return quote(host, safe="") if host.startswith("/") else in_url(host)


class MongoSettings(Settings):
    """The documents. Times are in milliseconds."""

    _may_be_files = frozenset({"MONGO_URL", "MONGO_PASSWORD"})

    url: SecretStr | None = Field(None, alias="MONGO_URL")
    user: str | None = Field(None, alias="MONGO_USER")
    password: SecretStr | None = Field(None, alias="MONGO_PASSWORD")
    db: str | None = Field(None, alias="MONGO_DB")
    max_pool: int = Field(50, alias="MONGO_MAX_POOL", ge=2, le=1000)
    min_pool: int = Field(5, alias="MONGO_MIN_POOL", ge=0, le=1000)
    selection_timeout: Milliseconds = Field(10_000, alias="MONGO_SRV_SELECT_TIMEOUT")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_scheme("MONGO_URL", self.url, ("mongodb", "mongodb+srv"))
        if self.min_pool > self.max_pool:
            raise ValueError("MONGO_MIN_POOL: must not be above MONGO_MAX_POOL")
        if self.password is not None and self.user is None:
            raise ValueError("MONGO_USER: must be set where MONGO_PASSWORD is")
        self._one_database()
        return self

    def _one_database(self) -> None:
        try:
            named = mongo_database(self.url.get_secret_value()) if self.url else None
        except ValueError as error:
            raise ValueError(f"MONGO_URL: {error}") from None
        if named is not None and self.db not in (None, named):
            raise ValueError(
                "MONGO_DB: names another database than MONGO_URL does; leave one of them out "
                "(where the user is defined in another one, add authSource= to the URL)"
            )

    @property
    def configured(self) -> bool:
        """Whether a server was named at all."""
        return self.url is not None

    @property
    def database(self) -> str:
        """MONGO_DB, or the database in MONGO_URL, or `holdfast` where neither names one."""
        return self._named() or "holdfast"

    @property
    def names_database(self) -> bool:
        """Whether MONGO_DB or MONGO_URL names a database."""
        return self._named() is not None

    def _named(self) -> str | None:
        return self.db or (mongo_database(self.url.get_secret_value()) if self.url else None)

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
        check_scheme("REDIS_URL", self.url, ("redis", "rediss"))
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
        return urlunsplit(parts._replace(netloc=login(user, password) + hosts))


PASSED_OVER_BY_CELERY = (
    *("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"),
    *("CELERY_CONFIG_MODULE", "CELERY_LOADER", "CELERY_CUSTOM_WORKER_POOL"),
)
"""Variables that Celery would put above its settings; in Holdfast BROKER_URL(_FILE) alone counts."""


class BrokerSettings(Settings):
    """Celery's broker: a Redis of its own in production, another database of the cache's otherwise."""

    _may_be_files = frozenset({"BROKER_URL"})

    url: SecretStr | None = Field(None, alias="BROKER_URL")

    @model_validator(mode="after")
    def _scheme(self) -> Self:
        check_scheme("BROKER_URL", self.url, ("redis", "rediss"))
        return self

    def dsn(self) -> str:
        """The broker's URL; without BROKER_URL, database 1 of the cache's server (2 where the cache has 1).

        Raises:
            SettingsError: neither BROKER_URL nor REDIS_URL is set.
        """
        if self.url is not None:
            return _encoded_login(self.url.get_secret_value())
        cache = RedisSettings.load(self._given)
        if not cache.configured:
            raise SettingsError("BROKER_URL: set it, or REDIS_URL, or use `holdfast up`")
        parts = urlsplit(cache.dsn())
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        # redis-py lets the option `db` win over the path.
        taken = options.pop("db", parts.path.strip("/"))
        query = f"?{urlencode(options)}" if options else ""
        return f"{parts.scheme}://{parts.netloc}/{2 if taken == '1' else 1}{query}"


def _encoded_login(url: str) -> str:
    """The URL with every special character of its login encoded: kombu would take a ; for a list of URLs."""
    parts = urlsplit(url)
    before, at, hosts = parts.netloc.rpartition("@")
    if not at:
        return url
    encoded = ":".join(quote(unquote(part), safe="") for part in before.split(":", 1))
    return urlunsplit(parts._replace(netloc=f"{encoded}@{hosts}"))
