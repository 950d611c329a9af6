"""When the kernel's state is compared with what the node wants: at each notice of a change, and every few seconds."""

import asyncio
import time
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
SHARE: Final = 50
"""A look is as long ago as so many looks take, at least: the more there is to compare, the less often."""


class Keeper:
    """Drives ``InterfaceState.compare`` from an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interface: InterfaceState) -> None:
        self._loop = loop
        self._interface = interface
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
        if self._timer is not None:
            self._timer.cancel()
        if self._monitor is not None:
            self._loop.remove_reader(self._monitor.fileno())
            self._monitor.close()
            self._monitor = None

    def _told(self) -> None:
        assert self._monitor is not None
        if self._monitor.changed(self._interface.index):
            self._set_timer(max(SETTLE, self._not_before - self._loop.time()))
        if self._monitor.overrun:  # that was an error of the socket, after which libuv watches it no more
            self._loop.remove_reader(self._monitor.fileno())
            self._loop.add_reader(self._monitor.fileno(), self._told)

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
