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

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().split("\n")[0])
        self.details = details
        """What a program may want to know: names and numbers, never a secret or an address."""

    def to_wire(self) -> dict[str, Any]:
        """The error as a plain mapping: code, message, details."""
        return {"code": self.code, "message": str(self), "details": self.details}


class SettingsError(HoldfastError):
    """A setting is wrong."""

    code = "settings"


class LocalError(HoldfastError):
    """Something on this machine keeps Holdfast from starting."""

    code = "local"


class ReportError(HoldfastError):
    """A report's definition is wrong."""

    code = "report"


class UnknownReport(HoldfastError):
    """There is no report of that name."""

    code = "unknown_report"


class UnknownQuery(HoldfastError):
    """There is no query of that name."""

    code = "unknown_query"


class InvalidParams(HoldfastError):
    """A parameter is unknown, missing or not of its type; `details["errors"]` names each."""

    code = "invalid_params"


class QueryFailed(HoldfastError):
    """The query was refused by the database."""

    code = "query_failed"


class ComputeFailed(HoldfastError):
    """The report's function raised."""

    code = "compute_failed"


class NotStorable(HoldfastError):
    """A value cannot be kept in that database."""

    code = "not_storable"


class ResultTooLarge(HoldfastError):
    """The result is larger than a frame may be."""

    code = "result_too_large"


class ProtocolError(HoldfastError):
    """The peer sent a frame that is not of the protocol."""

    code = "protocol"


class Retryable(HoldfastError):
    """Trying again later may succeed."""

    code = "retryable"
    retryable = True


class LinkDown(Retryable):
    """That connection is down; `details["retry_in"]` is the time to its next attempt in seconds."""

    code = "link_down"


class AuthenticationFailed(LinkDown):
    """The server refused the user name or the password."""

    code = "authentication"


class LinkLost(LinkDown):
    """The connection broke while it was in use."""

    code = "link_lost"


class PoolExhausted(Retryable):
    """Every pooled connection stayed in use for as long as a caller may wait."""

    code = "pool_exhausted"


class DeadlineExceeded(Retryable):
    """The work did not end within its deadline."""

    code = "deadline"


class Overloaded(Retryable):
    """Too much work of this kind is already waiting."""

    code = "overloaded"


class SupervisorUnavailable(LinkDown):
    """The supervisor cannot be reached."""

    code = "supervisor"


class StoreUnavailable(LinkDown):
    """Redis cannot be used, so nothing can be looked up or stored."""

    code = "store"


class LeaseHeld(Retryable):
    """Another process is computing this result now."""

    code = "lease_held"


class LeaseLost(Retryable):
    """The lease ran out before the result was written, so it was not."""

    code = "lease_lost"


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
    """End the process with a line on standard error, and no traceback, for what its user can correct.

    The status is 2 for wrong settings or reports, 1 for other HoldfastErrors, 130 for Ctrl-C.
    """
    try:
        yield
    except (SettingsError, ReportError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except HoldfastError as error:
        print(f"{error}. `holdfast status` shows what runs; `holdfast check` explains.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
