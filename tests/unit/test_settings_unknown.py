"""Settings: a variable that looks like one of ours and is none is named, and no other program's is."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from holdfast.settings.unknown import notes, unknown_variables, unknown_warnings, warn_of_unknown


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, so no `.env` of the repository is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GW_AUHT", "GW_AUTH"),
        ("PG_POOL_MX", "PG_POOL_MAX"),
        ("POSTGRE_URL", "POSTGRES_URL"),
        ("POSTGRESQL_URL", "POSTGRES_URL"),
        ("POSTGRES_URI", "POSTGRES_URL"),
        ("POSTGRES_PASSWROD", "POSTGRES_PASSWORD"),
        ("REDIS_PASSWORD_FIEL", "REDIS_PASSWORD_FILE"),
        ("REDIS_HOST", "REDIS_URL"),
        ("REDIS_USER", "REDIS_USERNAME"),
        ("MONGO_URI", "MONGO_URL"),
        ("MONGODB_URL", "MONGO_URL"),
        ("MONGO_MAXPOOL", "MONGO_MAX_POOL"),
        ("MONGO_DATABASE", "MONGO_DB"),
        ("JWT_SECRETS", "JWT_SECRET"),
        ("JWT_REFRESH_SECRET_KEY", "JWT_REFRESH_SECRET"),
        ("GW_CORS_ORIGIN", "GW_CORS_ORIGINS"),
        ("GW_PORTS", "GW_PORT"),
        ("gw_auth", "GW_AUTH"),
        ("Gw_Cache_Ttl", "GW_CACHE_TTL"),
        ("HOLDFASTHOME", "HOLDFAST_HOME"),
        ("SUPERVISOR_SOCKETS", "SUPERVISOR_SOCKET"),
        ("BROKER_URI", "BROKER_URL"),
        ("PG_STATMENT_TIMEOUT", "PG_STATEMENT_TIMEOUT"),
    ],
)
def test_a_misspelt_variable_names_the_one_that_was_meant(name: str, meant: str) -> None:
    """A name that is close to a setting's is a mistake, and the setting is named."""
    assert list(unknown_variables({name: "x"})) == [(name, meant)]


@pytest.mark.parametrize("name", ["GW_COLOUR_OF_THE_SKY", "HOLDFAST_COLOUR"])
def test_a_variable_with_our_own_prefix_is_always_named(name: str) -> None:
    """Nobody else's variables begin with GW_ or HOLDFAST_, so one that resembles nothing is named too."""
    assert list(unknown_variables({name: "x"})) == [(name, None)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTGRES_INITDB_ARGS", "--data-checksums"),
        ("POSTGRES_HOST_AUTH_METHOD", "scram-sha-256"),
        ("POSTGRES_USER_FILE", "/run/secrets/user"),
        ("PGDATA", "/var/lib/postgresql"),
        ("PGPASSWORD", "x"),
        ("PGHOST", "x"),
        ("PG_MAJOR", "18"),
        ("PG_VERSION", "18.1"),
        ("MONGO_INITDB_ROOT_USERNAME", "root"),
        ("MONGO_INITDB_DATABASE", "x"),
        ("MONGO_VERSION", "8.0"),
        ("REDIS_VERSION", "8.2"),
        ("REDIS_DOWNLOAD_URL", "https://x"),
        ("POSTGRES_SERVICE_HOST", "10.0.0.1"),
        ("POSTGRES_SERVICE_PORT", "5432"),
        ("POSTGRES_SERVICE_PORT_PG", "5432"),
        ("POSTGRES_PORT", "tcp://10.0.0.1:5432"),
        ("POSTGRES_PORT_5432_TCP", "tcp://10.0.0.1:5432"),
        ("POSTGRES_PORT_5432_TCP_ADDR", "10.0.0.1"),
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("MONGO_PORT", "tcp://10.0.0.1:27017"),
        ("GW_SERVICE_HOST", "10.0.0.1"),
        ("GW_PORT_80_TCP_PROTO", "tcp"),
        ("GW_PORT", "tcp://10.0.0.1:80"),
        ("FLOWER_URL_PREFIX", "flower"),
        ("FLOWER_PERSISTENT", "True"),
        ("SUPERVISOR_ENABLED", "1"),
        ("SUPERVISOR_PROCESS_NAME", "x"),
        ("SUPERVISOR_SERVER_URL", "unix:///x"),
        ("PATH", "/bin"),
        ("HOME", "/root"),
        ("HOSTNAME", "x"),
        ("PORT", "8080"),
        ("PYTHONPATH", "x"),
        ("REPORTER", "x"),
        ("DATABASE_URL", "postgres://x"),
        ("CELERY_BROKER_URL", "redis://x"),
        ("GITHUB_REPORT_URL", "x"),
        ("APP_PORT", "1"),
        ("AUTH", "x"),
        ("JWT", "x"),
    ],
)
def test_no_false_alarm(name: str, value: str) -> None:
    """Variables of the servers' images, of Kubernetes, of Flower and of anybody else are nobody's mistake."""
    assert list(unknown_variables({name: value})) == []


def test_every_setting_is_known() -> None:
    """No setting, and no file of a secret, is taken for a mistake."""
    from holdfast.settings.sources import every_name

    assert list(unknown_variables(dict.fromkeys(every_name(), "x"))) == []


def test_a_warning_names_both(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment and `.env` are both looked at, and no value is shown."""
    monkeypatch.setenv("GW_AUHT", "off")
    (here / ".env").write_text("PG_POOL_MX=5\n")
    assert unknown_warnings() == [
        "GW_AUHT is no setting of Holdfast and has no effect; did you mean GW_AUTH?",
        "PG_POOL_MX is no setting of Holdfast and has no effect; did you mean PG_POOL_MAX?",
    ]
    with structlog.testing.capture_logs() as lines:
        warn_of_unknown()
    assert [(line["log_level"], line["action"], line["variable"], line["meant"]) for line in lines] == [
        ("warning", "setting_unknown", "GW_AUHT", "GW_AUTH"),
        ("warning", "setting_unknown", "PG_POOL_MX", "PG_POOL_MAX"),
    ]


@pytest.mark.parametrize(
    ("variables", "note"),
    [
        ({"POSTGRES_PORT": "tcp://10.0.0.1:5432"}, "POSTGRES_PORT is passed over: "),
        ({"CELERY_BROKER_URL": "redis://x"}, "CELERY_BROKER_URL is passed over: "),
        ({"CELERY_RESULT_BACKEND": "redis://x"}, "CELERY_RESULT_BACKEND is passed over: "),
        ({"GW_AUHT": "off"}, "GW_AUHT is no setting"),
        ({"POSTGRES_URL": "postgresql://h/db?channel_binding=prefer"}, "POSTGRES_URL: channel_binding "),
        ({"POSTGRES_HOST": "h", "PGCHANNELBINDING": "require"}, "PGCHANNELBINDING has no effect"),
        ({"POSTGRES_HOST": "h", "PGOPTIONS": "-cjit=off"}, "PGOPTIONS has no effect"),
    ],
)
def test_what_is_passed_over_is_noted(
    variables: dict[str, str], note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`holdfast check` has a note for each variable and each option that is there and does nothing."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert [line for line in notes() if line.startswith(note)]
