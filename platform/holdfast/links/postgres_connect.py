"""One connection to Postgres, by the settings: several hosts, TLS, the password file, keepalives.

asyncpg is given every option by name, and of the URL only what concerns TLS. Hosts are tried one after
another here, as libpq does, so that one that does not answer leaves time for the next.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import random
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg

from holdfast.settings import PostgresSettings
from holdfast.settings.libpq import SYSTEM_ROOTS, TLS, PostgresTarget

_TRY_NEXT = (OSError, TimeoutError, asyncpg.CannotConnectNowError)
_KEEPALIVES = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


async def connect(settings: PostgresSettings, *, name: str, **further: Any) -> asyncpg.Connection:
    """Connect to the first host that can be used, within PG_CONN_TIMEOUT.

    Args:
        settings: where to connect, and how.
        name: the application_name where the URL gives none.
        further: more arguments of `asyncpg.connect`.

    Raises:
        SettingsError: no server is named.
        TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError: no host can be used.
    """
    target = settings.target()
    arguments = {**_arguments(target, name), **further}
    tries = list(_tries(target))
    seconds = _seconds_for_each(settings, target, len(tries))
    async with asyncio.timeout(settings.conn_timeout / 1000):
        for number, attempt in enumerate(tries, 1):
            try:
                async with asyncio.timeout(seconds):
                    connection = await asyncpg.connect(**arguments, **attempt)
                    _keep_alive(connection, target)
                    return connection
            except asyncpg.TargetServerAttributeNotMatched:
                if number == len(tries):
                    raise ConnectionError("no host is as target_session_attrs wants it") from None
            except _TRY_NEXT:
                if number == len(tries):
                    raise
    raise AssertionError("there is always one attempt")


def _tries(target: PostgresTarget) -> Iterator[dict[str, Any]]:
    """What to give asyncpg for each attempt: one host, and what it must be."""
    wanted = target.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS") or "any"
    hosts = list(target.hosts)
    if target.get("load_balance_hosts") == "random":
        random.shuffle(hosts)
    # A standby first, and whatever there is where no standby can be used.
    for attribute in ("standby", "any") if wanted == "prefer-standby" else (wanted,):
        for host, port in hosts:
            yield {"host": host, "port": port, "target_session_attrs": attribute}
        if not hosts:
            yield {"target_session_attrs": attribute}


def _seconds_for_each(settings: PostgresSettings, target: PostgresTarget, tries: int) -> float:
    whole = settings.conn_timeout / 1000
    limit = target.number("connect_timeout")
    # libpq: zero and less is no limit.
    return min(whole, limit) if limit is not None and limit > 0 else whole / tries


def _arguments(target: PostgresTarget, name: str) -> dict[str, Any]:
    server = {"application_name": target.get("application_name") or _default_name(target, name)}
    if options := target.get("options"):
        server["options"] = options
    tls = {option: target.options[option] for option in TLS if target.get(option)}
    arguments: dict[str, Any] = {
        "user": target.get("user"),
        "password": target.get("password") or _password_of_file(target),
        "database": target.get("dbname"),
        "krbsrvname": target.get("krbsrvname"),
        "gsslib": target.get("gsslib"),
        "server_settings": server,
    }
    if tls.get("sslrootcert") == SYSTEM_ROOTS:
        direct = tls.get("sslnegotiation") == "direct"
        return {**arguments, "ssl": _system_context(tls), "direct_tls": direct or None}
    return {**arguments, "dsn": f"postgresql://?{urlencode(tls)}" if tls else None}


def _default_name(target: PostgresTarget, name: str) -> str:
    return target.get("fallback_application_name") or name


def _system_context(tls: Mapping[str, str]) -> ssl.SSLContext:
    """Full verification by the certificate authorities of the system, which asyncpg has no name for."""
    context = ssl.create_default_context()
    if "sslcert" in tls:
        secret = tls.get("sslpassword", "")
        context.load_cert_chain(tls["sslcert"], tls.get("sslkey"), password=lambda: secret)
    if "sslcrl" in tls:
        context.load_verify_locations(cafile=tls["sslcrl"])
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    versions = {"minimum_version": "ssl_min_protocol_version", "maximum_version": "ssl_max_protocol_version"}
    for attribute, option in versions.items():
        if option in tls:
            setattr(context, attribute, ssl.TLSVersion[tls[option].replace(".", "_")])
    context.set_alpn_protocols(["postgresql"])
    return context


def _keep_alive(connection: asyncpg.Connection, target: PostgresTarget) -> None:
    """Turn the system's own look at an idle connection on, as libpq does unless keepalives=0."""
    transport = getattr(connection, "_transport", None)
    plug = transport.get_extra_info("socket") if transport is not None else None
    if plug is None or plug.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if target.number("keepalives") != 0:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, constant in _KEEPALIVES.items():
        number = target.number(option)
        if number and number > 0 and hasattr(socket, constant):
            plug.setsockopt(socket.IPPROTO_TCP, getattr(socket, constant), number)


def _password_of_file(target: PostgresTarget) -> str | None:
    """The password in the file that passfile or PGPASSFILE names, or in ~/.pgpass; None where there is none.

    asyncpg reads that file too, but leaves the backslash before an escaped colon in the password.
    """
    if os.environ.get("PGPASSWORD"):
        return None
    named = target.get("passfile") or os.environ.get("PGPASSFILE")
    path = Path(named) if named else Path.home() / ".pgpass"
    try:
        # libpq passes over a file that others may read.
        if path.stat().st_mode & 0o077 or not path.is_file():
            return None
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    user = target.get("user") or os.environ.get("PGUSER") or getpass.getuser()
    database = target.get("dbname") or os.environ.get("PGDATABASE") or user
    for host, port in target.hosts:
        # A socket's folder stands in the file as localhost.
        wanted = ("localhost" if host.startswith("/") else host, str(port), database, user)
        for line in lines:
            fields = _fields(line)
            if len(fields) == 5 and all(f in ("*", w) for f, w in zip(fields, wanted, strict=False)):
                return fields[4]
    return None


def _fields(line: str) -> list[str]:
    """A line of a password file in its five fields; a backslash keeps the character behind it."""
    if not line.strip() or line.startswith("#"):
        return []
    fields = re.findall(r"(?:\A|:)((?:\\.|[^:\\])*)", line)
    return [re.sub(r"\\(.)", r"\1", field) for field in fields]
