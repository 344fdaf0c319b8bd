"""Beat while Redis is away: it goes on, and sends again once Redis is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.integration.processes import Platform

from holdfast.embedded import Valkey


@pytest.fixture
def broker(short_home: Path) -> Iterator[Valkey]:
    """A Valkey of this test's own."""
    server = Valkey(short_home)
    yield server
    server.kill()


def test_beat_outlives_its_redis(broker: Valkey) -> None:
    """Beat starts while Redis is down, sends what is due once it is up, goes on through a crash of Redis
    that empties it, and ends at once when told to.
    """
    broker.prepare()
    with Platform(**broker.broker_env()) as platform:
        beat = platform.start("beat")
        eventually("beat to say that Redis is away", lambda: "cannot be reached" in beat.output(), within=20)
        broker.start()
        eventually("a message of beat", lambda: beat.output().count("Sending due task") > 0, within=20)
        broker.kill()
        for file in (broker.data / "appendonlydir").glob("*"):
            file.unlink()
        eventually("beat to miss Redis", lambda: beat.output().count("cannot be reached") > 3, within=20)
        sent = beat.output().count("Sending due task")
        broker.start()
        eventually(
            "a message after the crash", lambda: beat.output().count("Sending due task") > sent, within=20
        )
        assert beat.running
        broker.kill()
        eventually("beat to miss Redis again", lambda: "cannot" in beat.output().splitlines()[-1], within=20)
        assert beat.terminate(within=10) == 0
