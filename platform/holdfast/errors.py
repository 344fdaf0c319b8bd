"""The one error tree. Each class answers the caller's first question: would trying again help?

A class's docstring is its default message, and `code` is its name on the wire: an error that crosses the
supervisor's socket arrives as the same class (`from_wire`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, ClassVar


class HoldfastError(Exception):
    """Something went wrong in Holdfast."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    next_step: ClassVar[str] = "`holdfast status` shows what runs; `holdfast check` explains."
    """What a person does next, as one sentence or two: the last line of a command that failed."""

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().split("\n")[0])
        self.details = details
        """What a program may want to know: names and numbers, never a secret or an address."""

    @property
    def full(self) -> str:
        """The message, and below it the further lines for an author: the place in the SQL, lines of code."""
        return "\n  ".join([str(self).rstrip(), *map(str, self.details.get("lines", ()))])

    def to_wire(self) -> dict[str, Any]:
        """The error as a plain mapping: code, message, details."""
        return {"code": self.code, "message": str(self), "details": self.details}


class SettingsError(HoldfastError):
    """A setting is wrong."""

    code = "settings"
    next_step = "`holdfast check` reads every setting again."


class LocalError(HoldfastError):
    """Something on this machine keeps Holdfast from starting."""

    code = "local"
    next_step = "Correct it, and run the command again."


class ReportError(HoldfastError):
    """A report's definition is wrong."""

    code = "report"
    next_step = "Correct the file; `holdfast check` loads every report again."


class UnknownReport(HoldfastError):
    """There is no report of that name."""

    code = "unknown_report"
    next_step = "`holdfast reports` lists the reports."


class UnknownQuery(HoldfastError):
    """There is no query of that name."""

    code = "unknown_query"
    next_step = "`holdfast query` lists the queries."


class InvalidParams(HoldfastError):
    """A parameter is unknown, missing or not of its type; `details["errors"]` names each."""

    code = "invalid_params"
    next_step = "`holdfast reports NAME` shows a report's parameters."


class QueryFailed(HoldfastError):
    """The query was refused by the database."""

    code = "query_failed"
    next_step = "Correct the query; `holdfast check --run` tries every report."


class ComputeFailed(HoldfastError):
    """The report's function raised."""

    code = "compute_failed"
    next_step = "Correct the function; `holdfast check --run` tries every report."


class ValueNotServable(ComputeFailed, TypeError):
    """A result is not rows, or a value in it has no JSON form."""

    code = "value_not_servable"


class NotStorable(HoldfastError):
    """A value cannot be kept in that database."""

    code = "not_storable"
    next_step = "Correct the value, and run the command again."


class ResultTooLarge(HoldfastError):
    """The result is larger than a frame may be."""

    code = "result_too_large"
    next_step = "Have the report return fewer rows or columns."


class ProtocolError(HoldfastError):
    """The peer sent a frame that is not of the protocol."""

    code = "protocol"
    next_step = "Processes of two releases do not work together: restart all of them."


class Retryable(HoldfastError):
    """Trying again later may succeed."""

    code = "retryable"
    retryable = True


class LinkDown(Retryable):
    """That connection is down; `details["retry_in"]` is the time to its next attempt in seconds."""

    code = "link_down"
    next_step = "`holdfast check` tries every connection."


class LinkUnused(HoldfastError):
    """That database is not configured."""

    code = "link_unused"


class AuthenticationFailed(LinkDown):
    """The server refused the user name or the password."""

    code = "authentication"
    next_step = "Correct the user or the password in the settings; `holdfast check` tries it."


class LinkLost(LinkDown):
    """The connection broke while it was in use."""

    code = "link_lost"


class PoolExhausted(Retryable):
    """Every pooled connection stayed in use for as long as a caller may wait."""

    code = "pool_exhausted"
    next_step = "Try again, or allow more connections: `holdfast status` shows how many are in use."


class DeadlineExceeded(Retryable):
    """The work did not end within its deadline."""

    code = "deadline"
    next_step = "Make the query faster, or allow it more time (PG_STATEMENT_TIMEOUT)."


class Overloaded(Retryable):
    """Too much work of this kind is already waiting."""

    code = "overloaded"
    next_step = "Try again in some seconds; `holdfast runs` shows what takes long."


class SupervisorUnavailable(LinkDown):
    """The supervisor cannot be reached."""

    code = "supervisor"
    next_step = "Start it with `holdfast up`, or `holdfast supervisor`; `holdfast status` shows what runs."


class StoreUnavailable(LinkDown):
    """Redis cannot be used, so nothing can be looked up or stored."""

    code = "store"


class LeaseHeld(Retryable):
    """Another process is computing this result now."""

    code = "lease_held"
    next_step = "Try again in some seconds; `holdfast runs` shows what ran."


class LeaseLost(Retryable):
    """The lease ran out before the result was written, so it was not."""

    code = "lease_lost"


class OtherVersion(Retryable):
    """The report is of another version here than where its results are kept: restart the older process."""

    code = "other_version"
    next_step = "Restart the process that is older: `holdfast status` shows what runs."


def _tree(root: type[HoldfastError]) -> dict[str, type[HoldfastError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def from_wire(wire: dict[str, Any]) -> HoldfastError:
    """The error that `to_wire` described; an unknown code becomes a plain HoldfastError."""
    cls = _tree(HoldfastError).get(wire.get("code", ""), HoldfastError)
    return cls(wire.get("message"), **wire.get("details", {}))


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """End the process with what is wrong and what to do next on standard error, and no traceback.

    The status is 2 for wrong settings or reports, 1 for other HoldfastErrors, 130 for Ctrl-C.
    """
    try:
        yield
    except (SettingsError, ReportError) as error:
        print(with_next_step(error), file=sys.stderr)
        sys.exit(2)
    except HoldfastError as error:
        print(with_next_step(error), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def with_next_step(error: HoldfastError) -> str:
    """What went wrong, and what to do next: on the same line where it is one, else on a last line."""
    said = error.full
    if "\n" in said:
        return f"{said}\n{error.next_step}"
    return f"{said}{'' if said.endswith(('.', '?', '!')) else '.'} {error.next_step}"
