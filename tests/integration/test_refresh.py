"""refresh(), the one way to a new entry: over a real socket, into a real Redis, recorded in MongoDB."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest
from redis import Redis
from tests.conftest import eventually
from tests.support import sample_reports
from tests.integration.processes import Background, Platform, Process, Servers

from holdfast.cache.entry import Entry, State, Unusable, unpack
from holdfast.cache.refresh import Outcome, refresh
from holdfast.errors import ComputeFailed, LeaseHeld, LeaseLost, LinkDown, QueryFailed
from holdfast.processes.files import read_secret
from holdfast.reports import Report
from holdfast.rpc.client import Client
from holdfast.supervisor.runs import KEEP_SECONDS

LEDGER = "gwcache:/api/v1/analytics/ledger"


class House:
    """A supervisor on servers of its own, with what a test needs to look behind it."""

    def __init__(self, platform: Platform, servers: Servers, background: Background) -> None:
        self.platform = platform
        self.servers = servers
        self.background = background
        self.client: Client = platform.client()
        self.cache = Redis(
            port=servers.valkey.port,
            username="supervisor",
            password=read_secret(servers.valkey.password_file()),
        )

    def refresh(self, report: Report, client: Client | None = None, **params: Any) -> Outcome:
        """Do a refresh, as a worker does it."""
        checked = report.reader.parse(params)
        work = refresh(client or self.client, report, checked, "manual", default_ttl=30)
        return self.background.run(work)

    def stored(self, key: str) -> bytes | None:
        """The bytes under a key."""
        return cast("bytes | None", self.cache.get(key))

    def entry(self, key: str) -> Entry:
        """The entry under a key."""
        found = unpack(key, self.stored(key))
        assert isinstance(found, Entry), found
        return found

    def runs(self, report: str) -> list[dict[str, Any]]:
        """The recorded runs of a report, newest first."""
        found: list[dict[str, Any]] = self.background.run(self.client.call("runs", report=report, limit=100))
        return found

    def execute(self, sql: str) -> None:
        """Change the facts."""

        async def work() -> None:
            connection = await self.servers.postgres.connect()
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        asyncio.run(work())

    def other_process(self, *arguments: str) -> Process:
        """Begin a refresh in a process of its own."""
        script = str(sample_reports.__file__).replace("sample_reports", "refresh_once")
        return self.platform.start(sys.executable, script, *arguments, name=f"refresh-{time.monotonic_ns()}")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The house of this module's tests."""
    with Platform() as platform, Background() as background:
        servers = Servers(platform.home)
        try:
            servers.start()
            platform.settings.update(servers.env())
            platform.supervisor()
            made = House(platform, servers, background)
            made.execute("CREATE TABLE ledger (account text PRIMARY KEY, amount integer NOT NULL)")
            yield made
            background.run(made.client.aclose())
            made.cache.close()
        finally:
            servers.kill()


@pytest.fixture(autouse=True)
def _facts(house: House) -> None:
    """The same facts for each test, and an empty cache."""
    house.servers.start()
    house.execute("TRUNCATE ledger; INSERT INTO ledger VALUES ('north', 10), ('south', 20)")
    for key in house.cache.scan_iter("gwcache:*"):
        house.cache.delete(key)


def test_a_refresh_puts_the_entry_where_readers_look(house: House) -> None:
    """The entry is in Redis under gwcache:{canonical URL}; Redis drops it at its stale_until."""
    before = time.time()
    outcome = house.refresh(sample_reports.ledger)
    assert outcome.changed
    entry = house.entry(LEDGER)
    assert entry == outcome.entry
    assert before <= entry.computed_at <= time.time()
    # The ttl counts from when the result was there, its age from before the first query.
    assert entry.computed_at + 600 <= entry.fresh_until <= time.time() + 600
    assert entry.stale_until == pytest.approx(entry.fresh_until + 3600)
    assert house.cache.pexpiretime(LEDGER) == int(entry.stale_until * 1000)
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


def test_a_key_is_the_canonical_url(house: House) -> None:
    """Parameters are sorted, defaults left out and values written in one way, whatever way they came in."""
    house.refresh(sample_reports.numbers, word="ö & x/y", upto="3")
    assert house.entry("gwcache:/api/v1/analytics/numbers?upto=3&word=%C3%B6%20%26%20x%2Fy").rows == 3
    house.refresh(sample_reports.numbers, word="", upto=10)
    assert house.entry("gwcache:/api/v1/analytics/numbers").rows == 10


def test_unchanged_rows_keep_their_digest(house: House) -> None:
    """A refresh that finds the same rows moves the times and keeps the digest, hence the ETag; new rows get a
    new one. The supervisor, computing a miss, comes to the same digest.
    """
    first = house.refresh(sample_reports.ledger).entry
    again = house.refresh(sample_reports.ledger)
    assert not again.changed
    assert again.entry.digest == first.digest
    assert again.entry.computed_at > first.computed_at
    assert house.entry(LEDGER) == again.entry
    house.cache.delete(LEDGER)
    work = house.client.call("compute", report="ledger", params={}, trigger="miss")
    computed = unpack(LEDGER, house.background.run(work))
    assert isinstance(computed, Entry)
    assert computed.digest == first.digest
    house.execute("UPDATE ledger SET amount = 40 WHERE account = 'north'")
    changed = house.refresh(sample_reports.ledger)
    assert changed.changed
    assert changed.entry.digest != first.digest


def test_a_failed_computation_leaves_the_entry_alone(house: House) -> None:
    """When a query fails, the entry in place stays as it was, byte for byte, and the run is on record."""
    house.refresh(sample_reports.ledger)
    before = house.stored(LEDGER)
    house.execute("UPDATE ledger SET amount = 0 WHERE account = 'south'")
    with pytest.raises(QueryFailed):
        house.refresh(sample_reports.ledger)
    assert house.stored(LEDGER) == before
    assert house.cache.pexpiretime(LEDGER) == int(house.entry(LEDGER).stale_until * 1000)
    newest = eventually("the run", lambda: house.runs("ledger"))[0]
    assert newest["outcome"] == "failed"
    assert newest["error"].startswith("QueryFailed: ")
    assert newest["digest"] is None
    house.execute("UPDATE ledger SET amount = 5 WHERE account = 'south'")
    assert house.refresh(sample_reports.ledger).changed, "the lease of the failed one was not given back"


@pytest.mark.parametrize(
    ("where", "error"), [("query", QueryFailed), ("one-of-two", QueryFailed), ("function", ComputeFailed)]
)
def test_nothing_is_stored_of_a_partial_result(house: House, where: str, error: type[Exception]) -> None:
    """A report fails as a whole, when one of its queries or its function does, and stores nothing."""
    with pytest.raises(error) as failed:
        house.refresh(sample_reports.failing, where=where)
    assert not cast("Any", failed.value).retryable
    assert list(house.cache.scan_iter("gwcache:/api/v1/analytics/failing*")) == []
    assert house.runs("failing")[0]["params"] == {"where": where}


def test_two_at_once_compute_once(house: House) -> None:
    """While one process computes a result and keeps its lease, another one is told LeaseHeld."""
    slow = sample_reports.slow.reader
    lease = "holdfast:lease:" + slow.key(slow.parse({"ms": 3000}))
    holder = house.other_process("slow", "ms=3000")
    eventually("the lease", lambda: house.cache.exists(lease))
    with pytest.raises(LeaseHeld):
        house.refresh(sample_reports.slow, ms=3000)
    lowest = eventually("the lease to age", lambda: _below(house.cache.pttl(lease), 9000))
    eventually("the lease to be renewed", lambda: house.cache.pttl(lease) > lowest)
    assert holder.wait() == 0
    assert holder.output().splitlines()[-1] == "changed"
    assert not house.cache.exists(lease)
    recorded = eventually("the run", lambda: house.runs("slow"))
    assert [run["outcome"] for run in recorded if run["params"]["ms"] == 3000] == ["changed"]


def _below(milliseconds: Any, limit: int) -> int:
    return milliseconds if 0 < milliseconds < limit else 0


def test_who_slept_through_its_lease_cannot_overwrite(house: House) -> None:
    """A process that was stopped while another one made a newer entry fails with LeaseLost, and the newer
    entry stands.
    """
    reader = sample_reports.slow.reader
    key = reader.key(reader.parse({"ms": 1500}))
    sleeper = house.other_process("slow", "ms=1500")
    eventually("the lease", lambda: house.cache.exists("holdfast:lease:" + key))
    sleeper.signal(signal.SIGSTOP)
    # What ten seconds would do.
    house.cache.delete("holdfast:lease:" + key)
    house.refresh(sample_reports.slow, ms=1500)
    newer = house.stored(key)
    sleeper.signal(signal.SIGCONT)
    assert sleeper.wait() == 0
    assert sleeper.output().splitlines()[-1] == "LeaseLost"
    assert house.stored(key) == newer


def test_a_token_guards_the_write_and_nothing_else_is_needed(house: House) -> None:
    """A write needs the token of the lease as it is now: an older, another or no lease's token is refused."""
    entry = house.refresh(sample_reports.ledger).entry
    before = house.stored(LEDGER)
    client, run = house.client, house.background.run
    first = run(client.acquire(LEDGER, 5))
    with pytest.raises(LeaseHeld):
        run(client.acquire(LEDGER, 5))
    run(client.release(LEDGER, first))
    second = run(client.acquire(LEDGER, 5))
    assert second > first
    for token in (first, second + 1, 0):
        with pytest.raises(LeaseLost):
            run(client.write(entry, token))
        with pytest.raises(LeaseLost):
            run(client.renew(LEDGER, token, 5))
        run(client.release(LEDGER, token))
    assert house.stored(LEDGER) == before
    run(client.write(msgspec.structs.replace(entry, rows=7), second))
    assert house.entry(LEDGER).rows == 7
    run(client.release(LEDGER, second))


def test_what_is_no_entry_is_never_written(house: House) -> None:
    """Bytes that are no entry, or the entry of another key, are refused even with the lease's token."""
    house.refresh(sample_reports.numbers, upto=1)
    other = house.stored("gwcache:/api/v1/analytics/numbers?upto=1")
    token = house.background.run(house.client.acquire(LEDGER, 5))
    for packed in (b"", b"rows", other):
        with pytest.raises(QueryFailed):
            house.background.run(house.client.call("write", key=LEDGER, packed=packed, token=token))
    house.background.run(house.client.release(LEDGER, token))
    assert house.stored(LEDGER) is None


def test_runs_are_recorded_for_a_week(house: House) -> None:
    """Each refresh is a document with trigger, duration, rows, bytes, digest and error; MongoDB drops it
    after a week.
    """
    entry = house.refresh(sample_reports.numbers, upto=34).entry
    newest = eventually("the run", lambda: house.runs("numbers"))[0]
    assert newest["key"] == "gwcache:/api/v1/analytics/numbers?upto=34"
    assert newest["params"] == {"upto": 34, "word": ""}
    assert (newest["trigger"], newest["outcome"], newest["error"]) == ("manual", "changed", None)
    assert (newest["rows"], newest["bytes"], newest["digest"]) == (34, len(entry.body), entry.digest)
    assert abs(newest["started_at"] - entry.computed_at) < 2
    assert 0 < newest["duration_ms"] < 10_000
    assert newest["pid"] > 0

    async def indexes() -> dict[str, Any]:
        async with house.servers.mongo.client() as client:
            return dict(await client["holdfast"]["holdfast_runs"].index_information())

    expiring = [i for i in asyncio.run(indexes()).values() if "expireAfterSeconds" in i]
    assert [(i["key"], i["expireAfterSeconds"]) for i in expiring] == [([("started_at", 1)], KEEP_SECONDS)]
    assert KEEP_SECONDS == 7 * 24 * 3600


def test_an_expired_or_unusable_entry_is_as_good_as_none(house: House) -> None:
    """Whatever stands under the key, a refresh replaces it by a fresh entry and counts that as a change."""
    good = house.refresh(sample_reports.ledger).entry
    for bad in (b"", b"HF\x00older", b"foreign", b"\x80\x04pickle", cast("bytes", house.stored(LEDGER))[:-1]):
        house.cache.set(LEDGER, bad)
        assert isinstance(house.background.run(house.client.entry(LEDGER)), Unusable)
        assert house.refresh(sample_reports.ledger).changed
        assert house.entry(LEDGER).digest == good.digest
        assert house.entry(LEDGER).state(time.time()) is State.FRESH


def test_runs_wait_for_mongodb(house: House) -> None:
    """With MongoDB down, noticed or not, a refresh succeeds; its run is recorded when MongoDB is back."""
    house.servers.mongo.kill()
    unnoticed = house.refresh(sample_reports.numbers, upto=22).entry.digest
    eventually("MongoDB to be missed", lambda: house.platform.status()["links"]["mongo"]["state"] != "up")
    digest = house.refresh(sample_reports.numbers, upto=21).entry.digest
    with pytest.raises(LinkDown):
        house.runs("numbers")
    house.servers.mongo.start()
    up = lambda: house.platform.status()["links"]["mongo"]["state"] == "up"  # noqa: E731
    eventually("MongoDB to be found again", up, within=10)
    expected = [(21, digest), (22, unnoticed)]
    eventually("both runs", lambda: [_made(run) for run in house.runs("numbers")[:2]] == expected)


def _made(run: dict[str, Any]) -> tuple[int, str]:
    return run["params"]["upto"], run["digest"]


def test_a_refresh_needs_redis_and_says_so(house: House) -> None:
    """With Redis down a refresh fails at once, as something that may succeed later, and computes nothing; a
    miss is computed all the same, and told as unstored.
    """
    computed = house.platform.metric("holdfast_query_seconds_count", query="numbers.squares")
    house.servers.valkey.kill()
    eventually("Redis to be missed", lambda: house.platform.status()["links"]["redis"]["state"] != "up")
    began = time.monotonic()
    with pytest.raises(LinkDown) as down:
        house.refresh(sample_reports.numbers, upto=2)
    assert time.monotonic() - began < 0.5
    assert down.value.retryable
    assert house.platform.metric("holdfast_query_seconds_count", query="numbers.squares") == computed
    work = house.client.call("compute", report="numbers", params={"upto": 2}, trigger="miss")
    found = unpack("gwcache:/api/v1/analytics/numbers?upto=2", house.background.run(work))
    assert isinstance(found, Entry)
    assert found.rows == 2
    assert eventually("the run", lambda: house.runs("numbers"))[0]["outcome"] == "unstored"
    house.servers.valkey.start()
    up = lambda: house.platform.status()["links"]["redis"]["state"] == "up"  # noqa: E731
    eventually("Redis to be found again", up, within=10)
    house.refresh(sample_reports.numbers, upto=2)
    assert house.entry("gwcache:/api/v1/analytics/numbers?upto=2").rows == 2
