"""`holdfast warm` of an author's reports that fail, are slow, or are not fresh for long, by a real worker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from tests.support.servers import Servers
from tests.support.stack import Stack
from tests.support.waiting import eventually, took

REPORTS = '''
from sqlalchemy import String, func, literal, literal_column, select

from holdfast.reports import Params, Report, variants


class NumberParams(Params):
    n: int = 0


def slow(name, ms, **options):
    report = Report(name, params=NumberParams, **options)

    @report.postgres
    def rows(p: NumberParams):
        return select(func.pg_sleep(ms / 1000).cast(String).label("waited"), literal(p.n).label("n"))

    return report


brief = slow("brief", 400, ttl=2, schedule=2, warm=variants(n=range(20)))
quick = slow("quick", 0, ttl=600, warm=variants(n=range(3)))

half = Report("half", params=NumberParams, ttl=600, warm=variants(n=range(4)))


@half.postgres
def shares(p: NumberParams):
    """Fails for even numbers."""
    return select((literal(1) / (literal(p.n) % 2)).label("share"))


broken = Report("broken", ttl=600, warm=[{}])


@broken.postgres
def missing(p: Params):
    return select(literal_column("nothing")).select_from(literal_column("no_such_table"))


raising = Report("raising", ttl=600, warm=[{}])


@raising.postgres
def one(p: Params):
    return select(literal(1).label("n"))


@raising.compute
def total(p: Params, data):
    return [{"n": data[one][0]["m"]}]
'''


@pytest.fixture(scope="module")
def stack(link_servers: Servers) -> Iterator[Stack]:
    """A supervisor and a worker with one child; the report's module is in their working directory alone."""
    with Stack(servers=link_servers, REPORTS="warmed") as made:
        (made.folder / "warmed.py").write_text(REPORTS)
        made.supervisor()
        worker = made.worker("--concurrency=1")
        eventually("the worker", lambda: "ready." in worker.output(), within=30)
        yield made


def warm(stack: Stack, *arguments: str, within: float = 30.0) -> tuple[int, str]:
    """The exit status of `holdfast warm`, and what it printed."""
    command = stack.start("warm", *arguments, **stack.servers.valkey.broker_env())
    return command.wait(within), command.output()


def test_a_warm_up_may_take_longer_than_its_results_are_fresh(stack: Stack) -> None:
    """Twenty variants of 400 ms, fresh for 2 s, by one worker: all are computed, and the command succeeds."""
    assert warm(stack, "brief", within=60) == (0, "20 variants are warm.\n")


@pytest.mark.parametrize(
    ("report", "failed", "reason"),
    [("broken", 1, "no_such_table"), ("raising", 1, "'m'"), ("half", 2, "division by zero")],
)
def test_a_report_that_fails_ends_it_at_once_with_the_reason(
    stack: Stack, report: str, failed: int, reason: str
) -> None:
    """It ends with status 1 when every variant is warm or has failed, and names each that failed and why."""
    began = time.monotonic()
    status, printed = warm(stack, report)
    assert took(began) < 15
    assert status == 1
    assert printed.count("failed   /api/v1/analytics/") == failed
    assert reason in printed


def test_json_says_the_same(stack: Stack) -> None:
    """`--json` prints one document: how many variants, how many are warm, and what failed."""
    status, printed = warm(stack, "half", "--json")
    document = json.loads(printed)
    assert status == 1
    assert (document["variants"], document["warm"], document["complete"]) == (4, 2, False)
    assert {each["url"] for each in document["failed"]} == {
        "/api/v1/analytics/half",
        "/api/v1/analytics/half?n=2",
    }
    assert json.loads(warm(stack, "quick", "--json")[1]) == {
        "variants": 3,
        "warm": 3,
        "failed": [],
        "waiting": [],
        "complete": True,
    }


def test_missing_ones_alone(stack: Stack) -> None:
    """`--missing` ends at once where everything is fresh already."""
    assert warm(stack, "quick")[0] == 0
    began = time.monotonic()
    assert warm(stack, "quick", "--missing") == (0, "3 variants are warm.\n")
    assert took(began) < 10


def test_without_a_supervisor_nothing_is_sent(stack: Stack) -> None:
    """Where the supervisor is away the command says so in a line and sends nothing: no result could come."""
    command = stack.start(
        "warm",
        "quick",
        SUPERVISOR_SOCKET=str(stack.folder / "none.sock"),
        **stack.servers.valkey.broker_env(),
    )
    assert command.wait(30) == 1
    assert command.output().startswith("Nothing is sent: ")
