"""Reports that changed while a process runs: their modules are imported again, in place.

What an author wrote is forgotten (`sys.modules`) and loaded from its files. A report whose file cannot be
loaded stays as it was in its last good version. Work that has begun goes on with the objects that it has.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from holdfast.reasons import is_authors
from holdfast.reports.loading import load_reports
from holdfast.reports.registry import Registry

MARK = "reports.changed"
"""The file in `run/` that is written when `holdfast up` has loaded the reports again: workers do so then."""
_OURS = frozenset({"holdfast", "holdfast_workers", "holdfast_gateway"})


def reload_reports(modules: Sequence[str], before: Registry) -> Registry:
    """The reports of these modules as their files say now; what is broken now is as it was `before`."""
    _forget(modules)
    with _without_bytecode():
        fresh = load_reports(modules)
    gone = [report for report in before if report.name not in fresh.reports]
    names = {broken.name for broken in fresh.broken}
    within = tuple(broken.module for broken in fresh.broken)
    kept = [
        report
        for report in gone
        if report.name in names or any(f"{report.module}.".startswith(f"{module}.") for module in within)
    ]
    return Registry([*fresh, *kept], fresh.broken)


def watched_folders(modules: Sequence[str]) -> dict[Path, bool]:
    """The folders that hold the code of these modules, and whether what lies below each of them counts too.

    A package that is not there yet is looked for in the working directory. No code of the author's is run.
    """
    folders: dict[Path, bool] = {}
    for top in dict.fromkeys(name.partition(".")[0] for name in modules):
        spec = None
        with contextlib.suppress(ImportError, ValueError, AttributeError):
            importlib.invalidate_caches()
            spec = importlib.util.find_spec(top) if top else None
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        folders |= {Path(place).resolve(): True for place in places}
        if not places:
            origin = spec.origin if spec is not None and spec.has_location else None
            folders.setdefault(Path(origin).resolve().parent if origin else Path.cwd(), False)
    return {folder: below for folder, below in folders.items() if folder.is_dir()}


def _forget(modules: Sequence[str]) -> None:
    tops = {name.partition(".")[0] for name in modules} - _OURS
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in tops or _lies_here(name, module):
            del sys.modules[name]
            _remove_bytecode(module)
    for folder, below in watched_folders(modules).items():
        for compiled in folder.glob("**/__pycache__/*.pyc" if below else "__pycache__/*.pyc"):
            with contextlib.suppress(OSError):
                compiled.unlink()
    importlib.invalidate_caches()


def _lies_here(name: str, module: ModuleType) -> bool:
    """Whether a module is the author's, by its file: one beside the package of the reports."""
    file = getattr(module, "__file__", None)
    if name == "__main__" or not isinstance(file, str) or name.partition(".")[0] in _OURS:
        return False
    return Path(file).is_relative_to(Path.cwd()) and is_authors(file, name)


def _remove_bytecode(module: ModuleType) -> None:
    # A compiled file counts for its source when time (whole seconds) and size agree: two edits within a
    # second that leave the size as it is would be one.
    cached = getattr(module, "__cached__", None)
    if isinstance(cached, str):
        with contextlib.suppress(OSError):
            Path(cached).unlink()


@contextlib.contextmanager
def _without_bytecode() -> Iterator[None]:
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
