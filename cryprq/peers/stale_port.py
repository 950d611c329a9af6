"""When a node takes another local port to dial from, where nobody dials it: what routers keep for it may be stale.

A NAT that changed its uplink goes on translating to the address that it had, for as long as it sees packets of the
flow; and a node that dials from one port for life keeps the flow alive by that. The same goes for an entry that was
made before the NAT's rules were. To a new port belongs a new entry.
"""

from typing import Final

from cryprq.protocol.clock import Boottime

KEEP: Final = 5.0
"""Seconds for which a port is kept, at least, that was taken in place of one by which a peer was heard. ..."""
KEEP_MAX: Final = 60.0
"""... They double with each further one, up to this: each is an entry in the tables of routers, which keep some of them
for minutes."""
_NEVER: Final = Boottime(float("-inf"))


class StalePort:
    """Judges one port, and the one after it. Sans-IO; ``now`` is seconds of CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        self._since = _NEVER
        self._useless = 0

    def unanswered(self, began: Boottime, heard: Boottime, now: Boottime) -> bool:
        """A dial that began then came to nothing; ``heard`` is when the last authentic record of any peer came. True if
        it is time for another port, which the caller takes."""
        if heard >= began:  # this port leads somewhere, so it is the peer that is gone
            return False
        if heard >= self._since:  # it did some good
            self._useless = 0
        keep = min(KEEP * 2.0 ** (self._useless - 1), KEEP_MAX) if self._useless else 0.0
        if began < self._since or now - self._since < keep:
            return False
        self._since = now
        self._useless = min(self._useless + 1, 32)
        return True
