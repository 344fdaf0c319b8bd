"""`holdfast token`: a token for trying the gateway."""

from __future__ import annotations

from typing import Annotated

import typer


def token(
    subject: Annotated[str, typer.Argument(help="Who it is for (the claim `sub`).")] = "me",
    scope: Annotated[str, typer.Option(help="Scopes, separated by spaces.")] = "analytics:read",
    claim: Annotated[list[str] | None, typer.Option(help="A further claim, as name=value.")] = None,
    ttl: Annotated[int | None, typer.Option(min=1, help="Seconds; JWT_ACCESS_TTL without it.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="A refresh token instead.")] = False,
) -> None:
    """Print an access token signed with JWT_SECRET."""
    from holdfast.tokens import issue

    claims = dict(_claim(text) for text in claim or [])
    print(issue(subject, scope=scope, claims=claims, ttl=ttl, refresh=refresh))


def _claim(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not name=value")
    return name, value
