"""The tasks: thin shells around `holdfast.cache.refresh`."""

from __future__ import annotations

from typing import Any, get_args

from celery import Task
from celery.utils.log import get_task_logger

from holdfast.backoff import exponential
from holdfast.cache.refresh import RefreshResult
from holdfast.cache.refresh import refresh as refresh_entry
from holdfast.cache.run import Trigger
from holdfast.errors import HoldfastError, InvalidParams, LeaseHeld
from holdfast.reports.canonical import Scalar
from holdfast.rpc.client import Client
from holdfast.settings import CacheSettings
from holdfast_workers.app import app
from holdfast_workers.runtime import child
from holdfast_workers.schedule import registry

RETRIES = 5
log = get_task_logger(__name__)


@app.task(name="holdfast.cache.refresh", bind=True, max_retries=RETRIES)
def refresh(
    self: Task,
    report: str,
    params: dict[str, Scalar],
    trigger: Trigger = "manual",
    only_if_due: bool = False,
) -> str:
    """Compute one result and store it: "changed", "unchanged" or, where another process is at it, "held".

    An error that may pass is tried again, up to five times, after 1, 2, 4, 8 and 16 seconds.
    """
    found = registry().get(report)
    checked = found.reader.parse(params)
    if trigger not in get_args(Trigger):
        raise InvalidParams(f"trigger: must be one of {', '.join(get_args(Trigger))}")

    async def work(client: Client) -> RefreshResult:
        return await refresh_entry(
            client,
            found,
            checked,
            trigger,
            default_ttl=CacheSettings.load().ttl,
            only_if_due=only_if_due,
        )

    try:
        return "changed" if child().run(work).changed else "unchanged"
    except LeaseHeld:
        return "held"
    except HoldfastError as error:
        if not error.retryable:
            raise
        delay = exponential(self.request.retries + 1, base=1.0, cap=30.0)
        log.warning("%s: %s; again in %g s", found.reader.url(checked), error, delay)
        raise self.retry(exc=error, countdown=delay) from None


@app.task(name="holdfast.warm", bind=True)
def warm(
    self: Task,
    report: str | None = None,
    trigger: Trigger = "manual",
    only_if_due: bool = False,
) -> int:
    """Ask for a refresh of each warm variant of a report, or of all of them: how many were asked for."""
    chosen = [registry().get(report)] if report else list(registry())
    sent = 0
    with app.producer_or_acquire() as producer:
        for found in chosen:
            for params in found.warm:
                arguments: dict[str, Any] = {
                    "report": found.name,
                    "params": params,
                    "trigger": trigger,
                    "only_if_due": only_if_due,
                }
                # What waited for a whole period is asked for anew by the schedule.
                expires = found.schedule or 3600
                refresh.apply_async(kwargs=arguments, producer=producer, expires=expires)
                sent += 1
    log.info("asked for %d refreshes (task %s)", sent, self.request.id)
    return sent
