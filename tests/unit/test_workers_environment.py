"""Celery and Flower: which variables and arguments count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.environment import environment_without_settings

from holdfast.errors import SettingsError
from holdfast.processes.programs import check_pool, pool_of
from holdfast.settings import PASSED_OVER_BY_CELERY
from holdfast_workers import flower
from holdfast_workers.environment import pass_over, pool_name

OURS = "redis://ours:6379/1"


def test_the_broker_url_alone_counts(tmp_path: Path) -> None:
    """None of Celery's own variables moves the broker, the results, the loader or the lock of beat."""
    names = [*PASSED_OVER_BY_CELERY, "RESULT_BACKEND", "LOADER", "CONFIG_MODULE"]
    theirs = {name: "redis://theirs:6379/5" if "URL" in name else "json" for name in names}
    code = (
        "from holdfast_workers import celery as app; c = app.conf;"
        "print(c.broker_url, c.broker_read_url, c.broker_write_url, c.redbeat_redis_url, c.result_backend,"
        " app.connection_for_write().hostname, type(app.loader).__name__)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment_without_settings(), "BROKER_URL": OURS, **theirs},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout.split() == [*[OURS] * 4, "None", "ours", "AppLoader"]


def test_celerys_command_line_takes_the_file(tmp_path: Path) -> None:
    """Celery takes BROKER_URL for an option of its command line; BROKER_URL_FILE wins all the same."""
    (tmp_path / "url").write_text(OURS)
    arguments = ["-A", "holdfast_workers", "-b", "redis://third:6379/3", "report"]
    ran = subprocess.run(
        [sys.executable, "-m", "celery", *arguments],
        env={
            **environment_without_settings(),
            "BROKER_URL_FILE": str(tmp_path / "url"),
            "BROKER_URL": "redis://other:6379/2",
            "CELERY_BROKER_URL": "redis://theirs:6379/5",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "ours:6379" in ran.stdout
    assert not [host for host in ("third", "other", "theirs") if host in ran.stdout]


def test_other_variables_of_celery_stay() -> None:
    """What does not change Celery's settings is left alone."""
    variables = {"CELERY_TRACE_APP": "1", "CELERY_BROKER_URL": "redis://x", "PATH": "/bin"}
    pass_over(variables)
    assert variables == {"CELERY_TRACE_APP": "1", "PATH": "/bin"}


@pytest.mark.parametrize(
    ("arguments", "pool"),
    [
        ([], "prefork"),
        (["--concurrency=2"], "prefork"),
        (["--pool=threads"], "threads"),
        (["--pool", "solo", "-c", "1"], "solo"),
        (["-P", "gevent"], "gevent"),
        (["-Peventlet"], "eventlet"),
        (["-c4", "-P", "processes"], "prefork"),
        (["--pool=custom"], "custom"),
    ],
)
def test_the_pool_is_found_in_the_arguments(arguments: list[str], pool: str) -> None:
    """However the pool is written, it is the one that Celery would take."""
    assert pool_of(arguments) == pool


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "custom", ""])
def test_a_pool_that_cannot_work_is_refused_by_name(pool: str) -> None:
    """Green threads share one event loop, on which no task could run; the message says what works."""
    with pytest.raises(SettingsError, match=rf"^--pool={pool}: .*prefork, threads or solo$"):
        check_pool(pool)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_pool_that_works_is_taken(pool: str) -> None:
    """Processes, threads and none: by the name, and by the class that Celery makes of it."""
    from celery.concurrency import get_implementation

    check_pool(pool)
    check_pool(pool_name(pool))
    check_pool(pool_name(get_implementation(pool)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLOWER_URL_PREFIX", "flower"),
        ("FLOWER_PERSISTENT", "True"),
        ("FLOWER_DB", "/var/lib/flower/{x}%y"),
        ("FLOWER_MAX_TASKS", "500"),
        ("FLOWER_AUTO_REFRESH", "off"),
        ("FLOWER_INSPECT_TIMEOUT", "2500.5"),
        ("FLOWER_TASK_RUNTIME_METRIC_BUCKETS", "1,5,10"),
        ("FLOWER_COOKIE_SECRET", "a,b;c%d"),
        ("FLOWER_TASKS_COLUMNS", "name,uuid"),
        ("FLOWER_OAUTH2_KEY", "k"),
        ("FLOWER_READ_ONLY", "yes"),
    ],
)
def test_a_documented_option_of_flower_is_handed_on(name: str, value: str) -> None:
    """Flower gets each of its own options as it was given."""
    assert dict(flower.flower_options({name: value})) == {name: value}
    assert list(flower.unused({name: value})) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLOWER_PERSISTENT", "maybe"),
        ("FLOWER_MAX_TASKS", "many"),
        ("FLOWER_MAX_TASKS", "tcp://10.0.0.1:80"),
        ("FLOWER_INSPECT_TIMEOUT", "1s"),
        ("FLOWER_TASK_RUNTIME_METRIC_BUCKETS", "1,two"),
        ("FLOWER_READ_ONLY", ""),
    ],
)
def test_a_wrong_option_of_flower_is_refused_by_name(name: str, value: str) -> None:
    """What Flower would end with a traceback for is refused at the start, without its value."""
    with pytest.raises(SettingsError, match=rf"^{name}: must be "):
        dict(flower.flower_options({name: value}))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("FLOWER_URL_PREFX", "x", "did you mean FLOWER_URL_PREFIX?"),
        ("FLOWER_BASIC_AUHT", "a:b", "did you mean FLOWER_BASIC_AUTH?"),
        ("FLOWER_THEME", "dark", "it is no option of Flower's"),
        ("FLOWER_ADDRESS", "0.0.0.0", "127.0.0.1 alone"),  # noqa: S104
        ("FLOWER_FORMAT_TASK", "x", "it is no option of Flower's"),
    ],
)
def test_a_variable_that_flower_does_not_know_is_named(name: str, value: str, reason: str) -> None:
    """What Flower itself passes over without a word is a warning here, with the name that was meant."""
    assert dict(flower.flower_options({name: value})) == {}
    [(named, why)] = flower.unused({name: value})
    assert named == name
    assert reason in why


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLOWER_PORT", "tcp://10.0.0.1:5555"),
        ("FLOWER_PORT", "5555"),
        ("FLOWER_PORT_5555_TCP_ADDR", "10.0.0.1"),
        ("FLOWER_SERVICE_HOST", "10.0.0.1"),
        ("FLOWER_BASIC_AUTH", "a:b"),
        ("FLOWER_BASIC_AUTH_FILE", "/run/x"),
        ("FLOWER_ADDRESS", "127.0.0.1"),
        ("OTHER_URL_PREFIX", "x"),
    ],
)
def test_what_is_ours_or_a_services_is_not_handed_on(name: str, value: str) -> None:
    """Our own settings reach Flower in another way, and a service's address is nobody's option."""
    assert dict(flower.flower_options({name: value})) == {}
    assert list(flower.unused({name: value})) == []
