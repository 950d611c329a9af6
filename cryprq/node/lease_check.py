"""Whether a new peer could be given its address: found out before the first one needs it."""

from collections.abc import Callable
from typing import Final

from cryprq.errors import MachineError
from cryprq.protocol.clock import Boottime

INTERVAL: Final = 60.0
"""Seconds between two tries to write."""
INTERVAL_FAILING: Final = 5.0
"""The same after one that failed."""


class LeaseCheck:
    """A check for ``Health``: why no lease can be written, as of the last try."""

    def __init__(
        self, try_to_write: Callable[[], None], needed: Callable[[], bool], clock: Callable[[], Boottime]
    ) -> None:
        """``try_to_write`` raises MachineError; ``needed``: whether any peer is to get an address from this node."""
        self._try_to_write = try_to_write
        self._needed = needed
        self._clock = clock
        self._next: float | None = None
        self._fault: str | None = None

    def __call__(self) -> str | None:
        if not self._needed():
            self._next = self._fault = None
            return None
        now = self._clock()
        if self._next is None or now >= self._next:
            self._fault = self._ask()
            self._next = now + (INTERVAL if self._fault is None else INTERVAL_FAILING)
        return self._fault

    def _ask(self) -> str | None:
        try:
            self._try_to_write()
        except MachineError as error:
            return str(error)
        return None
