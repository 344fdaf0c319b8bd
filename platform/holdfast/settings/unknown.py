"""Variables that look like settings of Holdfast and are none: a misspelt name would silently do nothing."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from holdfast.settings.databases import PASSED_OVER_BY_CELERY, PostgresSettings
from holdfast.settings.files import dotenv
from holdfast.settings.libpq import UNREAD_VARIABLES
from holdfast.settings.sources import environment, every_name, is_service_address

_OWN_PREFIXES = ("GW_", "HOLDFAST_")
"""Nobody else's variables begin so: each unknown one is a mistake."""
_SHARED_PREFIXES = ("POSTGRES_", "PG_", "MONGO_", "REDIS_", "BROKER_", "JWT_", "SUPERVISOR_")
"""Other programs' variables begin so too: an unknown one is a mistake where it resembles one of ours."""
_INSTEAD = {
    **dict.fromkeys(("REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_TLS"), "REDIS_URL"),
    **dict.fromkeys(("MONGO_HOST", "MONGO_PORT"), "MONGO_URL"),
    **dict.fromkeys(("BROKER_HOST", "BROKER_PORT", "BROKER_PASSWORD"), "BROKER_URL"),
    "REDIS_USER": "REDIS_USERNAME",
    "MONGO_USERNAME": "MONGO_USER",
    "POSTGRES_USERNAME": "POSTGRES_USER",
    "POSTGRES_DATABASE": "POSTGRES_DB",
    "MONGO_DATABASE": "MONGO_DB",
}
"""What somebody would try by the example of another setting, and what there is."""
_OF_OTHERS = re.compile(
    r"POSTGRES_(INITDB_ARGS|INITDB_WALDIR|HOST_AUTH_METHOD|USER|DB)(_FILE)?|"
    r"PG_(MAJOR|VERSION|SHA256)|"
    r"MONGO_(INITDB_\w+|MAJOR|VERSION|PACKAGE|REPO)|"
    r"REDIS_(VERSION|DOWNLOAD_\w+|ARGS|REPLICATION_MODE|MASTER_\w+|ACLFILE|AOF_ENABLED|IO_THREADS\w*)|"
    r"SUPERVISOR_(ENABLED|PROCESS_NAME|GROUP_NAME|SERVER_URL)"
)
"""Variables of the official images of the servers, and of supervisord."""
_SERVICE = re.compile(r"\w+?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)")


def is_of_a_service(name: str, value: str) -> bool:
    """Whether Kubernetes or Docker has set the variable for a service that is named so."""
    return _SERVICE.fullmatch(name) is not None or is_service_address(name, value)


def unknown_variables(variables: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """The variables that look like ours and are none, and the one that was meant, where that can be said."""
    names = sorted(every_name())
    for name, value in sorted(variables.items()):
        if name in names or is_of_a_service(name, value) or _OF_OTHERS.fullmatch(name):
            continue
        if name.startswith("FLOWER_"):
            # Flower has many of its own: `holdfast flower` says which it does not know.
            continue
        if name in _INSTEAD:
            yield name, _INSTEAD[name]
            continue
        cutoff = 0.75 if name.startswith((*_OWN_PREFIXES, *_SHARED_PREFIXES)) else 0.86
        close = difflib.get_close_matches(name.upper(), names, 1, cutoff)
        if close and (len(close[0]) > 8 or name.startswith(_OWN_PREFIXES) or name.upper() == close[0]):
            yield name, close[0]
        elif name.startswith(_OWN_PREFIXES):
            yield name, None


def unknown_warnings(variables: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each variable of the environment and of `.env` that looks like ours and is none."""
    found = unknown_variables(_given() if variables is None else variables)
    return [
        f"{name} is no setting of Holdfast and has no effect" + (f"; did you mean {meant}?" if meant else "")
        for name, meant in found
    ]


def warn_of_unknown() -> None:
    """Log a warning for each variable that looks like a setting and is none."""
    log = structlog.get_logger("settings")
    for name, meant in unknown_variables(_given()):
        log.warning(
            "A variable looks like a setting of Holdfast, is none, and has no effect.",
            action="setting_unknown",
            variable=name,
            meant=meant,
        )


def _given() -> dict[str, str]:
    return {**dotenv(Path(".env"), every_name(), every_name(secret=True)), **os.environ}


def notes() -> list[str]:
    """What `holdfast check` adds to the settings: variables and options that are passed over, and why."""
    variables = environment()
    lines = unknown_warnings()
    lines += [
        f"{name} is passed over: it is the address of a service, not a port"
        for name, value in sorted(variables.items())
        if name in every_name() and is_service_address(name, value)
    ]
    lines += [
        f"{name} is passed over: BROKER_URL (or its file) alone says where Celery's broker is"
        for name in PASSED_OVER_BY_CELERY
        if name in variables
    ]
    postgres = PostgresSettings.load()
    if postgres.configured:
        lines += [f"POSTGRES_URL: {note}" for note in postgres.target().notes()]
        lines += [
            f"{name} has no effect: asyncpg does not read it; write {option}= into POSTGRES_URL"
            for name, option in UNREAD_VARIABLES.items()
            if name in variables
        ]
    return lines
