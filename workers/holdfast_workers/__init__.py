"""The Celery workers: `celery -A holdfast_workers worker`."""

# Celery looks for the application under this name: `app` is the module here.
from holdfast_workers.app import app as celery

__all__ = ["celery"]
