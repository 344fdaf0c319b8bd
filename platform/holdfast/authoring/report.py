"""The text of a report and of its test, from a source: what they group by, select by and measure."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.authoring.names import class_name, free, identifier
from holdfast.authoring.sources import Field, Source

_PARAMETERS = {"text": "str", "integer": "int", "boolean": "bool", "date": "dt.date"}
_EXAMPLES = {"text": '"a"', "integer": "7", "boolean": "True", "date": '"2026-01-31"'}


@dataclass(frozen=True)
class TableImport:
    """Where a table is defined already: the line that imports it, and the expression for it."""

    line: str
    expression: str


@dataclass(frozen=True)
class Written:
    """A module of a report, and its test."""

    report: str
    test: str
    query: str
    """The query's name: `report.function`."""
    columns: tuple[str, ...]


class ReportText:
    """Writes one report.

    Args:
        name: the report's.
        source: described, with its fields.
        module: the import path of the report's module.
        table: where the table, or the document, is defined; without it, the module defines its own.
    """

    def __init__(self, name: str, source: Source, module: str, table: TableImport | None = None) -> None:
        self.name = name
        self.source = source
        self.module = module
        self.table = table
        # Every name that the module has at its top, or uses as one.
        self._taken = {"sa", "dt", "Any", "Params", "Report", "Document", "query", "p", "stages", "rows"}
        self.variable = free(identifier(name), self._taken)
        self.params = f"{class_name(name)}Params"
        self.group, self.condition, self.measure = source.group, source.condition, source.measure
        by = f"by_{identifier(self.group.name)}" if self.group else "counted"
        self.function = free(by, self._taken)
        self.filter = identifier(self.condition.name) if self.condition else ""
        self._columns()

    def _columns(self) -> None:
        taken: set[str] = set()
        self.group_label = free(self.group.name, taken) if self.group else ""
        self.count_label = free("count", taken)
        self.measure_label = free(f"avg_{identifier(self.measure.name)}", taken) if self.measure else ""
        self.columns = tuple(
            label for label in (self.group_label, self.count_label, self.measure_label) if label
        )

    def written(self) -> Written:
        """The two modules."""
        body = self._postgres() if self.source.database == "postgres" else self._mongo()
        return Written(body, self._test(), f"{self.name}.{self.function}", self.columns)

    def _head(self, *, sqlalchemy: bool) -> list[str]:
        grouped = f" by {self.group.name}" if self.group else ""
        what = "Rows" if sqlalchemy else "Documents"
        lines = [
            _docstring(f"{what} of {self.source.full_name}{grouped}."),
            "",
            "from __future__ import annotations",
            "",
        ]
        dates = (self.condition and self.condition.kind == "date") or (
            not sqlalchemy and self.table is None and any(f.type == "dt.datetime" for f in self.source.fields)
        )
        if dates:
            lines.append("import datetime as dt")
        lines += ["from typing import Any", ""]
        if sqlalchemy:
            lines.append("import sqlalchemy as sa")
        elif self.table is None:
            lines.append("from beanie import Document")
        lines += ["", "from holdfast.reports import Params, Report"]
        if self.table is not None:
            lines.append(self.table.line)
        return [line for number, line in enumerate(lines) if line or lines[number - 1]]

    def _params(self) -> list[str]:
        lines = ["", "", f"class {self.params}(Params):"]
        if self.condition is None:
            return [*lines, '    """The report has no parameter yet: each field is one, of the URL too."""']
        kind = _PARAMETERS[self.condition.kind]
        return [
            *lines,
            f'    """What is counted; without {self.filter}, everything."""',
            "",
            f"    {self.filter}: {kind} | None = None",
        ]

    def _report(self) -> list[str]:
        return [
            "",
            "",
            f"{self.variable} = Report(",
            f"    {_text(self.name)},",
            f"    params={self.params},",
            "    ttl=60,  # seconds for which a result is fresh",
            "    warm=[{}],  # computed ahead of the first request",
            f"    tags=[{_text(f'{self.source.database}:{self.source.full_name}')}],",
            ")",
            "",
            "",
        ]

    # Postgres.

    def _postgres(self) -> str:
        table = free(identifier(self.source.name), self._taken)
        lines = self._head(sqlalchemy=True)
        lines += self._own_table(table) if self.table is None else ["", f"{table} = {self.table.expression}"]
        lines += [*self._params(), *self._report()]
        count = f"sa.func.count().label({_text(self.count_label)})"
        selected = [count]
        if self.group:
            selected.insert(0, self._column(table, self.group, self.group_label))
        if self.measure:
            column = _member(table, self.measure.name)
            selected.append(f"sa.func.avg({column}).label({_text(self.measure_label)})")
        lines += [
            f"@{self.variable}.postgres",
            f"def {self.function}(p: {self.params}) -> sa.Select[Any]:",
            f"    query = sa.select({', '.join(selected)})",
        ]
        if not self.group:
            lines[-1] += f".select_from({table})"
        if self.condition:
            lines += [
                f"    if p.{self.filter} is not None:",
                f"        query = query.where({self._compared(table)})",
            ]
        if not self.group:
            return _module([*lines, "    return query"])
        column = _member(table, self.group.name)
        return _module(
            [*lines, f"    return query.group_by({column}).order_by(sa.func.count().desc(), {column})"]
        )

    def _own_table(self, table: str) -> list[str]:
        lines = ["", f"{table} = sa.table(", f"    {_text(self.source.name)},"]
        for column in self.source.fields:
            kind = f", {column.sql}" if column.sql else ""
            lines.append(f"    sa.column({_text(column.name)}{kind}),  # {' '.join(column.type.split())}")
        if self.source.schema:
            lines.append(f"    schema={_text(self.source.schema)},")
        return [*lines, ")"]

    def _column(self, table: str, column: Field, label: str) -> str:
        member = _member(table, column.name)
        return member if label == column.name else f"{member}.label({_text(label)})"

    def _compared(self, table: str) -> str:
        assert self.condition is not None  # noqa: S101 - asked for only where there is one
        member = _member(table, self.condition.name)
        if self.condition.kind == "text":
            # An enumeration or a domain is no text to Postgres.
            member = f"sa.cast({member}, sa.Text)"
        return f"{member} == p.{self.filter}"

    # MongoDB.

    def _mongo(self) -> str:
        document = self.table.expression if self.table else class_name(self.source.name) + "Document"
        lines = self._head(sqlalchemy=False)
        if self.table is None:
            lines += document_class(document, self.source)
        lines += [*self._params(), *self._report()]
        lines += [
            f"@{self.variable}.mongo({document})",
            f"def {self.function}(p: {self.params}) -> list[dict[str, Any]]:",
            "    stages: list[dict[str, Any]] = []",
        ]
        if self.condition:
            lines += [
                f"    if p.{self.filter} is not None:",
                f'        stages.append({{"$match": {{{_text(self.condition.name)}: p.{self.filter}}}}})',
            ]
        group = _text(f"${self.group.name}") if self.group else "None"
        made = [f'"_id": {group}', f'{_text(self.count_label)}: {{"$sum": 1}}']
        shown = ['"_id": 0', f"{_text(self.count_label)}: 1"]
        order = f"{_text(self.count_label)}: -1"
        if self.group:
            shown.insert(1, f'{_text(self.group_label)}: "$_id"')
            order += f", {_text(self.group_label)}: 1"
        if self.measure:
            made.append(f'{_text(self.measure_label)}: {{"$avg": {_text("$" + self.measure.name)}}}')
            shown.append(f"{_text(self.measure_label)}: 1")
        return _module(
            [
                *lines,
                "    return [",
                "        *stages,",
                f'        {{"$group": {{{", ".join(made)}}}}},',
                f'        {{"$project": {{{", ".join(shown)}}}}},',
                f'        {{"$sort": {{{order}}}}},',
                "    ]",
            ]
        )

    # The test.

    def _test(self) -> str:
        row = {self.count_label: "2"}
        if self.group:
            row = {self.group_label: _EXAMPLES[self.group.kind], **row}
        if self.measure:
            row[self.measure_label] = "1.5"
        cells = ", ".join(f"{_text(name)}: {value}" for name, value in row.items())
        lines = [
            _docstring(f"The report {self.name}, computed from given rows: no server runs."),
            "",
            "from __future__ import annotations",
            "",
            "from holdfast.testing import compute",
            f"from {self.module} import {self.params}, {self.function}, {self.variable}",
            "",
            f"ROWS = [{{{cells}}}]",
            "",
            "",
            "def test_the_rows_of_the_query_are_served() -> None:",
            '    """Without a function of its own, the report serves what its query gives."""',
            f"    assert compute({self.variable}, {{{self.function}: ROWS}}) == ROWS",
        ]
        if self.condition:
            example = _EXAMPLES[self.condition.kind]
            lines += [
                "",
                "",
                "def test_a_parameter_selects() -> None:",
                f'    """With {self.filter} another query is built than without it."""',
                f"    chosen = {self.params}.model_validate({{{_text(self.filter)}: {example}}})",
                f"    assert str({self.function}(chosen)) != str({self.function}({self.params}()))",
            ]
        return _module(lines)


def document_class(name: str, source: Source) -> list[str]:
    """A Beanie document of a collection, with the fields that were seen."""
    lines = ["", "", f"class {name}(Document):", f"    {_docstring(f'A document of {source.name}.')}", ""]
    seen: set[str] = set()
    for each in source.fields:
        if each.name != "_id" and identifier(each.name) == each.name and each.name not in seen:
            seen.add(each.name)
            lines.append(
                f"    {each.name}: {each.type} = None"
                if each.type == "Any"
                else f"    {each.name}: {each.type} | None = None"
            )
    return [
        *lines,
        "",
        "    class Settings:",
        '        """Where Beanie finds it."""',
        "",
        f"        name = {_text(source.name)}",
    ]


def _member(table: str, column: str) -> str:
    plain = column.isidentifier() and identifier(column) == column
    return f"{table}.c.{column}" if plain and not hasattr(dict, column) else f"{table}.c[{_text(column)}]"


def _text(value: str) -> str:
    """A string literal, in double quotes where that needs no escape."""
    shown = repr(value)
    return f'"{shown[1:-1]}"' if shown.startswith("'") and '"' not in shown and "\\" not in shown else shown


def _docstring(text: str) -> str:
    plain = text.replace("\\", "/").replace('"', "'")
    return f'"""{" ".join(plain.split())}"""'


def _module(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
