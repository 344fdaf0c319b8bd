"""The numbers that the docs name and that operators plan with."""

from __future__ import annotations

from types import ModuleType

import pytest

from holdfast.cache import entry, refresh
from holdfast.links import link
from holdfast.reports import canonical, params
from holdfast.rpc import client, frames, server
from holdfast.supervisor import catalogue, misses, operations, queries, runs
from holdfast_gateway import catalogue as gateway_catalogue
from holdfast_gateway import targets
from holdfast_gateway.l1 import lookup, memory

MINUTE = 60
DAY = 86_400


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        (refresh, "LEASE_SECONDS", 10),
        (refresh, "RENEW_EVERY", 2.5),
        (entry, "COMPRESS_FROM", 512),
        (entry, "SCHEMA", 2),
        (link, "PROBE_EVERY", 1),
        (link, "PROBE_TIMEOUT", 1),
        (link, "REACH_EVERY", 1),
        (link, "REACHABLE_CAP", 3),
        (canonical, "MAX_KEY", 2048),
        (params, "MAX_TEXT", 256),
        (frames, "MAX_FRAME", 33_554_432),
        (client, "CONNECT_TIMEOUT", 1),
        (client, "DEFAULT_DEADLINE", 35),
        (client, "STORE_DEADLINE", 5),
        (client, "WRITE_DEADLINE", 10),
        (server, "CALLS_PER_CONNECTION", 256),
        (server, "LONGEST_DEADLINE", 5 * MINUTE),
        (misses, "AT_ONCE", 4),
        (misses, "WAITING", 200),
        (misses, "DEADLINE", MINUTE),
        (misses, "LEASE_POLL", 0.1),
        (operations, "MAX_RUNS", 1000),
        (queries, "MAX_ROWS", 500_000),
        (runs, "KEEP_SECONDS", 7 * DAY),
        (runs, "QUEUE", 10_000),
        (runs, "BATCH", 500),
        (runs, "EVERY", 0.5),
        (catalogue, "TTL", 5 * MINUTE),
        (catalogue, "MAX_STALE", 30 * DAY),
        (catalogue, "PUBLISH_EVERY", MINUTE),
        (catalogue, "RETRY_EVERY", 1),
        (gateway_catalogue, "EVERY", 1),
        (gateway_catalogue, "EVERY_ALONE", 1),
        (gateway_catalogue, "EVERY_AT_FIRST", 0.1),
        (gateway_catalogue, "RENEW_AT_MOST_EVERY", 1),
        (targets, "MAX_TARGET", 4096),
        (memory, "TRUSTED_SECONDS", 1),
        (lookup, "REDIS_SECONDS", 0.5),
        (lookup, "COMPUTE_SECONDS", 70),
        (lookup, "RETRY_STALE_SECONDS", 1),
    ],
    ids=lambda value: value.__name__ if isinstance(value, ModuleType) else str(value),
)
def test_a_number_is_the_documented_one(module: ModuleType, name: str, number: float) -> None:
    """Who changes one of these bounds, periods or deadlines changes what the docs say of it, too."""
    assert getattr(module, name) == number
