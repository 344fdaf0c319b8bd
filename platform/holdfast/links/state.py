"""The states of a link, as a pure machine.

    connecting ──opened──► up ──probes failed──► connecting
        │ ▲                                       (generation + 1 at every opening)
     failed └──── after a delay ────┐
        ▼                           │
    backing-off ── burst over ──► down            attempts go on forever

A backend that is not configured is `unused`: it has no loop and no events, and stays so.

No clock, no I/O and no randomness: `step` takes a state and an event, and returns the next state and what
is to be done. `links.link.Link` is the loop that makes the events and does the actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    """Where a link stands."""

    CONNECTING = "connecting"
    UP = "up"
    BACKING_OFF = "backing-off"
    DOWN = "down"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True)
class LinkState:
    """All that is known of a link. Times are seconds since the epoch."""

    phase: Phase = Phase.CONNECTING
    since: float = 0.0
    failures: int = 0
    generation: int = 0
    last_error: str | None = None
    next_retry_at: float | None = None


@dataclass(frozen=True, slots=True)
class Attempting:
    """An attempt to open begins."""

    at: float


@dataclass(frozen=True, slots=True)
class Opened:
    """A real query was answered."""

    at: float


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt failed; the next one is `delay` seconds away."""

    at: float
    error: str
    delay: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The probes of an open link failed."""

    at: float
    error: str


Event = Attempting | Opened | Failed | Lost


class Action(StrEnum):
    """What the loop has to do after a step."""

    ANNOUNCE = "announce"
    DISCARD = "discard"


def step(state: LinkState, event: Event, *, burst: int) -> tuple[LinkState, tuple[Action, ...]]:
    """The next state and what is to be done. `burst` failures in a row are backing off; more are down."""
    match event:
        case Attempting(at):
            if state.phase is Phase.UP:
                return replace(state, phase=Phase.CONNECTING, since=at, next_retry_at=None), ()
            # A link that failed before stays backing-off or down until an attempt succeeds.
            return replace(state, next_retry_at=None), ()
        case Opened(at):
            up = LinkState(Phase.UP, at, 0, state.generation + 1, state.last_error)
            return up, (Action.ANNOUNCE,)
        case Failed(at, error, delay):
            failures = state.failures + 1
            phase = Phase.BACKING_OFF if failures < burst else Phase.DOWN
            since = state.since if phase is state.phase else at
            after = LinkState(phase, since, failures, state.generation, error, at + delay)
            announce = phase is not state.phase or failures == 1
            actions = (Action.ANNOUNCE,) if announce else ()
            return after, (*actions, Action.DISCARD)
        case Lost(at, error):
            lost = LinkState(Phase.CONNECTING, at, 0, state.generation, error)
            return lost, (Action.ANNOUNCE, Action.DISCARD)
