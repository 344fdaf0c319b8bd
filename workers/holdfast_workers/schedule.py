"""Beat: the schedule that the reports declare, and a scheduler that goes on while Redis is away."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.utils.log import get_logger
from redbeat import RedBeatScheduler
from redbeat.schedulers import acquire_distributed_beat_lock
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import LockError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from holdfast import logs
from holdfast.errors import exit_on_error
from holdfast.reasons import outage
from holdfast.reports import Registry
from holdfast.reports.broken import warn_of
from holdfast.settings.unknown import warn_of_unknown
from holdfast_workers.app import WARM_TASK
from holdfast_workers.registry import registry

RETRY_SECONDS = 1.0
logger = get_logger("celery.beat")


def beat_schedule(reports: Registry) -> dict[str, dict[str, Any]]:
    """One entry for each scheduled report that has warm variants.

    A message that waited for a complete period is dropped: the next one is in the queue by then, and an
    outage must not end in a pile of messages.
    """
    return {
        f"warm {report.name}": {
            "task": WARM_TASK,
            "schedule": float(report.schedule),
            "kwargs": {"report": report.name, "trigger": "schedule"},
            "options": {"expires": float(report.schedule)},
        }
        for report in reports
        if report.schedule is not None and report.warm
    }


class Scheduler(RedBeatScheduler):  # type: ignore[misc]
    """redbeat's scheduler, with a schedule made from the reports when beat starts and when they change.

    redbeat ends when Redis is away for long, or when another beat has its lock. This one goes on: what fails
    in a tick is tried again in the next tick, a second later.
    """

    def __init__(self, app: Celery, *arguments: Any, **options: Any) -> None:
        logs.configure("beat")
        with exit_on_error():
            warn_of_unknown()
            self._reports = registry()
            warn_of(self._reports.broken)
            app.conf.beat_schedule = beat_schedule(self._reports)
        self._is_set_up = False
        super().__init__(app, *arguments, **options)

    def setup_schedule(self) -> None:
        """Write nothing yet: beat must start while Redis is away, so the first tick writes the schedule."""

    def tick(self, *arguments: Any, **options: Any) -> float:
        """Send what is due, and return the seconds until the next tick."""
        try:
            if (reports := registry()) is not self._reports:
                self._reports, self._is_set_up = reports, False
                self.app.conf.beat_schedule = beat_schedule(reports)
            if not self._is_set_up:
                super().setup_schedule()
                self._is_set_up = True
            if self.lock_key and self.lock is None:
                acquire_distributed_beat_lock(sender=SimpleNamespace(scheduler=self))
            return float(super().tick(*arguments, **options))
        except LockError:
            # The lock ran out while Redis or this process stood still, and another beat may lead by now.
            self.lock: Any = None
        except (RedisConnectionError, RedisTimeoutError) as error:
            # A Redis that comes back may be empty, and needs the schedule again.
            self._is_set_up = False
            logger.warning("beat: Redis cannot be reached (%s); again in a second", outage(error))
        return RETRY_SECONDS

    def close(self) -> None:
        """Give the lock back, unless Redis is away."""
        with contextlib.suppress(RedisError):
            super().close()
