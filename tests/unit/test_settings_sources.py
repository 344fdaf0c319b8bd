"""Settings: secret files, the environment, `.env` and a running `holdfast up`, and which of them wins."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.settings import CANARY, FIELDS, SECRETS, TEXT, read, refusal

from holdfast.errors import SettingsError
from holdfast.settings import (
    EVERY_CLASS,
    BrokerSettings,
    GatewaySettings,
    HomeSettings,
    MongoSettings,
    PostgresSettings,
    RedisSettings,
)
from holdfast.settings.files import dotenv
from holdfast.up.instance import Instance, up_env_file


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, so no `.env` of the repository is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
@pytest.mark.parametrize("newline", ["", "\n", "\r\n"])
def test_a_file_wins_over_its_variable(
    variable: str, newline: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the file that X_FILE names exists it wins over X; one trailing newline is dropped."""
    monkeypatch.setenv(variable, SECRETS[variable].format("variable"))
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
@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", CANARY.encode() + b"\xff"])
def test_a_file_that_holds_no_value_is_refused(
    variable: str, content: bytes, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file, and one that is not UTF-8, are refused by name, also where X is set."""
    monkeypatch.setenv(variable, SECRETS[variable].format("variable"))
    (here / "secret").write_bytes(content)
    monkeypatch.setenv(f"{variable}_FILE", str(here / "secret"))
    message = refusal(FIELDS[variable][0])
    assert message.startswith(f"{variable}_FILE: ")
    assert "\n" not in message


@pytest.mark.parametrize("variable", SECRETS)
def test_a_file_that_cannot_be_read_is_refused(
    variable: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the place of the file is refused by name, also where X is set."""
    monkeypatch.setenv(variable, SECRETS[variable].format("variable"))
    (here / "secret").mkdir()
    monkeypatch.setenv(f"{variable}_FILE", str(here / "secret"))
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


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"p w\n", "p w"),
        (b"p w\r\n", "p w"),
        (b"p w\r", "p w"),
        (b"p w\n\n\n", "p w"),
        (b"p w \r\n", "p w"),
        (b"p w\t\n", "p w"),
        (b"p w\r\n\x1a", "p w"),
        (b"\xef\xbb\xbfp w", "p w"),
        (b"\xef\xbb\xbfp w\r\n", "p w"),
        ("p w\r\n".encode("utf-16"), "p w"),
        (b"\xff\xfe" + "p \u00e9\r\n".encode("utf-16-le"), "p \u00e9"),
        (b"\xfe\xff" + "p \U0001f511\r\n".encode("utf-16-be"), "p \U0001f511"),
        ("p w\n".encode("utf-32"), "p w"),
        (b" a\r\nb\rc \n\n", " a\r\nb\rc"),
        (b"  p\tw", "  p\tw"),
        ("\u00a0p\u3000\n".encode(), "\u00a0p\u3000"),
        (b"#p'w\"$x%y{z}\\\n", "#p'w\"$x%y{z}\\"),
    ],
)
def test_a_secret_is_what_an_editor_did_not_add(
    content: bytes, secret: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark at the start of a file and white space at its end are no part of a secret; all else is."""
    (here / "secret").write_bytes(content)
    monkeypatch.setenv("POSTGRES_PASSWORD_FILE", str(here / "secret"))
    assert read("POSTGRES_PASSWORD") == secret


@pytest.mark.parametrize(
    "content",
    [
        "secret".encode("utf-16-le"),
        b"se\0cret",
        b"\xff\xfes",
        "s\u00e9".encode("latin-1"),
        b"\xef\xbb\xbf\r\n",
    ],
)
def test_a_secret_in_another_encoding_is_refused(
    content: bytes, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not surely text is refused by name: UTF-16 without its mark, Latin-1, zero bytes."""
    (here / "secret").write_bytes(content)
    monkeypatch.setenv("POSTGRES_PASSWORD_FILE", str(here / "secret"))
    assert refusal(PostgresSettings).startswith("POSTGRES_PASSWORD_FILE: ")


@pytest.mark.parametrize("variable", SECRETS)
@pytest.mark.usefixtures("_mongo_user")
def test_settings_can_be_printed(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What settings print of themselves shows no secret and no URL that holds one."""
    monkeypatch.setenv(variable, SECRETS[variable].format(CANARY))
    loaded = FIELDS[variable][0].load()
    assert CANARY in read(variable)
    assert CANARY not in f"{loaded} {loaded!r} {loaded.model_dump()} {loaded.model_dump_json()}"


def test_a_password_without_a_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONGO_PASSWORD without MONGO_USER is refused, and not passed over."""
    monkeypatch.setenv("MONGO_PASSWORD", CANARY)
    assert refusal(MongoSettings) == "MONGO_USER: must be set where MONGO_PASSWORD is"


@pytest.mark.parametrize(
    ("url", "complete"),
    [
        ("postgresql://db/facts", "postgresql://holdfast:p%40%2F@db/facts"),
        ("postgres://ann@db:6432/facts", "postgresql://ann:p%40%2F@db:6432/facts"),
        ("postgresql://ann:own@db/facts?sslmode=require", "postgresql://ann:own@db/facts?sslmode=require"),
    ],
)
def test_a_password_completes_a_postgres_url(url: str, complete: str) -> None:
    """POSTGRES_PASSWORD fills in a URL that has none, so the URL itself need not be secret."""
    loaded = PostgresSettings.model_validate({"POSTGRES_URL": url, "POSTGRES_PASSWORD": "p@/"})
    assert loaded.dsn() == complete


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


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("REDIS_PASSWORD=p@ss/w#rd:1", "p@ss/w#rd:1"),
        ("REDIS_PASSWORD='p #w'", "p #w"),
        ('REDIS_PASSWORD="it\'s"', "it's"),
        ("REDIS_PASSWORD=it's", "it's"),
        ("REDIS_PASSWORD=50%{x}$HOME;`a`", "50%{x}$HOME;`a`"),
        ("export REDIS_PASSWORD = 'a b'", "a b"),
        ("REDIS_PASSWORD='a\\b'", "a\\b"),
        ("REDIS_PASSWORD='a=b,c'", "a=b,c"),
        ("not a line of ours: x\nREDIS_PASSWORD=p", "p"),
        ("\ufeffREDIS_PASSWORD=p", "p"),
        ("REDIS_PASSWORD=p\r\nGW_PORT=1", "p"),
        ("GW_PORT=8080 # the port\nREDIS_PASSWORD='p' # the password", "p"),
    ],
)
def test_a_password_in_dot_env_arrives_whole(here: Path, line: str, password: str) -> None:
    """Separators, quotes, percent signs, braces and a byte order mark do a password in `.env` no harm."""
    (here / ".env").write_text(f"{line}\n", encoding="utf-8", newline="")
    assert read("REDIS_PASSWORD") == password


@pytest.mark.parametrize(
    "value",
    [f"{CANARY} #w", f"'{CANARY}'s'", f'"{CANARY}"b', f"'{CANARY}", f'"{CANARY}\\tw"', f"'{CANARY}' b"],
)
@pytest.mark.parametrize("name", ["REDIS_PASSWORD", "POSTGRES_URL"])
def test_a_password_that_dot_env_would_change_is_refused(here: Path, name: str, value: str) -> None:
    """What python-dotenv would cut, change or leave out is refused, naming file, line and variable."""
    (here / ".env").write_text(f"# ours\n\n{name}={value}\n")
    message = refusal(RedisSettings)
    assert message.startswith(f".env: line 3: {name} ")
    assert "\n" not in message


def test_dot_env_may_be_utf_16(here: Path) -> None:
    """A `.env` that PowerShell wrote is read."""
    (here / ".env").write_bytes("GW_PORT=7\r\nGW_WORKERS=3\r\n".encode("utf-16"))
    assert (read("GW_PORT"), read("GW_WORKERS")) == (7, 3)


@given(st.dictionaries(st.sampled_from(["GW_HOST", "REPORTS", "REDIS_PASSWORD"]), TEXT))
def test_up_env_gives_back_what_up_wrote(published: dict[str, str]) -> None:
    """Whatever `holdfast up` publishes, a second terminal reads the same."""
    with tempfile.TemporaryDirectory() as folder:
        instance = Instance(Path(folder))
        (Path(folder) / "run").mkdir()
        instance.publish_settings(published)
        assert dotenv(up_env_file(Path(folder)), published, published) == published


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize("variable", ["POSTGRES_PORT", "GW_PORT", "SUPERVISOR_PORT", "FLOWER_PORT"])
def test_the_address_of_a_service_is_passed_over(
    variable: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes injects X_PORT=tcp://… for a service named x: that is no port of ours."""
    default = read(variable)
    monkeypatch.setenv(variable, f"{scheme}://10.0.0.1:80")
    assert read(variable) == default
    monkeypatch.setenv(variable, "tcp:80")
    assert refusal(FIELDS[variable][0]).startswith(f"{variable}: ")


def test_an_unreadable_dot_env_is_refused(here: Path) -> None:
    """A `.env` that is not text is refused by its name, and nothing of it is shown."""
    (here / ".env").write_bytes(b"GW_PORT=" + CANARY.encode() + b"\xff\xfe")
    assert refusal(GatewaySettings).startswith(".env: ")


def test_foreign_variables_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have any other variables: only its own are read."""
    monkeypatch.setenv("POSTGRES_SOMETHING", "x")
    monkeypatch.setenv("GW_PORT", "not of this class")
    assert PostgresSettings.load().pool_max == 20


# Given variables


def test_given_variables_are_all_that_counts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that are loaded from a mapping look at no environment, no `.env` and no running `up`."""
    home = Path(os.environ["HOLDFAST_HOME"])
    (home / "run").mkdir(parents=True)
    (home / "run" / "up.env").write_text("GW_MISS_TIMEOUT=3\n")
    (here / ".env").write_text("GW_WORKERS=7\n")
    monkeypatch.setenv("GW_PORT", "1111")
    given = GatewaySettings.load({"GW_HOST": "127.0.0.2", "HOLDFAST_HOME": str(home)})
    assert (given.host, given.port, given.workers, given.miss_timeout) == ("127.0.0.2", 8080, 1, 10_000)
    usual = GatewaySettings.load()
    assert (usual.host, usual.port, usual.workers, usual.miss_timeout) == ("127.0.0.1", 1111, 7, 3)


def test_given_variables_may_name_files(here: Path) -> None:
    """`X_FILE` works among given variables as it does in the environment, and a refusal shows no secret."""
    (here / "password").write_text(CANARY)
    given = {"POSTGRES_HOST": "h", "POSTGRES_PASSWORD_FILE": str(here / "password")}
    assert CANARY in PostgresSettings.load(given).dsn()
    with pytest.raises(SettingsError, match="POSTGRES_PORT") as refused:
        PostgresSettings.load({**given, "POSTGRES_PORT": CANARY})
    assert CANARY not in str(refused.value)


def test_a_broker_without_a_url_is_that_of_the_given_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What completes a setting comes from the same variables as the setting itself."""
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere/0")
    assert BrokerSettings.load({"REDIS_URL": "redis://here/0"}).dsn() == "redis://here/1"
    assert BrokerSettings.load().dsn() == "redis://elsewhere/1"
