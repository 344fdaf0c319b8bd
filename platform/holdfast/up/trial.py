"""A trial of the reports: a process that loads them and prints as JSON which are broken.

An edit may hang, or end the process that imports it. `holdfast up` lets this process meet it first, so that
the supervisor does not. It imports what reports need and then waits for a line on standard input: an edit
costs the import of the author's own modules alone. On standard error it names each file before it runs it;
where it does not come to its end, the last of them, or the traceback of faulthandler, says where that was.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import re
import sys
from types import CodeType
from typing import Any

import msgspec

from holdfast.processes.paths import find_modules_here
from holdfast.reasons import is_authors, shown_path, source_line
from holdfast.reports import load_reports
from holdfast.settings import ReportsSettings

SECONDS = 10.0
"""How long the import of all reports may take."""
_NAMED = re.compile(r'^loading (?P<file>.+)$|^ *File "(?P<at>[^"]+)", line (?P<line>\d+)', re.M)
_USUAL = ("sqlalchemy.dialects.postgresql", "beanie")


def main() -> None:
    """Wait for the word, load the reports, and print what is broken."""
    find_modules_here()
    sys.dont_write_bytecode = True
    modules = ReportsSettings.load().modules
    for name in _USUAL:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if not sys.stdin.readline():
        return
    output, sys.stdout = sys.stdout, sys.stderr
    sys.addaudithook(_name_file)
    faulthandler.enable()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    broken = load_reports(modules).broken
    output.write(msgspec.json.encode(broken).decode() + "\n")
    output.flush()


def _name_file(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "exec" and isinstance(arguments[0], CodeType):
        file = arguments[0].co_filename
        if arguments[0].co_name == "<module>" and is_authors(file):
            print(f"loading {file}", file=sys.stderr, flush=True)


def place_of_end(log: str) -> str:
    """Where a trial was when it ended, from what it logged: the file, and the line where it is known."""
    last = ""
    for found in _NAMED.finditer(log):
        if found["file"]:
            last = shown_path(found["file"])
        elif is_authors(found["at"]):
            place = f"{shown_path(found['at'])}:{found['line']}"
            return f"{place}: {source_line(found['at'], int(found['line']))}"
    return last


if __name__ == "__main__":
    main()
