"""`holdfast status` where little or nothing runs."""

from __future__ import annotations

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


class _Handler(BaseHTTPRequestHandler):
    """A supervisor's `/status`."""

    def do_GET(self) -> None:
        body = STATUS
        self.send_response(200)
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
