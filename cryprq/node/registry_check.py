"""Whether the registry could be written: found out before a new peer needs its address."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from cryprq.errors import MachineError
from cryprq.protocol.clock import Boottime

INTERVAL: Final = 60.0
"""Seconds between two tries to write."""
INTERVAL_FAILING: Final = 5.0
"""The same after one that failed."""


class RegistryCheck:
    """A check for ``Health``: why the registry cannot be followed, or no lease written, as of the last try."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        needed: Callable[[], bool],
        fault: Callable[[], str | None],
        clock: Callable[[], Boottime],
    ) -> None:
        """``probe`` raises MachineError; ``needed``: whether any peer is to get an address from this node; ``fault``:
        why the registry cannot be followed."""
        self._probe = probe
        self._needed = needed
        self._follow_fault = fault
        self._clock = clock
        self._next: float | None = None
        self._fault: str | None = None
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> str | None:
        if (fault := self._follow_fault()) is not None:
            return fault
        if not self._needed():
            self._next = self._fault = None
            return None
        if self._task is None and (self._next is None or self._clock() >= self._next):
            self._task = asyncio.get_running_loop().create_task(self.look())
        return self._fault

    async def look(self) -> None:
        """One try, now, if it matters. The answer of the check is that of this one from then on."""
        try:
            if self._needed():
                await self._probe()
            self._fault = None
        except MachineError as error:
            self._fault = str(error)
        finally:
            self._task = None
        self._next = self._clock() + (INTERVAL if self._fault is None else INTERVAL_FAILING)

    def stop(self) -> None:
        """No try goes on."""
        if self._task is not None:
            self._task.cancel()
