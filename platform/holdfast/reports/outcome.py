"""What came of loading the reports again, as the supervisor answers it over its socket. Light."""

from __future__ import annotations

import msgspec


class SetAside(msgspec.Struct):
    """A report that cannot be loaded, and whether its last good version goes on being served."""

    name: str
    module: str
    reason: str
    kept: bool
    file: str = ""
    line: int = 0
    text: str = ""


class ReloadedReports(msgspec.Struct):
    """The names of reports that were added, changed and removed, and those that are broken."""

    added: list[str]
    changed: list[str]
    removed: list[str]
    broken: list[SetAside]
