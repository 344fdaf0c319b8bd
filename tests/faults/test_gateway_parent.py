"""The gateway's main process, killed."""

from __future__ import annotations

import signal

from tests.conftest import free_port
from tests.integration.processes import Platform, gone


def test_a_killed_gateway_leaves_no_worker_on_its_port() -> None:
    """Where the gateway's main process is killed, its workers end too, and the next one gets the port."""
    port = free_port()
    with Platform(GW_AUTH="off", GW_PORT=str(port), REDIS_URL="redis://127.0.0.1:1/0") as platform:
        first = platform.start("gateway")
        platform.answers(first, port, "livez")
        workers = [process.pid for process in first.family() if process.pid != first.pid]
        assert workers
        first.signal(signal.SIGKILL)
        first.wait()
        gone(workers)
        platform.answers(platform.start("gateway", name="second"), port, "livez")
