"""The gateway at its start, and while what is behind it is down."""

from __future__ import annotations

import asyncio
import contextlib
import time

import httpx
from tests.conftest import eventually, free_port
from tests.integration.processes import gone, took
from tests.integration.town import ANALYTICS, FEW, Town, answered, bearer, problem


def test_who_cannot_start_says_so_in_a_line(town: Town) -> None:
    """GW_AUTH=off beyond loopback, a port that is taken, and an absent or short JWT_SECRET are refused at the
    start, each in one line that names the variable and shows no secret.
    """
    cases: dict[str, tuple[str, str, dict[str, str]]] = {
        "beyond": ("GW_AUTH: ", "loopback", {"GW_AUTH": "off", "GW_HOST": "0.0.0.0"}),  # noqa: S104
        "taken": ("GW_PORT: ", str(town.open_port), {"GW_AUTH": "off", "GW_PORT": str(town.open_port)}),
        "absent": ("JWT_SECRET: ", "JWT_SECRET_FILE", {}),
        "short": ("JWT_SECRET: ", "32", {"JWT_SECRET": "short-secret"}),
    }
    started = {
        name: town.platform.start("gateway", name=name, **{"GW_PORT": str(free_port()), **settings})
        for name, (_, _, settings) in cases.items()
    }
    for name, (variable, words, _) in cases.items():
        line = town.platform.refused(started[name])
        assert line.startswith(variable)
        assert words in line
        assert "short-secret" not in line


def test_a_killed_gateway_worker_is_replaced(town: Town) -> None:
    """After kill -9 of the gateway's worker another one answers within 10 s, from what is in Redis."""
    town.get("numbers?upto=2")
    computed = town.computed("numbers")
    workers = [process for process in town.open_gateway.family() if process.pid != town.open_gateway.pid]
    for worker in workers:
        worker.kill()
    answer = eventually("an answer", lambda: _reached(town, "numbers?upto=2"), within=10)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "HIT")
    assert town.computed("numbers") == computed
    assert town.open_gateway.running


def _reached(town: Town, target: str) -> httpx.Response | None:
    with contextlib.suppress(httpx.TransportError):
        answer = town.get(target)
        return answer if answer.status_code == 200 else None
    return None


def test_it_goes_on_without_postgres(town: Town) -> None:
    """With Postgres killed, what is warm is answered 200, fresh or stale, and what is not is 503 with
    Retry-After; it is computed again within 10 s of Postgres' return.
    """
    town.get("numbers?upto=2")
    town.get("brief?upto=2")
    town.servers.postgres.kill()
    assert town.timed("numbers?upto=2").headers["x-cache"] == "HIT"
    answer = town.timed("numbers?upto=31")
    problem(answer, 503)
    eventually("the link to be down", lambda: town.states()["postgres"] != "up", within=3)
    answer = town.timed("numbers?upto=31")
    assert "Postgres is down" in problem(answer, 503)["detail"]
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    stale = eventually("it to be stale", lambda: answered(town, "brief?upto=2", "STALE"))
    assert stale.elapsed.total_seconds() < FEW
    assert town.timed("numbers?upto=2").headers["x-cache"] == "HIT"
    town.servers.postgres.start()
    eventually("it to be computed", lambda: town.get("numbers?upto=31").status_code == 200, within=10)
    renewed = eventually("the stale one to be renewed", lambda: answered(town, "brief?upto=2", "HIT"))
    assert renewed.json()["as_of"] > stale.json()["as_of"]


def test_it_goes_on_without_redis(town: Town) -> None:
    """With Redis killed, what is in memory is answered as before, and misses are computed and kept in memory;
    Redis is used again within 10 s of its return.
    """
    warm = town.get("numbers?upto=2").content
    town.servers.valkey.kill()
    for _ in range(3):
        answer = town.timed("numbers?upto=2")
        assert (answer.status_code, answer.content) == (200, warm)
    computed = town.computed("numbers")
    miss = eventually("a miss to be computed", lambda: _computed(town, "numbers?upto=32"), within=4)
    assert miss.headers["x-cache"] == "MISS"
    assert town.timed("numbers?upto=32").headers["x-cache"] == "HIT"
    eventually("the gateway to know", lambda: town.counted("holdfast_link_up", link="redis") == 0, within=4)
    assert town.timed("numbers?upto=33").headers["x-cache"] == "MISS"
    assert town.timed("numbers?upto=33").headers["x-cache"] == "HIT"
    assert town.computed("numbers") == computed + 2
    assert town.timed("numbers?upto=2").headers["x-cache"] == "HIT"
    town.servers.valkey.start()
    began = time.monotonic()
    town.mend()
    assert took(began) < 10
    town.get("numbers?upto=36")
    assert town.cache.exists(f"gwcache:{ANALYTICS}/numbers?upto=36")


def _computed(town: Town, target: str) -> httpx.Response | None:
    answer = town.timed(target)
    assert answer.status_code in {200, 503}, answer.text
    return answer if answer.status_code == 200 else None


def test_it_goes_on_without_the_supervisor(town: Town) -> None:
    """With the supervisor killed, what is warm (in memory or in Redis, fresh or stale) is answered 200 and
    what is not is 503 with Retry-After, all within 2 s, also what was being computed at that moment; it is
    used again within 10 s of its return.
    """
    town.get("numbers?upto=2")
    town.get("brief?upto=4")
    params = {"upto": 40, "word": ""}
    town.on_the_socket(lambda c: c.call("compute", report="numbers", params=params, trigger="schedule"))

    async def ask() -> httpx.Response:
        target = f"{ANALYTICS}/slow?ms=9000"
        return await asyncio.to_thread(town.closed.get, target, headers=bearer())

    waiting = town.background.start(ask())
    eventually("the query", lambda: town.platform.status()["links"]["postgres"]["pool"]["in_use"] == 1)
    town.supervisor.kill()
    problem(waiting.result(FEW), 503)
    for _ in range(5):
        answer = town.timed("numbers?upto=41")
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        assert town.timed("numbers?upto=2").headers["x-cache"] == "HIT"
    assert town.timed("numbers?upto=40").headers["x-cache"] == "HIT"
    eventually("it to be stale", lambda: answered(town, "brief?upto=4", "STALE"))
    problem(town.get("none"), 404)
    problem(town.get("numbers?upto=0"), 422)
    assert town.http.get("/livez").status_code == 200
    assert town.http.get("/readyz").status_code == 200
    town.mend()
    eventually("it to be computed", lambda: town.get("numbers?upto=41").status_code == 200, within=10)


def test_it_starts_with_everything_down_and_heals(town_of_the_module: Town) -> None:
    """With no Redis and no supervisor it starts, is alive and not ready, and says 503; when they appear it
    becomes ready and answers, by itself.
    """
    town = town_of_the_module
    town.supervisor.kill()
    town.servers.kill()
    port = free_port()
    gateway = town.gateway("cold", port, GW_AUTH="off")
    town.platform.answers(gateway, port, "livez")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503
        for path in (f"{ANALYTICS}/numbers", ANALYTICS):
            answer = client.get(path)
            problem(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
        town.mend()
        eventually("it to be ready", lambda: client.get("/readyz").status_code == 200, within=10)
        eventually("an answer", lambda: client.get(f"{ANALYTICS}/numbers?upto=3").status_code == 200)
        pids = [process.pid for process in gateway.family()]
        assert gateway.terminate() == 0
    gone(pids)
