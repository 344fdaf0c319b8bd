"""URLs of servers: what one may look like, and how user, password and host are written in it."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from pydantic import SecretStr


def check_scheme(name: str, url: SecretStr | None, schemes: tuple[str, ...]) -> None:
    """Raise ValueError, naming the variable, unless the URL is unset or begins with one of the schemes."""
    if url is None:
        return
    text = url.get_secret_value()
    # urlsplit would pass over white space that the drivers do not accept.
    valid = text.startswith(tuple(f"{scheme}://" for scheme in schemes)) and text.split() == [text]
    try:
        valid = valid and urlsplit(text).port != 0
    except ValueError:
        # A MongoDB URL may name several hosts, each with a port, which urlsplit does not know.
        valid = valid and "mongodb" in schemes
    if not valid:
        raise ValueError(f"{name}: must be a URL that starts with {schemes[0]}://")


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
