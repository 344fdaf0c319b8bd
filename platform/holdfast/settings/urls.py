"""URLs of servers: what one may look like, and how user, password and host are written in it."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_plus, urlsplit

from pydantic import SecretStr

from holdfast.settings.libpq import ENCODE_HINT


def check_scheme(name: str, url: SecretStr | None, schemes: tuple[str, ...]) -> None:
    """Raise ValueError, naming the variable, unless the URL is unset or begins with one of the schemes.

    A character that would end the login early, so that the driver would read another host or password than
    was meant, is refused too. What else a URL of Postgres may hold is for `libpq` to say.
    """
    if url is None:
        return
    text = url.get_secret_value()
    # urlsplit would pass over white space that the drivers do not accept.
    if not text.startswith(tuple(f"{scheme}://" for scheme in schemes)) or text.split() != [text]:
        raise ValueError(f"{name}: must be a URL that starts with {schemes[0]}://")
    if "mongodb" in schemes:
        _check_mongodb(name, text.partition("://")[2])
    elif "redis" in schemes:
        _check_redis(name, text)


def _check_redis(name: str, text: str) -> None:
    rest = text.partition("://")[2]
    authority = _authority(rest)
    if "#" in rest or "@" in rest[len(authority) :] or _is_badly_encoded(authority.rpartition("@")[0]):
        raise ValueError(f"{name}: {ENCODE_HINT}")
    try:
        valid = urlsplit(text).port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            f"{name}: must be a URL that starts with redis://, with a port from 1 to 65535; {ENCODE_HINT}"
        )


def _check_mongodb(name: str, rest: str) -> None:
    authority = _authority(rest)
    before, at, hosts = authority.rpartition("@")
    strange = "#" in rest or ("@" in rest[len(authority) :] and not at)
    if strange or before.count(":") > 1 or set(before) & set("@[]") or _is_badly_encoded(before):
        raise ValueError(f"{name}: {ENCODE_HINT}")
    if "+" in before:
        # PyMongo reads it as a space, the shell and other drivers as a plus.
        raise ValueError(f"{name}: in the user and the password write + as %2B and a space as %20")
    if not hosts:
        raise ValueError(f"{name}: must be a URL that starts with mongodb:// and names a host")


def _authority(rest: str) -> str:
    found = re.match(r"[^/?#]*", rest)
    return found.group() if found else ""


def _is_badly_encoded(login: str) -> bool:
    return re.search(r"%(?![0-9A-Fa-f]{2})", login) is not None


def mongo_database(url: str) -> str | None:
    """The database that a MongoDB URL names, as the driver reads it; None where it names none.

    Raises:
        ValueError: what is there cannot be the name of a database.
    """
    path = url.partition("://")[2].partition("?")[0].partition("/")[2]
    # The driver takes `database.collection` too, and reads a plus as a space.
    name = unquote_plus(path).partition(".")[0]
    if set(name) & set('/\\ "$') or "\0" in name:
        raise ValueError("the database in it has a character that no database's name may have")
    return name or None


def login(user: str, password: SecretStr | None) -> str:
    """`user:password@`, or `user@`, for a URL."""
    secret = f":{quoted(password)}" if password else ""
    return f"{quote(user, safe='')}{secret}@"


def quoted(password: SecretStr) -> str:
    """A password as a URL holds it."""
    return quote(password.get_secret_value(), safe="")


def in_url(host: str) -> str:
    """A host as a URL holds it: an IPv6 address is in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
