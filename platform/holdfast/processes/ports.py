"""TCP ports: taking one, with an error that names the setting to change, and picking a free one."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import random
import socket
import tempfile
from ipaddress import ip_address
from pathlib import Path

from holdfast.errors import LocalError, SettingsError

_PORTS = range(20_000, 32_000)


_OF_THE_HOST = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL, errno.ENODEV})
"""What the system answers where the address, and not the port, cannot be used."""


def address_of(variable: str, host: str) -> str:
    """The IP address to listen on: the host itself, without brackets, or what the name stands for.

    Of several addresses an IPv4 one is taken.

    Raises:
        SettingsError: the name cannot be looked up; the message names the variable.
    """
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return str(ip_address(bare))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no host name"
        raise SettingsError(
            f"{variable}: {host} cannot be looked up ({reason}); set a name or an address of this machine"
        ) from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def bind(variable: str, host: str, port: int, *, host_variable: str = "") -> socket.socket:
    """A TCP socket bound to that IP address.

    Raises:
        SettingsError: it cannot be used; the message names the variable to set: `host_variable`, where there
            is one, for an address that is none of this machine's.
    """
    shown = f"[{host}]" if ":" in host else host
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or "the system gives no reason"
        if host_variable and error.errno in _OF_THE_HOST:
            raise SettingsError(
                f"{host_variable}: {host} cannot be used ({reason}); set an address of this machine"
            ) from None
        raise SettingsError(f"{variable}: {shown}:{port} cannot be used ({reason}); set another") from None
    return listener


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `host:port` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def pick_port(rng: random.Random | None = None) -> int:
    """A free port of 127.0.0.1, which is given to nobody else while this process lives.

    It lies below the range from which kernels take the source ports of outgoing connections: one of those
    could otherwise use the port of a server that is being restarted. Between picking a port and listening
    on it there is time in which another process could pick it too, so a record lock (fcntl(2)) on one file
    of this user reserves it.

    Raises:
        LocalError: none is free.
    """
    rng = rng or random.SystemRandom()
    for _ in range(200):
        port = rng.choice(_PORTS)
        if _reserve(port) and port_is_free(port):
            return port
    raise LocalError(
        "no free port found on 127.0.0.1 between 20000 and 32000; stop something that listens there"
    )


def _reserve(port: int) -> bool:
    descriptor, reserved = _reservations()
    if port in reserved:
        return False
    if descriptor is not None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
    reserved.add(port)
    return True


@functools.cache
def _reservations() -> tuple[int | None, set[int]]:
    """The file whose byte N is locked by the process that has port N, and the ports of this process.

    It stays open: closing any descriptor of it would end every lock that this process has on it. Where
    another user has put something else in its place there is no file, and ports are reserved within this
    process alone.
    """
    path = Path(tempfile.gettempdir()) / f"holdfast-ports-{os.getuid()}"
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), set()
    except OSError:
        return None, set()
