"""The Celery workers: `celery -A holdfast_workers worker`."""

from typing import Any

from holdfast.errors import exit_on_error


def __getattr__(name: str) -> Any:
    """`app`, made when Celery asks for it: a wrong setting then ends in a line and not in a traceback."""
    if name != "app":
        raise AttributeError(name)
    with exit_on_error():
        from holdfast_workers.app import app

        return app
