"""Celery's side of a stack, and tasks that are sent by an application which is not Holdfast's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from celery import Celery
from tests.support.stack import Stack
from tests.support.variants import Variant

REFRESH = "holdfast.refresh"


@contextmanager
def celery_stack() -> Iterator[Stack]:
    """A stack with servers that run, and with no process of Holdfast's yet."""
    with Stack(servers=True) as stack:
        stack.servers.start()
        yield stack


class Sender:
    """Sends tasks to the queue of one broker."""

    def __init__(self, url: str) -> None:
        self._app = Celery("sender", broker=url, set_as_current=False)
        self._app.conf.update(
            task_default_queue="holdfast",
            task_ignore_result=True,
            broker_transport_options={"global_keyprefix": "celery:"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._app.close()

    def send(self, **arguments: Any) -> str:
        """Send a refresh with these arguments: the task's id."""
        return str(self._app.send_task(REFRESH, kwargs=arguments).id)

    def refresh(self, variant: Variant, **further: Any) -> str:
        """Send a refresh of that result: the task's id."""
        return self.send(report=variant.name, params=dict(variant.params), **further)

    def publish(self, body: bytes, content_type: str) -> None:
        """Put raw bytes into the queue, as a refresh of that content type."""
        with self._app.connection_for_write() as connection:
            connection.Producer(serializer=None).publish(
                body,
                exchange="",
                routing_key="holdfast",
                content_type=content_type,
                content_encoding="binary",
                headers={"task": REFRESH, "id": "raw", "lang": "py"},
            )
