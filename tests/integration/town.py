"""Gateways as tests meet them: two of them, one open and one that wants tokens, and all that is behind."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
from redis import Redis
from tests.conftest import eventually, free_port
from tests.integration.processes import Background, Platform, Process, Servers, metric, took

from holdfast.processes.files import read_secret
from holdfast.rpc.client import Client

ANALYTICS = "/api/v1/analytics"
SECRET = "a-signing-secret-of-more-than-32-characters"
REFRESH_SECRET = "another-secret-of-more-than-32-characters"
PROBLEM = "application/problem+json"
FEW = 2.0
"""Seconds within which every request ends."""


class Town:
    """Two gateways, one open and one that wants tokens, before one supervisor and its servers."""

    def __init__(self, platform: Platform, servers: Servers, background: Background) -> None:
        self.platform = platform
        self.servers = servers
        self.background = background
        self.supervisor = self._start_supervisor()
        self.open_port, self.closed_port = free_port(), free_port()
        self.open_gateway = self.gateway("open", self.open_port, GW_AUTH="off", GW_MISS_TIMEOUT="700")
        tokens = {"GW_AUTH": "jwt", "JWT_SECRET": SECRET, "JWT_REFRESH_SECRET": REFRESH_SECRET}
        self.closed_gateway = self.gateway("closed", self.closed_port, **tokens)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.open_port}", timeout=10)
        self.closed = httpx.Client(base_url=f"http://127.0.0.1:{self.closed_port}", timeout=10)
        self.cache = Redis(
            port=servers.valkey.port,
            username="supervisor",
            password=read_secret(servers.valkey.password_file()),
        )

    def _start_supervisor(self) -> Process:
        return self.platform.start("supervisor", **self.servers.env())

    def gateway(self, name: str, port: int, **settings: str) -> Process:
        """Start a gateway, and do not wait for it."""
        reader = self.servers.valkey.gateway_env()
        return self.platform.start("gateway", name=name, **reader, GW_PORT=str(port), **settings)

    def mend(self) -> None:
        """Start whatever does not run, and wait until all is well."""
        if not self.supervisor.running:
            self.supervisor = self._start_supervisor()
        self.servers.start()
        self.platform.answers(self.supervisor, self.platform.port)
        self.platform.answers(self.open_gateway, self.open_port)
        self.platform.answers(self.closed_gateway, self.closed_port)
        up = {"postgres": "up", "mongo": "up", "redis": "up"}
        eventually("the links to be up", lambda: self.states() == up)
        for client in (self.http, self.closed):
            eventually("the gateway's links to be up", lambda client=client: linked(client))

    def states(self) -> dict[str, str]:
        """The supervisor's links."""
        return {name: link["state"] for name, link in self.platform.status()["links"].items()}

    def get(self, target: str, **headers: str) -> httpx.Response:
        """GET of the open gateway."""
        return self.http.get(f"{ANALYTICS}/{target}", headers={"accept-encoding": "identity", **headers})

    def timed(self, target: str) -> httpx.Response:
        """The same, which must end soon."""
        began = time.monotonic()
        answer = self.get(target)
        assert took(began) < FEW, f"{target} took {took(began):.1f} s"
        return answer

    def counted(self, name: str, **labels: str) -> float:
        """A metric of the open gateway."""
        return metric(self.http.get("/metrics").text, name, **labels)

    def computed(self, report: str) -> float:
        """How many computations of a report the supervisor has made."""
        return self.platform.metric("holdfast_runs_total", report=report)

    def on_the_socket(self, work: Callable[[Client], Any]) -> Any:
        """Do something with a client of the supervisor."""
        client = self.platform.client()
        try:
            return self.background.run(work(client))
        finally:
            self.background.run(client.aclose())


def linked(client: httpx.Client) -> bool:
    """Whether that gateway's links to Redis and to the supervisor are up."""
    text = client.get("/metrics").text
    return metric(text, "holdfast_link_up") == 2


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer that must be one (RFC 9457)."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    assert answer.headers["cache-control"] == "no-store"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["title"]
    inside = r"127\.0\.0\.1|SELECT|Traceback|/tmp|\.py|supervisor\.sock"
    assert not re.search(inside, answer.text), answer.text
    return document


def answered(town: Town, target: str, cache: str) -> httpx.Response | None:
    """The 200 of a target, once its X-Cache is that one; None until then."""
    answer = town.get(target)
    assert answer.status_code == 200
    return answer if answer.headers["x-cache"] == cache else None


def bearer(secret: str = SECRET, **claims: Any) -> dict[str, str]:
    """An Authorization header."""
    return {"authorization": f"Bearer {token(secret, **claims)}"}


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token, valid unless the claims say otherwise; a claim of None is left out."""
    now = int(time.time())
    payload = {
        "iss": "holdfast",
        "aud": "holdfast",
        "sub": "me",
        "iat": now,
        "exp": now + 60,
        "typ": "access",
    }
    given = {name: value for name, value in (payload | claims).items() if value is not None}
    return jwt.encode(given, secret, algorithm)
