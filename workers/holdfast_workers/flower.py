"""`holdfast flower`: Flower on loopback, never without its password.

The password reaches Flower within this process: in the arguments any user of the machine could read it, and
in the environment Flower would cut it at its commas. Every other documented FLOWER_ variable is handed on.
Unless FLOWER_PERSISTENT says otherwise Flower keeps its state in memory: its file is a pickle.
"""

from __future__ import annotations

import difflib
import os
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from celery.bin.celery import celery
from flower.options import options

from holdfast import logs
from holdfast.errors import SettingsError, exit_on_error
from holdfast.settings import BrokerSettings, FlowerSettings, HomeSettings
from holdfast.settings.sources import environment, every_name
from holdfast.settings.unknown import is_of_a_service, warn_of_unknown

PREFIX = "FLOWER_"
MAX_TASKS = 10_000
_LOOPBACK = "127.0.0.1"
_BOOLEANS = frozenset({"y", "yes", "t", "true", "on", "1", "n", "no", "f", "false", "off", "0"})


def main() -> int:
    """Become Flower.

    Raises:
        SettingsError: FLOWER_BASIC_AUTH or the broker is not set, or an option of Flower's has a wrong value.
    """
    BrokerSettings.load().dsn()
    settings = FlowerSettings.load()
    if settings.basic_auth is None:
        raise SettingsError(f"FLOWER_BASIC_AUTH: {_how_to_get_one()}")
    logs.configure("flower")
    warn_of_unknown()
    variables = environment()
    handed_on = dict(flower_options(variables))
    log = structlog.get_logger("flower")
    for name, reason in unused(variables):
        log.warning(
            "A variable of Flower has no effect.", action="flower_option_unused", variable=name, reason=reason
        )
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    os.environ.update({"FLOWER_MAX_TASKS": str(MAX_TASKS), **handed_on})
    options.basic_auth = [settings.basic_auth.get_secret_value()]
    arguments = ["-A", "holdfast_workers", "flower", f"--address={_LOOPBACK}", f"--port={settings.port}"]
    return int(celery.main(arguments, standalone_mode=False) or 0)


def _how_to_get_one() -> str:
    made = HomeSettings.load().home / "secrets" / "flower_basic_auth"
    if made.exists():
        return f"`holdfast up` has made one: set FLOWER_BASIC_AUTH_FILE={made}"
    random = "python3 -c 'import secrets; print(secrets.token_hex(16))'"
    return (
        "set it, or FLOWER_BASIC_AUTH_FILE, to user:password; Flower does not start without one. "
        f'To make one: export FLOWER_BASIC_AUTH="holdfast:$({random})"'
    )


def flower_options(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that Flower documents and we do not set ourselves, as they are.

    Raises:
        SettingsError: a value is not of its option's type, which Flower would end with a traceback for.
    """
    for name, value in sorted(variables.items()):
        if _is_foreign(name, value) and _is_handed_on(name):
            _check(name, value)
            yield name, value


def unused(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each FLOWER_ variable that has no effect, and why."""
    for name, value in sorted(variables.items()):
        if name == "FLOWER_ADDRESS":
            if value != _LOOPBACK:
                yield name, f"Flower listens on {_LOOPBACK} alone"
        elif _is_foreign(name, value) and not _is_handed_on(name):
            documented = [f"{PREFIX}{option.upper()}" for option in options if option != "help"]
            close = difflib.get_close_matches(name, [*documented, "FLOWER_BASIC_AUTH_FILE"], 1, 0.8)
            meant = f"; did you mean {close[0]}?" if close else ""
            yield name, f"it is no option of Flower's{meant}"


def _is_foreign(name: str, value: str) -> bool:
    return (
        name.startswith(PREFIX)
        and name not in every_name()
        and not is_of_a_service(name, value)
        and name != "FLOWER_ADDRESS"
    )


def _option(name: str) -> Any:
    known: dict[str, Any] = options._options
    return known.get(name.removeprefix(PREFIX).lower().replace("_", "-"))


def _is_handed_on(name: str) -> bool:
    option = _option(name)
    # A function cannot be written in a variable, and the help would be shown instead of the pages.
    return option is not None and option.type is not types.FunctionType and option.name != "help"


def _check(name: str, value: str) -> None:
    kind = _option(name).type
    try:
        if kind is bool:
            if value.lower() not in _BOOLEANS:
                raise ValueError
        elif kind in (int, float):
            for part in value.split(",") if _option(name).multiple else (value,):
                kind(part)
    except ValueError:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise SettingsError(f"{name}: must be {wanted}") from None


if __name__ == "__main__":
    with exit_on_error():
        sys.exit(main())
