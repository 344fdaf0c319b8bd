"""The reports as this process knows them, and beat's schedule made from them."""

from __future__ import annotations

import functools
from typing import Any

from celery import Celery
from redbeat import RedBeatScheduler

from holdfast.errors import exit_on_error
from holdfast.reports import Registry, load_reports
from holdfast.settings import ReportsSettings


@functools.cache
def registry() -> Registry:
    """The reports of the setting REPORTS, loaded once and only where they are needed: Flower is not."""
    return load_reports(ReportsSettings.load().modules)


def beat_schedule(reports: Registry) -> dict[str, dict[str, Any]]:
    """One entry per scheduled report. A message that waited for a whole period is dropped: its successor
    is in the queue, and an outage must not end in a pile.
    """
    return {
        f"warm {report.name}": {
            "task": "holdfast.warm",
            "schedule": float(report.schedule),
            "kwargs": {"report": report.name, "trigger": "schedule"},
            "options": {"expires": float(report.schedule)},
        }
        for report in reports
        if report.schedule is not None and report.warm
    }


class Scheduler(RedBeatScheduler):  # type: ignore[misc]
    """redbeat's scheduler, with a schedule made from the reports when beat starts."""

    def __init__(self, app: Celery, *arguments: Any, **options: Any) -> None:
        with exit_on_error():
            app.conf.beat_schedule = beat_schedule(registry())
        super().__init__(app, *arguments, **options)
