"""The tasks: thin shells around `holdfast.cache.refresh`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, get_args

from celery import Task
from celery.utils.log import get_task_logger

from holdfast.backoff import exponential
from holdfast.cache.refresh import RefreshResult
from holdfast.cache.refresh import refresh as refresh_entry
from holdfast.cache.run import Run, Trigger
from holdfast.errors import HoldfastError, InvalidParams, LeaseHeld
from holdfast.reports.canonical import Scalar
from holdfast.rpc.client import Client
from holdfast.settings import CacheSettings
from holdfast_workers.app import REFRESH_TASK, WARM_TASK, app
from holdfast_workers.registry import registry
from holdfast_workers.runtime import runtime

RETRIES = 5
log = get_task_logger(__name__)


@contextlib.contextmanager
def _refusal_recorded(report: str, trigger: str) -> Iterator[None]:
    """Record what ends a task before its report is known: whoever asked for it finds it in the runs."""
    try:
        yield
    except HoldfastError as error:
        known: Trigger = trigger if trigger in get_args(Trigger) else "manual"  # type: ignore[assignment] # just checked
        run = Run(report=report, key="", params={}, trigger=known, started_at=time.time(), error=str(error))
        with contextlib.suppress(HoldfastError):
            runtime().run(lambda client: client.record(run))
        raise


@app.task(name=REFRESH_TASK, bind=True, max_retries=RETRIES)
def refresh(
    self: Task,
    report: str,
    params: dict[str, Scalar],
    trigger: Trigger = "manual",
    only_if_due: bool = False,
) -> str:
    """Compute one result and store it: "changed", "unchanged", or "held" while another process computes it.

    After an error that may pass, the task runs again, at most five times, after 1, 2, 4, 8 and 16 seconds.
    """
    with _refusal_recorded(report, trigger):
        definition = registry().get(report)
        checked = definition.reader.parse(params)
        if trigger not in get_args(Trigger):
            raise InvalidParams(f"trigger: must be one of {', '.join(get_args(Trigger))}")

    async def work(client: Client) -> RefreshResult:
        return await refresh_entry(
            client,
            definition,
            checked,
            trigger,
            default_ttl=CacheSettings.load().ttl,
            only_if_due=only_if_due,
        )

    try:
        return "changed" if runtime().run(work).changed else "unchanged"
    except LeaseHeld:
        return "held"
    except HoldfastError as error:
        if not error.retryable:
            raise
        delay = exponential(self.request.retries + 1, base=1.0, cap=30.0)
        log.warning("%s: %s; again in %g s", definition.reader.url(checked), error, delay)
        raise self.retry(exc=error, countdown=delay) from None


@app.task(name=WARM_TASK, bind=True)
def warm(
    self: Task,
    report: str | None = None,
    trigger: Trigger = "manual",
    only_if_due: bool = False,
) -> int:
    """Send a refresh for each warm variant of one report or of all, and return how many were sent."""
    with _refusal_recorded(report or "", trigger):
        chosen = [registry().get(report)] if report else list(registry())
    sent = 0
    with app.producer_or_acquire() as producer:
        for definition in chosen:
            for params in definition.warm:
                arguments: dict[str, Any] = {
                    "report": definition.name,
                    "params": params,
                    "trigger": trigger,
                    "only_if_due": only_if_due,
                }
                # The schedule sends it again after a period: what waited for so long is not needed. A person
                # waits for what was asked for by hand.
                expires = (definition.schedule if trigger == "schedule" else None) or 3600
                refresh.apply_async(kwargs=arguments, producer=producer, expires=expires)
                sent += 1
    log.info("asked for %d refreshes (task %s)", sent, self.request.id)
    return sent
