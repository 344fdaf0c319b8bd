"""The reports of this process, for its tasks and for beat's schedule."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

from holdfast.processes.paths import find_modules_here
from holdfast.reports import Registry, load_reports
from holdfast.reports.reloading import MARK, reload_reports
from holdfast.settings import HomeSettings, ReportsSettings


class CurrentReports:
    """The reports, loaded again when `holdfast up` has changed its mark; a call costs one stat(2)."""

    def __init__(self) -> None:
        find_modules_here()
        self._modules = ReportsSettings.load().modules
        self._mark_file = HomeSettings.load().home.absolute() / "run" / MARK
        self._mark = _changed_at(self._mark_file)
        self._registry = load_reports(self._modules)
        self._lock = threading.Lock()

    def get(self) -> Registry:
        """The reports as they are now."""
        mark = _changed_at(self._mark_file)
        if mark not in (None, self._mark):
            with self._lock:
                if mark != self._mark:
                    self._registry = reload_reports(self._modules, self._registry)
                    self._mark = mark
        return self._registry


def _changed_at(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # Each mark is a file of its own, renamed into place.
    return found.st_mtime_ns, found.st_ino


@functools.cache
def _current() -> CurrentReports:
    return CurrentReports()


def registry() -> Registry:
    """The reports of the setting REPORTS, loaded only by a process that needs them: Flower does not.

    Raises:
        SettingsError: REPORTS is wrong.
    """
    return _current().get()
