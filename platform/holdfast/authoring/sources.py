"""Tables, views and collections as a first report is made from them: their fields, and what those hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.errors import LocalError
from holdfast.reasons import did_you_mean

Kind = Literal["text", "integer", "number", "boolean", "date", "time", "other"]
GROUPS: tuple[Kind, ...] = ("text", "boolean", "integer", "date")
"""Kinds of fields to group by, the best first."""
_MOST_GROUPS = 200


@dataclass(frozen=True)
class Field:
    """A column, or a field of documents. `distinct` counts the values in the sample; None without one."""

    name: str
    kind: Kind
    type: str
    """As the database names it."""
    distinct: int | None = None
    key: bool = False
    sql: str = ""
    """The column's type for SQLAlchemy, as code; empty where it has none."""


@dataclass(frozen=True)
class Source:
    """A table, a view or a collection."""

    database: Literal["postgres", "mongo"]
    name: str
    schema: str | None = None
    fields: Sequence[Field] = field(default_factory=tuple)

    @property
    def full_name(self) -> str:
        """The name with its schema, where that is not the default one."""
        return f"{self.schema}.{self.name}" if self.schema else self.name

    def __str__(self) -> str:
        return f"{self.database}:{self.full_name}"

    @property
    def group(self) -> Field | None:
        """What to group by: of the fields with several values and not too many, the best kind first."""
        return next(iter(self._groups()), None)

    @property
    def condition(self) -> Field | None:
        """What a parameter selects: another field that could be grouped by, or else the same one."""
        groups = self._groups()
        return groups[1] if len(groups) > 1 else next(iter(groups), None)

    @property
    def measure(self) -> Field | None:
        """A number to take the mean of: no key, and not what rows are grouped by or selected by."""
        taken = (self.group, self.condition)
        return next(
            (f for f in self.fields if f.kind in ("integer", "number") and not f.key and f not in taken), None
        )

    def _groups(self) -> list[Field]:
        fit = [f for f in self.fields if f.kind in GROUPS and not f.key and _groups_well(f)]
        return sorted(fit, key=lambda f: (f.distinct == 1, GROUPS.index(f.kind), f.distinct or 0))


def _groups_well(candidate: Field) -> bool:
    if candidate.distinct is None:
        # Without a sample a number says nothing: it may be an amount.
        return candidate.kind != "integer"
    return candidate.distinct <= _MOST_GROUPS


def distinct_values(rows: Iterable[Any]) -> int | None:
    """How many values there are in a sample; None where it is empty."""
    values = {repr(value) for value in rows if value is not None}
    return len(values) or None


def pick(text: str, sources: Sequence[Source]) -> Source:
    """The source that `postgres:orders`, `postgres:shop.orders`, `mongo:readings` or a bare name means.

    Raises:
        LocalError: there is none, or several; the message names them.
    """
    kind, colon, name = text.partition(":")
    if not colon or kind not in ("postgres", "mongo"):
        kind, name = "", text
    among = [source for source in sources if kind in ("", source.database)]
    for equal in (
        lambda source: name in (source.full_name, f"public.{source.name}" if source.schema is None else None),
        lambda source: source.name == name,
        lambda source: name.replace('"', "").lower() in (source.full_name.lower(), source.name.lower()),
    ):
        found = [source for source in among if equal(source)]
        if len(found) == 1:
            return found[0]
        if found:
            raise LocalError(f"--from {text} may be {' or '.join(map(str, found))}: say which")
    known = [str(source) for source in sources]
    near = did_you_mean(text if colon else name, [*known, *(source.name for source in among)])
    raise LocalError(f"there is no {text!r}.{near} {listed(sources)}")


def listed(sources: Sequence[Source]) -> str:
    """The sources in a sentence."""
    if not sources:
        return "No table and no collection was found: is POSTGRES_URL or MONGO_URL the right one?"
    shown = ", ".join(str(source) for source in sources[:20])
    more = f" and {len(sources) - 20} more" if len(sources) > 20 else ""
    return f"There are {shown}{more}."
