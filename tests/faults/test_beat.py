"""Beat while Redis is away: it goes on, and sends again once Redis is back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.process import Process
from tests.support.stack import Stack
from tests.support.waiting import eventually

AWAY = "cannot be reached"
SENT = "Sending due task"


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A stack whose Valkey has its files and does not run."""
    with Stack(servers=True) as made:
        made.servers.valkey.prepare()
        yield made


def test_beat_outlives_its_redis(stack: Stack) -> None:
    """Beat starts while Redis is down, sends what is due once it is up, goes on through a crash of Redis
    that empties it, and ends at once when it has to.
    """
    broker = stack.servers.valkey
    beat = stack.beat()
    eventually("beat to say that Redis is away", lambda: AWAY in beat.output(), within=20)
    broker.start()
    eventually("a message of beat", lambda: _count(beat, SENT) > 0, within=20)
    broker.kill()
    for file in (broker.data / "appendonlydir").glob("*"):
        file.unlink()
    missed = _count(beat, AWAY)
    eventually("beat to miss Redis", lambda: _count(beat, AWAY) > missed + 1, within=20)
    sent = _count(beat, SENT)
    broker.start()
    eventually("a message after the crash", lambda: _count(beat, SENT) > sent, within=20)
    assert beat.running
    broker.kill()
    eventually("beat to miss Redis again", lambda: "cannot" in beat.output().splitlines()[-1], within=20)
    assert beat.terminate(within=10) == 0


def _count(beat: Process, words: str) -> int:
    return beat.output().count(words)
