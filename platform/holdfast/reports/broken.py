"""A report that could not be loaded: its name, the place in the author's code, and what is accepted there."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from holdfast.errors import ReportError
from holdfast.reasons import CodePlace, author_places, close_to, reason, shown_path, source_line

_NAMED = re.compile(r"""\bReport\(\s*(?:name\s*=\s*)?["']([a-z0-9-]+)["']""")
_PARAMETERS = ("title", "description", "params", "ttl", "max_stale", "schedule", "tags", "warm")
_CALLS = (
    (
        "Report.mongo() missing",
        "@report.mongo needs the Document that it reads, as in @report.mongo(Reading)",
    ),
    ("Report.postgres() missing", "@report.postgres is written without parentheses"),
    ("Report.compute() missing", "@report.compute is written without parentheses"),
    ("Report.__init__() missing", 'a report has a name, as in Report("late-flights")'),
    ("Report.__init__() takes 2", "what follows a report's name is given by keyword, as in ttl=300"),
)
"""What Python says of calls of ours that cannot be made, and what is meant instead."""


class BrokenReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report that is set aside while the others are served."""

    name: str
    """The report's; its module's where the file does not say."""
    module: str
    reason: str
    file: str = ""
    """Relative to the working directory, where it lies below it."""
    line: int = 0
    text: str = ""
    """The line itself."""

    @property
    def place(self) -> str:
        """The file and the line, or the module where there is no file."""
        return f"{self.file}:{self.line}" if self.line else self.file or self.module

    def __str__(self) -> str:
        text = f": {self.text}" if self.text else ""
        return f"report {self.name} is set aside: {self.reason}\n  {self.place}{text}"


def warn_of(broken: Sequence[BrokenReport]) -> None:
    """Log each report that is set aside, in the process that loaded it."""
    log = structlog.get_logger("reports")
    for each in broken:
        log.warning(
            "A report is set aside.",
            action="report_set_aside",
            report=each.name,
            place=each.place,
            text=each.text,
            reason=each.reason,
        )


def broken_by(module: str, error: BaseException, *, name: str = "") -> tuple[BrokenReport, ...]:
    """What is set aside when a module cannot be imported: every report that its text names, or the module."""
    place = _place(module, error)
    said = _said(error)
    names = [name] if name else _names_in(_file_of(module)) or [module]
    return tuple(
        BrokenReport(
            name=each, module=module, reason=said, file=place.file, line=place.line, text=place.text.strip()
        )
        for each in names
    )


def _said(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"the file is no Python: {error.msg}"
    if isinstance(error, SystemExit):
        return "the module ends the process when it is imported"
    if isinstance(error, ImportError):
        # With the class's name only its own texts would be longer: they say what cannot be imported.
        return f"it cannot be imported: {error}"
    if isinstance(error, TypeError):
        return _said_of_call(str(error)) or reason(error)
    return reason(error)


def _said_of_call(text: str) -> str:
    for begins, meant in _CALLS:
        if begins in text:
            return meant
    if found := re.search(r"Report\.__init__\(\) got an unexpected keyword argument '(\w+)'", text):
        close = close_to(found[1], _PARAMETERS)
        hint = f" (did you mean {close!r}?)" if close else ""
        return f"a report has no {found[1]!r}{hint}: it takes {', '.join(_PARAMETERS)}"
    return ""


def _place(module: str, error: BaseException) -> CodePlace:
    if isinstance(error, ReportError) and error.details.get("file"):
        return CodePlace(error.details["file"], error.details["line"], text=error.details["text"])
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        line = error.lineno or 1
        text = error.text or source_line(error.filename, line)
        return CodePlace(shown_path(error.filename), line, text=text.strip())
    places = author_places(error, {module.partition(".")[0]})
    if places:
        return places[-1]
    file = _file_of(module)
    return CodePlace(shown_path(str(file)), 1) if file else CodePlace("", 0)


def _file_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError, TypeError):
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _names_in(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        return list(dict.fromkeys(_NAMED.findall(file.read_text(encoding="utf-8", errors="replace"))))
    except OSError:
        return []
