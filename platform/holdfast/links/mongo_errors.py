"""Exceptions of PyMongo, BSON and Beanie as ours, with what the database said.

What is said of a connection holds neither address nor user. The HTTP side shows none of these messages.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from bson.errors import BSONError
from pydantic import ValidationError
from pymongo import errors as mx

from holdfast.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    HoldfastError,
    LinkLost,
    NotStorable,
    PoolExhausted,
    QueryFailed,
)
from holdfast.reasons import outage

AUTHENTICATION_CODES = frozenset({13, 18})
"""Unauthorized and AuthenticationFailed, of MongoDB's error codes."""
_NO_MEMBER = re.compile(r"No (primary|replica set members|servers?|suitable)", re.I)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise PyMongo's, BSON's and Beanie's exceptions as ours."""
    try:
        yield
    except (BSONError, ValidationError, OverflowError) as error:
        raise NotStorable(f"MongoDB cannot hold a value: {_of_value(error)}") from error
    except mx.WaitQueueTimeoutError as error:
        raise PoolExhausted("no MongoDB connection came free in time") from error
    except mx.ExecutionTimeout as error:
        raise DeadlineExceeded("the query ran longer than it may") from error
    except mx.OperationFailure as error:
        raise _refusal(error) from error
    except (mx.ConnectionFailure, mx.InvalidOperation, OSError) as error:
        raise LinkLost(f"MongoDB cannot be reached: {_lost(error)}", link="mongo") from error
    except mx.PyMongoError as error:
        raise QueryFailed(f"MongoDB refused the query: {_first_line(error)}") from error


def unusable(error: BaseException) -> str:
    """Why the driver takes no such URL. Its own message may hold a part of the URL, so it is not shown."""
    if isinstance(error, mx.InvalidURI):
        return "its form is mongodb://user:password@host:port/database, with : / ? # [ ] @ % percent-encoded"
    if isinstance(error, FileNotFoundError):
        return "it names a file that does not exist"
    return "an option is not known, or has a wrong value"


def _refusal(error: mx.OperationFailure) -> HoldfastError:
    details = error.details or {}
    said = str(details.get("errmsg") or _first_line(error)).strip()
    if error.code in AUTHENTICATION_CODES:
        reason = "the user name or the password" if error.code == 18 else "the user: it may not do this"
        return AuthenticationFailed(f"MongoDB refused {reason}", link="mongo")
    name = str(details.get("codeName") or "")
    code = f"code {error.code}" if error.code is not None else ""
    shown = ", ".join(filter(None, [code, "" if name.startswith("Location") else name]))
    notes = f" ({shown})" if shown else ""
    return QueryFailed(f"MongoDB refused the query: {said}{notes}", mongo_code=error.code)


def _lost(error: BaseException) -> str:
    said = outage(error)
    if said == "no usable answer" and _NO_MEMBER.search(str(error)):
        return "no member of the replica set can be used"
    return said


def _of_value(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["it says no more"])[0]
