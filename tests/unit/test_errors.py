"""The error tree: an error arrives at the other end of the socket as what it was."""

from __future__ import annotations

import msgspec
import pytest

from holdfast.errors import (
    AuthenticationFailed,
    HoldfastError,
    InvalidParams,
    LeaseHeld,
    LinkDown,
    QueryFailed,
    ReportError,
    Retryable,
    SettingsError,
    StoreUnavailable,
    SupervisorUnavailable,
    exit_on_error,
    from_wire,
)
from holdfast.tokens import InvalidToken
from holdfast_gateway.l1.lookup import StillComputing


def tree(root: type[HoldfastError] = HoldfastError) -> list[type[HoldfastError]]:
    """The class and all below it."""
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


EVERY = sorted(set(tree()), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", EVERY)
def test_an_error_crosses_the_socket_as_itself(cls: type[HoldfastError]) -> None:
    """Class, message, details, and whether to try again are the same at the other end."""
    sent = cls("what happened", link="redis", retry_in=0.5, errors=[{"name": "a"}])
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(sent.to_wire()))
    arrived = from_wire(wire)
    assert type(arrived) is cls
    assert str(arrived) == "what happened"
    assert arrived.details == sent.details == {"link": "redis", "retry_in": 0.5, "errors": [{"name": "a"}]}
    assert arrived.retryable is sent.retryable


@pytest.mark.parametrize("cls", EVERY)
def test_an_error_without_a_message_says_what_it_is(cls: type[HoldfastError]) -> None:
    """The default message is the first line of the class's description, here and at the other end."""
    assert cls.__doc__
    assert str(cls()) == cls.__doc__.strip().splitlines()[0]
    assert str(from_wire(cls().to_wire())) == str(cls())


def test_codes_are_not_shared() -> None:
    """Every class has a code of its own, so none arrives as another."""
    codes = [cls.code for cls in EVERY]
    assert len(set(codes)) == len(codes)
    assert {InvalidToken, StillComputing} <= set(EVERY)


def test_an_unknown_code_is_still_an_error() -> None:
    """A newer supervisor may send what this release does not know: it is an error that is not tried again."""
    arrived = from_wire({"code": "of a later release", "message": "m", "details": {"x": 1}})
    assert type(arrived) is HoldfastError
    assert (str(arrived), arrived.details, arrived.retryable) == ("m", {"x": 1}, False)
    assert type(from_wire({})) is HoldfastError


@pytest.mark.parametrize("cls", EVERY)
def test_an_error_says_whether_trying_again_helps(cls: type[HoldfastError]) -> None:
    """What passes by itself is retryable, links that are down among it; what is wrong stays wrong."""
    assert cls.retryable is issubclass(cls, Retryable)


@pytest.mark.parametrize("cls", [AuthenticationFailed, SupervisorUnavailable, StoreUnavailable])
def test_what_keeps_a_system_from_being_reached_is_a_link_that_is_down(cls: type[HoldfastError]) -> None:
    """A refused password, an absent supervisor and an absent Redis are handled as a link that is down."""
    assert issubclass(cls, LinkDown)


@pytest.mark.parametrize(
    ("cls", "retryable"),
    [
        (LeaseHeld, True),
        (LinkDown, True),
        (InvalidParams, False),
        (QueryFailed, False),
        (SettingsError, False),
        (ReportError, False),
    ],
)
def test_what_is_wrong_is_never_tried_again(cls: type[HoldfastError], retryable: bool) -> None:
    """A held lease passes; a wrong parameter, a refused query or a wrong definition does not."""
    assert cls.retryable is retryable


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SettingsError("GW_PORT: is wrong"), 2),
        (ReportError("report 'x': is wrong"), 2),
        (LinkDown("redis is down"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_command_ends_in_a_line(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a person can correct ends a command with one line on standard error and a status, no traceback."""
    with pytest.raises(SystemExit) as end, exit_on_error():
        raise error
    assert end.value.code == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(str(error))
    assert len(printed.err.splitlines()) == (0 if status == 130 else 1)


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    """An error that nobody foresaw is not shortened: its traceback is what is needed."""
    with pytest.raises(ZeroDivisionError), exit_on_error():
        _ = 1 / 0
