"""Whether two hosts use one identity: then their sessions replace each other, in turn."""

from collections import OrderedDict
from typing import Final

from cryprq.address import Address
from cryprq.protocol.clock import Boottime

CONTEST_WINDOW: Final = 60.0
"""Seconds within which an address that lost its session has to take it back, to be a rival: longer than the longest
wait of a dialer (``--backoff-max-ms``, and a quarter)."""
CONTEST_RETURNS: Final = 2
"""So many returns in a row are a contest. One may be a dialer that changed its address and changed it back."""
_ADDRESSES_MAX: Final = 8


class Contest:
    """Follows the addresses from which one peer's sessions replace each other while both have a connection.

    A dialer that roams moves on; one that was restarted comes from where it was, or, behind a NAT, from a port that was
    not there before. Only a host that has lost its session to another one, and still runs, comes back to take it again.
    """

    def __init__(self) -> None:
        self._lost_at: OrderedDict[Address, Boottime] = OrderedDict()  # the latest loss last
        self._returns = 0

    def replaced(self, loser: Address, winner: Address, now: Boottime) -> bool:
        """A session from ``winner`` replaces the one from ``loser``. True if there are two hosts."""
        if loser == winner:
            return False
        lost_at = self._lost_at.pop(winner, None)
        returned = lost_at is not None and now - lost_at <= CONTEST_WINDOW
        self._returns = self._returns + 1 if returned else 0
        self._lost_at.pop(loser, None)
        self._lost_at[loser] = now
        if len(self._lost_at) > _ADDRESSES_MAX:
            self._lost_at.popitem(last=False)
        return self._returns >= CONTEST_RETURNS
