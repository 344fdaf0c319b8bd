"""refresh(), the one way to a new entry: over a real socket, into a real Redis, recorded in MongoDB."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from tests.support import refresh_once, sample_reports
from tests.support.process import Process
from tests.support.stack import Stack
from tests.support.variants import Variant, fresh
from tests.support.waiting import eventually, took

from holdfast.cache.entry import Entry, Freshness, Unusable, unpack
from holdfast.cache.refresh import RefreshResult, refresh
from holdfast.errors import ComputeFailed, LeaseHeld, LeaseLost, LinkDown, QueryFailed
from holdfast.supervisor.runs import KEEP_SECONDS

LEDGER = Variant(sample_reports.ledger, {})
KEY = LEDGER.key


@pytest.fixture(scope="module")
def supervised() -> Iterator[Stack]:
    """A supervisor on servers of its own."""
    with Stack(servers=True) as stack:
        stack.servers.start()
        stack.supervisor()
        stack.servers.execute("CREATE TABLE ledger (account text PRIMARY KEY, amount integer NOT NULL)")
        yield stack


@pytest.fixture
def stack(supervised: Stack) -> Stack:
    """The same, with the same facts for each test, and no entry of the ledger."""
    supervised.mend()
    facts = "TRUNCATE ledger; INSERT INTO ledger VALUES ('north', 10), ('south', 20)"
    supervised.servers.execute(facts)
    supervised.cache.delete(KEY)
    return supervised


def refreshed(stack: Stack, variant: Variant = LEDGER) -> RefreshResult:
    """What a refresh of that result ends in, done as a worker does it."""
    return stack.run(refresh(stack.client, variant.report, variant.params, "manual", default_ttl=30))


def refreshing(stack: Stack, variant: Variant) -> Process:
    """A refresh in a process of its own, which has its lease."""
    pairs = [f"{name}={value}" for name, value in variant.params.items()]
    script = str(Path(refresh_once.__file__))
    name = f"refresh-{time.monotonic_ns()}"
    process = stack.start(sys.executable, script, variant.name, *pairs, name=name)
    eventually("the lease", lambda: stack.cache.exists(variant.lease))
    return process


def stored(stack: Stack, key: str) -> bytes | None:
    """The bytes under a key."""
    return cast("bytes | None", stack.cache.get(key))


def entry_at(stack: Stack, key: str) -> Entry:
    """The entry under a key."""
    entry = unpack(key, stored(stack, key))
    assert isinstance(entry, Entry), entry
    return entry


def runs(stack: Stack, report: str) -> list[dict[str, Any]]:
    """The recorded runs of a report, newest first."""
    return stack.run(stack.client.runs(report, limit=100))


def computed(stack: Stack, variant: Variant) -> Entry:
    """What the supervisor computes for a miss."""
    work = stack.client.compute(variant.key, variant.name, variant.params, "miss", deadline=30)
    return stack.run(work)


def test_a_refresh_puts_the_entry_where_readers_look(stack: Stack) -> None:
    """The entry is in Redis under gwcache:{canonical URL}; Redis drops it at its stale_until."""
    before = time.time()
    result = refreshed(stack)
    assert result.changed
    entry = entry_at(stack, "gwcache:/api/v1/analytics/ledger")
    assert entry == result.entry
    assert before <= entry.computed_at <= time.time()
    # The ttl counts from when the result was there, its age from before the first query.
    assert entry.computed_at + 600 <= entry.fresh_until <= time.time() + 600
    assert entry.stale_until == pytest.approx(entry.fresh_until + 3600)
    assert stack.cache.pexpiretime(KEY) == int(entry.stale_until * 1000)
    assert msgspec.json.decode(entry.body) == {
        "report": "ledger",
        "params": {},
        "as_of": msgspec.json.decode(entry.body)["as_of"],
        "rows": [
            {"account": "north", "amount": 10, "share": 100},
            {"account": "south", "amount": 20, "share": 50},
        ],
    }
    assert entry.rows == 2


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"word": "ö & x/y", "upto": "3"}, "numbers?upto=3&word=%C3%B6%20%26%20x%2Fy"),
        ({"word": "", "upto": 10}, "numbers"),
    ],
    ids=["escaped", "defaults"],
)
def test_a_key_is_the_canonical_url(stack: Stack, given: dict[str, Any], url: str) -> None:
    """Parameters are sorted, defaults left out and values written in one way, whatever way they came in."""
    params = sample_reports.numbers.reader.parse(given)
    refreshed(stack, Variant(sample_reports.numbers, params))
    assert entry_at(stack, f"gwcache:/api/v1/analytics/{url}").rows == int(given["upto"])


def test_unchanged_rows_keep_their_digest(stack: Stack) -> None:
    """A refresh that finds the same rows moves the times and keeps the digest, hence the ETag; new rows get a
    new one. The supervisor, computing a miss, has the same digest for the same rows.
    """
    first = refreshed(stack).entry
    again = refreshed(stack)
    assert not again.changed
    assert again.entry.digest == first.digest
    assert again.entry.computed_at > first.computed_at
    assert entry_at(stack, KEY) == again.entry
    stack.cache.delete(KEY)
    assert computed(stack, LEDGER).digest == first.digest
    stack.servers.execute("UPDATE ledger SET amount = 40 WHERE account = 'north'")
    changed = refreshed(stack)
    assert changed.changed
    assert changed.entry.digest != first.digest


def test_a_failed_computation_leaves_the_entry_alone(stack: Stack) -> None:
    """When a query fails, the entry in place stays as it was, byte for byte, and the run is on record."""
    refreshed(stack)
    before = stored(stack, KEY)
    stack.servers.execute("UPDATE ledger SET amount = 0 WHERE account = 'south'")
    with pytest.raises(QueryFailed):
        refreshed(stack)
    assert stored(stack, KEY) == before
    assert stack.cache.pexpiretime(KEY) == int(entry_at(stack, KEY).stale_until * 1000)
    newest = eventually("the run", lambda: _failed(runs(stack, "ledger")[0]))
    assert newest["error"].startswith("QueryFailed: ")
    assert newest["digest"] is None
    stack.servers.execute("UPDATE ledger SET amount = 5 WHERE account = 'south'")
    assert refreshed(stack).changed, "the lease of the failed one was not given back"


def _failed(run: dict[str, Any]) -> dict[str, Any] | None:
    return run if run["outcome"] == "failed" else None


@pytest.mark.parametrize(
    ("where", "error"), [("query", QueryFailed), ("one-of-two", QueryFailed), ("function", ComputeFailed)]
)
def test_nothing_is_stored_of_a_partial_result(stack: Stack, where: str, error: type[Exception]) -> None:
    """A report fails as a unit, when one of its queries or its function does, and stores nothing."""
    with pytest.raises(error) as failed:
        refreshed(stack, Variant(sample_reports.failing, {"where": where}))
    assert not cast("Any", failed.value).retryable
    assert list(stack.cache.scan_iter("gwcache:/api/v1/analytics/failing*")) == []
    eventually("the run", lambda: runs(stack, "failing")[0]["params"] == {"where": where})


def test_two_at_once_compute_once(stack: Stack) -> None:
    """While one process computes a result and keeps its lease, another one gets LeaseHeld."""
    variant = fresh(sample_reports.slow, ms=3000)
    holder = refreshing(stack, variant)
    with pytest.raises(LeaseHeld):
        refreshed(stack, variant)
    lowest = eventually("the lease to age", lambda: _below(stack.cache.pttl(variant.lease), 9000))
    eventually("the lease to be renewed", lambda: stack.cache.pttl(variant.lease) > lowest)
    assert holder.wait() == 0
    assert holder.output().splitlines()[-1] == "changed"
    assert not stack.cache.exists(variant.lease)
    mine = eventually("the run", lambda: [r for r in runs(stack, "slow") if r["key"] == variant.key])
    assert [run["outcome"] for run in mine] == ["changed"]


def _below(milliseconds: Any, limit: int) -> int:
    return milliseconds if 0 < milliseconds < limit else 0


def test_who_slept_through_its_lease_cannot_overwrite(stack: Stack) -> None:
    """A process that was stopped while another one made a newer entry fails with LeaseLost, and the newer
    entry stands.
    """
    variant = fresh(sample_reports.slow, ms=1500)
    sleeper = refreshing(stack, variant)
    sleeper.signal(signal.SIGSTOP)
    # What ten seconds would do.
    stack.cache.delete(variant.lease)
    refreshed(stack, variant)
    newer = stored(stack, variant.key)
    sleeper.signal(signal.SIGCONT)
    assert sleeper.wait() == 0
    assert sleeper.output().splitlines()[-1] == "LeaseLost"
    assert stored(stack, variant.key) == newer


@pytest.mark.parametrize("kind", ["older", "later", "none"])
def test_a_write_needs_the_token_of_the_lease(stack: Stack, kind: str) -> None:
    """A write, a renewal and a release need the token of the lease as it is now: with an older one, another
    one or none, a write and a renewal are refused, and a release does nothing.
    """
    entry = refreshed(stack).entry
    before = stored(stack, KEY)
    client, run = stack.client, stack.run
    first = run(client.acquire(KEY, 30))
    with pytest.raises(LeaseHeld):
        run(client.acquire(KEY, 30))
    run(client.release(KEY, first))
    token = run(client.acquire(KEY, 30))
    assert token > first
    wrong = {"older": first, "later": token + 1, "none": 0}[kind]
    with pytest.raises(LeaseLost):
        run(client.write(entry, wrong))
    with pytest.raises(LeaseLost):
        run(client.renew(KEY, wrong, 30))
    run(client.release(KEY, wrong))
    assert stored(stack, KEY) == before
    run(client.write(msgspec.structs.replace(entry, rows=7), token))
    assert entry_at(stack, KEY).rows == 7
    run(client.release(KEY, token))


@pytest.mark.parametrize("kind", ["empty", "foreign", "of-another-key"])
def test_what_is_no_entry_is_never_written(stack: Stack, kind: str) -> None:
    """Bytes that are no entry, or the entry of another key, are refused even with the lease's token."""
    other = fresh(sample_reports.numbers, upto=1)
    refreshed(stack, other)
    packed = {"empty": b"", "foreign": b"rows", "of-another-key": stored(stack, other.key)}[kind]
    token = stack.run(stack.client.acquire(KEY, 30))
    with pytest.raises(QueryFailed):
        stack.run(stack.client.call("write", deadline=5, key=KEY, packed=packed, token=token))
    stack.run(stack.client.release(KEY, token))
    assert stored(stack, KEY) is None


def test_a_run_is_recorded(stack: Stack) -> None:
    """Each refresh is a document with trigger, duration, rows, bytes, digest and error."""
    variant = fresh(sample_reports.numbers, upto=34)
    entry = refreshed(stack, variant).entry
    run = eventually("the run", lambda: _recorded(stack, variant))
    assert run["params"] == variant.params
    assert (run["trigger"], run["outcome"], run["error"]) == ("manual", "changed", None)
    assert (run["rows"], run["bytes"], run["digest"]) == (34, len(entry.body), entry.digest)
    assert abs(run["started_at"] - entry.computed_at) < 2
    assert 0 < run["duration_ms"] < 10_000
    assert run["pid"] > 0


def _recorded(stack: Stack, variant: Variant) -> dict[str, Any] | None:
    return next((run for run in runs(stack, variant.name) if run["key"] == variant.key), None)


def test_runs_are_kept_for_a_week(stack: Stack) -> None:
    """MongoDB drops a run a week after its start."""
    indexes = stack.servers.on_mongo(lambda database: database["holdfast_runs"].index_information())
    expiring = [i for i in indexes.values() if "expireAfterSeconds" in i]
    assert [(i["key"], i["expireAfterSeconds"]) for i in expiring] == [([("started_at", 1)], KEEP_SECONDS)]
    assert KEEP_SECONDS == 7 * 24 * 3600


@pytest.mark.parametrize("kind", ["empty", "older", "foreign", "pickled", "cut"])
def test_an_unusable_entry_is_as_good_as_none(stack: Stack, kind: str) -> None:
    """Whatever stands under the key, a refresh replaces it by a fresh entry and counts that as a change."""
    good = refreshed(stack).entry
    bad = {
        "empty": b"",
        "older": b"HF\x00older",
        "foreign": b"foreign",
        "pickled": b"\x80\x04pickle",
        "cut": cast("bytes", stored(stack, KEY))[:-1],
    }[kind]
    stack.cache.set(KEY, bad)
    assert isinstance(stack.run(stack.client.entry(KEY)), Unusable)
    assert refreshed(stack).changed
    assert entry_at(stack, KEY).digest == good.digest
    assert entry_at(stack, KEY).freshness(time.time()) is Freshness.FRESH


def test_runs_wait_for_mongodb(stack: Stack) -> None:
    """With MongoDB down, noticed or not, a refresh succeeds; its run is recorded when MongoDB is back."""
    unnoticed, noticed = fresh(sample_reports.numbers), fresh(sample_reports.numbers)
    stack.servers.mongo.kill()
    first = refreshed(stack, unnoticed).entry.digest
    eventually("MongoDB to be missed", lambda: stack.link_states()["mongo"] != "up")
    second = refreshed(stack, noticed).entry.digest
    with pytest.raises(LinkDown):
        runs(stack, "numbers")
    stack.servers.mongo.start()
    eventually("MongoDB to be found again", lambda: stack.link_states()["mongo"] == "up", within=10)
    expected = [(noticed.key, second), (unnoticed.key, first)]
    eventually("both runs", lambda: _newest_two(stack, "numbers") == expected)


def _newest_two(stack: Stack, report: str) -> list[tuple[str, str]]:
    return [(run["key"], run["digest"]) for run in runs(stack, report)[:2]]


def test_a_refresh_needs_redis_and_says_so(stack: Stack) -> None:
    """With Redis down a refresh fails at once, as something that may succeed later, and computes nothing; a
    miss is computed all the same, and its run is recorded as unstored.
    """
    variant = fresh(sample_reports.numbers, upto=2)
    queries = stack.metric("holdfast_query_seconds_count", query="numbers.squares")
    stack.servers.valkey.kill()
    eventually("Redis to be missed", lambda: stack.link_states()["redis"] != "up")
    began = time.monotonic()
    with pytest.raises(LinkDown) as down:
        refreshed(stack, variant)
    assert took(began) < 1
    assert down.value.retryable
    assert stack.metric("holdfast_query_seconds_count", query="numbers.squares") == queries
    assert computed(stack, variant).rows == 2
    eventually("the run", lambda: runs(stack, "numbers")[0]["outcome"] == "unstored")
    stack.servers.valkey.start()
    eventually("Redis to be found again", lambda: stack.link_states()["redis"] == "up", within=10)
    refreshed(stack, variant)
    assert entry_at(stack, variant.key).rows == 2
