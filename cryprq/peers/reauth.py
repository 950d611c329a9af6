"""When the two ends of a session have to prove again who they are.

A rotation proves possession of the keys before it and nothing else. So the dialer makes a new handshake beside a
session that is ``--reauth-secs`` old, which takes over without losing a packet (protocol, 3.1, taking over). Where none
comes of it, either end takes the session's connection away: without one there are no rotations, and the keys end at
their limit. So nobody stays in the middle by keeping new handshakes from the peer.
"""

from collections.abc import Callable
from typing import Final

from cryprq.protocol.clock import Boottime

REAUTH_WINDOW: Final = 10.0
"""Seconds for which a dialer tries, ..."""
REAUTH_RETRY: Final = 60.0
"""... and after which it tries again: the session works meanwhile."""
REAUTH_PATIENCE: Final = 150.0
"""Seconds after which nobody waits any more: two tries and the third."""


class Reauth:
    """Follows the session in use of one peer. ``interval`` gives ``--reauth-secs``."""

    def __init__(self, interval: Callable[[], int]) -> None:
        self._interval = interval
        self._try_at = Boottime(0.0)
        self._until = Boottime(0.0)
        self.wants_dial = False
        """Whether a new handshake is due beside the session, which this node has dialled."""

    def due(self, since: Boottime) -> float:
        """From when on ``look`` has more to say than nothing."""
        return since + self._interval()

    def began(self) -> None:
        """A handshake that this node dialled is complete."""
        self.wants_dial = False

    def look(self, since: Boottime, now: Boottime, *, dialled: bool) -> bool:
        """Once a second; ``since``: when the handshake of the session in use was complete. True: the next one is
        overdue."""
        due = self.due(since)
        if not dialled or now < due:
            self._try_at, self.wants_dial = now, False
        else:
            if now >= self._try_at:
                self._try_at, self._until = Boottime(now + REAUTH_RETRY), Boottime(now + REAUTH_WINDOW)
            self.wants_dial = now < self._until
        return now >= due + REAUTH_PATIENCE
