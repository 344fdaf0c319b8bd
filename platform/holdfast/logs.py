"""Logging by structlog: coloured lines on a terminal, JSON lines elsewhere.

An event is a sentence for people and an `action` for programs: `log.warning("Redis could not be read.",
action="cache_read_failed")`. The action is what searches and alerts name, so it never changes.
"""

from __future__ import annotations

import logging
import sys

import structlog


def configure(process: str) -> None:
    """Set up the logging of a process; every line carries its name.

    The loggers of the standard library (uvicorn, PyMongo, Celery) write to the same stream, from WARNING up.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    terminal = sys.stderr.isatty()
    rendered: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
