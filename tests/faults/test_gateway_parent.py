"""The gateway's main process, killed."""

from __future__ import annotations

import signal

from tests.support.process import gone
from tests.support.stack import Stack


def test_a_killed_gateway_leaves_no_worker_on_its_port() -> None:
    """Where the gateway's main process is killed, its workers end too, and the next one gets the port."""
    with Stack(GW_AUTH="off", REDIS_URL="redis://127.0.0.1:1/0") as stack:
        first = stack.gateway("first", until="livez")
        workers = [process.pid for process in first.process.family() if process.pid != first.process.pid]
        assert workers
        first.process.signal(signal.SIGKILL)
        first.process.wait()
        gone(workers)
        second = stack.start("gateway", name="second", GW_PORT=str(first.port))
        stack.answers(second, first.port, "livez")
