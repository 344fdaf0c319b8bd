"""The reports as this process knows them, and beat's schedule made from them."""

from __future__ import annotations

import contextlib
import functools
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.utils.log import get_logger
from redbeat import RedBeatScheduler
from redbeat.schedulers import acquire_distributed_beat_lock
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import LockError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from holdfast.errors import exit_on_error
from holdfast.reports import Registry, load_reports
from holdfast.settings import ReportsSettings

RETRY_SECONDS = 1.0
logger = get_logger("celery.beat")


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
    """redbeat's scheduler, with a schedule made from the reports when beat starts.

    redbeat ends when Redis is away for long, or when its lock has passed to another beat. This one goes
    on: whatever fails in a tick is tried again in the next, a second later.
    """

    def __init__(self, app: Celery, *arguments: Any, **options: Any) -> None:
        with exit_on_error():
            app.conf.beat_schedule = beat_schedule(registry())
        self._is_set_up = False
        super().__init__(app, *arguments, **options)

    def setup_schedule(self) -> None:
        """Nothing yet: beat must start while Redis is away, so the first tick writes the schedule."""

    def tick(self, *arguments: Any, **options: Any) -> float:
        """Send what is due: the seconds until the next tick."""
        try:
            if not self._is_set_up:
                super().setup_schedule()
                self._is_set_up = True
            if self.lock_key and self.lock is None:
                acquire_distributed_beat_lock(sender=SimpleNamespace(scheduler=self))
            return float(super().tick(*arguments, **options))
        except LockError:
            # It ran out while Redis or this process slept, and another beat may lead by now.
            self.lock: Any = None
        except (RedisConnectionError, RedisTimeoutError) as error:
            # A Redis that comes back empty needs the schedule anew.
            self._is_set_up = False
            logger.warning("beat: Redis cannot be reached (%s); again in a second", type(error).__name__)
        return RETRY_SECONDS

    def close(self) -> None:
        """Give the lock back, where that can be done."""
        with contextlib.suppress(RedisError):
            super().close()
