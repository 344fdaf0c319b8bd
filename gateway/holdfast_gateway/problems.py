"""Errors as problem documents (RFC 9457). They say what to do and show nothing of the inside."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from holdfast.errors import (
    DeadlineExceeded,
    HoldfastError,
    InvalidParams,
    LinkDown,
    LinkUnused,
    UnknownReport,
)
from holdfast_gateway.http import NOSNIFF, Headers, Response
from holdfast_gateway.l1.lookup import StillComputing

PROBLEM = "application/problem+json"
_LINKS = {"postgres": "Postgres", "mongo": "MongoDB"}
_ABSENT = "This result is not in the cache and cannot be computed now"


class Problem(Exception):
    """A request that ends in an error, as a document of RFC 9457; `further` are members of its own."""

    def __init__(
        self, status: int, title: str, detail: str = "", *, headers: Headers | None = None, **further: Any
    ) -> None:
        super().__init__(detail or title)
        document = {"type": "about:blank", "title": title, "status": status}
        if detail:
            document["detail"] = detail
        fixed = [("content-type", PROBLEM), ("cache-control", "no-store"), NOSNIFF]
        body = msgspec.json.encode({**document, **further})
        self.response = Response(status, [*fixed, *(headers or [])], body)


def unavailable(
    detail: str, retry_after: float, *, status: int = 503, title: str = "Service Unavailable"
) -> Problem:
    """A problem that passes, with the whole seconds after which to try again."""
    return Problem(status, title, detail, headers=[("retry-after", str(max(1, math.ceil(retry_after))))])


def retry_after(error: HoldfastError) -> float:
    """Seconds until trying again may help: when the link behind the error is tried next, else one."""
    return float(error.details.get("retry_in") or 1)


def problem_of(error: HoldfastError) -> Problem:
    """The problem document of an error."""
    match error:
        case UnknownReport():
            return Problem(404, "Not Found", f"{error}.", reports=error.details.get("known", []))
        case InvalidParams():
            problems = error.details.get("errors", [])
            return Problem(422, "Unprocessable Content", f"{error}.", errors=problems)
        case StillComputing():
            detail = "The result is being computed; ask again."
            return unavailable(detail, 2, status=202, title="Accepted")
        case LinkUnused():
            name = _LINKS.get(str(error.details.get("link")), "a server")
            return unavailable(f"This result needs {name}, which is not configured.", retry_after(error))
        case _ if error.retryable:
            return unavailable(_why(error), retry_after(error))
    return Problem(500, "Internal Server Error", "This result could not be computed.", code=error.code)


def _why(error: HoldfastError) -> str:
    if isinstance(error, DeadlineExceeded):
        return "This result took too long to compute."
    name = _LINKS.get(str(error.details.get("link"))) if isinstance(error, LinkDown) else None
    return f"{_ABSENT}: {name} is down." if name else f"{_ABSENT}."
