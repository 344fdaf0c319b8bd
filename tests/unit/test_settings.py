"""Settings: which values are accepted, which are refused, and that no refusal shows a secret."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.settings import CANARY, FIELDS, NUMBERS, TEXT, read, refusal

from holdfast import settings
from holdfast.settings import (
    EVERY_CLASS,
    SOCKET_PATH_LIMIT,
    CacheSettings,
    FlowerSettings,
    GatewaySettings,
    JwtSettings,
    MongoSettings,
    ReportsSettings,
    Settings,
    SupervisorSettings,
    is_loopback,
)
from holdfast.settings.sources import parse_list


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, so no `.env` of the repository is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Lists


@given(st.lists(TEXT), st.booleans())
def test_a_list_may_be_a_json_array(items: list[str], ascii_only: bool) -> None:
    """A JSON array of strings is that list, each item trimmed and the empty ones dropped."""
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
@pytest.mark.parametrize(
    "value",
    [
        CANARY,
        "-99887766",
        "99887766.5",
        "0x99887766",
        "99887766e1",
        pytest.param("99887766" * 600, id="long"),
    ],
)
def test_a_wrong_number_is_named_and_not_shown(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no number, or out of range, is refused in one line that names the variable and hides it."""
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
    """A variable that is set and empty is a mistake and is refused; an empty list of origins is none."""
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
    """Several wrong values are reported at once, a line for each."""
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


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost.", "::ffff:127.0.0.1"])
def test_loopback_has_other_spellings(host: str) -> None:
    """Host names have no case and may end with a dot; an IPv4 address may be written as an IPv6 one."""
    assert is_loopback(host)


# Origins


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://dash.example.com/", "https://dash.example.com"),
        ("https://Dash.Example.COM", "https://dash.example.com"),
        ("HTTPS://dash.example.com", "https://dash.example.com"),
        ("https://dash.example.com:443", "https://dash.example.com"),
        ("http://dash.example.com:80/", "http://dash.example.com"),
        ("https://dash.example.com:8443", "https://dash.example.com:8443"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[2001:DB8::7]", "http://[2001:db8::7]"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
        ("https://dash.example.com:080", "https://dash.example.com:80"),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(
    given: str, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trailing slash, capital letters and the default port of an origin change nothing (RFC 6454)."""
    monkeypatch.setenv("GW_CORS_ORIGINS", given)
    assert read("GW_CORS_ORIGINS") == [origin]


@pytest.mark.parametrize(
    "given",
    [
        "dash.example.com",
        "localhost:3000",
        "//dash.example.com",
        "https://dash.example.com/board",
        "https://dash.example.com?x=y",
        "https://dash.example.com/#board",
        "https://me@dash.example.com",
        "https://*.example.com",
        "https://",
        "https://dash.example.com:port",
        "https://dash.example.com:70000",
        "https://dash .example.com",
        "https://[::1",
        "*",
        "null",
        "https://good.example, bad.example",
    ],
)
def test_what_is_no_origin_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that no browser's Origin could ever match is refused at the start, by the variable's name."""
    monkeypatch.setenv("GW_CORS_ORIGINS", given)
    message = refusal(GatewaySettings)
    assert message.startswith("GW_CORS_ORIGINS: ")
    assert "\n" not in message


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
