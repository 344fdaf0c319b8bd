"""The gateway at its start, and while what is behind it is down."""

from __future__ import annotations

import asyncio
import contextlib
import time

import httpx
import pytest
from redis import Redis
from tests.support.http import ANALYTICS, SOON, Gateway, bearer, problem
from tests.support.process import gone
from tests.support.sample_reports import brief, numbers, slow
from tests.support.stack import Stack
from tests.support.variants import fresh
from tests.support.waiting import eventually, took


@pytest.mark.parametrize(
    ("variable", "words", "settings"),
    [
        ("GW_AUTH", "loopback", {"GW_AUTH": "off", "GW_HOST": "0.0.0.0"}),  # noqa: S104
        ("GW_PORT", "{open}", {"GW_AUTH": "off", "GW_PORT": "{open}"}),
        ("JWT_SECRET", "JWT_SECRET_FILE", {}),
        ("JWT_SECRET", "32", {"JWT_SECRET": "short-secret"}),
    ],
    ids=["open-beyond-loopback", "taken", "absent", "short"],
)
def test_who_cannot_start_says_so_in_a_line(
    gateways: Stack, variable: str, words: str, settings: dict[str, str]
) -> None:
    """GW_AUTH=off beyond loopback, a port that is taken, and an absent or short JWT_SECRET are refused at the
    start, each in one line that names the variable and shows no secret.
    """
    taken = gateways.gateways["open"]
    gateways.answers(taken.process, taken.port, "livez")
    given = {name: value.format(open=taken.port) for name, value in settings.items()}
    port = str(gateways.port("GW_PORT of one that cannot start"))
    line = gateways.start("gateway", name="refused", **{"GW_PORT": port, **given}).refusal()
    assert line.startswith(f"{variable}: ")
    assert words.format(open=taken.port) in line
    assert "short-secret" not in line


def test_a_killed_gateway_worker_is_replaced(stack: Stack, gateway: Gateway) -> None:
    """After kill -9 of the gateway's worker another one answers within 10 s, from what is in Redis."""
    target = fresh(numbers).target
    gateway.get(target)
    runs = stack.runs("numbers")
    for worker in gateway.process.family():
        if worker.pid != gateway.process.pid:
            worker.kill()
    answer = eventually("an answer", lambda: _reached(gateway, target), within=10)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "HIT")
    assert stack.runs("numbers") == runs
    assert gateway.process.running


def _reached(gateway: Gateway, target: str) -> httpx.Response | None:
    with contextlib.suppress(httpx.TransportError):
        answer = gateway.get(target)
        return answer if answer.status_code == 200 else None
    return None


def test_it_goes_on_without_postgres(stack: Stack, gateway: Gateway) -> None:
    """With Postgres killed, what is warm is answered 200, fresh or stale, and what is not is 503 with
    Retry-After; it is computed again within 10 s of Postgres' return.
    """
    warm, short, cold = fresh(numbers).target, fresh(brief).target, fresh(numbers).target
    gateway.get(warm)
    gateway.get(short)
    stack.servers.postgres.kill()
    assert gateway.get_soon(warm).headers["x-cache"] == "HIT"
    problem(gateway.get_soon(cold), 503)
    eventually("the link to be down", lambda: stack.link_states()["postgres"] != "up", within=3)
    answer = gateway.get_soon(cold)
    assert "Postgres is down" in problem(answer, 503)["detail"]
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    stale = eventually("it to be stale", lambda: gateway.get_as("STALE", short))
    assert stale.elapsed.total_seconds() < SOON
    assert gateway.get_soon(warm).headers["x-cache"] == "HIT"
    stack.servers.postgres.start()
    eventually("it to be computed", lambda: gateway.get(cold).status_code == 200, within=10)
    renewed = eventually("the stale one to be renewed", lambda: gateway.get_as("HIT", short))
    assert renewed.json()["as_of"] > stale.json()["as_of"]


def test_it_goes_on_without_redis(stack: Stack, gateway: Gateway, cache: Redis) -> None:
    """With Redis killed, what is in memory is answered as before, and misses are computed and kept in memory;
    Redis is used again within 10 s of its return.
    """
    warm, miss, next_miss = fresh(numbers).target, fresh(numbers).target, fresh(numbers).target
    body = gateway.get(warm).content
    runs = stack.runs("numbers")
    stack.servers.valkey.kill()
    answers = [gateway.get_soon(warm) for _ in range(3)]
    assert [(answer.status_code, answer.content) for answer in answers] == [(200, body)] * 3
    computed = eventually("a miss to be computed", lambda: _computed(gateway, miss), within=4)
    assert computed.headers["x-cache"] == "MISS"
    assert gateway.get_soon(miss).headers["x-cache"] == "HIT"
    eventually("the gateway to know", lambda: not gateway.metric("holdfast_link_up", link="redis"), within=4)
    assert gateway.get_soon(next_miss).headers["x-cache"] == "MISS"
    assert gateway.get_soon(next_miss).headers["x-cache"] == "HIT"
    assert stack.runs("numbers") == runs + 2
    assert gateway.get_soon(warm).headers["x-cache"] == "HIT"
    stack.servers.valkey.start()
    began = time.monotonic()
    stack.mend()
    assert took(began) < 10
    after = fresh(numbers)
    gateway.get(after.target)
    assert cache.exists(after.key)


def _computed(gateway: Gateway, target: str) -> httpx.Response | None:
    answer = gateway.get_soon(target)
    assert answer.status_code in {200, 503}, answer.text
    return answer if answer.status_code == 200 else None


def test_it_goes_on_without_the_supervisor(stack: Stack, gateway: Gateway, closed: Gateway) -> None:
    """With the supervisor killed, what is warm (in memory or in Redis, fresh or stale) is answered 200 and
    what is not is 503 with Retry-After, all within 2 s, also what was being computed at that moment; it is
    used again within 10 s of its return.
    """
    warm, short, cold, stored = fresh(numbers), fresh(brief), fresh(numbers), fresh(numbers)
    gateway.get(warm.target)
    gateway.get(short.target)
    stack.run(stack.client.compute(stored.key, stored.name, stored.params, "schedule", deadline=30))
    path = fresh(slow, ms=9000).path
    waiting = stack.background.start(asyncio.to_thread(closed.http.get, path, headers=bearer()))
    eventually("the query", lambda: stack.servers.sleeping() == 1)
    stack.supervisor().kill()
    problem(waiting.result(SOON), 503)
    for _ in range(5):
        assert_unavailable(gateway.get_soon(cold.target))
        assert gateway.get_soon(warm.target).headers["x-cache"] == "HIT"
    assert gateway.get_soon(stored.target).headers["x-cache"] == "HIT"
    eventually("it to be stale", lambda: gateway.get_as("STALE", short.target))
    problem(gateway.get("none"), 404)
    problem(gateway.get("numbers?upto=0"), 422)
    assert gateway.http.get("/livez").status_code == 200
    assert gateway.http.get("/readyz").status_code == 200
    stack.mend()
    eventually("it to be computed", lambda: gateway.get(cold.target).status_code == 200, within=10)


def assert_unavailable(answer: httpx.Response) -> None:
    """The answer is 503 with a time to come back."""
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1


def test_it_starts_with_everything_down_and_heals(stack: Stack) -> None:
    """With no Redis and no supervisor it starts, is alive and not ready, and says 503; when they appear it
    becomes ready and answers, by itself.
    """
    stack.supervisor().kill()
    stack.servers.kill()
    cold = stack.gateway("cold", until="livez", GW_AUTH="off")
    assert cold.http.get("/readyz").status_code == 503
    assert_unavailable(cold.get("numbers"))
    assert_unavailable(cold.http.get(ANALYTICS))
    stack.mend()
    eventually("it to be ready", lambda: cold.http.get("/readyz").status_code == 200, within=10)
    eventually("an answer", lambda: cold.get("numbers?upto=3").status_code == 200)
    pids = [process.pid for process in cold.process.family()]
    stack.end_gateway("cold")
    gone(pids)
