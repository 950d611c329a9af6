"""When those who wait in line are let in: one at a time, as soon as there may be a place and nothing is to be read."""

import asyncio
from collections.abc import Callable
from typing import Final

from cryprq.protocol.clock import Monotonic

WAITING_POLL: Final = 0.05
"""Seconds between looks at the waiting line while no pending connection ends."""
WAITING_PATIENCE: Final = 0.02
"""The line is served when there is nothing to read, so that handshakes which have begun are done first; but at least
one of it in so many seconds, whatever comes in."""


class Doorman:
    """Serves the waiting line from an event loop, which has its turn after each."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], Monotonic],
        *,
        waiting: Callable[[], int],
        busy: Callable[[], bool],
        serve: Callable[[Monotonic], bool],
    ) -> None:
        """``waiting``: how many are in line; ``busy``: something waits to be read; ``serve(now)`` lets the next one in,
        False: nobody can at present."""
        self._loop = loop
        self._clock = clock
        self._waiting = waiting
        self._busy = busy
        self._serve = serve
        self._handle: asyncio.TimerHandle | None = None
        self._served_at: Monotonic | None = None

    def wake(self) -> None:
        """Somebody got in line, or a place may have become free."""
        self._later(0.0)

    def stop(self) -> None:
        """Lets nobody in until ``wake``."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _later(self, seconds: float) -> None:
        self.stop()
        if self._waiting():
            self._handle = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        now = self._clock()
        patient = self._served_at is not None and now - self._served_at < WAITING_PATIENCE
        if patient and self._busy():
            self._later(0.0)
            return
        served = self._serve(now)
        if served:
            self._served_at = now
        self._later(0.0 if served else WAITING_POLL)
