"""Settings: the URLs of the servers, and the logins in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu.connection import Connection
from pymongo.uri_parser import parse_uri
from redis.asyncio.connection import parse_url as parse_redis_url
from tests.support.settings import CANARY, FIELDS, TEXT, refusal

from holdfast.errors import SettingsError
from holdfast.settings import (
    BrokerSettings,
    MongoSettings,
    PostgresSettings,
    RedisSettings,
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, so no `.env` of the repository is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# URLs

HOSTS = st.sampled_from(["localhost", "db.example.org", "10.0.0.1", "::1", "[::1]", "2001:db8::7"])


@given(user=TEXT, password=TEXT, db=TEXT, host=HOSTS, port=st.integers(1, 65535))
@example(user="u:@/?#%[]", password="p:@/?#%[] +&=", db="d/?#%", host="::1", port=1)
def test_a_postgres_url_is_built_from_its_parts(
    user: str, password: str, db: str, host: str, port: int
) -> None:
    """Whatever characters a user name, a password or a database name has, the URL gives them back."""
    loaded = PostgresSettings.model_validate(
        {
            "POSTGRES_HOST": host,
            "POSTGRES_PORT": port,
            "POSTGRES_USER": user,
            "POSTGRES_PASSWORD": password,
            "POSTGRES_DB": db,
        }
    )
    parts = urlsplit(loaded.dsn())
    assert parts.scheme == "postgresql"
    assert unquote(parts.username or "") == user
    assert unquote(parts.password or "") == password
    assert parts.hostname == host.strip("[]")
    assert parts.port == port
    assert unquote(parts.path) == f"/{db}"
    assert not parts.query
    assert not parts.fragment


def test_a_postgres_url_wins_over_its_parts() -> None:
    """POSTGRES_URL is used as it is, but for its scheme, of which drivers know the long form only."""
    loaded = PostgresSettings.model_validate(
        {"POSTGRES_URL": "postgres://u:p%20w@h:7/db?sslmode=require", "POSTGRES_HOST": "other"}
    )
    assert loaded.configured
    assert loaded.dsn() == "postgresql://u:p%20w@h:7/db?sslmode=require"


@given(user=TEXT, password=TEXT, host=HOSTS, before=st.sampled_from(["", "old:secret@"]))
def test_a_redis_url_takes_the_user_and_the_password(
    user: str, password: str, host: str, before: str
) -> None:
    """REDIS_USERNAME and REDIS_PASSWORD go into the URL, in place of what it had; the rest of it stays."""
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    loaded = RedisSettings.model_validate(
        {
            "REDIS_URL": f"rediss://{before}{bracketed}:7/3?health_check_interval=5",
            "REDIS_USERNAME": user,
            "REDIS_PASSWORD": password,
        }
    )
    parts = urlsplit(loaded.dsn())
    assert unquote(parts.username or "") == user
    assert unquote(parts.password or "") == password
    assert (parts.hostname, parts.port, parts.path) == (host.strip("[]"), 7, "/3")
    assert parts.query == "health_check_interval=5"


def test_mongo_credentials_stay_out_of_the_url() -> None:
    """MONGO_USER and MONGO_PASSWORD are handed over beside the URL, which may name several hosts."""
    url = "mongodb://h1:27017,h2:27018/?replicaSet=r"
    loaded = MongoSettings.model_validate({"MONGO_URL": url, "MONGO_USER": "u", "MONGO_PASSWORD": "p@/:"})
    assert loaded.uri() == url
    assert loaded.credentials() == {"username": "u", "password": "p@/:"}
    assert MongoSettings.model_validate({"MONGO_URL": url}).credentials() == {}


@pytest.mark.parametrize(
    ("cache", "broker"),
    [
        ("redis://h", "redis://h/1"),
        ("redis://", "redis:///1"),
        ("redis://u:p%40@[::1]:7/0", "redis://u:p%40@[::1]:7/1"),
        ("redis://h/1", "redis://h/2"),
        ("redis://h/0?db=1", "redis://h/2"),
        ("redis://h/1?db=0", "redis://h/1"),
        ("rediss://h/5?ssl_cert_reqs=none", "rediss://h/1?ssl_cert_reqs=none"),
    ],
)
def test_the_broker_is_another_database_of_the_caches_server(
    cache: str, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without BROKER_URL Celery's queues are on the cache's server, and never in the cache's database."""
    monkeypatch.setenv("REDIS_URL", cache)
    assert BrokerSettings.load().dsn() == broker
    monkeypatch.setenv("BROKER_URL", "redis://elsewhere:7/7")
    assert BrokerSettings.load().dsn() == "redis://elsewhere:7/7"


def test_the_default_broker_uses_the_caches_password(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials of the cache are those of the default broker; a fault in them is named as theirs."""
    monkeypatch.setenv("REDIS_URL", "redis://h")
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(here / "secret"))
    with pytest.raises(SettingsError, match=r"^REDIS_PASSWORD_FILE: "):
        BrokerSettings.load().dsn()
    (here / "secret").write_text("p/w\n")
    assert BrokerSettings.load().dsn() == "redis://:p%2Fw@h/1"


# The database of MongoDB


@pytest.mark.parametrize(
    ("given", "database"),
    [
        ({"MONGO_URL": "mongodb://h/shop"}, "shop"),
        ({"MONGO_URL": "mongodb://h/shop", "MONGO_DB": "shop"}, "shop"),
        ({"MONGO_URL": "mongodb://h", "MONGO_DB": "shop"}, "shop"),
        ({"MONGO_URL": "mongodb://h/", "MONGO_DB": "shop"}, "shop"),
        ({"MONGO_URL": "mongodb://h/?authSource=admin", "MONGO_DB": "shop"}, "shop"),
        ({"MONGO_URL": "mongodb://u:p@h1:1,h2:2/shop?replicaSet=r&authSource=admin"}, "shop"),
        ({"MONGO_URL": "mongodb+srv://h.example/shop"}, "shop"),
        ({"MONGO_URL": "mongodb://h/m%C3%BCsli"}, "m\u00fcsli"),
        ({"MONGO_URL": "mongodb://u:p%2Fw@h/shop.orders"}, "shop"),
        ({"MONGO_URL": "mongodb://%2Ftmp%2Fmongodb-27017.sock/shop"}, "shop"),
        ({"MONGO_URL": "mongodb://h"}, "holdfast"),
        ({}, "holdfast"),
    ],
)
def test_the_database_of_mongodb_is_that_of_the_url(given: dict[str, str], database: str) -> None:
    """The database in MONGO_URL counts, then MONGO_DB; as the driver reads them both."""
    settings = MongoSettings.load(given)
    assert settings.database == database
    if settings.configured and not settings.uri().startswith("mongodb+srv"):
        named = parse_uri(settings.uri(), warn=False)["database"]
        assert named in (None, database)


@pytest.mark.parametrize("other", ["holdfast", "Shop", "shop2"])
def test_two_databases_are_refused(other: str) -> None:
    """MONGO_DB beside another database in MONGO_URL is refused: one of them would be passed over."""
    with pytest.raises(SettingsError, match=r"^MONGO_DB: "):
        MongoSettings.load({"MONGO_URL": "mongodb://h/shop", "MONGO_DB": other})


@pytest.mark.parametrize("name", ["a%20b", "a$b", "a%22b", "a/b", "a%5Cb"])
def test_what_cannot_be_a_database_is_refused(name: str) -> None:
    """A name that MongoDB does not allow is refused at the start."""
    with pytest.raises(SettingsError, match=r"^MONGO_URL: "):
        MongoSettings.load({"MONGO_URL": f"mongodb://h/{name}"})


# Logins with special characters


@pytest.mark.parametrize("rest", ["", "/", "/shop", f"u:{CANARY}@", f"u:{CANARY}@/shop", "?w=1"])
def test_a_mongo_url_names_a_host(rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL without a host is refused at the start, before a link would try to open."""
    monkeypatch.setenv("MONGO_URL", f"mongodb://{rest}")
    expected = "MONGO_URL: must be a URL that starts with mongodb:// and names a host"
    assert refusal(MongoSettings) == expected


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("REDIS_URL", "redis://:{}#w@h/0"),
        ("REDIS_URL", "redis://:{}/w@h/0"),
        ("REDIS_URL", "redis://:{}?w@h/0"),
        ("REDIS_URL", "redis://:{}%@h/0"),
        ("BROKER_URL", "redis://:{}#w@h/0"),
        ("BROKER_URL", "redis://u:{}[w@h/0"),
        ("MONGO_URL", "mongodb://u:{}@w@h"),
        ("MONGO_URL", "mongodb://u:{}:w@h"),
        ("MONGO_URL", "mongodb://u:{}/w@h"),
        ("MONGO_URL", "mongodb://u:{}#w@h"),
        ("MONGO_URL", "mongodb://u:{}%w@h"),
        ("MONGO_URL", "mongodb://u:{}+w@h"),
        ("MONGO_URL", "mongodb://u:{}?w@h"),
    ],
)
def test_a_login_that_a_driver_would_cut_is_refused(
    variable: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password that would end early, or be changed, is refused at the start; it is not shown."""
    monkeypatch.setenv(variable, url.format(CANARY))
    message = refusal(FIELDS[variable][0])
    assert message.startswith(f"{variable}: ")
    assert "\n" not in message
    assert "%" in message


@given(user=TEXT, password=TEXT)
@example(user="u", password="a;b")
@example(user="", password="p@ss/w#rd:1 %{x}+,")
def test_a_brokers_login_arrives_whole_at_kombu_and_at_redis_py(user: str, password: str) -> None:
    """Kombu and redis-py, which read URLs by rules of their own, both find the login that was encoded."""
    url = f"redis://{quote(user, safe='')}:{quote(password, safe=';,+[]')}@h:7/1"
    try:
        dsn = BrokerSettings.load({"BROKER_URL": url}).dsn()
    except SettingsError:
        assert set(password) & set("[]")
        return
    kombu: Any = Connection(dsn)  # type: ignore[no-untyped-call] # kombu has no types
    assert (kombu.userid or "", kombu.password, kombu.hostname) == (user, password, "h")
    assert kombu.alt == []
    redis = parse_redis_url(dsn)
    assert (redis.get("username", ""), redis["password"], redis["host"]) == (user, password, "h")


def test_what_is_not_set_is_named_when_it_is_needed() -> None:
    """A process starts without its databases; whoever needs one learns which variable to set."""
    for cls, variable in (
        (PostgresSettings, "POSTGRES_URL"),
        (RedisSettings, "REDIS_URL"),
        (BrokerSettings, "BROKER_URL"),
    ):
        with pytest.raises(SettingsError, match=f"^{variable}: "):
            cls.load().dsn()
    with pytest.raises(SettingsError, match=r"^MONGO_URL: "):
        MongoSettings.load().uri()
    assert not any(cls.load().configured for cls in (PostgresSettings, MongoSettings, RedisSettings))
