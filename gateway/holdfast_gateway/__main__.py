"""`holdfast gateway`: the gateway under Granian."""

from __future__ import annotations

import logging

from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.server import Server

from holdfast.errors import exit_on_error
from holdfast.processes.ports import bind
from holdfast.settings import GatewaySettings, JwtSettings, RedisSettings, SupervisorSettings
from holdfast.tokens import secret

MAX_HEADER_BYTES = 32 * 1024
HEADER_SECONDS = 10


def main() -> None:
    """Serve until SIGTERM.

    Raises:
        SettingsError: a setting is wrong, JWT_SECRET is missing while GW_AUTH is jwt, or the port is taken.
    """
    settings = GatewaySettings.load()
    for needed in (RedisSettings, SupervisorSettings):
        needed.load()
    if settings.auth == "jwt":
        secret(JwtSettings.load())
    bind("GW_PORT", settings.host, settings.port).close()
    logging.getLogger("_granian").setLevel(logging.WARNING)
    Server(
        "holdfast_gateway.app:create",
        factory=True,
        interface=Interfaces.RSGI,
        address=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            header_read_timeout=HEADER_SECONDS * 1000, max_buffer_size=MAX_HEADER_BYTES
        ),
        websockets=False,
        log_access=False,
        # Without this, one worker that crashes would end the server.
        respawn_failed_workers=True,
        respawn_interval=0.5,
        workers_kill_timeout=10,
    ).serve()


if __name__ == "__main__":
    with exit_on_error():
        main()
