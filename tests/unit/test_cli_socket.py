"""The commands that ask the supervisor, on a socket that answers with given rows and runs."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.background import Background
from typer.testing import CliRunner, Result

from holdfast.cli import check
from holdfast.cli.app import app
from holdfast.cli.check import PROBES, try_all
from holdfast.cli.query import SHOWN_ROWS
from holdfast.cli.tables import console
from holdfast.errors import InvalidParams, SettingsError, SupervisorUnavailable, UnknownQuery
from holdfast.rpc.dispatch import Dispatcher, operation
from holdfast.rpc.server import SocketServer

RUN = {
    "started_at": 1_700_000_000.0,
    "report": "numbers",
    "params": {"upto": 3, "word": None},
    "trigger": "schedule",
    "outcome": "changed",
    "error": None,
    "duration_ms": 12.6,
    "rows": 3,
    "bytes": 70,
}
FAILED = {**RUN, "outcome": "failed", "error": "the query [x] was refused", "rows": None, "bytes": None}


class Supervisor:
    """The operations that the commands use."""

    @operation
    async def ping(self) -> dict[str, int]:
        """A pid."""
        return {"pid": 4711}

    @operation
    async def query(self, name: str, params: dict[str, Any]) -> dict[str, Any]:
        """As many rows as `upto` says; the last column is NULL."""
        rows = [[n, params["word"], None] for n in range(params.get("upto", 0))]
        return {"columns": ["n", "word", "nothing"], "rows": rows}

    @operation
    async def runs(self, report: str | None, limit: int) -> list[dict[str, Any]]:
        """Two runs, one of which failed."""
        return [RUN, FAILED][:limit]


class Meter:
    """Counts nothing."""

    def called(self, operation: str, error: str) -> None:
        """A call ended."""

    def connected(self, clients: int) -> None:
        """A connection was opened or closed."""


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    """The path of a socket that is served."""
    # A short name: the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="hf-") as folder, Background() as background:
        server = SocketServer(Path(folder) / "s", Dispatcher(Supervisor()), Meter())
        background.run(server.start())
        yield Path(folder) / "s"
        background.run(server.drain(0))
        server.close()


@pytest.fixture
def _served(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_SOCKET", str(path))
    monkeypatch.setenv("REPORTS", "tests.support.sample_reports")


def holdfast(*arguments: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("_served")
class TestQuery:
    """`holdfast query`."""

    def test_it_prints_the_rows(self) -> None:
        """The columns by name, a line for each row, NULL as nothing, and how many there were."""
        header, *rows, count = holdfast("query", "numbers.squares", "upto=2", "word=[x]").output.splitlines()
        assert header.split() == ["n", "word", "nothing"]
        assert [row.split() for row in rows] == [["0", "[x]"], ["1", "[x]"]]
        assert count.startswith("2 rows in ")

    def test_it_says_how_many_rows_are_not_shown(self) -> None:
        """Of many rows the first are shown, and the last line says so."""
        lines = holdfast("query", "numbers.squares", "upto=60").output.splitlines()
        assert len(lines) == 1 + SHOWN_ROWS + 1
        assert lines[-1].startswith("60 rows in ")
        assert lines[-1].endswith(f", the first {SHOWN_ROWS} shown")

    def test_no_rows_are_no_table(self) -> None:
        """A query without rows prints the count alone."""
        (line,) = holdfast("query", "ledger.balances").output.splitlines()
        assert line.startswith("0 rows in ")

    def test_it_lists_the_queries(self) -> None:
        """Without a name, every query is listed with its database and its parameters."""
        lines = holdfast("query").output.splitlines()
        assert "numbers.squares postgres [upto=…] [word=…]" in [" ".join(line.split()) for line in lines]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (["numbers.none"], UnknownQuery),
            (["numbers.squares", "upto"], SettingsError),
            (["numbers.squares", "upto=0"], InvalidParams),
            (["numbers.squares", "unknown=1"], InvalidParams),
        ],
        ids=["no such query", "no value", "out of range", "no such parameter"],
    )
    def test_a_wrong_one_is_refused_before_it_is_sent(
        self, arguments: list[str], error: type[Exception]
    ) -> None:
        """An unknown query and wrong parameters are errors of the command itself."""
        assert isinstance(holdfast("query", *arguments).exception, error)


@pytest.mark.usefixtures("_served")
class TestRuns:
    """`holdfast runs`."""

    def test_it_prints_the_runs(self) -> None:
        """A line for each run, with the parameters that are set and the error, if there is one."""
        _, done, failed = holdfast("runs").output.splitlines()
        assert done.split()[2:] == ["numbers", "upto=3", "schedule", "changed", "13", "3", "70"]
        assert "failed: the query [x] was refused" in failed

    def test_it_prints_json(self) -> None:
        """`--json` prints what the supervisor answered, in one document."""
        assert json.loads(holdfast("runs", "--json").output) == [RUN, FAILED]

    def test_the_limit_is_passed_on(self) -> None:
        """`--limit` is the number of runs that are asked for."""
        assert json.loads(holdfast("runs", "numbers", "--limit", "1", "--json").output) == [RUN]


def test_without_a_supervisor_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that needs the supervisor fails at once where there is none."""
    monkeypatch.setenv("SUPERVISOR_SOCKET", "/nowhere/s")
    assert isinstance(holdfast("runs").exception, SupervisorUnavailable)


@pytest.mark.usefixtures("_served")
def test_check_finds_what_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can be used is a line that begins with ok, and says what was found."""
    monkeypatch.setenv("GW_AUTH", "off")
    probes = {name: PROBES[name] for name in ("reports", "supervisor", "authentication")}
    assert try_all(probes, console())
    reports, supervisor, authentication = capsys.readouterr().out.splitlines()
    assert reports.startswith("ok     reports: ")
    assert "numbers" in reports
    assert supervisor == "ok     supervisor: answers on its socket (pid 4711)"
    assert authentication.startswith("ok     authentication: GW_AUTH is off")


def test_check_tries_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no settings at all, each connection has its line, and the exit status is 1."""
    monkeypatch.setenv("SUPERVISOR_SOCKET", "/nowhere/s")
    shown = holdfast("check")
    first, *others = shown.output.splitlines()
    assert shown.exit_code == 1
    assert first == "ok     settings: every variable is of its type"
    marks: Mapping[str, str] = {line.split()[1].rstrip(":"): line.split()[0] for line in others}
    assert marks == {
        "reports": "ok",
        "postgres": "unset",
        "mongo": "unset",
        "redis": "unset",
        "broker": "unset",
        "supervisor": "failed",
        "authentication": "unset",
    }


def test_check_names_every_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wrong variable has its line, nothing is tried, and the exit status is 1."""
    monkeypatch.setenv("GW_PORT", "many")
    monkeypatch.setenv("PG_POOL_MAX", "none")
    shown = holdfast("check")
    assert shown.exit_code == 1
    assert {line.split()[0] for line in shown.output.splitlines()} == {"wrong"}
    assert {line.split()[1].rstrip(":") for line in shown.output.splitlines()} == {"GW_PORT", "PG_POOL_MAX"}


def test_a_probe_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A connection that gives no answer is reported with the time that was waited for it."""

    async def hangs() -> str:
        await asyncio.sleep(60)
        return "never"

    monkeypatch.setattr(check, "PROBE_SECONDS", 0.01)

    assert not try_all({"postgres": hangs}, console())
    assert capsys.readouterr().out == "failed postgres: no answer in 0.01 s\n"
