"""Files of a running Holdfast: atomic writes and bounded logs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from holdfast.processes import files
from holdfast.processes.files import log_tail, open_log, write_atomic


def mode(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_an_atomic_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    """A file is replaced in one step, and a failed write leaves the old one and nothing else."""
    target = tmp_path / "file"
    write_atomic(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(target, "\ud800")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_log_is_bounded_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has grown too large is set aside when the process starts again; one is kept."""
    monkeypatch.setattr(files, "LOG_MAX_BYTES", 10)
    for text in (b"first, and long\n", b"second\n", b"third\n"):
        with open_log(tmp_path, "thing") as log:
            log.write(text)
    assert (tmp_path / "logs" / "thing.log.1").read_bytes() == b"first, and long\n"
    assert log_tail(tmp_path, "thing", lines=1) == "third"
    assert mode(tmp_path / "logs" / "thing.log") == 0o600
