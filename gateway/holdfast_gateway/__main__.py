"""`holdfast gateway`: the gateway under Granian."""

from __future__ import annotations

import logging

from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.server import Server

from holdfast import logs
from holdfast.errors import SettingsError, exit_on_error
from holdfast.processes.ports import address_of, bind
from holdfast.settings import GatewaySettings, JwtSettings, RedisSettings, SupervisorSettings, is_loopback
from holdfast.settings.unknown import warn_of_unknown
from holdfast.tokens import secret

MAX_HEADER_BYTES = 32 * 1024
HEADER_SECONDS = 10


def main() -> None:
    """Serve until SIGTERM.

    Raises:
        SettingsError: a setting is wrong, JWT_SECRET is missing while GW_AUTH is jwt, or the port is taken.
    """
    logs.configure("gateway")
    warn_of_unknown()
    settings = GatewaySettings.load()
    for needed in (RedisSettings, SupervisorSettings):
        needed.load()
    if settings.auth == "jwt":
        secret(JwtSettings.load())
    address = _address(settings)
    bind("GW_PORT", address, settings.port, host_variable="GW_HOST").close()
    logging.getLogger("_granian").setLevel(logging.WARNING)
    Server(
        "holdfast_gateway.app:create",
        factory=True,
        interface=Interfaces.RSGI,
        address=address,
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


def _address(settings: GatewaySettings) -> str:
    """The IP address to listen on, which Granian wants in the place of a name."""
    address = address_of("GW_HOST", settings.host)
    if settings.auth == "off" and not is_loopback(address):
        raise SettingsError(
            f"GW_AUTH: off is allowed only on a loopback address, and GW_HOST stands for {address} here"
        )
    return address


if __name__ == "__main__":
    with exit_on_error():
        main()
