"""The lines of the ready screen."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from holdfast.processes.ports import pick_port
from holdfast.up.screen import Answer, describe, excerpt, fetch, fetch_until_hit

BODY = json.dumps({"report": "x", "rows": [{"a": 1, "b": "ü"}, {"a": 2}]}).encode()


class _Handler(BaseHTTPRequestHandler):
    """The first answer is a MISS, every later one a HIT."""

    answered = 0

    def do_GET(self) -> None:
        kind = type(self)
        kind.answered += 1
        body = BODY
        self.send_response(200)
        self.send_header("X-Cache", "MISS" if kind.answered == 1 else "HIT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """A small HTTP server on loopback."""
    handler = type("Handler", (_Handler,), {"answered": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_the_example_requests_end_with_a_hit(port: int) -> None:
    """A request is repeated until it is a HIT, and every step on the way is shown."""
    answers = asyncio.run(fetch_until_hit("127.0.0.1", port, "/", within=5))
    assert [answer.x_cache for answer in answers] == ["MISS", "HIT"]
    line = describe(answers)
    assert line.startswith("200 MISS ")
    assert " → 200 HIT " in line


def test_no_answer_is_an_answer_too() -> None:
    """A gateway that does not answer raises nothing and is shown as such, after the deadline."""
    port = pick_port()
    assert fetch("127.0.0.1", port, "/").status == 0
    assert asyncio.run(fetch_until_hit("127.0.0.1", port, "/", within=0)) == []
    assert describe([]) == "no answer yet"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (BODY, '2 rows, the first: {"a": 1, "b": "ü"}'),
        (b'{"title": "Not Found", "status": 404}', "Not Found"),
        (b'{"rows": []}', '{"rows": []}'),
        (b"<html>", ""),
        (b"[]", ""),
    ],
)
def test_an_excerpt_is_one_line(body: bytes, line: str) -> None:
    """The first row of a result, the title of a problem, and nothing for what is not JSON."""
    assert excerpt(body) == line


def test_a_long_row_is_cut() -> None:
    """An excerpt never fills the screen."""
    assert len(excerpt(json.dumps({"rows": [{"a": "x" * 1000}]}).encode())) < 150
    assert Answer(200, "HIT", 0.0, b"").is_hit
