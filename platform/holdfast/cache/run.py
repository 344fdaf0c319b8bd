"""A run: the record of one refresh, for `holdfast runs`."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from holdfast.cache.entry import Entry
from holdfast.reports.canonical import Scalar

Trigger = Literal["schedule", "change", "miss", "stale", "manual", "startup"]
RunOutcome = Literal["changed", "unchanged", "unstored", "failed"]


class Run(msgspec.Struct, kw_only=True):
    """One refresh, as it is recorded. `started_at` is in seconds since the epoch; durations are in ms."""

    report: str
    key: str
    params: dict[str, Scalar]
    trigger: Trigger
    started_at: float
    outcome: RunOutcome = "failed"
    duration_ms: float = 0.0
    rows: int | None = None
    bytes: int | None = None
    digest: str | None = None
    error: str | None = None
    """The error's class and the beginning of its message."""
    reason: str | None = None
    """What failed and where, in full and with the lines of the author's code: for people."""
    retryable: bool = False
    """Whether the error may pass: a worker tries again."""
    pid: int = msgspec.field(default_factory=os.getpid)

    def done(self, entry: Entry, outcome: RunOutcome) -> None:
        """Note the entry that this run computed."""
        self.outcome = outcome
        self.rows, self.bytes, self.digest = entry.rows, len(entry.body), entry.digest
