"""Trials of the reports: a process that loads them for each line on standard input, in a child of its own.

An edit may hang, or end the process that imports it. `holdfast up` lets a child of this process meet it
first, so that the supervisor does not. What reports need is imported before the children are forked (fork(2);
there is one thread), so a trial costs the import of the author's own modules alone.

For each line the child answers `pid N` and a JSON list of what is broken, and then this process `end STATUS`.
On standard error a child names each file before it runs it; where it does not come to its end, the last of
them, or the traceback of faulthandler, says where that was.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import re
import sys
from collections.abc import Sequence
from types import CodeType
from typing import Any, NoReturn

import msgspec

from holdfast.processes.parent import end_with_parent
from holdfast.processes.paths import find_modules_here
from holdfast.reasons import is_authors, shown_path, source_line
from holdfast.reports import load_reports
from holdfast.settings import ReportsSettings

SECONDS = 10.0
"""How long the import of all reports may take."""
_NAMED = re.compile(r'^loading (?P<file>.+)$|^ *File "(?P<at>[^"]+)", line (?P<line>\d+)', re.M)
_USUAL = ("sqlalchemy.dialects.postgresql", "beanie")


def main() -> None:
    """Answer each line, until the end of the input."""
    find_modules_here()
    sys.dont_write_bytecode = True
    modules = ReportsSettings.load().modules
    for name in _USUAL:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    while sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            _load(modules)
        _, status = os.waitpid(pid, 0)
        _answer(1, f"end {os.waitstatus_to_exitcode(status)}")


def _load(modules: Sequence[str]) -> NoReturn:
    """Load the reports in this process, print what is broken, and end it."""
    end_with_parent()
    # What a module prints, or a program that it starts, is no answer.
    answers = os.dup(1)
    os.dup2(2, 1)
    _answer(answers, f"pid {os.getpid()}")
    sys.addaudithook(_name_file)
    faulthandler.enable()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    broken = load_reports(modules).broken
    _answer(answers, msgspec.json.encode(broken).decode())
    os._exit(0)


def _answer(descriptor: int, line: str) -> None:
    left = f"{line}\n".encode()
    while left:
        left = left[os.write(descriptor, left) :]


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
