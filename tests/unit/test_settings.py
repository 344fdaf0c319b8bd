"""Settings: where a value comes from, which values are refused, and that no refusal shows a secret."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from holdfast import settings
from holdfast.errors import SettingsError
from holdfast.settings import (
    EVERY_CLASS,
    SOCKET_PATH_LIMIT,
    BrokerSettings,
    CacheSettings,
    FlowerSettings,
    GatewaySettings,
    HomeSettings,
    JwtSettings,
    MongoSettings,
    PostgresSettings,
    RedisSettings,
    ReportsSettings,
    SupervisorSettings,
    is_loopback,
)
from holdfast.settings.sources import Settings, parse_list

CANARY = "canary-5b1f9e-do-not-show"

FIELDS = {str(field.alias): (cls, name) for cls in EVERY_CLASS for name, field in cls.model_fields.items()}
NUMBERS = sorted(
    str(field.alias) for cls in EVERY_CLASS for field in cls.model_fields.values() if field.annotation is int
)
SECRETS = {
    "POSTGRES_URL": "postgresql://u:{}@h/db",
    "POSTGRES_PASSWORD": "{}",
    "MONGO_URL": "mongodb://u:{}@h1:27017,h2:27018/db",
    "MONGO_PASSWORD": "{}",
    "REDIS_URL": "redis://u:{}@h:6379/0",
    "REDIS_PASSWORD": "{}",
    "BROKER_URL": "redis://u:{}@h:6379/1",
    "JWT_SECRET": "{}-and-as-many-as-32-characters-more",
    "JWT_REFRESH_SECRET": "{}-and-as-many-as-32-characters-more",
    "FLOWER_BASIC_AUTH": "user:{}",
}
"""Every variable that has a `_FILE`, and a valid value with a place for something secret."""

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, so no `.env` of the repository is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(variable: str) -> Any:
    """What the settings say of a variable, once its class is loaded; a secret's text."""
    cls, name = FIELDS[variable]
    value = getattr(cls.load(), name)
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def refusal(cls: type[Settings]) -> str:
    """The message with which the class is refused, after checking that a traceback shows no secret."""
    with pytest.raises(SettingsError) as caught:
        cls.load()
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


# Lists


@given(st.lists(TEXT))
def test_a_list_may_be_a_json_array(items: list[str]) -> None:
    """A JSON array of strings is that list, each item trimmed and the empty ones dropped."""
    for ascii_only in (True, False):
        text = json.dumps(items, ensure_ascii=ascii_only)
        assert parse_list(f" {text}\n") == [item.strip() for item in items if item.strip()]


@given(st.lists(TEXT.filter(lambda text: "," not in text)))
def test_a_list_may_be_separated_by_commas(items: list[str]) -> None:
    """Text that does not begin like JSON is a list separated by commas, trimmed, the empty ones dropped."""
    wanted = [item.strip() for item in items if item.strip()]
    assert parse_list(",".join(["first", *items])) == ["first", *wanted]
    assert parse_list(" , ".join(["", *items, " ", ""])) == wanted


@given(st.text(max_size=60))
def test_text_that_does_not_begin_like_json_is_always_a_list(text: str) -> None:
    """Unless it begins with `[`, whatever is in the variable is a list of trimmed, non-empty strings."""
    items = parse_list("a" + text)
    assert isinstance(items, list)
    assert items
    assert all(item == item.strip() != "" for item in items)


@pytest.mark.parametrize(
    "text", ["[", "[" * 5_000, '["a", 1]', '["a"],b', "[null]", '[["a"]]', '["a"', "[a]"]
)
def test_text_that_begins_like_json_and_is_none_is_refused(text: str) -> None:
    """What begins with `[` and is no array of strings is not guessed at; the refusal does not repeat it."""
    with pytest.raises(ValueError, match=r"^must be a JSON array of strings, or values separated by commas$"):
        parse_list(text)


def test_json_is_tried_before_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comma within a JSON string does not part it, in the variables as in the parser."""
    monkeypatch.setenv("GW_CORS_ORIGINS", '["https://a.example,b", " https://c.example "]')
    monkeypatch.setenv("REPORTS", " acme.reports ,, other.reports,")
    assert read("GW_CORS_ORIGINS") == ["https://a.example,b", "https://c.example"]
    assert read("REPORTS") == ["acme.reports", "other.reports"]


def test_an_empty_list_is_one_where_that_makes_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CORS origins is an ordinary setting; no report modules is refused."""
    monkeypatch.setenv("GW_CORS_ORIGINS", "")
    monkeypatch.setenv("REPORTS", " , ")
    assert read("GW_CORS_ORIGINS") == []
    assert refusal(ReportsSettings).startswith("REPORTS: ")


# Defaults

DEFAULTS = {
    "HOLDFAST_HOME": Path(".holdfast"),
    "POSTGRES_URL": None,
    "POSTGRES_HOST": None,
    "POSTGRES_PORT": 5432,
    "POSTGRES_PASSWORD": None,
    "PG_POOL_MAX": 20,
    "PG_POOL_IDLE": 30_000,
    "PG_CONN_TIMEOUT": 2_000,
    "PG_STATEMENT_TIMEOUT": 30_000,
    "MONGO_URL": None,
    "MONGO_USER": None,
    "MONGO_PASSWORD": None,
    "MONGO_MAX_POOL": 50,
    "MONGO_MIN_POOL": 5,
    "MONGO_SRV_SELECT_TIMEOUT": 10_000,
    "REDIS_URL": None,
    "REDIS_USERNAME": None,
    "REDIS_PASSWORD": None,
    "BROKER_URL": None,
    "JWT_SECRET": None,
    "JWT_REFRESH_SECRET": None,
    "JWT_ACCESS_TTL": 900,
    "JWT_REFRESH_TTL": 30 * 24 * 3600,
    "GW_CACHE_TTL": 30,
    "GW_AUTH": "jwt",
    "GW_HOST": "127.0.0.1",
    "GW_PORT": 8080,
    "GW_WORKERS": 1,
    "GW_MISS_TIMEOUT": 10_000,
    "GW_L1_MAX_BYTES": 256 * 1024 * 1024,
    "GW_CORS_ORIGINS": [],
    "SUPERVISOR_PORT": 9400,
    "FLOWER_PORT": 5555,
    "FLOWER_BASIC_AUTH": None,
    "REPORTS": ["holdfast_flights.reports"],
}


@pytest.mark.parametrize(("variable", "default"), DEFAULTS.items())
def test_the_defaults_are_those_of_the_table(
    variable: str, default: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing set, each variable has the value that the documentation's table gives."""
    monkeypatch.delenv("HOLDFAST_HOME")
    assert read(variable) == default


def test_the_socket_lies_in_the_home_unless_it_is_set(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is `run/supervisor.sock` in HOLDFAST_HOME, as an absolute path, or SUPERVISOR_SOCKET."""
    monkeypatch.delenv("HOLDFAST_HOME")
    assert SupervisorSettings.load().path == here / ".holdfast" / "run" / "supervisor.sock"
    monkeypatch.setenv("HOLDFAST_HOME", "h")
    assert SupervisorSettings.load().path == here / "h" / "run" / "supervisor.sock"
    monkeypatch.setenv("SUPERVISOR_SOCKET", "s")
    assert SupervisorSettings.load().path == here / "s"


@pytest.mark.parametrize("variable", NUMBERS)
def test_each_number_is_read_from_its_variable(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number in a variable is the number that the settings have."""
    monkeypatch.setenv(variable, "37")
    assert read(variable) == 37


# Wrong values


@pytest.mark.parametrize("variable", NUMBERS)
def test_a_wrong_number_is_named_and_not_shown(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no number, or out of range, is refused in one line that names the variable and hides it."""
    for value in (CANARY, "-99887766", "99887766.5", "0x99887766", "99887766e1", "99887766" * 600):
        monkeypatch.setenv(variable, value)
        message = refusal(FIELDS[variable][0])
        assert message.startswith(f"{variable}: ")
        assert "\n" not in message
        assert "99887766" not in message


@pytest.mark.parametrize("variable", sorted(set(NUMBERS) - {"GW_L1_MAX_BYTES"}))
def test_a_number_beyond_32_bits_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out, a size or a port that no server could take is refused at the start, not by the server."""
    monkeypatch.setenv(variable, str(2**31))
    assert refusal(FIELDS[variable][0]).startswith(f"{variable}: ")


@pytest.mark.parametrize("variable", sorted(FIELDS.keys() - {"GW_CORS_ORIGINS"}))
def test_an_empty_value_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set and empty is a mistake, and is told as one; an empty list of origins is none."""
    monkeypatch.setenv(variable, "")
    assert refusal(FIELDS[variable][0]).startswith(f"{variable}: ")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("POSTGRES_URL", f"mysql://u:{CANARY}@h/db"),
        ("POSTGRES_URL", f"postgresql://u:{CANARY}@h:port/db"),
        ("POSTGRES_URL", f" postgresql://u:{CANARY}@h/db"),
        ("POSTGRES_URL", CANARY),
        ("POSTGRES_HOST", f"h/{CANARY}"),
        ("POSTGRES_HOST", f"u:{CANARY}@h"),
        ("MONGO_URL", f"postgresql://u:{CANARY}@h/db"),
        ("MONGO_URL", f"mongodb:{CANARY}"),
        ("REDIS_URL", f"http://u:{CANARY}@h"),
        ("REDIS_URL", f"unix:///tmp/{CANARY}"),
        ("REDIS_URL", f"redis://u:{CANARY}@h:0"),
        ("REDIS_URL", f"redis://u:{CANARY}@h:65536"),
        ("BROKER_URL", f"amqp://u:{CANARY}@h"),
        ("BROKER_URL", f"redis://u:{CANARY}@h\t"),
        ("JWT_SECRET", CANARY),
        ("JWT_REFRESH_SECRET", CANARY),
        ("GW_AUTH", CANARY),
        ("FLOWER_BASIC_AUTH", CANARY),
        ("FLOWER_BASIC_AUTH", f":{CANARY}"),
        ("FLOWER_BASIC_AUTH", f"{CANARY}:"),
        ("GW_CORS_ORIGINS", f'["{CANARY}'),
    ],
)
def test_a_malformed_value_is_named_and_not_shown(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value of the wrong shape is refused in one line that names its variable and shows nothing of it."""
    monkeypatch.setenv(variable, value)
    message = refusal(FIELDS[variable][0])
    assert message.startswith(f"{variable}: ")
    assert "\n" not in message


def test_every_wrong_value_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several wrong values are told at once, a line for each."""
    for variable in ("GW_PORT", "GW_WORKERS", "GW_AUTH"):
        monkeypatch.setenv(variable, "wrong")
    assert [line.partition(":")[0] for line in refusal(GatewaySettings).splitlines()] == [
        "GW_AUTH",
        "GW_PORT",
        "GW_WORKERS",
    ]


def test_a_pool_is_not_larger_at_least_than_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONGO_MIN_POOL above MONGO_MAX_POOL is refused by name."""
    monkeypatch.setenv("MONGO_MIN_POOL", "9")
    monkeypatch.setenv("MONGO_MAX_POOL", "8")
    assert refusal(MongoSettings).startswith("MONGO_MIN_POOL: ")


@pytest.mark.parametrize("variable", ["JWT_SECRET", "JWT_REFRESH_SECRET"])
def test_a_short_signing_key_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7518 §3.2: 31 characters are too few for HS256, and 32 are enough."""
    monkeypatch.setenv(variable, "k" * 31)
    assert "32" in refusal(JwtSettings)
    monkeypatch.setenv(variable, "k" * 32)
    assert read(variable) == "k" * 32


@pytest.mark.parametrize("character", ["s", "ß"])
def test_a_socket_path_that_linux_refuses_is_refused_first(
    character: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path of 107 bytes is taken, and one of 108 is refused with the variables to change: bytes count."""
    folder = "/tmp/"  # noqa: S108 - nothing is made there
    name = character * ((SOCKET_PATH_LIMIT - len(folder)) // len(os.fsencode(character)))
    path = folder + name
    monkeypatch.setenv("SUPERVISOR_SOCKET", path + "s" * (SOCKET_PATH_LIMIT - len(os.fsencode(path))))
    assert len(os.fsencode(SupervisorSettings.load().path)) == SOCKET_PATH_LIMIT
    monkeypatch.setenv("SUPERVISOR_SOCKET", path + "ss")
    message = refusal(SupervisorSettings)
    assert message.startswith("SUPERVISOR_SOCKET: ")
    assert "HOLDFAST_HOME" in message


# Authentication off


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "::1", "[::1]"])
def test_authentication_may_be_off_on_loopback(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GW_AUTH=off is taken where only this machine can reach the gateway."""
    monkeypatch.setenv("GW_AUTH", "off")
    monkeypatch.setenv("GW_HOST", host)
    assert read("GW_AUTH") == "off"
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.0.7", "2001:db8::1", "example.org", "localhost.example.org"],  # noqa: S104
)
def test_authentication_is_never_off_elsewhere(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GW_AUTH=off is refused for every address that others can reach, or that is not surely loopback."""
    monkeypatch.setenv("GW_HOST", host)
    assert read("GW_AUTH") == "jwt"
    monkeypatch.setenv("GW_AUTH", "off")
    assert refusal(GatewaySettings).startswith("GW_AUTH: ")


# Secret files


def test_every_secret_may_be_a_file() -> None:
    """The variables with a `_FILE` are those of the documentation, and every secret is among them."""
    may_be = {name for cls in EVERY_CLASS for name in cls._may_be_files}
    secret = {
        str(field.alias)
        for cls in EVERY_CLASS
        for field in cls.model_fields.values()
        if "SecretStr" in str(field.annotation)
    }
    assert may_be == secret == SECRETS.keys()


@pytest.fixture
def _mongo_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGO_USER", "reader")


@pytest.mark.usefixtures("_mongo_user")
@pytest.mark.parametrize("variable", SECRETS)
def test_a_file_wins_over_its_variable(variable: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the file that X_FILE names exists it wins over X; one trailing newline is dropped."""
    monkeypatch.setenv(variable, SECRETS[variable].format("variable"))
    for newline in ("", "\n", "\r\n"):
        (here / "secret").write_bytes((SECRETS[variable].format("file") + newline).encode())
        monkeypatch.setenv(f"{variable}_FILE", str(here / "secret"))
        assert read(variable) == SECRETS[variable].format("file")


@pytest.mark.usefixtures("_mongo_user")
@pytest.mark.parametrize("variable", SECRETS)
def test_without_the_file_the_variable_counts(
    variable: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the file does not exist X is used; when X is not set either, X_FILE is refused by name."""
    monkeypatch.setenv(f"{variable}_FILE", str(here / CANARY))
    message = refusal(FIELDS[variable][0])
    assert message.startswith(f"{variable}_FILE: ")
    assert "\n" not in message
    monkeypatch.setenv(variable, SECRETS[variable].format("variable"))
    assert read(variable) == SECRETS[variable].format("variable")


@pytest.mark.parametrize("variable", SECRETS)
def test_a_file_that_holds_no_value_is_refused(
    variable: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file, one that is not UTF-8 and one that cannot be read are refused by name, X or no X."""
    monkeypatch.setenv(variable, SECRETS[variable].format("variable"))
    path = here / "secret"
    monkeypatch.setenv(f"{variable}_FILE", str(path))
    for content in (b"", b"\n", b"\r\n", CANARY.encode() + b"\xff"):
        path.write_bytes(content)
        message = refusal(FIELDS[variable][0])
        assert message.startswith(f"{variable}_FILE: ")
        assert "\n" not in message
    path.unlink()
    path.mkdir()
    assert refusal(FIELDS[variable][0]).startswith(f"{variable}_FILE: ")


@pytest.mark.parametrize("variable", [name for name in SECRETS if "PASSWORD" not in name])
def test_a_wrong_value_from_a_file_is_not_shown(
    variable: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose content has the wrong shape is refused like the variable itself: named, not shown."""
    (here / "secret").write_text(CANARY)
    monkeypatch.setenv(f"{variable}_FILE", str(here / "secret"))
    assert refusal(FIELDS[variable][0]).startswith(f"{variable}: ")


def test_an_empty_file_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """X_FILE that is set and empty is a mistake in whatever set it, not a way to say `no file`."""
    monkeypatch.setenv("REDIS_PASSWORD_FILE", "")
    assert refusal(RedisSettings).startswith("REDIS_PASSWORD_FILE: ")


def test_only_one_newline_at_the_end_is_dropped(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret keeps every other character as it is: spaces, line breaks within, a second newline."""
    (here / "secret").write_bytes(b" a\r\nb\rc \n\n")
    monkeypatch.setenv("POSTGRES_PASSWORD_FILE", str(here / "secret"))
    assert read("POSTGRES_PASSWORD") == " a\r\nb\rc \n"


@pytest.mark.parametrize("variable", SECRETS)
@pytest.mark.usefixtures("_mongo_user")
def test_settings_can_be_printed(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What settings print of themselves shows no secret and no URL that holds one."""
    monkeypatch.setenv(variable, SECRETS[variable].format(CANARY))
    loaded = FIELDS[variable][0].load()
    assert CANARY in read(variable)
    assert CANARY not in f"{loaded} {loaded!r} {loaded.model_dump()} {loaded.model_dump_json()}"


def test_a_password_without_a_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONGO_PASSWORD without MONGO_USER is told, and not passed over."""
    monkeypatch.setenv("MONGO_PASSWORD", CANARY)
    assert refusal(MongoSettings) == "MONGO_USER: must be set where MONGO_PASSWORD is"


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("postgresql://db/facts", "postgresql://holdfast:p%40%2F@db/facts"),
        ("postgres://ann@db:6432/facts", "postgresql://ann:p%40%2F@db:6432/facts"),
        ("postgresql://ann:own@db/facts?sslmode=require", "postgresql://ann:own@db/facts?sslmode=require"),
    ],
)
def test_a_password_completes_a_postgres_url(url: str, whole: str) -> None:
    """POSTGRES_PASSWORD fills in a URL that has none, so the URL itself need not be secret."""
    loaded = PostgresSettings.model_validate({"POSTGRES_URL": url, "POSTGRES_PASSWORD": "p@/"})
    assert loaded.dsn() == whole


# Sources


def test_the_environment_wins_over_dot_env_and_that_over_a_running_up(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second terminal finds a running `holdfast up`; `.env` overrides it, and the environment both."""
    home = Path(os.environ["HOLDFAST_HOME"])
    (home / "run").mkdir(parents=True)
    (home / "run" / "up.env").write_text("GW_PORT=1\nGW_WORKERS=1\nFLOWER_PORT=1\n")
    (here / ".env").write_text("GW_PORT=2\nGW_WORKERS=2\n# a comment\n")
    monkeypatch.setenv("GW_PORT", "3")
    assert (read("GW_PORT"), read("GW_WORKERS"), read("FLOWER_PORT")) == (3, 2, 1)


@pytest.mark.parametrize("named_by", ["REDIS_URL", "REDIS_URL_FILE"])
def test_ones_own_server_is_not_sent_the_embedded_ones_password(
    named_by: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names a server while `holdfast up` runs sends it no user and no password of the embedded one."""
    home = Path(os.environ["HOLDFAST_HOME"])
    (home / "run").mkdir(parents=True)
    (here / "password").write_text(CANARY)
    (here / "url").write_text("redis://own:6379/0")
    (home / "run" / "up.env").write_text(
        f"REDIS_URL=redis://embedded\nREDIS_USERNAME=holdfast\nREDIS_PASSWORD_FILE={here / 'password'}\n"
        f"POSTGRES_HOST=embedded\nPOSTGRES_PASSWORD_FILE={here / 'password'}\n"
    )
    assert RedisSettings.load().dsn() == f"redis://holdfast:{CANARY}@embedded"
    monkeypatch.setenv(named_by, "redis://own:6379/0" if named_by == "REDIS_URL" else str(here / "url"))
    assert RedisSettings.load().dsn() == "redis://own:6379/0"
    assert PostgresSettings.load().dsn() == f"postgresql://holdfast:{CANARY}@embedded:5432/holdfast"
    monkeypatch.setenv("POSTGRES_HOST", "own")
    assert PostgresSettings.load().dsn() == "postgresql://holdfast@own:5432/holdfast"


def test_dot_env_may_say_where_home_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOLDFAST_HOME in `.env` is where the settings of a running `up` are looked for."""
    monkeypatch.delenv("HOLDFAST_HOME")
    (here / ".env").write_text("HOLDFAST_HOME=elsewhere\n")
    (here / "elsewhere" / "run").mkdir(parents=True)
    (here / "elsewhere" / "run" / "up.env").write_text("GW_PORT=4\nHOLDFAST_HOME=wrong\n")
    assert read("GW_PORT") == 4
    assert HomeSettings.load().home == Path("elsewhere")


def test_a_file_named_in_dot_env_wins_over_the_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X_FILE is the strongest source of X, wherever it is set."""
    (here / "secret").write_text("from the file")
    (here / ".env").write_text(f"REDIS_PASSWORD_FILE={here / 'secret'}\n")
    monkeypatch.setenv("REDIS_PASSWORD", "from the environment")
    assert read("REDIS_PASSWORD") == "from the file"


def test_dollar_signs_in_dot_env_are_not_expanded(here: Path) -> None:
    """A password in `.env` may hold a dollar sign."""
    (here / ".env").write_text("REDIS_PASSWORD='a$HOME${HOME}b'\n")
    assert read("REDIS_PASSWORD") == "a$HOME${HOME}b"


def test_an_unreadable_dot_env_is_refused(here: Path) -> None:
    """A `.env` that is not text is refused by its name, and nothing of it is shown."""
    (here / ".env").write_bytes(b"GW_PORT=" + CANARY.encode() + b"\xff\xfe")
    assert refusal(GatewaySettings).startswith(".env: ")


def test_foreign_variables_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have any other variables: only its own are read."""
    monkeypatch.setenv("POSTGRES_SOMETHING", "x")
    monkeypatch.setenv("GW_PORT", "not of this class")
    assert PostgresSettings.load().pool_max == 20


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


@given(user=TEXT, password=TEXT, host=HOSTS)
def test_a_redis_url_takes_the_user_and_the_password(user: str, password: str, host: str) -> None:
    """REDIS_USERNAME and REDIS_PASSWORD go into the URL, in place of what it had; the rest of it stays."""
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    for before in ("", "old:secret@"):
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


def test_every_class_of_settings_is_checked() -> None:
    """`holdfast check` reads every class of settings that there is."""
    defined = {
        cls
        for cls in vars(settings).values()
        if isinstance(cls, type) and issubclass(cls, Settings) and cls is not Settings
    }
    assert set(EVERY_CLASS) == defined
    assert CacheSettings in defined
    assert FlowerSettings in defined
