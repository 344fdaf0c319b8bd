"""A link: one supervised connection (or pool) to something outside, and its states.

    connecting ──opened──► up ──probe failed──► connecting
        │ ▲                                         (generation + 1 at every opening)
     failed └──── after a delay ────┐
        ▼                           │
    backing-off ── burst over ──► down          attempts go on for ever

`step` decides, purely; `Link.run` is the one loop that acts: it opens (tenacity paces the attempts),
probes while up, and starts over when a probe fails twice. While a link is not up, `use()` fails at once,
so no caller ever waits for a connect time-out. Between attempts a bare TCP connect, each second, notices
a server that came back, and while the port answers no delay is longer than three seconds (unless the
password was refused), so recovery does not have to wait for the cap of the backoff.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Any, Protocol
from urllib.parse import urlsplit

import structlog
import tenacity

from holdfast.backoff import Schedule
from holdfast.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    HoldfastError,
    LinkDown,
    LinkLost,
)

PROBE_EVERY = 1.0
PROBE_TIMEOUT = 1.0
REACH_EVERY = 1.0
REACHABLE_CAP = 3.0


class Phase(StrEnum):
    """Where a link stands."""

    CONNECTING = "connecting"
    UP = "up"
    BACKING_OFF = "backing-off"
    DOWN = "down"


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
            # After a failure the phase stays what it is in people's eyes until an attempt succeeds.
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


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """How many connections are open and in use, and how many there may be."""

    size: int
    in_use: int
    max: int


def host_and_port(settings: Callable[[], Any], default: int) -> tuple[str, int] | None:
    """The address in the URL of those settings; None where it names none, several, or is not set."""
    try:
        loaded = settings()
        parts = urlsplit(loaded.uri() if hasattr(loaded, "uri") else loaded.dsn())
        return (parts.hostname, parts.port or default) if parts.hostname else None
    except (HoldfastError, ValueError):
        return None


class Adapter(Protocol):
    """What a link needs to know of its backend. Every method raises HoldfastErrors only."""

    name: str

    async def open(self) -> None:
        """Connect, and have a real query answered."""

    async def probe(self) -> None:
        """Have a real query answered, cheaply."""

    async def close(self) -> None:
        """Drop every connection. Never raises, and may be called twice."""

    def pool(self) -> PoolStatus:
        """The connections of the moment."""

    def endpoint(self) -> tuple[str, int] | None:
        """The TCP address to watch while the link is down, where there is one."""


class Link:
    """One adapter under supervision. `run()` is its life; `use()` is how callers pass through it."""

    def __init__(
        self,
        adapter: Adapter,
        schedule: Schedule,
        *,
        open_timeout: float = 10.0,
        rng: Random | None = None,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[str, LinkState], None] | None = None,
    ) -> None:
        self.adapter = adapter
        self.state = LinkState(since=clock())
        self._schedule = schedule
        self._open_timeout = open_timeout
        self._rng = rng or Random()
        self._clock = clock
        self._on_change = on_change
        self._refused = False
        self._suspected = asyncio.Event()
        self._up = asyncio.Event()
        self._log = structlog.get_logger("link").bind(link=adapter.name)

    def __repr__(self) -> str:
        pool = self.adapter.pool()
        return (
            f"<Link {self.adapter.name} {self.state.phase} "
            f"in_use={pool.in_use} size={pool.size} max={pool.max}>"
        )

    @property
    def up(self) -> bool:
        """Whether calls may pass."""
        return self.state.phase is Phase.UP

    def check(self) -> None:
        """Raise LinkDown, at once, unless the link is up."""
        if self.up:
            return
        wait = max(0.0, (self.state.next_retry_at or self._clock()) - self._clock())
        # A clock that was set back must not send callers away for hours.
        wait = min(wait, self._schedule.cap)
        name = self.adapter.name
        raise LinkDown(f"{name} is {self.state.phase}", link=name, retry_in=round(wait, 3))

    def suspect(self) -> None:
        """Probe now: somebody saw the connection break."""
        self._suspected.set()

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[None]:
        """Pass through the link.

        Raises:
            LinkDown: at once, when the link is not up.
        """
        self.check()
        try:
            yield
        except (LinkLost, DeadlineExceeded):
            self.suspect()
            raise

    async def wait_up(self) -> None:
        """Return once the link is up."""
        await self._up.wait()

    async def run(self) -> None:
        """Open, probe, and start over, until cancelled; then close."""
        try:
            while True:
                await self._open()
                await self._watch()
        finally:
            self._up.clear()
            await self.adapter.close()

    async def _open(self) -> None:
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(HoldfastError),
            wait=lambda retry: self._schedule.delay(retry.attempt_number, self._rng),
            stop=tenacity.stop_never,
            sleep=self._pause,
            before=self._attempting,
            before_sleep=self._failed,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                await self._bounded(self.adapter.open(), self._open_timeout)
        await self._apply(Opened(self._clock()))

    async def _watch(self) -> None:
        failures = 0
        while True:
            if not failures:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._suspected.wait(), PROBE_EVERY)
            self._suspected.clear()
            try:
                await self._bounded(self.adapter.probe(), PROBE_TIMEOUT)
                failures = 0
            except HoldfastError as error:
                # One late answer is weather, two in a row are a failure: a slow network must not flap.
                failures += 1
                if failures == 2 or isinstance(error, AuthenticationFailed):
                    await self._apply(Lost(self._clock(), str(error)))
                    return

    async def _bounded(self, work: Awaitable[None], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work
        except TimeoutError:
            raise DeadlineExceeded(f"no answer from {self.adapter.name} in {seconds:g} s") from None

    async def _attempting(self, _: tenacity.RetryCallState) -> None:
        await self._apply(Attempting(self._clock()))

    async def _failed(self, retry: tenacity.RetryCallState) -> None:
        error = retry.outcome.exception() if retry.outcome else None
        self._refused = isinstance(error, AuthenticationFailed)
        delay = retry.next_action.sleep if retry.next_action else 0.0
        await self._apply(Failed(self._clock(), str(error), delay))

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not beyond the moment when an unreachable server can be reached again, and not for
        long while its port answers: it starts up, or hangs and will go on.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        before = await self._reachable()
        if before and not self._refused:
            end = min(end, clock() + REACHABLE_CAP)
        while (left := end - clock()) > 0:
            await asyncio.sleep(min(left, REACH_EVERY))
            if before is False and await self._reachable():
                return

    async def _reachable(self) -> bool | None:
        """Whether the server's port answers; None where no one port is known."""
        address = self.adapter.endpoint()
        if address is None:
            return None
        try:
            async with asyncio.timeout(0.5):
                _, writer = await asyncio.open_connection(*address)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    async def _apply(self, event: Event) -> None:
        self.state, actions = step(self.state, event, burst=self._schedule.burst)
        if self.up:
            self._up.set()
        else:
            self._up.clear()
        if self._on_change is not None:
            self._on_change(self.adapter.name, self.state)
        if Action.ANNOUNCE in actions:
            state = self.state
            log = self._log.info if self.up else self._log.warning
            log(
                f"{self.adapter.name} is {state.phase}",
                error=None if self.up else state.last_error,
                failures=state.failures,
                generation=state.generation,
            )
        if Action.DISCARD in actions:
            await self.adapter.close()
