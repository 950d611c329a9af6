"""When the kernel's state is compared with what the node wants: at each notice of a change, and every few seconds.

Some notices say that there is a new way to elsewhere: those are passed on, so often and no more.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final

from cryprq.errors import MachineError
from cryprq.linux.interface_state import InterfaceState
from cryprq.linux.monitor import Monitor

INTERVAL: Final = 3.0
"""Seconds between two looks when nobody tells of anything: for what was never told, and for what can be put back by
now."""
SETTLE: Final = 0.01
"""Seconds from a notice to the look: one command often makes several changes."""
GAP: Final = 0.05
"""Seconds from one look to the next at least, however much is told: a program that removes what is put back must not
keep this thread busy."""
WAY_GAP: Final = 1.0
"""Seconds between two ways that are told, at least: a link that flaps is to cost no more than one that does not."""
SHARE: Final = 50
"""A look is as long ago as so many looks take, at least: the more there is to compare, the less often."""


class Keeper:
    """Drives ``InterfaceState.compare`` from an event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interface: InterfaceState,
        towards: Callable[[], Collection[bytes]],
        way_opened: Callable[[], None],
    ) -> None:
        """``way_opened`` is called when there is a link, an address, or a route to one of the packed addresses of
        ``towards``, that was not there before."""
        self._loop = loop
        self._interface = interface
        self._towards = towards
        self._way_opened = way_opened
        self._way_timer: asyncio.TimerHandle | None = None
        self._way_not_before = 0.0
        self._monitor: Monitor | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0

    def start(self) -> None:
        """Looks once, and goes on to. Raises MachineError."""
        try:
            self._monitor = Monitor()
        except OSError as error:
            raise MachineError(f"cannot listen to the kernel's notices of changed routes: {error.strerror}") from error
        self._loop.add_reader(self._monitor.fileno(), self._told)
        self._look()

    def stop(self) -> None:
        """Idempotent."""
        for timer in (self._timer, self._way_timer):
            if timer is not None:
                timer.cancel()
        if self._monitor is not None:
            self._loop.remove_reader(self._monitor.fileno())
            self._monitor.close()
            self._monitor = None

    def _told(self) -> None:
        assert self._monitor is not None
        if self._monitor.changed(self._interface.index, self._towards()):
            self._set_timer(max(SETTLE, self._not_before - self._loop.time()))
        if self._monitor.way_opened and self._way_timer is None:
            wait = max(SETTLE, self._way_not_before - self._loop.time())
            self._way_timer = self._loop.call_later(wait, self._tell_way)
        if self._monitor.overrun:  # that was an error of the socket, after which libuv watches it no more
            self._loop.remove_reader(self._monitor.fileno())
            self._loop.add_reader(self._monitor.fileno(), self._told)

    def _tell_way(self) -> None:
        self._way_timer = None
        self._way_not_before = self._loop.time() + WAY_GAP
        self._way_opened()

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        start = time.thread_time()
        try:
            self._interface.compare()
        except (OSError, MachineError):
            pass  # an error of a look is not what it would have seen; the next one is soon
        pause = SHARE * (time.thread_time() - start)
        self._not_before = self._loop.time() + max(GAP, pause)
        self._set_timer(max(INTERVAL, pause))
