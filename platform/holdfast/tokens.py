"""Access and refresh tokens: JWTs by HS256, with `exp`, `iat`, `iss`, `aud` and `sub` (RFC 7519, RFC 8725).

The algorithm is pinned and a key of fewer than 32 bytes is refused, both when a token is made and when
one is read. A refresh token is signed with its own secret and says `typ: refresh`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jwt

from holdfast.errors import HoldfastError, SettingsError
from holdfast.settings import JwtSettings

ALGORITHM = "HS256"
CLOCK_LEEWAY = 60
"""Seconds that `iat` and `nbf` may lie in the future: the clock of another machine may be ahead."""
EXPIRY_LEEWAY = 5
"""Seconds for which a token is taken after its end."""
_REQUIRED = ["exp", "iat", "iss", "aud", "sub"]
_RESERVED = frozenset({*_REQUIRED, "nbf", "typ", "scope"})


class InvalidToken(HoldfastError):
    """The token is not valid."""

    code = "invalid_token"


def issue(
    subject: str,
    *,
    scope: str = "",
    claims: Mapping[str, Any] | None = None,
    ttl: int | None = None,
    refresh: bool = False,
) -> str:
    """A signed token. `ttl` is in seconds; without it JWT_ACCESS_TTL, or JWT_REFRESH_TTL.

    Raises:
        SettingsError: the secret is not set, or a claim is one that is set here.
    """
    settings = JwtSettings.load()
    if taken := _RESERVED & set(claims or {}):
        raise SettingsError(f"the claim {sorted(taken)[0]} cannot be given: it is set here")
    now = int(time.time())
    usual = settings.refresh_ttl if refresh else settings.access_ttl
    lifetime = usual if ttl is None else ttl
    payload = {
        **(claims or {}),
        "iss": settings.issuer,
        "aud": settings.audience,
        "sub": subject,
        "scope": scope,
        "iat": now,
        "exp": now + lifetime,
        "typ": "refresh" if refresh else "access",
    }
    return jwt.encode(payload, secret(settings, refresh=refresh), ALGORITHM)


def verify(token: str, settings: JwtSettings, *, refresh: bool = False) -> dict[str, Any]:
    """The claims of a token.

    Raises:
        InvalidToken: expired, not ours, not for us, of the other kind, or not a token at all.
        SettingsError: the secret is not set.
    """
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            secret(settings, refresh=refresh),
            algorithms=[ALGORITHM],
            audience=settings.audience,
            issuer=settings.issuer,
            leeway=CLOCK_LEEWAY,
            options={"require": _REQUIRED, "enforce_minimum_key_length": True},
        )
    except jwt.ExpiredSignatureError:
        raise InvalidToken("the token has expired") from None
    except (jwt.PyJWTError, ValueError, UnicodeError):
        raise InvalidToken("the token is not valid") from None
    if int(claims["exp"]) <= time.time() - EXPIRY_LEEWAY:
        raise InvalidToken("the token has expired")
    if claims.get("typ", "access") != ("refresh" if refresh else "access"):
        raise InvalidToken("the token is of the other kind")
    return claims


def secret(settings: JwtSettings, *, refresh: bool = False) -> str:
    """The signing secret.

    Raises:
        SettingsError: it is not set.
    """
    found = settings.refresh_secret if refresh else settings.secret
    if found is None:
        name = "JWT_REFRESH_SECRET" if refresh else "JWT_SECRET"
        raise SettingsError(f"{name}: set it, or {name}_FILE, to 32 or more characters")
    return found.get_secret_value()
