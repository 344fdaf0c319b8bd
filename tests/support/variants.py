"""Results to ask for, with parameters that no other test of this run has used."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from holdfast.reports import Report
from holdfast.reports.canonical import ANALYTICS_PATH, Scalar

_WORDS = ("word", "tag")
"""Parameters of the sample reports that only come back: each value of theirs is another result."""
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Variant:
    """One result of a report: the report, and every one of its parameters."""

    report: Report
    params: Mapping[str, Scalar]

    @property
    def name(self) -> str:
        """The report's name."""
        return self.report.name

    @property
    def target(self) -> str:
        """The report's name and a query, as a client may write them after the path of the analytics."""
        given = {name: value for name, value in self.params.items() if value is not None}
        return f"{self.name}?{urlencode(given)}" if given else self.name

    @property
    def url(self) -> str:
        """The canonical URL."""
        return self.report.reader.url(self.params)

    @property
    def path(self) -> str:
        """The path and a query, as a client may write them."""
        return f"{ANALYTICS_PATH}/{self.target}"

    @property
    def key(self) -> str:
        """The key in the cache."""
        return self.report.reader.key(self.params)

    @property
    def lease(self) -> str:
        """The key of its lease."""
        return f"holdfast:lease:{self.key}"


def fresh(report: Report, **params: Scalar) -> Variant:
    """A result with these parameters that nobody has asked for before."""
    word = next(name for name in _WORDS if name in report.reader.specs)
    unique = {word: f"fresh-{next(_numbers)}"}
    return Variant(report, report.reader.parse({**unique, **params}))
