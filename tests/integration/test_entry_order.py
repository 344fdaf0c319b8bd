"""Wrong clocks and changed reports, on real servers: the newest write wins, and no HIT is of old code."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from tests.support import refresh_once
from tests.support.http import ANALYTICS, Gateway
from tests.support.sample_reports import numbers
from tests.support.stack import ROOT, SAMPLES, Stack
from tests.support.variants import Variant, fresh
from tests.support.waiting import eventually

from holdfast.cache.entry import Entry, build, pack, unpack
from holdfast.cache.refresh import refresh
from holdfast.errors import OtherVersion

HOURS = 3600
YEAR = 365 * 24 * HOURS
SHIFT = """
import os, time
shift = float(os.environ.get("CLOCK_SHIFT") or 0)
real = time.time
time.time = lambda: real() + shift
"""
"""What a process of these tests runs at its start: the clock of its machine is off."""
CHANGING = """
from sqlalchemy import literal, select
from holdfast.reports import Params, Report

report = Report("changing", ttl=600, max_stale=3600, warm=[{{}}])


@report.postgres
def rows(p: Params):
    return select(literal({n}).label("n"))
"""


class Shop:
    """A stack whose processes may have a clock of their own and a report that changes."""

    def __init__(self, stack: Stack, *, name: str = "code") -> None:
        self.stack = stack
        self.code = stack.folder / name
        self.code.mkdir(exist_ok=True)
        (self.code / "sitecustomize.py").write_text(SHIFT)
        self.write(1)

    @property
    def settings(self) -> dict[str, str]:
        """The settings of its processes."""
        return {
            "REPORTS": f"{SAMPLES},changing_report",
            "PYTHONPATH": os.pathsep.join((str(self.code), str(ROOT))),
        }

    def write(self, n: int) -> None:
        """Let the report's result be another number."""
        (self.code / "changing_report.py").write_text(CHANGING.format(n=n))

    def supervisor(self, shift: float = 0) -> None:
        """Start the supervisor, with a clock that is off by so many seconds."""
        self.stack.supervisor(**self.settings, CLOCK_SHIFT=str(shift))

    def gateway(self, name: str, shift: float = 0) -> Gateway:
        """Start a gateway, with a clock that is off by so many seconds."""
        gateway = self.stack.gateway(
            name, until="readyz", GW_AUTH="off", **self.settings, CLOCK_SHIFT=str(shift)
        )
        eventually("the links of the gateway", gateway.linked)
        return gateway

    def work(self, variant: Variant | str, shift: float = 0, **settings: str) -> str:
        """Refresh a result in a process of its own, as a worker does: how it ended."""
        name = variant if isinstance(variant, str) else variant.name
        params = {} if isinstance(variant, str) else variant.params
        process = self.stack.start(
            sys.executable,
            str(Path(refresh_once.__file__)),
            name,
            *(f"{key}={value}" for key, value in params.items()),
            name=f"worker-{time.monotonic_ns()}",
            **{**self.settings, **settings},
            CLOCK_SHIFT=str(shift),
        )
        process.wait()
        return process.output().splitlines()[-1]


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """Servers, and whatever the tests start on them."""
    with Stack(servers=True) as stack:
        stack.servers.start()
        shop = Shop(stack)
        shop.supervisor()
        shop.gateway("right")
        yield shop


def forged(variant: Variant, ahead: float, token: int = 0, version: str = "") -> Entry:
    """An entry that says that it was computed in so many seconds."""
    rows: list[dict[str, Any]] = [{"n": -1}]
    return build(
        key=variant.key,
        report=variant.name,
        params={},
        rows=rows,
        computed_at=time.time() + ahead,
        ttl=600,
        max_stale=3600,
        token=token,
        version=version,
    )


def rows_of(answer: httpx.Response) -> list[int]:
    """The column n of an answer."""
    assert answer.status_code == 200, answer.text
    return [row["n"] for row in answer.json()["rows"]]


def placed(stack: Stack, key: str) -> Entry:
    """The entry in Redis."""
    entry = unpack(key, cast("bytes | None", stack.cache.get(key)))
    assert isinstance(entry, Entry), entry
    return entry


@pytest.mark.parametrize("ahead", [10, 2 * HOURS, YEAR])
@pytest.mark.parametrize("token", ["none", "now", "ahead"])
@pytest.mark.parametrize("way", ["worker", "DELETE", "supervisor"])
def test_an_entry_dated_ahead_is_replaced_within_two_seconds(
    shop: Shop, ahead: float, token: str, way: str
) -> None:
    """What a clock that was ahead left gives way to the next result, which is computed once."""
    stack, gateway = shop.stack, shop.stack.gateways["right"]
    variant = fresh(numbers, upto=2)
    tokens = {"none": 0, "now": int(time.time() * 1e6), "ahead": int((time.time() + ahead) * 1e6)}
    stack.cache.set(variant.key, pack(forged(variant, ahead, tokens[token])))
    answer = gateway.get(variant.target)
    assert (rows_of(answer), answer.headers["age"]) == ([-1], "0")
    runs = stack.runs("numbers")
    if way == "DELETE":
        assert gateway.http.delete(variant.path).status_code == 202
    elif way == "supervisor":
        work = stack.client.compute(variant.key, variant.name, variant.params, "stale", deadline=30)
        stack.run(work)
    else:
        work_of_a_worker = refresh(stack.client, variant.report, variant.params, "schedule", default_ttl=30)
        assert stack.run(work_of_a_worker).changed
    eventually("the new rows", lambda: rows_of(gateway.get(variant.target)) == [1, 2], within=2)
    eventually("a HIT", lambda: gateway.get_as("HIT", variant.target), within=2)
    entry = placed(stack, variant.key)
    assert abs(entry.computed_at - time.time()) < 5
    assert entry.token > tokens[token]
    time.sleep(0.3)  # Long enough for a loop to be seen.
    assert stack.runs("numbers") == runs + 1


def test_what_schema_1_left_is_computed_again(shop: Shop) -> None:
    """An entry of the release before has neither token nor version: it is never served."""
    variant = fresh(numbers, upto=2)
    shop.stack.cache.set(variant.key, b"HF\x01" + pack(forged(variant, 0))[3:])
    answer = shop.stack.gateways["right"].get(variant.target)
    assert (rows_of(answer), answer.headers["x-cache"]) == ([1, 2], "MISS")


@pytest.mark.parametrize("shift", [-2 * HOURS, 2 * HOURS], ids=["behind", "ahead"])
def test_a_workers_clock_dates_nothing(shop: Shop, shift: float) -> None:
    """A worker whose clock is two hours off leaves what a right one leaves, and the next one replaces it."""
    variant = fresh(numbers, upto=3)
    gateway = shop.stack.gateways["right"]
    assert shop.work(variant, shift) == "changed"
    first = placed(shop.stack, variant.key)
    assert abs(first.computed_at - time.time()) < 10
    assert gateway.get(variant.target).headers["x-cache"] == "HIT"
    assert shop.work(variant, -shift) == "unchanged"
    second = placed(shop.stack, variant.key)
    assert second.token > first.token
    assert second.computed_at > first.computed_at
    as_of = msgspec.json.decode(second.body)["as_of"]
    eventually("the second result", lambda: gateway.get(variant.target).json()["as_of"] == as_of, within=2)


@pytest.mark.parametrize("shift", [-2 * HOURS, 2 * HOURS], ids=["behind", "ahead"])
def test_a_gateways_clock_serves_what_a_right_one_serves(shop: Shop, shift: float) -> None:
    """A gateway whose clock is two hours off has the same HITs and Age, and nothing is computed again."""
    gateway = shop.gateway(f"shifted {shift}", shift)
    variant = fresh(numbers, upto=2)
    assert shop.stack.gateways["right"].get(variant.target).headers["x-cache"] == "MISS"
    runs = shop.stack.runs("numbers")
    for _ in range(3):
        answer = gateway.get(variant.target)
        assert answer.headers["x-cache"] == "HIT"
        assert int(answer.headers["age"]) <= 5
        assert "max-age=60" in answer.headers["cache-control"]
    assert shop.stack.runs("numbers") == runs
    other = fresh(numbers, upto=2)
    assert gateway.get(other.target).headers["x-cache"] == "MISS"
    assert gateway.get(other.target).headers["x-cache"] == "HIT"
    shop.stack.end_gateway(f"shifted {shift}")


@pytest.mark.parametrize("shift", [-2 * HOURS, 2 * HOURS], ids=["behind", "ahead"])
def test_a_supervisors_clock_dates_nothing(shop: Shop, shift: float) -> None:
    """A supervisor whose clock is two hours off computes, renews and deletes as a right one does."""
    stack, gateway = shop.stack, shop.stack.gateways["right"]
    stack.end_supervisor()
    shop.supervisor(shift)
    stack.mend()
    try:
        variant = fresh(numbers, upto=2)
        assert gateway.get(variant.target).headers["x-cache"] == "MISS"
        first = placed(stack, variant.key)
        assert abs(first.computed_at - time.time()) < 5
        runs = stack.runs("numbers")
        assert gateway.http.delete(variant.path).status_code == 202
        eventually("the renewal", lambda: placed(stack, variant.key).token > first.token, within=2)
        eventually("a HIT", lambda: gateway.get_as("HIT", variant.target), within=2)
        assert stack.runs("numbers") == runs + 1
    finally:
        stack.end_supervisor()
        shop.supervisor()


def states(stack: Stack) -> list[str]:
    """How fresh the variants of the changing report are shown."""
    return [s["state"] for s in stack.run(stack.client.report_states()) if s["report"] == "changing"]


def test_a_changed_report_is_stale_until_it_is_computed_again(shop: Shop) -> None:
    """After a change the old rows are STALE at most, the new ones are there in seconds; a worker with the old
    code is refused, and replaces nothing.
    """
    stack, gateway = shop.stack, shop.stack.gateways["right"]
    stack.mend()
    old = Shop(stack, name="old")
    eventually("a HIT", lambda: gateway.get_as("HIT", "changing"))
    assert rows_of(gateway.get("changing")) == [1]
    assert states(stack) == ["fresh"]
    stack.end_supervisor()
    assert gateway.get("changing").headers["x-cache"] == "HIT"
    shop.write(2)
    shop.supervisor()
    assert states(stack) == ["stale"]
    seen: list[tuple[str, int]] = []

    def renewed() -> bool:
        answer = gateway.get("changing")
        seen.append((answer.headers["x-cache"], rows_of(answer)[0]))
        return seen[-1] == ("HIT", 2)

    eventually("the new result", renewed, within=5)
    # What was there is a HIT until the gateway has the new catalogue; from then on it is STALE.
    first_stale = seen.index(("STALE", 1))
    assert ("HIT", 1) not in seen[first_stale:]
    assert states(stack) == ["fresh"]
    before = placed(stack, f"gwcache:{ANALYTICS}/changing")
    assert old.work("changing") == OtherVersion.__name__
    assert placed(stack, before.key) == before
    assert shop.work("changing") == "unchanged"


def test_two_deployments_on_one_cache_do_not_take_turns(shop: Shop) -> None:
    """The results of the supervisor that came last are kept; the other one serves its own from memory."""
    stack, gateway = shop.stack, shop.stack.gateways["right"]
    stack.mend()
    shop.write(3)
    with Stack(servers=stack.servers) as second:
        other = Shop(second)
        other.write(4)
        other.supervisor()
        theirs = other.gateway("theirs")
        eventually("a HIT of theirs", lambda: theirs.get_as("HIT", "changing"))
        ours = rows_of(gateway.get("changing"))
        eventually("a HIT of ours", lambda: gateway.get_as("HIT", "changing"))
        runs = stack.runs("changing"), second.runs("changing")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert rows_of(theirs.get("changing")) == [4]
            assert rows_of(gateway.get("changing")) == ours
            time.sleep(0.1)
        assert (stack.runs("changing"), second.runs("changing")) == runs
        assert b'"n":4' in placed(stack, f"gwcache:{ANALYTICS}/changing").body
