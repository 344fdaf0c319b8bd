"""TCP ports: taking one, with an error that names the setting to change."""

from __future__ import annotations

import socket

from holdfast.errors import SettingsError


def bind(variable: str, host: str, port: int) -> socket.socket:
    """A TCP socket bound to that address.

    Raises:
        SettingsError: the address cannot be used; the message names the variable to set.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = error.strerror or type(error).__name__
        raise SettingsError(f"{variable}: {host}:{port} cannot be used ({reason}); set another") from None
    return listener
