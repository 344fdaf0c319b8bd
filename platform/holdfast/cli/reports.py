"""`holdfast reports`: what the report files define now, and what of it is set aside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import tables

if TYPE_CHECKING:
    from holdfast.reports import Registry, Report
    from holdfast.reports.params import ParamSpec

SHOWN_VARIANTS = 20


def reports(
    name: Annotated[str, typer.Argument(help="One report; all of them without it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """List the reports, or show one: its parameters, queries, times and warm variants."""
    from holdfast.reports import load_reports
    from holdfast.settings import ReportsSettings

    registry = load_reports(ReportsSettings.load().modules)
    if name:
        report = registry.get(name)
        if as_json:
            print(json.dumps(described(report)))
        else:
            _show_one(report)
    elif as_json:
        import msgspec

        broken = msgspec.to_builtins(registry.broken)
        print(json.dumps({"reports": [described(report) for report in registry], "broken": broken}))
    else:
        _list(registry)


def described(report: Report) -> dict[str, Any]:
    """A report as one document: what the catalogue says of it, its place, queries and warm variants."""
    import msgspec

    return {
        **msgspec.to_builtins(report.spec),
        "version": report.version,
        "url": f"/api/v1/analytics/{report.name}",
        "file": _place(report),
        "queries": [{"name": query.name, "source": query.source} for query in report.queries.values()],
        "warm": [report.reader.url(params) for params in report.warm],
    }


def _place(report: Report) -> str:
    return f"{report.place.file}:{report.place.line}" if report.place else report.module


def _list(registry: Registry) -> None:
    console = tables.console()
    table = tables.table("report", "parameters", "queries", "schedule", "ttl", "warm", "file")
    for report in sorted(registry, key=lambda each: each.name):
        cells = (
            report.name,
            " ".join(spec.name for spec in report.spec.params),
            " ".join(sorted({query.source for query in report.queries.values()})),
            _seconds(report.schedule),
            _seconds(report.ttl),
            str(len(report.warm)),
            _place(report),
        )
        table.add_row(*(tables.cell(value) for value in cells))
    console.print(table)
    for broken in registry.broken:
        tables.line(console, str(broken), mark="set aside: ", style="red")


def _show_one(report: Report) -> None:
    console = tables.console()
    facts = {
        "title": report.spec.title,
        "description": report.spec.description,
        "url": f"/api/v1/analytics/{report.name}",
        "file": _place(report),
        "tags": " ".join(report.spec.tags),
        "ttl": _seconds(report.ttl) or "GW_CACHE_TTL",
        "max_stale": _seconds(report.max_stale),
        "schedule": _seconds(report.schedule) or "none",
        "version": report.version,
    }
    for label, value in facts.items():
        if value:
            tables.line(console, value, mark=f"{label:12}", style="bold")
    console.print()
    table = tables.table("parameter", "type", "default", "accepted", "description")
    for spec in report.spec.params:
        table.add_row(*(tables.cell(value) for value in _parameter(spec)))
    console.print(table if report.spec.params else "It has no parameters.")
    console.print()
    for query in report.queries.values():
        tables.line(console, f"{query.name} ({query.source})", mark="query       ", style="bold")
    for params in report.warm[:SHOWN_VARIANTS]:
        tables.line(console, report.reader.url(params), mark="warm        ", style="bold")
    if len(report.warm) > SHOWN_VARIANTS:
        tables.line(
            console, f"and {len(report.warm) - SHOWN_VARIANTS} more", mark="warm        ", style="bold"
        )


def _parameter(spec: ParamSpec) -> tuple[str, ...]:
    default = "required" if spec.required else "" if spec.default is None else str(spec.default)
    if spec.claim:
        default = f"from the token's claim {spec.claim}"
    return (spec.name, spec.type, default, _accepted(spec), spec.description)


def _accepted(spec: ParamSpec) -> str:
    if spec.enum:
        return ", ".join(map(str, spec.enum))
    bounds: Mapping[str, object] = {
        "from": spec.minimum,
        "above": spec.exclusiveMinimum,
        "to": spec.maximum,
        "below": spec.exclusiveMaximum,
        "pattern": spec.pattern,
        "at least": spec.minLength and f"{spec.minLength} characters",
        "at most": spec.maxLength and f"{spec.maxLength} characters",
    }
    return " ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


def _seconds(value: int | None) -> str:
    return "" if value is None else f"{value} s"
