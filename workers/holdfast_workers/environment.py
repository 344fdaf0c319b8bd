"""The variables that Celery and Flower read by rules of their own: which of them count.

Celery takes the broker, the place of results, its configuration and its loader from variables that stand
above every setting of ours. In Holdfast BROKER_URL(_FILE) alone counts, in each of Celery's programs.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from holdfast.settings import PASSED_OVER_BY_CELERY


def pass_over(variables: MutableMapping[str, str] = os.environ) -> None:
    """Take the variables out of the environment that would change Celery's settings behind our back."""
    for name in PASSED_OVER_BY_CELERY:
        variables.pop(name, None)


def pool_name(pool: object) -> str:
    """The name of a pool: text from the command line, or the class that Celery made of it."""
    if isinstance(pool, str):
        return {"processes": "prefork"}.get(pool, pool)
    module = str(getattr(pool, "__module__", pool)).rpartition(".")[2]
    return {"thread": "threads"}.get(module, module)
