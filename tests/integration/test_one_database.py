"""A supervisor with one database: the other one is unused, and nothing waits for it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.support.servers import Servers
from tests.support.stack import Stack
from tests.support.waiting import eventually

from holdfast.errors import LinkUnused

ANSWERED = {"postgres": "numbers.squares", "mongo": "readings.by_place"}

COLD = {"postgres": "numbers?upto=97", "mongo": "readings"}


@pytest.fixture(scope="module", params=["postgres", "mongo"])
def used(request: pytest.FixtureRequest) -> str:
    """The database that is configured."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def stack(used: str, link_servers: Servers) -> Iterator[Stack]:
    """A supervisor that is given Redis and one database, and a gateway in front of it."""
    with Stack(servers=link_servers) as made:
        given = {**link_servers.valkey.env(), **getattr(link_servers, used).env()}
        supervisor = made.start("supervisor", **given)
        made.answers(supervisor, made.port(), "readyz")
        made.gateway(GW_AUTH="off", until="readyz")
        yield made


def other(used: str) -> str:
    """The database that is not configured."""
    return {"postgres": "mongo", "mongo": "postgres"}[used]


def test_the_other_one_is_unused(stack: Stack, used: str) -> None:
    """The state of its link is `unused` in /status, `holdfast status` and the metrics; all is ready."""
    assert stack.link_states() == {used: "up", other(used): "unused", "redis": "up"}
    assert stack.admin("readyz").status_code == 200
    assert stack.metric("holdfast_link_changes_total", link=other(used), state="unused") == 1
    command = stack.start("status", "--json")
    assert command.wait() == 0
    assert json.loads(command.output())["links"][other(used)]["state"] == "unused"


def test_what_has_its_database_is_answered(stack: Stack, used: str) -> None:
    """A query on the database that is there has its rows or none, and no error."""
    assert stack.run(stack.client.query(ANSWERED[used], {})) is not None


def test_a_report_that_needs_the_other_one_says_so(stack: Stack, used: str) -> None:
    """The error names the setting, at once, and is not one that passes; the gateway names the database."""
    with pytest.raises(LinkUnused, match=f"{other(used).upper()}_URL"):
        stack.run(stack.client.query(ANSWERED[other(used)], {}))
    # Another stack on the same servers may have computed it.
    stack.cache.delete(f"gwcache:/api/v1/analytics/{COLD[other(used)]}")
    answer = stack.gateways["gateway"].get(COLD[other(used)])
    assert answer.status_code == 503
    assert {"postgres": "Postgres", "mongo": "MongoDB"}[other(used)] in answer.json()["detail"]


def test_runs_are_kept(stack: Stack, used: str) -> None:
    """`holdfast runs` shows what ran, of one report too, whichever database there is."""
    report = ANSWERED[used].partition(".")[0]
    assert stack.gateways["gateway"].get(report).status_code == 200
    run, *_ = eventually("the run", lambda: stack.run(stack.client.runs(report)), within=5)
    assert (run["report"], run["trigger"], run["error"]) == (report, "miss", None)
    assert stack.run(stack.client.runs("no-such-report")) == []
