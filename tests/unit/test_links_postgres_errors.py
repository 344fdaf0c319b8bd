"""What asyncpg raises, as an error of ours."""

from __future__ import annotations

import asyncpg
import pytest

from holdfast.errors import HoldfastError, LinkLost
from holdfast.links.postgres_errors import DRIVER_ERRORS, translated


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_that_broke_is_a_lost_link(error: Exception) -> None:
    """Whatever the driver says of it: a link is opened again, and never ends for it."""
    with pytest.raises(LinkLost) as lost, translated():
        raise error
    assert lost.value.retryable
    assert type(error).__name__ not in str(lost.value)


@pytest.mark.parametrize("error", DRIVER_ERRORS)
def test_nothing_of_the_driver_leaves_its_adapter(error: type[Exception]) -> None:
    """Every class of the driver's exceptions becomes one of ours."""
    with pytest.raises(HoldfastError), translated():
        raise error("anything")
