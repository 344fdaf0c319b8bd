"""Who may ask: bearer tokens (RFC 6750), checked before anything is looked up.

A token that was verified is remembered until it expires, so a client that asks all day costs one
signature check and not one per request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from holdfast.settings import GatewaySettings, JwtSettings
from holdfast.tokens import InvalidToken, verify
from holdfast_gateway.problems import Problem

ADMIN_SCOPE = "analytics:admin"
METRICS_SCOPE = "metrics:read"
_REMEMBERED = 4096
_LONGEST = 8192

Claims = Mapping[str, Any]
NOBODY: Claims = {}


class Authenticator:
    """Checks the Authorization header; with GW_AUTH=off every caller is an unnamed one with every scope."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.required = settings.auth == "jwt"
        self._settings = JwtSettings.load() if self.required else None
        self._verified: dict[str, tuple[Claims, float]] = {}

    def remembers(self, authorization: str | None) -> bool:
        """Whether this caller needs no further look: no token is required, or this one was verified."""
        if self._settings is None:
            return True
        known = self._verified.get(authorization) if authorization else None
        return known is not None and time.time() < known[1]

    def claims(self, authorization: str | None) -> Claims:
        """The caller's claims.

        Raises:
            Problem: 401; there is no token, or it is not valid.
        """
        if self._settings is None:
            return NOBODY
        if authorization is None:
            raise _unauthorized("A bearer token is required.", "")
        known = self._verified.get(authorization)
        if known is not None and time.time() < known[1]:
            return known[0]
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > _LONGEST:
            raise _unauthorized("A bearer token is required.", "")
        try:
            claims = verify(token.strip(), self._settings)
        except InvalidToken as error:
            raise _unauthorized(f"{str(error).capitalize()}.", "invalid_token") from None
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[authorization] = (claims, int(claims["exp"]))
        return claims

    def require(self, claims: Claims, scope: str) -> None:
        """Raise a 403 unless the caller has that scope."""
        if self.required and scope not in str(claims.get("scope", "")).split():
            header = f'Bearer error="insufficient_scope", scope="{scope}"'
            raise Problem(
                403,
                "Forbidden",
                f"This needs a token with the scope {scope}.",
                headers=[("www-authenticate", header)],
            )

    def bound(self, claims: Claims, wanted: Mapping[str, str]) -> dict[str, Any]:
        """The claims that a report's parameters are bound to.

        Raises:
            Problem: 403; the token lacks one.
        """
        missing = [claim for claim in wanted.values() if not isinstance(claims.get(claim), str | int | float)]
        if missing:
            raise Problem(403, "Forbidden", f"This report needs a token with the claim {missing[0]}.")
        return {claim: claims[claim] for claim in wanted.values()}


def _unauthorized(detail: str, error: str) -> Problem:
    header = f'Bearer realm="holdfast", error="{error}"' if error else 'Bearer realm="holdfast"'
    return Problem(401, "Unauthorized", detail, headers=[("www-authenticate", header)])
