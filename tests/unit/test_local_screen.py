"""The lines of the ready screen, and `holdfast status` where little or nothing runs."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from holdfast.cli import status
from holdfast.processes.ports import pick_port
from holdfast.up.instance import Instance
from holdfast.up.screen import Answer, describe, excerpt, fetch, fetch_until_hit

BODY = json.dumps({"report": "x", "rows": [{"a": 1, "b": "ü"}, {"a": 2}]}).encode()


class _Handler(BaseHTTPRequestHandler):
    """The first answer is a MISS, every later one a HIT; `/status` is a supervisor's."""

    answered = 0

    def do_GET(self) -> None:
        kind = type(self)
        kind.answered += 1
        body = STATUS if self.path == "/status" else BODY
        self.send_response(200)
        self.send_header("X-Cache", "MISS" if kind.answered == 1 else "HIT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


STATUS = json.dumps(
    {
        "links": {
            "postgres": {
                "state": "backing-off",
                "since": "2013-01-01T00:00:00+00:00",
                "last_error": "refused [1]",
                "next_retry_at": None,
                "pool": {"size": 1, "in_use": 0, "max": 20},
            }
        },
        "reports": [{"report": "carriers", "params": {}, "age_s": None, "state": "missing"}],
    }
).encode()


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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home where nothing runs, and a supervisor's port on which nothing listens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SUPERVISOR_PORT", str(pick_port()))
    monkeypatch.delenv("SUPERVISOR_SOCKET", raising=False)
    return tmp_path / "home"


def test_status_says_when_nothing_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing runs, the status says so, names the way out, and ends with 1."""
    assert status.show(as_json=False) == 1
    assert "start it with `holdfast up`" in capsys.readouterr().out
    assert status.show(as_json=True) == 1
    assert json.loads(capsys.readouterr().out) == {"processes": {}, "links": {}, "reports": []}


def test_status_works_while_the_supervisor_is_down(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a supervisor the processes are still shown; a pid that is gone counts as down."""
    with Instance(home) as instance:
        instance.publish_processes(
            {
                "gateway": {"pid": os.getpid(), "alive": True, "port": 8080, "restarts": 2},
                "supervisor": {"pid": 2**22 + 1, "alive": True, "restarts": 0},
            }
        )
        assert status.show(as_json=True) == 0
        shown = json.loads(capsys.readouterr().out)["processes"]
        assert shown["gateway"] == {"pid": os.getpid(), "alive": True, "port": 8080, "restarts": 2}
        assert shown["supervisor"]["alive"] is False
        assert status.show(as_json=False) == 0
        assert "links and reports are unknown" in capsys.readouterr().out


def test_status_shows_a_supervisor_that_runs_alone(
    home: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without `holdfast up`, links and reports are those of the supervisor's port."""
    monkeypatch.setenv("SUPERVISOR_PORT", str(port))
    assert status.show(as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {"processes": {}, **json.loads(STATUS)}
    assert status.show(as_json=False) == 0
    output = capsys.readouterr().out
    assert "backing-off" in output
    assert "refused [1]" in output
    assert "1 missing" in output
