"""The HTTP side: the gateway, how long results are fresh, and tokens."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from holdfast.settings.sources import Milliseconds, Port, Seconds, Settings, StringList

_DEFAULT_PORTS = {"http": 80, "https": 443}


def _origins(given: list[str]) -> list[str]:
    return [origin(text) for text in given]


def origin(text: str) -> str:
    """An origin as a browser sends it (RFC 6454 §6.2): scheme and host in small letters, no default port.

    Raises:
        ValueError: it is none: no scheme, a path, a query, a login, or white space.
    """
    if text in ("*", "null"):
        raise ValueError("must name origins, such as https://dash.example.com; * and null are not supported")
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
        if host and not host.isascii():
            host = host.encode("idna").decode()
    except ValueError:
        host = None
    if not host or not parts.scheme or parts.path not in ("", "/") or not re.fullmatch(r"[^\s@?#\\*]+", text):
        raise ValueError(
            "must be origins: a scheme and a host, such as https://dash.example.com, and no path"
        )
    shown = f"[{host}]" if ":" in host else host
    scheme = parts.scheme.lower()
    return f"{scheme}://{shown}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


class GatewaySettings(Settings):
    """The HTTP side. `miss_timeout` is in milliseconds, `l1_max_bytes` in bytes."""

    host: str = Field("127.0.0.1", alias="GW_HOST")
    port: Port = Field(8080, alias="GW_PORT")
    workers: int = Field(1, alias="GW_WORKERS", ge=1, le=64)
    auth: Literal["jwt", "off"] = Field("jwt", alias="GW_AUTH")
    miss_timeout: Milliseconds = Field(10_000, alias="GW_MISS_TIMEOUT")
    l1_max_bytes: int = Field(256 * 2**20, alias="GW_L1_MAX_BYTES", ge=0)
    cors_origins: Annotated[StringList, AfterValidator(_origins)] = Field(
        default_factory=list, alias="GW_CORS_ORIGINS"
    )

    @model_validator(mode="after")
    def _off_on_loopback_only(self) -> Self:
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError("GW_AUTH: off is allowed only while GW_HOST is a loopback address")
        return self


class CacheSettings(Settings):
    """How long a result is fresh, in seconds, where its report does not say."""

    ttl: Seconds = Field(30, alias="GW_CACHE_TTL")


class JwtSettings(Settings):
    """Access tokens: HS256. Times to live are in seconds. RFC 7518 §3.2: a key of 32 bytes or more."""

    _may_be_files = frozenset({"JWT_SECRET", "JWT_REFRESH_SECRET"})

    secret: SecretStr | None = Field(None, alias="JWT_SECRET", min_length=32)
    refresh_secret: SecretStr | None = Field(None, alias="JWT_REFRESH_SECRET", min_length=32)
    issuer: str = Field("holdfast", alias="JWT_ISSUER", min_length=1)
    audience: str = Field("holdfast", alias="JWT_AUDIENCE", min_length=1)
    access_ttl: Seconds = Field(900, alias="JWT_ACCESS_TTL")
    refresh_ttl: Seconds = Field(30 * 86_400, alias="JWT_REFRESH_TTL")


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be reached from this machine."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
