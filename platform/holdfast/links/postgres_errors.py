"""Exceptions of SQLAlchemy and asyncpg as ours, with what the database said: message, detail, hint, SQLSTATE.

What is said of a connection holds neither address nor user. The HTTP side shows none of these messages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import asyncpg
from sqlalchemy import exc

from holdfast.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    LinkDown,
    LinkLost,
    PoolExhausted,
    QueryFailed,
)
from holdfast.reasons import chain, outage

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg raises. InternalClientError: the connection broke or was closed within an operation."""
_UNREACHABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
_WRONG_NUMBER = "the server expects"
"""How asyncpg's message begins where a statement has more or fewer values than places for them."""
_EXCERPT = 100
"""Characters of a line of SQL that are shown around what the database points at."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise SQLAlchemy's and asyncpg's exceptions as ours."""
    try:
        yield
    except exc.TimeoutError as error:
        raise PoolExhausted("no Postgres connection came free in time") from error
    except (exc.SQLAlchemyError, *DRIVER_ERRORS) as error:
        raise _classified(error) from error


def _classified(error: BaseException) -> Exception:
    causes = chain(error)
    for cause in causes:
        if isinstance(cause, asyncpg.InvalidAuthorizationSpecificationError):
            return _refused_user(cause)
        if isinstance(cause, asyncpg.InvalidCatalogNameError):
            return LinkDown(f"Postgres cannot be used: {_said(cause)}", link="postgres")
        if isinstance(cause, asyncpg.QueryCanceledError | TimeoutError):
            return DeadlineExceeded("the query ran longer than it may")
    lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    for cause in causes:
        if lost or (isinstance(cause, _UNREACHABLE) and _WRONG_NUMBER not in str(cause)):
            return LinkLost(f"Postgres cannot be reached: {_lost(cause)}", link="postgres")
    found = [c for c in causes if isinstance(c, asyncpg.PostgresError)]
    if found:
        said = f"Postgres refused the query: {_said(found[0])}"
        return QueryFailed(said, sqlstate=found[0].sqlstate, lines=_excerpt(found[0]))
    return QueryFailed(f"the query cannot be sent: {_of_sqlalchemy(error)}")


def _refused_user(error: asyncpg.PostgresError) -> AuthenticationFailed:
    if "pg_hba" in _message(error):
        return AuthenticationFailed(
            "Postgres has no rule that admits this user, database and host (pg_hba.conf)", link="postgres"
        )
    return AuthenticationFailed("Postgres refused the user name or the password", link="postgres")


def _lost(error: BaseException) -> str:
    # A server that ends or refuses a session says why; a driver's text may hold an address.
    return _said(error) if isinstance(error, asyncpg.PostgresError) and error.sqlstate else outage(error)


def _message(error: BaseException) -> str:
    return str(error.args[0]) if error.args else ""


def _said(error: asyncpg.PostgresError) -> str:
    """The server's own message, with its detail and hint in parentheses."""
    more = [f"{label}: {text}" for label, text in (("detail", error.detail), ("hint", error.hint)) if text]
    state = f"SQLSTATE {error.sqlstate}" if error.sqlstate else ""
    notes = "; ".join(filter(None, [state, *more]))
    return f"{_message(error)} ({notes})" if notes else _message(error)


def _excerpt(error: asyncpg.PostgresError) -> list[str]:
    """The line of SQL that the database points at, and a mark below the place."""
    sql, position = getattr(error, "query", None), error.position
    if not sql or not position or not str(position).isdecimal() or not 0 < int(position) <= len(sql) + 1:
        return []
    at = int(position) - 1
    begin = sql.rfind("\n", 0, at) + 1
    end = sql.find("\n", at)
    line = sql[begin : end if end >= 0 else len(sql)].replace("\t", " ")
    cut = max(0, at - begin - _EXCERPT // 2)
    return [line[cut : cut + _EXCERPT].rstrip(), f"{' ' * (at - begin - cut)}^"]


def _of_sqlalchemy(error: BaseException) -> str:
    """What SQLAlchemy or asyncpg says before a query is sent: without the statement, and without a link."""
    original = getattr(error, "orig", None) or error
    return (_message(original) or "it is no statement").split("\n(Background", 1)[0].strip()
