"""A link: one supervised connection (or pool) to something outside.

Its states are in `links.state`; `Link.run` is the one loop that acts on them: it opens (tenacity paces the
attempts), probes every second while up, and starts again when two probes in a row fail. While a link is not
up, `use()` fails at once, so no caller ever waits for a connect time-out.

Between attempts a bare TCP connect, every second, notices a server that came back. While its port answers,
no delay is longer than three seconds (unless the password was refused), so recovery does not wait for the
longest backoff.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Generic, TypeVar

import structlog
import tenacity

from holdfast.backoff import Backoff
from holdfast.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    HoldfastError,
    LinkDown,
    LinkLost,
    LinkUnused,
)
from holdfast.links.adapter import Adapter
from holdfast.links.state import Action, Attempting, Event, Failed, LinkState, Lost, Opened, Phase, step

PROBE_EVERY = 1.0
PROBE_TIMEOUT = 1.0
REACH_EVERY = 1.0
REACHABLE_CAP = 3.0

A_co = TypeVar("A_co", bound=Adapter, covariant=True)


class Link(Generic[A_co]):
    """One adapter under supervision. `run()` is its life; `use()` is how callers reach the adapter.

    One that is `unused` is not configured: it is never opened, and nothing waits for it.
    """

    def __init__(
        self,
        adapter: A_co,
        backoff: Backoff,
        *,
        open_timeout: float = 10.0,
        rng: Random | None = None,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[str, LinkState], None] | None = None,
        unused: bool = False,
    ) -> None:
        self._adapter = adapter
        self.state = LinkState(Phase.UNUSED if unused else Phase.CONNECTING, since=clock())
        self._backoff = backoff
        self._open_timeout = open_timeout
        self._rng = rng or Random()
        self._clock = clock
        self._on_change = on_change
        self._refused = False
        self._suspected = asyncio.Event()
        self._up = asyncio.Event()
        self._opening = asyncio.Event()
        self._log = structlog.get_logger("link").bind(link=adapter.name)

    def __repr__(self) -> str:
        pool = self._adapter.pool()
        return f"<Link {self.name} {self.state.phase} in_use={pool.in_use} size={pool.size} max={pool.max}>"

    @property
    def name(self) -> str:
        """What it leads to: `postgres`, `mongo`, `redis` or `supervisor`."""
        return self._adapter.name

    @property
    def adapter(self) -> A_co:
        """What it leads to, whatever its state; callers that need it up go through `use()`."""
        return self._adapter

    @property
    def up(self) -> bool:
        """Whether calls may pass."""
        return self.state.phase is Phase.UP

    @property
    def unused(self) -> bool:
        """Whether it is not configured."""
        return self.state.phase is Phase.UNUSED

    def check(self) -> None:
        """Raise LinkDown or LinkUnused, at once, unless the link is up."""
        if self.up:
            return
        if self.unused:
            raise LinkUnused(
                f"{self.name} is not configured: set {self.name.upper()}_URL, or start with `holdfast up`",
                link=self.name,
            )
        wait = max(0.0, (self.state.next_retry_at or self._clock()) - self._clock())
        # A clock that was set back must not send callers away for hours.
        wait = min(wait, self._backoff.cap)
        raise LinkDown(f"{self.name} is {self.state.phase}", link=self.name, retry_in=round(wait, 3))

    def suspect(self) -> None:
        """Probe now: somebody saw the connection break."""
        self._suspected.set()

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[A_co]:
        """The adapter, for one use; a connection that breaks meanwhile is probed at once.

        Raises:
            LinkDown, LinkUnused: at once, when the link is not up.
        """
        self.check()
        try:
            yield self._adapter
        except (LinkLost, DeadlineExceeded):
            self.suspect()
            raise

    async def wait_up(self) -> None:
        """Return once the link is up."""
        await self._up.wait()

    async def reopened(self, generation: int, *, within: float) -> None:
        """Return once the link was opened after that generation, or else after `within` seconds."""
        if self.state.generation == generation:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._opening.wait(), within)

    async def run(self) -> None:
        """Open, probe, and start again, until cancelled; then close."""
        if self.unused:
            self._tell()
            await asyncio.get_running_loop().create_future()
        try:
            while True:
                await self._open()
                await self._watch()
        finally:
            self._up.clear()
            await self._adapter.close()

    async def _open(self) -> None:
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(HoldfastError),
            wait=lambda retry: self._backoff.delay(retry.attempt_number, self._rng),
            stop=tenacity.stop_never,
            sleep=self._pause,
            before=self._attempting,
            before_sleep=self._failed,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                await self._bounded(self._adapter.open(), self._open_timeout)
        await self._apply(Opened(self._clock()))
        self._opening.set()
        self._opening = asyncio.Event()

    async def _watch(self) -> None:
        failures = 0
        while True:
            if not failures:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._suspected.wait(), PROBE_EVERY)
            self._suspected.clear()
            try:
                await self._bounded(self._adapter.probe(), PROBE_TIMEOUT)
                failures = 0
            except HoldfastError as error:
                # One late answer may be the network's; only two in a row are a failure, so that it does not
                # flap.
                failures += 1
                if failures == 2 or isinstance(error, AuthenticationFailed):
                    await self._apply(Lost(self._clock(), str(error)))
                    return

    async def _bounded(self, work: Awaitable[None], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work
        except TimeoutError:
            raise DeadlineExceeded(f"no answer from {self.name} in {seconds:g} s") from None

    async def _attempting(self, _: tenacity.RetryCallState) -> None:
        await self._apply(Attempting(self._clock()))

    async def _failed(self, retry: tenacity.RetryCallState) -> None:
        error = retry.outcome.exception() if retry.outcome else None
        self._refused = isinstance(error, AuthenticationFailed)
        delay = retry.next_action.sleep if retry.next_action else 0.0
        await self._apply(Failed(self._clock(), str(error), delay))

    async def _pause(self, seconds: float) -> None:
        """Sleep, at most until an unreachable server can be reached again.

        While its port answers (it starts up, or hangs and will go on) the sleep is at most REACHABLE_CAP.
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
        address = self._adapter.endpoint()
        if address is None:
            return None
        try:
            async with asyncio.timeout(0.5):
                _, writer = await asyncio.open_connection(*address)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change(self.name, self.state)

    async def _apply(self, event: Event) -> None:
        self.state, actions = step(self.state, event, burst=self._backoff.burst)
        if self.up:
            self._up.set()
        else:
            self._up.clear()
        self._tell()
        if Action.ANNOUNCE in actions:
            state = self.state
            log = self._log.info if self.up else self._log.warning
            log(
                f"{self.name} is {state.phase}.",
                action="link_state_changed",
                phase=state.phase.value,
                error=None if self.up else state.last_error,
                failures=state.failures,
                generation=state.generation,
            )
        if Action.DISCARD in actions:
            await self._adapter.close()
