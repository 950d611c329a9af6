"""The knock in a first datagram: a dialer shows that it knows the listener's peer ID before anything is kept for it.

It is the connection ID that the datagram goes to (``key_schedule.first_knock``), so it costs the listener one to three
HMACs and neither a parser nor a TLS object. It proves nothing about the dialer and nothing about its address. Whoever
records one can repeat it for as long as it is good; so each opens one connection, and is then as good as none.
"""

import hmac
import os
from typing import Final

from cryprq.protocol.clock import Realtime
from cryprq.protocol.constants import KNOCK_RANDOM_SIZE, KNOCK_STEP, KNOCK_TAG_SIZE
from cryprq.protocol.key_schedule import first_knock, first_knock_key

KNOCK_SIZE: Final = KNOCK_RANDOM_SIZE + KNOCK_TAG_SIZE
SPENT_MAX: Final = 16_384
"""Spent knocks that are remembered: more than connections can begin in the 90 s for which a knock is good."""
_STEPS_GOOD: Final = (0, -1, 1)
"""Steps that are accepted, counted from the listener's own, the likeliest first."""


def make_knock(responder_digest: bytes, now: Realtime) -> bytes:
    """A fresh one for the listener with that peer ID (its digest)."""
    return first_knock(first_knock_key(responder_digest), os.urandom(KNOCK_RANDOM_SIZE), _step(now))


class Knocks:
    """A listener's view of knocks."""

    def __init__(self, responder_digest: bytes) -> None:
        self._key = first_knock_key(responder_digest)
        self._spent: dict[bytes, int] = {}  # and when: the number of the step; in that order

    def __len__(self) -> int:
        return len(self._spent)

    def is_good(self, connection_id: bytes, now: Realtime) -> bool:
        """Whether it is a knock of these days that has opened no connection yet."""
        if len(connection_id) != KNOCK_SIZE or connection_id in self._spent:
            return False
        random, step = connection_id[:KNOCK_RANDOM_SIZE], _step(now)
        return any(
            hmac.compare_digest(connection_id, first_knock(self._key, random, step + offset)) for offset in _STEPS_GOOD
        )

    def is_spent(self, connection_id: bytes) -> bool:
        """Whether it has opened a connection."""
        return connection_id in self._spent

    def spend(self, connection_id: bytes, now: Realtime) -> None:
        """A connection begins with it. The oldest one is forgotten when there are too many, or when it has been good
        for nothing for long."""
        step = _step(now)
        while self._spent:
            oldest, when = next(iter(self._spent.items()))
            if len(self._spent) < SPENT_MAX and abs(step - when) <= len(_STEPS_GOOD):
                break
            del self._spent[oldest]
        self._spent[connection_id] = step


def _step(now: Realtime) -> int:
    return max(1, int(now // KNOCK_STEP))
