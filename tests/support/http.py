"""A gateway over HTTP: requests, the documents it answers with, and the tokens it asks for."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import jwt
from tests.support.metrics import metric
from tests.support.process import Process
from tests.support.waiting import took

ANALYTICS = "/api/v1/analytics"
SECRET = "a-signing-secret-of-more-than-32-characters"
REFRESH_SECRET = "another-secret-of-more-than-32-characters"
TOKENS = {"GW_AUTH": "jwt", "JWT_SECRET": SECRET, "JWT_REFRESH_SECRET": REFRESH_SECRET}
"""The settings of a gateway that wants tokens."""
SOON = 2.0
"""Seconds within which every request to a gateway with a short GW_MISS_TIMEOUT ends."""


class Gateway:
    """A gateway process and a client of it."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)

    def __repr__(self) -> str:
        return f"<Gateway port={self.port} {self.process!r}>"

    def close(self) -> None:
        """Close the client; the process goes on."""
        self.http.close()

    def get(self, target: str, **headers: str) -> httpx.Response:
        """GET a result, by what follows the path of the analytics."""
        return self.http.get(f"{ANALYTICS}/{target}", headers={"accept-encoding": "identity", **headers})

    def get_soon(self, target: str) -> httpx.Response:
        """GET a result; the answer has to come within SOON."""
        began = time.monotonic()
        answer = self.get(target)
        assert took(began) < SOON, f"{target} took {took(began):.1f} s"
        return answer

    def get_as(self, cache: str, target: str) -> httpx.Response | None:
        """GET a result: the 200 once its X-Cache is that one, and None until then."""
        answer = self.get(target)
        assert answer.status_code == 200, answer.text
        return answer if answer.headers["x-cache"] == cache else None

    def metric(self, name: str, **labels: str) -> float:
        """One of its metrics."""
        return metric(self.http.get("/metrics").text, name, **labels)

    def linked(self) -> bool:
        """Whether its links to Redis and to the supervisor are up."""
        return self.metric("holdfast_link_up") == 2


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document (RFC 9457) of an answer that has to be one, and shows nothing of the inside."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["title"]
    inside = r"127\.0\.0\.1|SELECT|Traceback|/tmp|\.py|supervisor\.sock"
    assert not re.search(inside, answer.text), answer.text
    return document


def bearer(secret: str = SECRET, **claims: Any) -> dict[str, str]:
    """An Authorization header with a token of these claims."""
    return {"authorization": f"Bearer {token(secret, **claims)}"}


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token, valid unless the claims say otherwise; a claim of None is left out."""
    now = int(time.time())
    payload: dict[str, Any] = {
        "iss": "holdfast",
        "aud": "holdfast",
        "sub": "me",
        "iat": now,
        "exp": now + 60,
        "typ": "access",
    }
    given = {name: value for name, value in (payload | claims).items() if value is not None}
    return jwt.encode(given, secret, algorithm)
