"""`holdfast query`: a report's named query by hand, through the supervisor."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import tables
from holdfast.cli.client import call
from holdfast.errors import ProtocolError, SettingsError

if TYPE_CHECKING:
    from holdfast.reports import Registry, Report
    from holdfast.reports.canonical import Scalar
    from holdfast.rpc.client import Client

SHOWN_ROWS = 50


def query(
    name: Annotated[str, typer.Argument(help="As report.function; without it, all are listed.")] = "",
    params: Annotated[list[str] | None, typer.Argument(help="As key=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, with every row.")] = False,
) -> None:
    """Run a named query through the supervisor, by hand."""
    from holdfast.reports import load_reports
    from holdfast.settings import ReportsSettings

    registry = load_reports(ReportsSettings.load().modules)
    if name:
        _run(registry, name, params or [], as_json=as_json)
    else:
        _list(registry, as_json=as_json)


def _list(registry: Registry, *, as_json: bool) -> None:
    if as_json:
        queries = [query for report in registry for query in report.queries.values()]
        print(json.dumps([{"name": query.name, "source": query.source} for query in queries]))
        return
    for report in registry:
        options = " ".join(f"[{spec.name}=…]" for spec in report.spec.params)
        for query in report.queries.values():
            print(f"{query.name:36} {query.source:9} {options}")


def _run(registry: Registry, name: str, given: Sequence[str], *, as_json: bool) -> None:
    from holdfast.reports.rows import encode_rows

    report, _ = registry.query(name)
    params = report.reader.parse(pairs(given))
    began = time.perf_counter()
    rows = call(lambda client: _asked(client, report, name, params))
    if as_json:
        print(encode_rows(rows)[0].decode())
    else:
        _show(rows, (time.perf_counter() - began) * 1000)


async def _asked(
    client: Client, report: Report, name: str, params: Mapping[str, Scalar]
) -> list[dict[str, Any]]:
    # A supervisor of an earlier release has no versions, and refuses the question.
    with contextlib.suppress(ProtocolError):
        await client.check_version(report.name, report.version)
    return await client.query(name, params)


class NotAPair(SettingsError):
    """An argument is not key=value."""

    code = "not_a_pair"
    next_step = "A query's parameters are given as in `holdfast query NAME month=7`."


def pairs(given: Sequence[str]) -> dict[str, str]:
    """The parameters of a command line by name; of two with one name the last counts.

    Raises:
        SettingsError: one is not key=value.
    """
    read: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise NotAPair(f"{text!r} is not key=value")
        read[key] = value
    return read


def _show(rows: Sequence[Mapping[str, Any]], milliseconds: float) -> None:
    console = tables.console()
    if rows:
        table = tables.table(*rows[0].keys())
        for row in rows[:SHOWN_ROWS]:
            table.add_row(*(tables.cell(as_served(value), empty="") for value in row.values()))
        console.print(table)
    hidden = f", the first {SHOWN_ROWS} shown" if len(rows) > SHOWN_ROWS else ""
    console.print(f"{len(rows)} rows in {milliseconds:.1f} ms{hidden}", style="dim")


def as_served(value: Any) -> str:
    """A value as it stands in a result, but for the quotation marks of a text; empty for null."""
    from holdfast.reports.rows import encode_rows

    if value is None or isinstance(value, str):
        return value or ""
    text = encode_rows([{"": value}])[0].decode().removeprefix('[{"":').removesuffix("}]")
    return "" if text == "null" else text
