"""The gateway's catalogue and targets: where they come from, how often they are renewed, what they forget."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from tests.support.clock import run_leaping
from tests.support.memory import MemoryRedis, MemorySupervisor, bring_down, bring_up, link_to

from holdfast.cache.entry import Times, enclose, pack
from holdfast.cache.store import CLAIM_PREFIX, Store
from holdfast.errors import InvalidParams, LinkLost, UnknownReport
from holdfast.reports import Params, Registry, Report
from holdfast.reports.canonical import CATALOGUE_KEY
from holdfast.settings import GatewaySettings
from holdfast.supervisor.catalogue import MAX_STALE, PUBLISH_EVERY, RETRY_EVERY, TTL, CataloguePublisher
from holdfast_gateway.auth import Authenticator
from holdfast_gateway.catalogue import EVERY, EVERY_ALONE, EVERY_AT_FIRST, RENEW_AT_MOST_EVERY, Catalogue
from holdfast_gateway.problems import Problem
from holdfast_gateway.targets import MAX_TARGET, REPORT_PREFIX, Targets

BEGIN = 1_700_000_000.0


class MonthParams(Params):
    """One parameter."""

    month: int | None = None


def registry_of(*names: str) -> Registry:
    """A registry of reports with those names."""
    reports = []
    for name in names:
        report = Report(name, params=MonthParams)

        def rows(p: MonthParams) -> str:
            return f"{p}"

        report.postgres(rows)
        reports.append(report)
    return Registry(reports)


@dataclass
class Target:
    """A request, as far as targets look at it."""

    path: str
    query_string: str = ""
    method: str = "GET"
    client: str = "127.0.0.1:1"
    headers: object = None


class World:
    """A gateway's catalogue between a Redis and a supervisor in memory."""

    def __init__(self) -> None:
        self.redis = MemoryRedis(self.wall)
        self.supervisor = MemorySupervisor()
        self.redis_link, self.supervisor_link = link_to(self.redis), link_to(self.supervisor)
        clock = asyncio.get_running_loop().time
        self.catalogue = Catalogue(self.redis_link, self.supervisor_link, monotonic=clock)
        settings = GatewaySettings.load({"GW_AUTH": "off"})
        self.targets = Targets(Authenticator(settings), self.catalogue)
        self.store = Store(self.redis_link)

    def wall(self) -> float:
        """Seconds since the epoch; nothing here expires."""
        return BEGIN

    def publisher(self, *names: str) -> CataloguePublisher:
        """A supervisor's publisher of reports with those names."""
        return CataloguePublisher(registry_of(*names), self.store, self.redis_link)

    def serve(self, *names: str) -> None:
        """Let the supervisor have those reports."""
        self.supervisor.packed_catalogue = pack(self.publisher(*names).entry())

    @property
    def names(self) -> set[str]:
        """The reports that the gateway knows."""
        return set(self.catalogue.snapshot.readers) if self.catalogue.snapshot else set()


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario on a leaping clock."""

    async def run() -> None:
        await scenario(World())

    run_leaping(run())


async def during(world: World, seconds: float) -> int:
    """How many catalogues the gateway asks the supervisor or Redis for in so many seconds."""
    before = len(world.supervisor.calls) + len(world.redis.calls)
    await asyncio.sleep(seconds)
    return len(world.supervisor.calls) + len(world.redis.calls) - before


def test_it_comes_from_the_supervisor_and_else_from_redis() -> None:
    """While the supervisor answers Redis is not asked; while it is away Redis is."""

    async def scenario(world: World) -> None:
        world.serve("a")
        await world.publisher("b")._store.put(world.publisher("b").entry())
        await world.catalogue.renew()
        assert world.names == {"a"}
        bring_down(world.supervisor_link)
        await asyncio.sleep(RENEW_AT_MOST_EVERY)
        await world.catalogue.renew()
        assert world.names == {"b"}

    play(scenario)


def test_the_last_one_stays_while_there_is_no_other() -> None:
    """A catalogue outlives everything behind the gateway, and what cannot be read does not replace it."""

    async def scenario(world: World) -> None:
        world.serve("a")
        await world.catalogue.renew()
        times = Times(BEGIN, BEGIN + 1, BEGIN + 2)
        broken = pack(enclose(key=CATALOGUE_KEY, body=b"{}", digest_of=b"other", rows=0, times=times))
        for packed in (None, b"foreign", broken):
            world.supervisor.packed_catalogue = packed
            await asyncio.sleep(RENEW_AT_MOST_EVERY)
            await world.catalogue.renew()
        world.supervisor.failure = LinkLost("gone")
        await asyncio.sleep(RENEW_AT_MOST_EVERY)
        await world.catalogue.renew()
        bring_down(world.supervisor_link)
        bring_down(world.redis_link)
        await asyncio.sleep(RENEW_AT_MOST_EVERY)
        await world.catalogue.renew()
        assert world.names == {"a"}

    play(scenario)


def test_it_looks_often_until_there_is_one_and_then_less() -> None:
    """Ten times a second at first, and then every second, beside a supervisor and without one."""

    async def scenario(world: World) -> None:
        loop = asyncio.create_task(world.catalogue.run())
        await asyncio.sleep(0)
        assert await during(world, 10 * EVERY_AT_FIRST) == pytest.approx(10, abs=1)
        world.serve("a")
        await asyncio.sleep(EVERY_AT_FIRST)
        assert await during(world, 4 * EVERY) == pytest.approx(4, abs=1)
        bring_down(world.supervisor_link)
        await asyncio.sleep(EVERY)
        assert await during(world, 10 * EVERY_ALONE) == pytest.approx(10, abs=1)
        loop.cancel()

    play(scenario)


@pytest.mark.parametrize(("later", "asked"), [(RENEW_AT_MOST_EVERY - 0.01, 1), (RENEW_AT_MOST_EVERY, 2)])
def test_many_unknown_reports_are_one_look(later: float, asked: int) -> None:
    """However many ask for reports that are not there, the catalogue is looked at once a second at most."""

    async def scenario(world: World) -> None:
        world.serve("a")
        await asyncio.gather(*(world.catalogue.renew() for _ in range(50)))
        await asyncio.sleep(later)
        await asyncio.gather(*(world.catalogue.renew() for _ in range(50)))
        assert world.supervisor.calls == ["catalogue"] * asked

    play(scenario)


def test_a_changed_catalogue_makes_the_targets_forgotten() -> None:
    """A target that was read by another catalogue is read again; by the same one it is remembered."""

    async def scenario(world: World) -> None:
        world.serve("a")
        await world.catalogue.renew()
        target = Target(f"{REPORT_PREFIX}a", "month=7")
        request = await world.targets.resolve(target, {})
        assert request.key == "gwcache:/api/v1/analytics/a?month=7"
        assert await world.targets.resolve(target, {}) is request
        await asyncio.sleep(RENEW_AT_MOST_EVERY)
        await world.catalogue.renew()
        assert await world.targets.resolve(target, {}) is request
        world.serve("a", "b")
        await asyncio.sleep(RENEW_AT_MOST_EVERY)
        await world.catalogue.renew()
        assert world.targets.requests == {}

    play(scenario)


def test_an_unknown_report_makes_the_gateway_look_once_more() -> None:
    """A report that came a moment ago is found at its first request; one that is not there is named."""

    async def scenario(world: World) -> None:
        world.serve("a")
        await world.catalogue.renew()
        world.serve("a", "new")
        await asyncio.sleep(RENEW_AT_MOST_EVERY)
        assert (await world.targets.resolve(Target(f"{REPORT_PREFIX}new"), {})).report == "new"
        with pytest.raises(UnknownReport) as raised:
            await world.targets.resolve(Target(f"{REPORT_PREFIX}none"), {})
        assert raised.value.details["known"] == ["a", "new"]

    play(scenario)


def test_what_cannot_be_read_is_refused_and_not_remembered() -> None:
    """No catalogue is 503, a long URL is 414, a wrong parameter is the parameter's error."""

    async def scenario(world: World) -> None:
        bring_down(world.supervisor_link)
        bring_down(world.redis_link)
        with pytest.raises(Problem) as raised:
            await world.targets.resolve(Target(f"{REPORT_PREFIX}a"), {})
        assert raised.value.response.status == 503
        bring_up(world.supervisor_link)
        world.serve("a")
        await asyncio.sleep(RENEW_AT_MOST_EVERY)
        await world.catalogue.renew()
        path = f"{REPORT_PREFIX}a"
        with pytest.raises(Problem) as raised:
            await world.targets.resolve(Target(path, "x" * (MAX_TARGET - len(path) + 1)), {})
        assert raised.value.response.status == 414
        with pytest.raises(InvalidParams):
            await world.targets.resolve(Target(path, "month=x"), {})
        with pytest.raises(InvalidParams):
            await world.targets.resolve(Target(path, "x" * (MAX_TARGET - len(path))), {})
        assert world.targets.requests == {}

    play(scenario)


def test_remembered_targets_are_bounded() -> None:
    """However many spellings of URLs are asked for, a bounded number is remembered."""

    async def scenario(world: World) -> None:
        world.serve("a")
        await world.catalogue.renew()
        for n in range(10_000):
            await world.targets.resolve(Target(f"{REPORT_PREFIX}a", f"month={n}"), {})
        assert len(world.targets.requests) == 10_000
        await world.targets.resolve(Target(f"{REPORT_PREFIX}a", "month=10000"), {})
        assert len(world.targets.requests) == 1

    play(scenario)


# Versions of reports


def test_the_catalogue_says_which_version_each_report_has() -> None:
    """A gateway knows the version of a report by a result's key; what it does not know has none."""

    async def scenario(world: World) -> None:
        assert world.catalogue.version("gwcache:/api/v1/analytics/a") == ""
        world.serve("a", "b")
        await world.catalogue.renew()
        versions = registry_of("a", "b").versions
        assert len(set(versions.values())) == 2
        for key in ("a", "a?month=7", "a?x=%2Fb"):
            assert world.catalogue.version(f"gwcache:/api/v1/analytics/{key}") == versions["a"]
        for key in (CATALOGUE_KEY, "gwcache:/api/v1/analytics/none", "gwcache:/else", ""):
            assert world.catalogue.version(key) == ""

    play(scenario)


def test_a_changed_report_is_another_catalogue() -> None:
    """A report that changed in nothing but its code makes the gateway look at what it has in memory."""

    async def scenario(world: World) -> None:
        changes: list[str] = []
        world.catalogue.on_change(
            lambda: changes.append(world.catalogue.version("gwcache:/api/v1/analytics/a"))
        )
        registry = registry_of("a")
        for version in ("1" * 16, "1" * 16, "2" * 16):
            registry.versions["a"] = version
            entry = CataloguePublisher(registry, world.store, world.redis_link).entry()
            world.supervisor.packed_catalogue = pack(entry)
            await asyncio.sleep(RENEW_AT_MOST_EVERY)
            await world.catalogue.renew()
        assert changes == ["1" * 16, "2" * 16]

    play(scenario)


@pytest.mark.parametrize("document", [b'{"reports": []}', b'{"reports": [{"name": "a", "version": 1}]}'])
def test_a_catalogue_of_a_release_before_has_no_versions(document: bytes) -> None:
    """What another release published is read as far as it goes, and never ends the gateway."""

    async def scenario(world: World) -> None:
        entry = enclose(
            key=CATALOGUE_KEY,
            body=document,
            digest_of=document,
            rows=0,
            times=Times(BEGIN, BEGIN + 1, BEGIN + 2),
        )
        world.supervisor.packed_catalogue = pack(entry)
        await world.catalogue.renew()
        assert world.catalogue.version("gwcache:/api/v1/analytics/a") == ""

    play(scenario)


# The supervisor's side


def test_the_supervisor_that_came_last_has_its_results_kept() -> None:
    """Each supervisor claims its versions when it starts, and again when they change; not in between."""

    async def scenario(world: World) -> None:
        def claimed(report: str) -> bytes | None:
            return world.redis.values.get(f"{CLAIM_PREFIX}{report}".encode())

        async def minute() -> None:
            await asyncio.sleep(PUBLISH_EVERY + 1)

        ours, theirs = registry_of("a", "b"), registry_of("a", "c")
        ours.versions["a"], theirs.versions["a"] = "1" * 16, "2" * 16
        loops = [asyncio.create_task(CataloguePublisher(ours, world.store, world.redis_link).run())]
        world.redis_link._up.set()
        await minute()
        assert claimed("a") == b"1" * 16
        loops.append(asyncio.create_task(CataloguePublisher(theirs, world.store, world.redis_link).run()))
        await minute()
        await minute()
        assert (claimed("a"), claimed("b")) == (b"2" * 16, ours.versions["b"].encode())
        ours.versions["a"] = "3" * 16
        await minute()
        assert claimed("a") == b"3" * 16
        for loop in loops:
            loop.cancel()

    play(scenario)


def test_the_catalogue_is_an_entry_for_a_month() -> None:
    """The entry is fresh for five minutes and stale for thirty days; it has every report with its link."""

    async def scenario(world: World) -> None:
        entry = world.publisher("b", "a").entry()
        assert (entry.key, entry.rows) == (CATALOGUE_KEY, 2)
        assert entry.fresh_until - entry.computed_at == pytest.approx(TTL)
        assert entry.stale_until - entry.fresh_until == pytest.approx(MAX_STALE)
        assert b'"href":"/api/v1/analytics/a"' in entry.body
        assert entry.digest == world.publisher("a", "b").entry().digest
        assert entry.digest != world.publisher("a").entry().digest

    play(scenario)


def test_it_is_published_at_every_opening_and_every_minute() -> None:
    """Redis has the catalogue after each opening of its link and every minute; a failure is tried again."""

    async def scenario(world: World) -> None:
        def published() -> int:
            return world.redis.calls.count(f"set {CATALOGUE_KEY}")

        loop = asyncio.create_task(world.publisher("a").run())
        world.redis_link._up.set()
        await asyncio.sleep(0.01)
        assert published() == 1
        await asyncio.sleep(PUBLISH_EVERY - 0.1)
        assert published() == 1
        await asyncio.sleep(0.2)
        assert published() == 2
        world.redis.failure = LinkLost("gone", link="redis")
        await asyncio.sleep(PUBLISH_EVERY)
        assert published() == 3
        world.redis.failure = None
        world.redis.values.clear()
        await asyncio.sleep(RETRY_EVERY)
        assert published() == 4
        assert CATALOGUE_KEY.encode() in world.redis.values
        loop.cancel()

    play(scenario)
