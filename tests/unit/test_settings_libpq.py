"""Settings: Postgres URLs are read as libpq reads them; each option is honoured or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.settings import CANARY, TEXT, refusal

from holdfast.errors import SettingsError
from holdfast.links import postgres_connect
from holdfast.settings import PostgresSettings
from holdfast.settings.libpq import HONOURED, UNREAD_VARIABLES, WITHOUT_EFFECT, read_url

DOCUMENTED = (
    "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "require_auth",
    "channel_binding", "connect_timeout", "client_encoding", "options", "application_name",
    "fallback_application_name", "keepalives", "keepalives_idle", "keepalives_interval",
    "keepalives_count", "tcp_user_timeout", "replication", "gssencmode", "sslmode", "sslnegotiation",
    "sslcompression", "sslcert", "sslkey", "sslkeylogfile", "sslpassword", "sslcertmode", "sslrootcert",
    "sslcrl", "sslcrldir", "sslsni", "requirepeer", "ssl_min_protocol_version",
    "ssl_max_protocol_version", "min_protocol_version", "max_protocol_version", "krbsrvname", "gsslib",
    "gssdelegation", "scram_client_key", "scram_server_key", "service", "target_session_attrs",
    "load_balance_hosts", "oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope",
)  # fmt: skip
"""The options of PostgreSQL 18's documentation, in its order."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and a home of the test's own, without any variable or file of libpq's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGPASSFILE", "PGPASSWORD", "PGSERVICEFILE", "PGSYSCONFDIR", "PGUSER", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def loaded(url: str, **further: str) -> PostgresSettings:
    """Settings of that URL alone."""
    return PostgresSettings.load({"POSTGRES_URL": url, **further})


def arguments(url: str, **further: str) -> dict[str, Any]:
    """What asyncpg is given for that URL, besides hosts."""
    return postgres_connect._arguments(loaded(url, **further).target(), "holdfast")


@pytest.mark.parametrize("option", DOCUMENTED)
def test_every_documented_option_is_known(option: str) -> None:
    """Each option that PostgreSQL 18 documents is honoured, or has the values that need nothing done."""
    assert (option in HONOURED) != (option in WITHOUT_EFFECT)


@pytest.mark.parametrize("option", UNREAD_VARIABLES.values())
def test_a_variable_that_is_not_read_has_an_option(option: str) -> None:
    """What a variable of libpq cannot say here, an option of the URL says or refuses."""
    assert option in DOCUMENTED


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@a:1,b:2/db?target_session_attrs=any", (("a", 1), ("b", 2))),
        ("postgresql://a,b,c/db", (("a", 5432), ("b", 5432), ("c", 5432))),
        ("postgresql://a,b:7/db", (("a", 5432), ("b", 7))),
        ("postgresql://[::1]:1,[2001:db8::7],c/db", (("::1", 1), ("2001:db8::7", 5432), ("c", 5432))),
        ("postgresql://a/db?port=6", (("a", 6),)),
        ("postgresql:///db?host=a,b&port=1,2", (("a", 1), ("b", 2))),
        ("postgresql:///db?host=a,b&port=6", (("a", 6), ("b", 6))),
        ("postgresql:///db?host=/var/run/postgresql", (("/var/run/postgresql", 5432),)),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql:7/db", (("/var/run/postgresql", 7),)),
        ("postgresql://u@a,b/db?hostaddr=10.0.0.1,10.0.0.2", (("10.0.0.1", 5432), ("10.0.0.2", 5432))),
        ("postgresql:///db", ()),
        ("postgres://", ()),
        ("postgresql://:7/db", (("localhost", 7),)),
    ],
)
def test_hosts_are_read_as_psql_reads_them(url: str, hosts: tuple[tuple[str, int], ...]) -> None:
    """Lists of hosts, with or without ports, IPv6 addresses and folders of sockets are taken."""
    assert loaded(url).target().hosts == hosts


@pytest.mark.parametrize(
    ("url", "user", "password", "database"),
    [
        ("postgresql://u:p%40ss%2Fw%23rd%3A1@h/db", "u", "p@ss/w#rd:1", "db"),
        ("postgresql://u:p#w?x:y@h/db", "u", "p#w?x:y", "db"),
        ("postgresql://u:a+b%20c@h/d%2Fb", "u", "a+b c", "d/b"),
        ("postgresql://h/db?user=u&password=p%26w", "u", "p&w", "db"),
        ("postgresql://h?dbname=db&user=u", "u", None, "db"),
        ("postgresql://%C3%A9:%F0%9F%94%91@h/db", "é", "🔑", "db"),
        ("postgresql://u:p[w]@h/db", "u", "p[w]", "db"),
        ("postgresql://u:100%25;{x}$y@h/db", "u", "100%;{x}$y", "db"),
    ],
)
def test_a_login_arrives_whole(url: str, user: str, password: str | None, database: str) -> None:
    """User, password and database are what libpq would find, with every special character in them."""
    given = arguments(url)
    assert (given["user"], given["password"], given["database"]) == (user, password, database)


@given(user=TEXT, password=TEXT, database=TEXT)
def test_any_login_that_is_percent_encoded_arrives_whole(user: str, password: str, database: str) -> None:
    """Whatever user, password and database are, they come out of a URL as they went in."""
    parts = [quote(part, safe="") for part in (user, password, database)]
    target = read_url("postgresql://{}:{}@h/{}".format(*parts))
    assert [target.get(name) for name in ("user", "password", "dbname")] == [user, password, database]


@given(st.text(alphabet="postgresql:/@,[]?&=%#1a", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever follows the scheme, the outcome is a target or a ValueError."""
    try:
        target = read_url(f"postgresql://{text}")
    except ValueError:
        return
    assert all(host and 1 <= port <= 65535 for host, port in target.hosts)


@pytest.mark.parametrize(
    ("option", "argument", "value"),
    [
        ("application_name=board", "server_settings", {"application_name": "board"}),
        ("fallback_application_name=board", "server_settings", {"application_name": "board"}),
        (
            "options=-csearch_path%3Dfacts%20-cjit%3Doff",
            "server_settings",
            {"application_name": "holdfast", "options": "-csearch_path=facts -cjit=off"},
        ),
        ("krbsrvname=pg", "krbsrvname", "pg"),
        ("gsslib=gssapi", "gsslib", "gssapi"),
        ("sslmode=verify-ca", "dsn", "postgresql://?sslmode=verify-ca"),
        ("ssl=true", "dsn", "postgresql://?sslmode=require"),
        (
            "sslmode=require&sslnegotiation=direct",
            "dsn",
            "postgresql://?sslmode=require&sslnegotiation=direct",
        ),
        ("ssl_min_protocol_version=TLSv1.3", "dsn", "postgresql://?ssl_min_protocol_version=TLSv1.3"),
        ("channel_binding=prefer", "server_settings", {"application_name": "holdfast"}),
        ("channel_binding=disable", "server_settings", {"application_name": "holdfast"}),
        ("gssencmode=prefer", "server_settings", {"application_name": "holdfast"}),
        ("client_encoding=UTF8", "server_settings", {"application_name": "holdfast"}),
        ("sslcompression=0", "server_settings", {"application_name": "holdfast"}),
        ("max_protocol_version=latest", "server_settings", {"application_name": "holdfast"}),
        ("replication=false", "server_settings", {"application_name": "holdfast"}),
        ("channel_binding=", "server_settings", {"application_name": "holdfast"}),
    ],
)
def test_an_option_is_honoured(option: str, argument: str, value: object) -> None:
    """An option reaches asyncpg by its own name, and no option is taken for a setting of the server."""
    assert arguments(f"postgresql://u@h/db?{option}")[argument] == value


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("channel_binding=require", "channel_binding"),
        ("require_auth=scram-sha-256", "require_auth"),
        ("gssencmode=require", "gssencmode"),
        ("client_encoding=LATIN1", "client_encoding"),
        ("replication=database", "replication"),
        ("sslcertmode=disable", "sslcertmode"),
        ("sslsni=0", "sslsni"),
        ("requirepeer=postgres", "requirepeer"),
        ("sslcrldir=/etc/crl", "sslcrldir"),
        ("sslkeylogfile=/tmp/keys", "sslkeylogfile"),
        ("min_protocol_version=3.2", "min_protocol_version"),
        ("scram_client_key=abc", "scram_client_key"),
        ("oauth_issuer=https://id.example", "oauth_issuer"),
        ("gssdelegation=1", "gssdelegation"),
        ("sslmode=on", "sslmode"),
        ("sslmod=require", "did you mean sslmode?"),
        ("target_session_attrs=master", "target_session_attrs"),
        ("load_balance_hosts=yes", "load_balance_hosts"),
        ("connect_timeout=2s", "connect_timeout"),
        ("keepalives=on", "keepalives"),
        ("sslnegotiation=direct", "sslnegotiation"),
        ("sslrootcert=/nowhere/root.crt", "sslrootcert"),
        ("sslrootcert=system&sslmode=require", "sslrootcert"),
        ("passfile=/nowhere/pgpass", "passfile"),
        ("service=nowhere", "service"),
        ("schema=public", "schema"),
        ("pgbouncer=true", "pgbouncer"),
        ("search_path=facts", "options=-c%20search_path"),
        ("database=facts", "database"),
        ("sslmode", "without a value"),
        ("port=1,2", "number of ports"),
        ("port=0", "ports from 1"),
        ("hostaddr=10.0.0.1&sslmode=verify-full", "hostaddr"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused_by_name(option: str, named: str) -> None:
    """At the start, in one line that names the variable and the option, and shows nothing of the URL."""
    with pytest.raises(SettingsError, match=r"^POSTGRES_URL: ") as refused:
        loaded(f"postgresql://u:{CANARY}@h/db?{option}")
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{CANARY}@ss@h/db",
        f"postgresql://u:p/{CANARY}@h/db",
        f"postgresql://u:{CANARY}%@h/db",
        f"postgresql://u:{CANARY}%zz@h/db",
        f"postgresql://u:{CANARY}%00@h/db",
        f"postgresql://u:{CANARY}%ff@h/db",
        f"postgresql://u:{CANARY}@[::1/db",
        f"postgresql://u:{CANARY}@h:99999/db",
        f"postgresql://u:{CANARY}@h#x/db",
        f"postgresql://u:{CANARY}@h/d@b",
    ],
)
def test_a_login_that_would_be_cut_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A character that would end the password early is refused at the start, never sent to another host."""
    monkeypatch.setenv("POSTGRES_URL", url)
    message = refusal(PostgresSettings)
    assert message.startswith("POSTGRES_URL: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ("/var/run/postgresql", (("/var/run/postgresql", 6432),)),
        ("a,b", (("a", 6432), ("b", 6432))),
        ("::1", (("::1", 6432),)),
        ("[::1]", (("::1", 6432),)),
        ("2001:db8::7,a", (("2001:db8::7", 6432), ("a", 6432))),
        ("db.example.org", (("db.example.org", 6432),)),
        ("/var/run/my sockets", (("/var/run/my sockets", 6432),)),
    ],
)
def test_a_host_may_be_a_socket_an_address_or_a_list(given: str, hosts: tuple[tuple[str, int], ...]) -> None:
    """POSTGRES_HOST is what PGHOST may be: names, addresses, folders of Unix sockets, and lists of them."""
    settings = PostgresSettings.load({"POSTGRES_HOST": given, "POSTGRES_PORT": "6432"})
    assert settings.target().hosts == hosts


@pytest.mark.parametrize("given", ["a,", ",", "a b", "h%2F", "h?x=y", "[::1", "sock/et"])
def test_a_host_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no host is refused under the name POSTGRES_HOST."""
    monkeypatch.setenv("POSTGRES_HOST", given)
    assert refusal(PostgresSettings).startswith("POSTGRES_HOST: ")


@pytest.mark.parametrize(
    ("url", "further", "dsn"),
    [
        ("postgresql://h", {"POSTGRES_DB": "facts"}, "postgresql://h/facts"),
        ("postgresql://h/own?sslmode=require", {"POSTGRES_DB": "facts"}, None),
        ("postgresql://h?dbname=own", {"POSTGRES_DB": "facts"}, None),
        ("postgresql://h/db", {"POSTGRES_USER": "ann"}, "postgresql://ann@h/db"),
        ("postgresql://own@h/db", {"POSTGRES_USER": "ann"}, None),
        ("postgresql://a:1,b:2/db", {"POSTGRES_PASSWORD": "p@w"}, "postgresql://holdfast:p%40w@a:1,b:2/db"),
    ],
)
def test_what_a_url_lacks_comes_from_the_other_variables(
    url: str, further: dict[str, str], dsn: str | None
) -> None:
    """POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB complete a URL and never change what it says."""
    assert loaded(url, **further).dsn() == (dsn or url)


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("h:5432:db:u:secret", "secret"),
        ("*:*:*:*:any", "any"),
        (r"h:5432:db:u:a\:b\\c", r"a:b\c"),
        ("# h:5432:db:u:comment", None),
        ("other:5432:db:u:no", None),
        ("h:5432:db:u:p#w %{x}", "p#w %{x}"),
    ],
)
def test_a_password_file_is_read_as_libpq_reads_it(here: Path, line: str, password: str | None) -> None:
    """A password in ~/.pgpass arrives whole, with colons and backslashes in it."""
    (here / ".pgpass").write_text(f"{line}\n")
    (here / ".pgpass").chmod(0o600)
    assert arguments("postgresql://u@h/db")["password"] == password
    assert arguments("postgresql://u:own@h/db")["password"] == "own"


def test_a_password_file_that_others_may_read_is_passed_over(here: Path) -> None:
    """By libpq's rule a password file with any right for others is not used."""
    (here / ".pgpass").write_text("*:*:*:*:secret\n")
    (here / ".pgpass").chmod(0o640)
    assert arguments("postgresql://u@h/db")["password"] is None


def test_a_service_fills_in_what_the_url_lacks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service's values are plain text, so a percent sign is one; the URL wins; its options are checked."""
    lines = ["\ufeff# ours", "[other]", "host=no", "[facts]", "host=db.example", "port=7", "user=u"]
    lines += ["password=50%(x)s;#", "dbname=own", ""]
    (here / "services").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("PGSERVICEFILE", str(here / "services"))
    target = loaded("postgresql:///db?service=facts").target()
    assert target.hosts == (("db.example", 7),)
    assert (target.get("dbname"), target.get("user"), target.get("password")) == ("db", "u", "50%(x)s;#")
    (here / "services").write_text("[facts]\nchannel_binding=require\n")
    with pytest.raises(SettingsError, match="channel_binding"):
        loaded("postgresql:///db?service=facts")


def test_what_changes_nothing_is_noted() -> None:
    """An option that is accepted without an effect is named, with the reason."""
    notes = list(loaded("postgresql://h/db?channel_binding=prefer&sslmode=prefer").target().notes())
    assert notes == ["channel_binding changes nothing: asyncpg logs in without channel binding"]


@pytest.mark.parametrize(
    ("query", "tries"),
    [
        ("", [("a", "any"), ("b", "any")]),
        ("target_session_attrs=read-write", [("a", "read-write"), ("b", "read-write")]),
        (
            "target_session_attrs=prefer-standby",
            [("a", "standby"), ("b", "standby"), ("a", "any"), ("b", "any")],
        ),
    ],
)
def test_hosts_are_tried_in_turn(query: str, tries: list[tuple[str, str]]) -> None:
    """Each host is tried for what was asked; where a standby is preferred, for anything after that."""
    target = loaded(f"postgresql://a,b/db?{query}").target()
    assert [(t["host"], t["target_session_attrs"]) for t in postgres_connect._tries(target)] == tries


def test_hosts_share_the_time_unless_the_url_says_otherwise() -> None:
    """PG_CONN_TIMEOUT is divided among the hosts; connect_timeout gives each its own seconds within it."""
    for query, seconds in (("", 1.0), ("connect_timeout=1", 1), ("connect_timeout=0", 1.0)):
        settings = loaded(f"postgresql://a,b/db?{query}")
        assert postgres_connect._seconds_for_each(settings, settings.target(), 2) == seconds
