"""What the embedded servers keep in HOLDFAST_HOME: generated secrets and remembered ports."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from holdfast.embedded.ports import claim_port
from holdfast.embedded.secrets import secret_file
from holdfast.processes.ports import port_is_free


def mode(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_generated_once_and_private(tmp_path: Path) -> None:
    """A secret keeps its value; its file is 0600 and the folder 0700, under any umask."""
    before = os.umask(0)
    try:
        first = secret_file(tmp_path / "home", "password")
    finally:
        os.umask(before)
    value = first.read_text()
    assert len(value) == 64
    assert secret_file(tmp_path / "home", "password").read_text() == value
    assert mode(first) == 0o600
    assert mode(first.parent) == 0o700
    assert [file.name for file in first.parent.iterdir()] == ["password"]


def test_two_secrets_differ_and_may_have_a_prefix(tmp_path: Path) -> None:
    """Each name has a value of its own; a prefix stands before it."""
    one, two = secret_file(tmp_path, "one"), secret_file(tmp_path, "two", prefix="user:")
    assert one.read_text() != two.read_text().removeprefix("user:")
    assert two.read_text().startswith("user:")


def test_existing_folders_keep_their_modes(tmp_path: Path) -> None:
    """Nothing above the private folder is changed, and neither is one that exists already."""
    tmp_path.chmod(0o755)
    (tmp_path / "secrets").mkdir(mode=0o750)
    secret_file(tmp_path, "password")
    assert mode(tmp_path) == 0o755
    assert mode(tmp_path / "secrets") == 0o750


def test_a_port_is_remembered_while_it_is_free(tmp_path: Path) -> None:
    """The same home gets the same port again, unless another process listens on it."""
    port = claim_port(tmp_path, "thing")
    assert claim_port(tmp_path, "thing") == port
    with socket.create_server(("127.0.0.1", port)):
        assert not port_is_free(port)
        other = claim_port(tmp_path, "thing")
        assert other != port
    assert claim_port(tmp_path, "thing") == other
