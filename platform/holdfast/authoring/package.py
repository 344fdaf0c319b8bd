"""Where files are written: in a package of REPORTS, or in a new one; nothing that is there is overwritten."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import LocalError

_LIBRARIES = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Place:
    """A package of reports: its import path, its folder, and the folder that its tests lie in."""

    package: str
    folder: Path
    tests: Path


def place_of(modules: Sequence[str], package: str | None) -> Place:
    """The package that is asked for, or the first of REPORTS that is the author's to write in.

    Raises:
        LocalError: there is none; the message says what to do.
    """
    refused = []
    for name in [package] if package else modules:
        folder = _folder(name)
        if folder is None:
            refused.append(f"{name} is no package that can be found")
        elif _LIBRARIES & set(folder.parts):
            refused.append(f"{name} is installed, and not yours to write in")
        elif not os.access(folder, os.W_OK):
            refused.append(f"{folder} cannot be written to")
        else:
            top = folder.parents[name.count(".")]
            return Place(name, folder, top / "tests")
    raise LocalError(
        f"no package for a new report: {'; '.join(refused)}. `holdfast init PACKAGE` makes one here; "
        "or name one by --package"
    )


def _folder(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def check_new_package(name: str, root: Path) -> None:
    """Raise LocalError unless a package of that name can be made in that folder."""
    if not name.isidentifier() or name != name.lower():
        raise LocalError(
            f"{name!r} is no name for a package: lower-case letters, digits and _, as in my_reports"
        )
    if (root / name).exists():
        raise LocalError(
            f"{root / name} is there already: `holdfast new NAME --package {name}.reports` adds to it"
        )
    if name in sys.stdlib_module_names or name in {"tests", "holdfast"} or importlib.util.find_spec(name):
        raise LocalError(
            f"a package {name!r} is installed already, and would hide this one: take another name"
        )


def write_new(files: Mapping[Path, str], *, private: Iterable[Path] = ()) -> list[Path]:
    """Write these files, all of them or none; their folders are made. `private` ones get mode 0600.

    Raises:
        LocalError: one is there already, or cannot be written.
    """
    for path in files:
        if path.exists():
            raise LocalError(f"{path} is there already, and nothing is overwritten: choose another name")
    written: list[Path] = []
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = 0o600 if path in set(private) else 0o666
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(path)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise LocalError(
            f"{error.filename or path}: {(error.strerror or 'cannot be written').lower()}"
        ) from None
    return written


def dotenv_line(name: str, value: str) -> str:
    """A line of `.env` that is read as this value."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{escaped}'"
