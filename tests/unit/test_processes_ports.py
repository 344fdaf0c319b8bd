"""Ports: a free one, given to one process at a time; and locks on files."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import LocalError, SettingsError
from holdfast.processes import ports
from holdfast.processes.locks import LockHeld, hold, holder, try_lock
from holdfast.processes.ports import address_of, bind, pick_port, port_is_free


def test_picked_ports_are_not_ones_of_outgoing_connections() -> None:
    """A picked port is below those that Linux gives to outgoing connections (32768 and above)."""
    assert 20_000 <= pick_port() < 32_768


class _Chosen(random.Random):
    """Chooses these ports, one after the other."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__()
        self._ports = iter(ports)

    def choice(self, seq: Any) -> Any:
        return next(self._ports)


def test_a_port_is_given_out_once() -> None:
    """A process never gets the same port twice, also when nothing listens on it yet."""
    first = pick_port()
    assert port_is_free(first)
    second = pick_port()
    assert pick_port(_Chosen([first, second, third := _unused()])) == third


def _unused() -> int:
    """A port that nobody listens on and no process has been given, another run of these tests included."""
    port = pick_port()
    descriptor, given = ports._reservations()
    given.discard(port)
    if descriptor is not None:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, port)
    return port


def test_two_processes_never_get_the_same_port() -> None:
    """A port that one process was given is not given to another while the first one lives."""
    script = (
        "import random, sys; from holdfast.processes.ports import pick_port\n"
        "class Chosen(random.Random):\n"
        "    def choice(self, seq): return wanted.pop(0)\n"
        "wanted = [int(port) for port in sys.argv[1:]]\n"
        "print(pick_port(Chosen()))"
    )
    mine, other = pick_port(), _unused()
    argv = [sys.executable, "-c", script, str(mine), str(other)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert int(done.stdout) == other
    # The other process is gone, and with it its reservation.
    assert pick_port(_Chosen([mine, other])) == other


def test_a_port_that_is_in_use_is_not_given_out() -> None:
    """What listens already is passed over, whoever it is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = _unused()
        assert pick_port(_Chosen([taken.getsockname()[1], free])) == free


def test_a_reservation_file_of_another_user_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file of reservations cannot be opened, ports are still given out, each once."""
    (tmp_path / f"holdfast-ports-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ports._reservations.cache_clear()
    try:
        first = pick_port()
        assert pick_port(_Chosen([first, other := _unused()])) == other
        assert not (tmp_path / "elsewhere").exists()
    finally:
        ports._reservations.cache_clear()


def test_no_free_port_is_a_clear_error() -> None:
    """Where every port is taken the message says what to do."""
    mine = pick_port()
    with pytest.raises(LocalError, match="stop something that listens there"):
        pick_port(_Chosen([mine] * 200))


def test_an_inherited_lock_lasts_as_long_as_its_last_holder(tmp_path: Path) -> None:
    """A child that inherited a lock holds it on after its parent has let go."""
    path = tmp_path / "run" / "server.lock"
    lock = try_lock(path)
    assert lock is not None
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,)
    ) as child:
        os.close(lock)
        assert try_lock(path) is None
        child.kill()
    again = try_lock(path)
    assert again is not None
    os.close(again)


def test_a_lock_says_who_holds_it(tmp_path: Path) -> None:
    """Whoever finds a lock held learns the pid of its holder, and finds nobody afterwards."""
    path = tmp_path / "x.lock"
    assert holder(path) is None
    with hold(path):
        assert holder(path) == os.getpid()
        with pytest.raises(LockHeld) as raised, hold(path):
            pass
        assert raised.value.pid == str(os.getpid())
    assert holder(path) is None


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("localhost", {"127.0.0.1", "::1"}),
        ("LocalHost", {"127.0.0.1", "::1"}),
        ("::1", {"::1"}),
        ("[::1]", {"::1"}),
        ("[::]", {"::"}),
        ("0:0:0:0:0:0:0:1", {"::1"}),
        ("0.0.0.0", {"0.0.0.0"}),  # noqa: S104
    ],
)
def test_a_host_to_listen_on_may_be_a_name_or_an_address(host: str, addresses: set[str]) -> None:
    """Names, IPv4 and IPv6 addresses, with brackets or without, are an IP address to listen on."""
    assert address_of("GW_HOST", host) in addresses


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a b", "x" * 300, "http://localhost", ""])
def test_a_host_that_cannot_be_looked_up_is_named(host: str) -> None:
    """What stands for no address is refused in a line that names the variable of the host."""
    with pytest.raises(SettingsError, match=r"^GW_HOST: ") as refused:
        address_of("GW_HOST", host)
    assert "\n" not in str(refused.value)


def test_an_address_of_another_machine_is_not_the_ports_fault() -> None:
    """Where the address is wrong its variable is named, and where the port is taken the port's."""
    with pytest.raises(SettingsError, match=r"^GW_HOST: 192\.0\.2\.7 "):
        bind("GW_PORT", "192.0.2.7", pick_port(), host_variable="GW_HOST")
    with bind("GW_PORT", "127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"^GW_PORT: 127\.0\.0\.1:{port} "):
            bind("GW_PORT", "127.0.0.1", port, host_variable="GW_HOST")
