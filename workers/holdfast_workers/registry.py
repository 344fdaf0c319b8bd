"""The reports of this process, for its tasks and for beat's schedule."""

from __future__ import annotations

import functools

from holdfast.reports import Registry, load_reports
from holdfast.settings import ReportsSettings


@functools.cache
def registry() -> Registry:
    """The reports of the setting REPORTS, loaded once and only by a process that needs them: Flower does not.

    Raises:
        SettingsError: REPORTS is wrong, or names a module that cannot be imported.
        ReportError: a report's definition is wrong.
    """
    return load_reports(ReportsSettings.load().modules)
