"""The Celery workers: `celery -A holdfast_workers worker`."""

from holdfast_workers.app import app

__all__ = ["app"]
