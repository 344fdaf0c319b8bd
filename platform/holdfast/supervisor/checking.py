"""A program that `holdfast check` runs: it looks for what the reports read, and computes each with `--run`.

It opens the databases itself, so that it needs no supervisor, and has the reports as their files are now.
One line of JSON on standard output is one finding (`Finding`). Nothing is stored.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Literal, TextIO

import msgspec
import structlog

from holdfast.backoff import Backoff
from holdfast.cache.entry import Entry
from holdfast.cache.refresh import compute
from holdfast.errors import HoldfastError, InvalidParams, LinkDown, exit_on_error
from holdfast.links.link import Link
from holdfast.links.mongo import MongoAdapter
from holdfast.links.postgres import PostgresAdapter
from holdfast.links.redis import RedisAdapter
from holdfast.reports import Registry, Report, load_reports
from holdfast.reports.canonical import Scalar
from holdfast.reports.rows import decode_rows
from holdfast.settings import CacheSettings, MongoSettings, PostgresSettings, RedisSettings, ReportsSettings
from holdfast.supervisor.backend import SupervisorBackend
from holdfast.supervisor.metrics import SupervisorMetrics
from holdfast.supervisor.queries import Queries
from holdfast.supervisor.reading import Reads
from holdfast.supervisor.runs import Recorder

CONNECT_SECONDS = 12.0


class Finding(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What was found of one report: of what it reads (`reads`), or of computing it (`run`)."""

    kind: Literal["begin", "reads", "run"]
    report: str = ""
    params: dict[str, Scalar] = {}
    problems: list[str] = []
    notes: list[str] = []
    rows: int = 0
    bytes: int = 0
    milliseconds: float = 0.0
    columns: list[str] = []
    reports: int = 0
    """How many findings of this kind there will be, at the begin."""


def first_variant(report: Report) -> dict[str, Scalar]:
    """The parameters that a report is tried with: its first warm variant, or its defaults.

    Raises:
        InvalidParams: it has no warm variant, and a parameter without a default.
    """
    if report.warm:
        return dict(report.warm[0])
    try:
        return report.reader.parse({})
    except InvalidParams as error:
        raise InvalidParams(
            f"report {report.name}: it has no warm variant to try it with, and {error}; add warm=[...]",
            **error.details,
        ) from None


class Checking:
    """The reports, and the databases that they read, opened for this check alone."""

    def __init__(self, registry: Registry, write: TextIO) -> None:
        self._registry = registry
        self._write = write
        postgres, mongo = PostgresSettings.load(), MongoSettings.load()
        self._postgres = Link(
            PostgresAdapter(PostgresSettings.load), Backoff(), unused=not postgres.configured
        )
        self._mongo = Link(
            MongoAdapter(MongoSettings.load, registry.documents()), Backoff(), unused=not mongo.configured
        )
        queries = Queries(registry, self._postgres, self._mongo)
        recorder = Recorder(self._mongo, SupervisorMetrics())
        # Redis is not asked: what is computed here is stored nowhere.
        redis = Link(RedisAdapter(RedisSettings.load), Backoff(), unused=True)
        self._backend = SupervisorBackend(redis, queries, recorder)
        self._reads = Reads(self._postgres, self._mongo)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Both databases, while the body runs; one that cannot be opened fails the reports that read it."""
        tasks = [asyncio.create_task(link.run()) for link in (self._postgres, self._mongo) if not link.unused]
        waits = [link.wait_up() for link in (self._postgres, self._mongo) if not link.unused]
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*waits), CONNECT_SECONDS)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def tell(self, finding: Finding) -> None:
        """Write a finding."""
        self._write.write(msgspec.json.encode(finding).decode() + "\n")
        self._write.flush()

    async def check(self, *, run: bool) -> None:
        """Look for what every report reads; then compute each once, if wanted."""
        reports = list(self._registry)
        self.tell(Finding(kind="begin", reports=len(reports)))
        for report in reports:
            self.tell(await self._read(report))
        for report in reports if run else ():
            self.tell(await self._run(report))

    async def _read(self, report: Report) -> Finding:
        finding = Finding(kind="reads", report=report.name, problems=[], notes=[])
        try:
            typed = report.typed(first_variant(report))
        except HoldfastError as error:
            finding.notes.append(error.full)
            return finding
        for query in report.queries.values():
            try:
                found = await self._reads.look(query, typed)
            except LinkDown as error:
                finding.notes.append(f"query {query.name}: not looked at: {self._reason(error)}")
                continue
            except HoldfastError as error:
                finding.problems.append(error.full)
                continue
            finding.problems += found.problems
            finding.notes += found.notes
        return finding

    async def _run(self, report: Report) -> Finding:
        began = time.perf_counter()
        finding = Finding(kind="run", report=report.name, problems=[])
        try:
            finding.params = first_variant(report)
            entry = await compute(self._backend, report, finding.params, default_ttl=CacheSettings.load().ttl)
        except LinkDown as error:
            finding.problems.append(f"report {report.name}: {self._reason(error)}")
        except HoldfastError as error:
            finding.problems.append(error.full)
        else:
            finding.rows, finding.bytes = entry.rows, len(entry.body)
            finding.columns = columns_of(entry)
        finding.milliseconds = round((time.perf_counter() - began) * 1000, 1)
        return finding

    def _reason(self, error: LinkDown) -> str:
        """Why a link is not up: what its last attempt said."""
        link: Link[Any] = self._mongo if error.details.get("link") == "mongo" else self._postgres
        last = link.state.last_error
        return f"{error}: {last}" if last else str(error)


def columns_of(entry: Entry) -> list[str]:
    """The columns of a result, in the order in which they are served."""
    rows = decode_rows(msgspec.json.decode(entry.body, type=dict[str, msgspec.Raw])["rows"])
    return list(dict.fromkeys(name for row in rows for name in row))


@contextlib.contextmanager
def _findings_alone() -> Iterator[TextIO]:
    """Standard output for findings; what an author's code prints goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        yield output


def main(arguments: Sequence[str]) -> None:
    """Check the reports of the setting REPORTS."""
    parser = argparse.ArgumentParser(prog="python -m holdfast.supervisor.checking")
    parser.add_argument("--run", action="store_true")
    given = parser.parse_args(arguments)
    # What links and refreshes log is in the findings.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=True)

    async def check(output: TextIO) -> None:
        checking = Checking(load_reports(ReportsSettings.load().modules), output)
        async with checking.opened():
            await checking.check(run=given.run)

    with _findings_alone() as output:
        asyncio.run(check(output))


if __name__ == "__main__":
    with exit_on_error():
        main(sys.argv[1:])
