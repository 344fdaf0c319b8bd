"""Postgres URLs as libpq reads them, and which of libpq's options Holdfast honours.

The source is PostgreSQL 18's documentation of libpq: "Connection Strings", "Parameter Key Words" and "The
Connection Service File". asyncpg takes what it does not know for a setting of the server, which then refuses
every connection; so each option is looked at here, and what cannot be honoured is refused by its name.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 5432
ENCODE_HINT = (
    "write special characters of the user, the password and the database as %XX: "
    "@ is %40, / is %2F, : is %3A, # is %23, ? is %3F, % is %25"
)

_WHOLE = re.compile(r"-?\d{1,9}")
_SSL_VERSIONS = frozenset({"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"})
_SWITCH = frozenset({"0", "1"})

HONOURED: dict[str, frozenset[str] | re.Pattern[str] | None] = {
    "host": None,
    "hostaddr": None,
    "port": None,
    "dbname": None,
    "user": None,
    "password": None,
    "passfile": None,
    "service": None,
    "connect_timeout": _WHOLE,
    "application_name": None,
    "fallback_application_name": None,
    "options": None,
    "keepalives": _SWITCH,
    "keepalives_idle": _WHOLE,
    "keepalives_interval": _WHOLE,
    "keepalives_count": _WHOLE,
    "tcp_user_timeout": _WHOLE,
    "sslmode": frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}),
    "sslnegotiation": frozenset({"postgres", "direct"}),
    "sslcert": None,
    "sslkey": None,
    "sslpassword": None,
    "sslrootcert": None,
    "sslcrl": None,
    "ssl_min_protocol_version": _SSL_VERSIONS,
    "ssl_max_protocol_version": _SSL_VERSIONS,
    "krbsrvname": None,
    "gsslib": frozenset({"gssapi"}),
    "target_session_attrs": frozenset(
        {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}
    ),
    "load_balance_hosts": frozenset({"disable", "random"}),
}
"""The options that have an effect, and the values that each may have; None for any."""

WITHOUT_EFFECT: dict[str, tuple[frozenset[str], str]] = {
    "channel_binding": (frozenset({"prefer", "disable"}), "asyncpg logs in without channel binding"),
    "require_auth": (frozenset(), "asyncpg logs in by whichever method the server asks for"),
    "client_encoding": (frozenset({"auto", "utf8", "utf-8", "unicode"}), "asyncpg speaks UTF-8 alone"),
    "replication": (frozenset({"false", "off", "no", "0"}), "queries need an ordinary connection"),
    "gssencmode": (frozenset({"prefer", "disable"}), "asyncpg does not encrypt by GSSAPI"),
    "gssdelegation": (frozenset({"0"}), "asyncpg delegates no credentials"),
    "sslcompression": (_SWITCH, "TLS is never compressed"),
    "sslcertmode": (frozenset({"allow"}), "asyncpg sends a certificate where there is one"),
    "sslsni": (frozenset({"1"}), "asyncpg always sends the name of the host"),
    "sslcrldir": (frozenset(), "asyncpg reads one file; name it by sslcrl"),
    "sslkeylogfile": (frozenset(), "asyncpg writes none"),
    "requirepeer": (frozenset(), "asyncpg does not look who the server is"),
    "min_protocol_version": (frozenset({"3.0"}), "asyncpg speaks version 3.0 of the protocol"),
    "max_protocol_version": (
        frozenset({"3.0", "3.2", "latest"}),
        "asyncpg speaks version 3.0 of the protocol",
    ),
    "scram_client_key": (frozenset(), "asyncpg logs in by the password itself"),
    "scram_server_key": (frozenset(), "asyncpg logs in by the password itself"),
    "oauth_issuer": (frozenset(), "asyncpg does not log in by OAuth"),
    "oauth_client_id": (frozenset(), "asyncpg does not log in by OAuth"),
    "oauth_client_secret": (frozenset(), "asyncpg does not log in by OAuth"),
    "oauth_scope": (frozenset(), "asyncpg does not log in by OAuth"),
}
"""The options that asyncpg has no part in: the values that are right all the same, and what asyncpg does."""

UNREAD_VARIABLES = {
    "PGHOSTADDR": "hostaddr",
    "PGREQUIREAUTH": "require_auth",
    "PGCHANNELBINDING": "channel_binding",
    "PGSERVICE": "service",
    "PGOPTIONS": "options",
    "PGAPPNAME": "application_name",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGCLIENTENCODING": "client_encoding",
    "PGGSSENCMODE": "gssencmode",
    "PGGSSDELEGATION": "gssdelegation",
    "PGSSLCERTMODE": "sslcertmode",
    "PGSSLCRLDIR": "sslcrldir",
    "PGSSLSNI": "sslsni",
    "PGREQUIREPEER": "requirepeer",
    "PGMINPROTOCOLVERSION": "min_protocol_version",
    "PGMAXPROTOCOLVERSION": "max_protocol_version",
    "PGLOADBALANCEHOSTS": "load_balance_hosts",
}
"""Variables of libpq that asyncpg does not read, and the options that say the same in a URL."""

TLS = (
    *("sslmode", "sslnegotiation", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
)
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
SYSTEM_ROOTS = "system"
"""The value of sslrootcert for the certificate authorities of the operating system."""


@dataclass(frozen=True)
class PostgresTarget:
    """Where to connect and how: what a URL says, checked, with the defaults of libpq filled in.

    `hosts` is empty where nothing was said: asyncpg then looks at PGHOST and for a local socket.
    """

    hosts: tuple[tuple[str, int], ...]
    options: Mapping[str, str]

    def get(self, name: str) -> str | None:
        """The value of an option; None where it is not given or empty, which libpq takes for the same."""
        return self.options.get(name) or None

    def number(self, name: str) -> int | None:
        """The value of an option that is a number."""
        value = self.get(name)
        return None if value is None else int(value)

    def notes(self) -> Iterator[str]:
        """A sentence for each option that is accepted and changes nothing."""
        for name, (_, reason) in WITHOUT_EFFECT.items():
            if name in self.options:
                yield f"{name} changes nothing: {reason}"


def read_url(url: str) -> PostgresTarget:
    """Read a Postgres URL, and the service file that it may name.

    Raises:
        ValueError: the URL is malformed, or has an option that is not honoured; the message names the option
            and shows no value.
    """
    given = _parse(url)
    if given.pop("ssl", None) == "true":
        # The spelling of JDBC, which libpq accepts.
        given.setdefault("sslmode", "require")
    if service := given.get("service"):
        given = {**_service(service), **given}
    for name, value in given.items():
        _check(name, value)
    _check_together(given)
    return PostgresTarget(tuple(_hosts(given)), given)


def split_url(url: str) -> tuple[str, str]:
    """What is before the `@` (user, password) and what is after it, as libpq finds them, both encoded."""
    rest = url.partition("://")[2]
    login = re.match(r"[^@/]*@", rest)
    return (login.group()[:-1], rest[login.end() :]) if login else ("", rest)


def _parse(url: str) -> dict[str, str]:
    login, rest = split_url(url)
    authority = re.match(r"[^/?]*", rest)
    hosts = authority.group() if authority else ""
    path, question, query = rest[len(hosts) :].partition("?")
    if "@" in hosts + path:
        raise ValueError(f"has more than one @; {ENCODE_HINT}")
    user, colon, password = login.partition(":")
    found = {"user": user, "dbname": path.removeprefix("/")}
    if colon:
        found["password"] = password
    found |= _authority(hosts)
    found = {name: _decoded(value) for name, value in found.items() if value}
    for part in query.split("&") if question and query else ():
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError("has an option without a value; write name=value, and & between options")
        found[_decoded(name)] = _decoded(value)
    return found


def _authority(text: str) -> dict[str, str]:
    """`host` and `port` as libpq holds them: two lists of equal length, separated by commas."""
    hosts, ports = [], []
    for spec in text.split(",") if text else ():
        bracketed = re.fullmatch(r"\[([^\[\]]+)\](?::(.*))?", spec)
        host, port = bracketed.groups("") if bracketed else (spec.partition(":")[0], spec.partition(":")[2])
        if not bracketed and re.search(r"[\[\]#\s]", spec):
            raise ValueError(f"has a malformed host; {ENCODE_HINT}")
        hosts.append(host)
        ports.append(port)
    return {"host": ",".join(hosts), "port": ",".join(ports) if any(ports) else ""}


def _decoded(text: str) -> str:
    """Percent-encoding undone as libpq does: a plus stays a plus, and every % has two digits behind it."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"has a % without two hexadecimal digits; {ENCODE_HINT}")
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), text.encode())
    try:
        decoded = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 where it is percent-encoded") from None
    if "\0" in decoded:
        raise ValueError("has a zero byte, %00")
    return decoded


def _check(name: str, value: str) -> None:
    if name in WITHOUT_EFFECT:
        harmless, reason = WITHOUT_EFFECT[name]
        if value and value.lower() not in harmless:
            other = f"; leave it out, or use {_either(harmless)}" if harmless else "; leave it out"
            raise ValueError(f"the option {name} is not supported as it is set: {reason}{other}")
    elif name not in HONOURED:
        raise ValueError(_unknown(name))
    else:
        allowed = HONOURED[name]
        if isinstance(allowed, re.Pattern) and value and not allowed.fullmatch(value.strip()):
            raise ValueError(f"the option {name} must be a whole number")
        if isinstance(allowed, frozenset) and value and value not in allowed:
            raise ValueError(f"the option {name} must be {_either(allowed)}")


def _unknown(name: str) -> str:
    shown = name if re.fullmatch(r"[\w.-]{1,60}", name) else "with a name that is not one"
    close = difflib.get_close_matches(name, [*HONOURED, *WITHOUT_EFFECT], 1, 0.8)
    setting = f"for a setting of the server write options=-c%20{shown}=…"
    meant = f"did you mean {close[0]}?" if close else setting
    return f"the option {shown} is none of libpq's; {meant}"


def _check_together(given: Mapping[str, str]) -> None:
    if given.get("sslnegotiation") == "direct" and given.get("sslmode") not in {
        "require",
        "verify-ca",
        "verify-full",
    }:
        raise ValueError("the option sslnegotiation=direct needs sslmode=require, verify-ca or verify-full")
    roots = given.get("sslrootcert")
    if roots == SYSTEM_ROOTS and given.get("sslmode", "verify-full") != "verify-full":
        raise ValueError("the option sslrootcert=system needs sslmode=verify-full")
    if given.get("hostaddr") and given.get("host") and given.get("sslmode") == "verify-full":
        raise ValueError(
            "the option hostaddr is not supported beside host and sslmode=verify-full: leave it out"
        )
    for name in _FILES:
        path = given.get(name)
        if path and not (name == "sslrootcert" and path == SYSTEM_ROOTS) and not os.access(path, os.R_OK):
            raise ValueError(f"the option {name} names a file that cannot be read")
    if given.get("passfile") and not os.access(given["passfile"], os.R_OK):
        raise ValueError("the option passfile names a file that cannot be read")


def _hosts(given: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    names = (given.get("hostaddr") or given.get("host") or "").split(",")
    ports = (given.get("port") or "").split(",")
    if len(ports) not in (1, len(names)):
        raise ValueError("has another number of ports than of hosts")
    if names == [""]:
        if ports != [""]:
            yield "localhost", _port(ports[0])
        return
    for index, name in enumerate(names):
        yield name or "localhost", _port(ports[index] if len(ports) > 1 else ports[0])


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not re.fullmatch(r"\d{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"must be a URL with ports from 1 to 65535; {ENCODE_HINT}")
    return int(text)


def _either(values: frozenset[str]) -> str:
    *first, last = sorted(values)
    return f"{', '.join(first)} or {last}" if first else last


def _service(name: str) -> dict[str, str]:
    """The options of a service; the user's own file is looked at before the system's."""
    own = os.environ.get("PGSERVICEFILE")
    system = os.environ.get("PGSYSCONFDIR")
    paths = [Path(own) if own else Path.home() / ".pg_service.conf"]
    paths += [Path(system) / "pg_service.conf"] if system else []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError):
            raise ValueError("the option service needs a service file that can be read") from None
        if (found := _section(text, name)) is not None:
            return found
    raise ValueError("the option service names a service that no service file has (PGSERVICEFILE)")


def _section(text: str, name: str) -> dict[str, str] | None:
    """A section of an INI file as libpq reads it: values are plain text, so that a % is one."""
    found: dict[str, str] | None = None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            if found is not None:
                return found
            found = {} if line.partition("]")[0] == f"[{name}" else None
        elif found is not None and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key.strip(), value.strip())
    return found
