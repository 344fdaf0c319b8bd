"""Exceptions as sentences: what went wrong, where in the author's code, and what was probably meant.

What a person reads is made here, so that it has the same words in a log, in a run's record and on a terminal.
This module is light, and imports nothing but the standard library.
"""

from __future__ import annotations

import difflib
import errno
import inspect
import linecache
import os
import re
import socket
import ssl
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import CodeType, TracebackType
from typing import NamedTuple

MAX_TEXT = 2000
"""Characters of a reason: a library's message may quote a whole result."""
_MOST_PLACES = 5
_OURS = tuple(
    Path(__file__).parents[2] / folder / package
    for folder, package in (
        ("platform", "holdfast"),
        ("workers", "holdfast_workers"),
        ("gateway", "holdfast_gateway"),
    )
)
_OUR_PACKAGES = frozenset({"holdfast", "holdfast_workers", "holdfast_gateway"})
_STANDARD = tuple({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})
_LIBRARIES = frozenset({"site-packages", "dist-packages"})
_RESOLVER = {
    socket.EAI_NONAME: "no such host",
    getattr(socket, "EAI_NODATA", None): "no such host",
    socket.EAI_AGAIN: "the host's name cannot be looked up now",
}
_SYSTEM = {
    errno.ENOENT: "no such file",
    errno.ETIMEDOUT: "no answer in time",
    errno.ECONNRESET: "connection closed by the server",
    errno.EPIPE: "connection closed by the server",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "no route to the host",
}


class CodePlace(NamedTuple):
    """A line of an author's code."""

    file: str
    """Relative to the working directory, where it lies below it."""
    line: int
    function: str = ""
    text: str = ""

    def __str__(self) -> str:
        function = f" in {self.function}" if self.function and self.function != "<module>" else ""
        return f"{self.file}:{self.line}{function}{f': {self.text}' if self.text else ''}"


def reason(error: BaseException) -> str:
    """What an exception says, as a sentence: never a class name alone."""
    full = getattr(error, "full", None)
    if isinstance(full, str):
        # One of ours (`holdfast.errors`).
        return full
    if isinstance(error, (OSError, TimeoutError)):
        return _of_system(error)
    kind, said = type(error).__name__, str(error).strip()
    if isinstance(error, RecursionError):
        said = said or "the calls are nested too deep"
    if not said:
        said = _UNNAMED.get(kind, "it was raised without a message")
    return f"{kind}: {said}"[:MAX_TEXT]


_UNNAMED = {
    "AssertionError": "what the code asserts does not hold",
    "NotImplementedError": "this is not implemented",
    "MemoryError": "there is no memory left",
    "CancelledError": "the work was cancelled",
    "StopIteration": "next() was called, and nothing was left",
}


def outage(error: BaseException) -> str:
    """Why something cannot be reached: without an address, a user, or the class of an exception."""
    for cause in chain(error):
        if isinstance(cause, (OSError, TimeoutError)):
            return _of_system(cause, named=False)
    return _in_words(str(error))


def chain(error: BaseException) -> list[BaseException]:
    """An exception and what it was raised from, the outermost first."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    return causes


def _of_system(error: BaseException, *, named: bool = True) -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror):
        return _RESOLVER.get(number, str(error.strerror or "the host's name cannot be looked up").lower())
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'no handshake').replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError) and number is None:
        return "no answer in time"
    if number is None:
        return _in_words(str(error))
    said = _SYSTEM.get(number, os.strerror(number).lower())
    file = getattr(error, "filename", None)
    return f"{said}: {file}" if named and isinstance(file, str) else said


_PHRASES = (
    (re.compile(r"\[Errno (\d+)\]"), None),
    (
        re.compile(r"Name or service not known|nodename nor servname|getaddrinfo|not resolve", re.I),
        "no such host",
    ),
    (re.compile(r"Temporary failure in name resolution", re.I), "the host's name cannot be looked up now"),
    (re.compile(r"refused", re.I), "connection refused"),
    (re.compile(r"certificate verify failed: ([\w ]+)", re.I), "the server's certificate is refused"),
    (re.compile(r"\bSSL|\bTLS", re.I), "TLS failed"),
    (re.compile(r"time[d ]*-?out", re.I), "no answer in time"),
    (
        re.compile(r"reset|closed|lost|EOF|does not exist|not connected", re.I),
        "connection closed by the server",
    ),
)


def _in_words(text: str) -> str:
    """A driver's text in one of our phrases: it may hold addresses."""
    for pattern, phrase in _PHRASES:
        if found := pattern.search(text):
            number = int(found[1]) if phrase is None else 0
            return phrase or _SYSTEM.get(number, os.strerror(number).lower())
    return "no usable answer"


def close_to(word: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant by that word; None where none is close."""
    names = list(known)
    if found := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return found[0]
    # Written in another way, or the last part alone: `by_carrier` for `carriers.by_carrier`.
    folded = {_folded(name.rpartition(".")[2]): name for name in names} | {
        _folded(name): name for name in names
    }
    return folded.get(_folded(word)) if word else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'carriers'?` where a known name is close to that word; else nothing."""
    close = close_to(word, known)
    return f" Did you mean {close!r}?" if close else ""


def _folded(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def shown_path(file: str) -> str:
    """A file's path, relative to the working directory where it lies below it."""
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def source_line(file: str, number: int) -> str:
    """A line of a file as it is now, without its indentation; empty where it cannot be read."""
    linecache.checkcache(file)
    return linecache.getline(file, number).strip()


def place_of(function: object) -> CodePlace | None:
    """Where a function is defined; None for what has no code of its own."""
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    if not isinstance(code, CodeType):
        return None
    line = _def_line(code)
    return CodePlace(shown_path(code.co_filename), line, code.co_name, source_line(code.co_filename, line))


def _def_line(code: CodeType) -> int:
    """The line of `def`, which follows those of the decorators."""
    for number in range(code.co_firstlineno, code.co_firstlineno + 20):
        if re.match(r"(async\s+)?def\s", source_line(code.co_filename, number)):
            return number
    return code.co_firstlineno


def author_places(error: BaseException, own: Collection[str] = ()) -> list[CodePlace]:
    """The lines of the author's code that an exception went through, the outermost first.

    Neither Holdfast's nor a library's: they are no place to mend it. The last five, at most.

    Args:
        error: an exception that was raised.
        own: top-level packages of the author's that may be installed like libraries.
    """
    return list(_places(error.__traceback__, own))[-_MOST_PLACES:]


def _places(trace: TracebackType | None, own: Collection[str]) -> Iterator[CodePlace]:
    while trace is not None:
        code = trace.tb_frame.f_code
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if is_authors(code.co_filename, module, own):
            text = source_line(code.co_filename, trace.tb_lineno)
            yield CodePlace(shown_path(code.co_filename), trace.tb_lineno, code.co_name, text)
        trace = trace.tb_next


def is_authors(file: str, module: str = "", own: Collection[str] = ()) -> bool:
    """Whether a file is the author's: not Holdfast's, not Python's, and not a library's."""
    top = module.partition(".")[0]
    path = Path(file)
    if file.startswith("<") or top in _OUR_PACKAGES or any(path.is_relative_to(ours) for ours in _OURS):
        return False
    if top in own:
        return True
    return not _LIBRARIES & set(path.parts) and not any(path.is_relative_to(each) for each in _STANDARD)
