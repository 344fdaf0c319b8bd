"""Exceptions as sentences: what is said of them, what is not shown, and what to do next."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pymongo import errors as mx
from redis import exceptions as rx
from sqlalchemy import exc

from holdfast.errors import (
    AuthenticationFailed,
    ComputeFailed,
    HoldfastError,
    LinkDown,
    LinkLost,
    QueryFailed,
    UnknownReport,
    from_wire,
    with_next_step,
)
from holdfast.links import mongo_errors, postgres_errors, redis
from holdfast.reasons import author_places, close_to, outage, reason

CANARY = "canary.example"
"""Part of an address, a user or a password, which no message may show."""


def caused(error: Exception, by: BaseException) -> Exception:
    """An exception that was raised from another one."""
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed ('{CANARY}', 1)"),
            "connection refused",
        ),
        (
            OSError(f"Multiple exceptions: [Errno 111] Connect call failed ('{CANARY}', 1)"),
            "connection refused",
        ),
        (socket.gaierror(socket.EAI_NONAME, f"{CANARY}: Name or service not known"), "no such host"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "the host's name cannot be looked up now"),
        (FileNotFoundError(errno.ENOENT, "No such file", f"/{CANARY}"), "no such file"),
        (
            ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
            "connection closed by the server",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "connection closed by the server"),
        (OSError(errno.EHOSTUNREACH, CANARY), "no route to the host"),
        (PermissionError(errno.EACCES, "Permission denied", f"/{CANARY}"), "permission denied"),
        (TimeoutError(), "no answer in time"),
        (mx.ServerSelectionTimeoutError(f"{CANARY}:1: [Errno 111] Connection refused"), "connection refused"),
        (mx.AutoReconnect(f"{CANARY}:1: connection closed"), "connection closed by the server"),
        (mx.NetworkTimeout(f"{CANARY}:1: timed out"), "no answer in time"),
        (mx.ServerSelectionTimeoutError(f"{CANARY}:1: [Errno -2] Name or service not known"), "no such host"),
        (
            rx.ConnectionError(f"Error 111 connecting to {CANARY}:6379. Connection refused."),
            "connection refused",
        ),
        (rx.ConnectionError("Connection closed by server."), "connection closed by the server"),
        (Exception(), "no usable answer"),
    ],
)
def test_an_outage_is_a_sentence_without_an_address(error: Exception, said: str) -> None:
    """Why a server cannot be reached is one of a few phrases: no class name, no address, no path."""
    assert outage(error) == said


def test_a_certificate_that_is_refused_says_why() -> None:
    """Of a TLS failure the reason is shown, as OpenSSL has it."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    assert outage(error) == "the server's certificate is refused: self-signed certificate"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("delay"), "KeyError: 'delay'"),
        (ValueError(), "ValueError: it was raised without a message"),
        (AssertionError(), "AssertionError: what the code asserts does not hold"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/data/x.csv"), "no such file: /data/x.csv"),
        (UnknownReport("there is no report 'x'"), "there is no report 'x'"),
        (asyncio.CancelledError(), "CancelledError: the work was cancelled"),
        (NotImplementedError(), "NotImplementedError: this is not implemented"),
    ],
)
def test_a_reason_is_never_a_class_name_alone(error: BaseException, said: str) -> None:
    """Whatever an author's code raises, there is a sentence for it."""
    assert reason(error) == said


def postgres_error(cls: Any, message: str, **fields: Any) -> Exception:
    """An error as asyncpg makes it from what the server sends."""
    error: Exception = cls(message)
    for name, value in fields.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (
            postgres_error(asyncpg.UndefinedColumnError, 'column "nme" does not exist', hint="Perhaps name."),
            QueryFailed,
            'Postgres refused the query: column "nme" does not exist (SQLSTATE 42703; hint: Perhaps name.)',
        ),
        (
            postgres_error(asyncpg.InvalidCatalogNameError, 'database "shop" does not exist'),
            LinkDown,
            'Postgres cannot be used: database "shop" does not exist (SQLSTATE 3D000)',
        ),
        (
            postgres_error(asyncpg.CannotConnectNowError, "the database system is starting up"),
            LinkLost,
            "Postgres cannot be reached: the database system is starting up (SQLSTATE 57P03)",
        ),
        (
            postgres_error(asyncpg.TooManyConnectionsError, "sorry, too many clients already"),
            LinkLost,
            "Postgres cannot be reached: sorry, too many clients already (SQLSTATE 53300)",
        ),
        (
            postgres_error(
                asyncpg.InvalidPasswordError, f'password authentication failed for user "{CANARY}"'
            ),
            AuthenticationFailed,
            "Postgres refused the user name or the password",
        ),
        (
            postgres_error(
                asyncpg.InvalidAuthorizationSpecificationError, f'no pg_hba.conf entry for host "{CANARY}"'
            ),
            AuthenticationFailed,
            "Postgres has no rule that admits this user, database and host (pg_hba.conf)",
        ),
        (
            asyncpg.InterfaceError("the server expects 1 argument for this query, 0 were passed"),
            QueryFailed,
            "the query cannot be sent: the server expects 1 argument for this query, 0 were passed",
        ),
        (
            exc.InvalidRequestError("A value is required for bind parameter 'x'"),
            QueryFailed,
            "the query cannot be sent: A value is required for bind parameter 'x'",
        ),
        (ConnectionRefusedError(111, CANARY), LinkLost, "Postgres cannot be reached: connection refused"),
    ],
)
def test_what_postgres_says_reaches_the_author(error: Exception, raised: type, said: str) -> None:
    """The server's own message, with hint and SQLSTATE; of a connection neither address nor user."""
    with pytest.raises(HoldfastError) as caught, postgres_errors.translated():
        raise error
    assert type(caught.value) is raised
    assert caught.value.full == said


def test_postgres_points_at_the_place_in_the_sql() -> None:
    """The line of SQL that the server points at is below the message, with a mark, and is no part of it."""
    error = postgres_error(
        asyncpg.UndefinedColumnError, "no column", query="SELECT id,\n  nme FROM orders", position="14"
    )
    with pytest.raises(QueryFailed) as caught, postgres_errors.translated():
        raise error
    assert caught.value.details["lines"] == ["  nme FROM orders", "  ^"]
    assert "FROM" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (
            mx.OperationFailure("x", 40324, {"errmsg": "Unrecognized stage", "codeName": "Location40324"}),
            QueryFailed,
            "MongoDB refused the query: Unrecognized stage (code 40324)",
        ),
        (
            mx.OperationFailure("x", 2, {"errmsg": "bad", "codeName": "BadValue"}),
            QueryFailed,
            "MongoDB refused the query: bad (code 2, BadValue)",
        ),
        (
            mx.OperationFailure(CANARY, 18),
            AuthenticationFailed,
            "MongoDB refused the user name or the password",
        ),
        (
            mx.OperationFailure(CANARY, 13),
            AuthenticationFailed,
            "MongoDB refused the user: it may not do this",
        ),
        (
            mx.ServerSelectionTimeoutError(f"No primary available for writes {CANARY}"),
            LinkLost,
            "MongoDB cannot be reached: no member of the replica set can be used",
        ),
    ],
)
def test_what_mongodb_says_reaches_the_author(error: Exception, raised: type, said: str) -> None:
    """The server's own message with its code; of a connection neither address nor user."""
    with pytest.raises(HoldfastError) as caught, mongo_errors.translated():
        raise error
    assert type(caught.value) is raised
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (rx.AuthenticationError("WRONGPASS invalid"), "Redis refused the user name or the password"),
        (
            rx.ConnectionError(f"Error 111 connecting to {CANARY}:1."),
            "Redis cannot be reached: no usable answer",
        ),
        (
            caused(rx.ConnectionError(CANARY), ConnectionRefusedError(111, "x")),
            "Redis cannot be reached: connection refused",
        ),
        (rx.TimeoutError("Timeout connecting to server"), "Redis cannot be reached: no answer in time"),
    ],
)
def test_what_redis_says_is_a_sentence(error: Exception, said: str) -> None:
    """Of Redis too no class name and no address is shown."""
    with pytest.raises(HoldfastError) as caught, redis.translated():
        raise error
    assert str(caught.value) == said


def test_only_the_authors_lines_are_shown(tmp_path: Path) -> None:
    """Of a traceback the author's lines remain: neither Holdfast's nor a library's."""
    file = tmp_path / "worst.py"
    file.write_text("import json\n\n\ndef worst(text):\n    return json.loads(text)\n")
    names: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)  # noqa: S102 - a file of the test's own
    try:
        names["worst"]("{")
    except ValueError as error:
        places = [str(place) for place in author_places(error)]
    assert places[-1] == f"{file}:5 in worst: return json.loads(text)"
    assert not any("json/decoder" in place for place in places)


@pytest.mark.parametrize(
    ("word", "known", "close"),
    [
        ("carier", ["carriers", "routes"], "carriers"),
        ("weather_impact", ["weather-impact"], "weather-impact"),
        ("by_carrier", ["carriers.by_carrier"], "carriers.by_carrier"),
        ("zzz", ["carriers"], None),
        ("", ["carriers"], None),
        ("x", [], None),
    ],
)
def test_a_name_that_was_meant_is_found(word: str, known: list[str], close: str | None) -> None:
    """A name with a slip, in another way of writing, or without its report is found; nothing is guessed."""
    assert close_to(word, known) == close


def test_the_lines_of_an_error_cross_the_socket() -> None:
    """The place in the code is part of the error at the other end, and the last line says what to do next."""
    sent = ComputeFailed("report late: ZeroDivisionError: division by zero", lines=["late.py:3 in f: 1 / 0"])
    arrived = from_wire(sent.to_wire())
    assert arrived.full.splitlines() == [str(sent), "  late.py:3 in f: 1 / 0"]
    assert with_next_step(arrived).splitlines()[-1] == ComputeFailed.next_step


def test_every_error_has_a_next_step() -> None:
    """Whatever class of error ends a command, its last line is a sentence that says what to do."""
    classes: list[type[HoldfastError]] = [HoldfastError]
    for cls in classes:
        classes += cls.__subclasses__()
    assert len(classes) > 20
    assert [cls for cls in classes if not cls.next_step.endswith(".")] == []
