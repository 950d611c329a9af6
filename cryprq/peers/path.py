"""The path to one peer: carries out what ``PathMtu`` decides, and has the data plane send by what it has found."""

import secrets
from collections.abc import Callable, Sequence
from typing import Final

from cryprq._fastpath import EVENT_PROBE_ACKED, EVENT_RECORD_REFUSED, PeerStats
from cryprq.peer_id import PeerId
from cryprq.peers.ports import EpochPlane, PeerObserver
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import MTU_SEALABLE_MAX, PROBE_SIZE_MIN, RECORD_OVERHEAD
from cryprq.protocol.path_mtu import Found, Output, PathMtu, Probe

_UDP_OVER: Final = {4: 28, 6: 48}
"""Bytes of IP and UDP headers, by the version of IP."""


class Path:
    """What the path to a peer carries in our direction."""

    def __init__(
        self,
        peer_id: PeerId,
        handle: int,
        *,
        plane: EpochPlane,
        observer: PeerObserver,
        mtu: Callable[[], int],
        sending_index: Callable[[], int | None],
        round_trip: Callable[[], float],
        hint: Callable[[str], int],
    ) -> None:
        """``mtu`` is the largest inner packet that this node has; ``sending_index`` names the epoch that is sent on;
        ``hint`` says what the kernel believes that the path to a host carries, or raises OSError."""
        self._peer_id = peer_id
        self._handle = handle
        self._plane = plane
        self._observer = observer
        self._mtu = mtu
        self._sending_index = sending_index
        self._hint = hint
        self._around = _UDP_OVER[4]
        self._limit = MTU_SEALABLE_MAX
        self._applied: tuple[int, int] | None = None
        self._machine = PathMtu(draw=_token, round_trip=round_trip, hint=self._hinted)

    @property
    def mtu(self) -> int | None:
        """The largest packet that the path is known to carry; None: records may be fragmented on it."""
        return self._machine.size

    def set_limit(self, mtu: int) -> None:
        """The largest inner packet that the peer takes, by the session that is sent on from now on."""
        self._limit = mtu
        self._apply()

    def begin(self, reason: str, now: Boottime) -> None:
        """The path is a new one, or may have changed: ``session``, ``moved`` or ``link``."""
        endpoint = self._plane.endpoint(self._handle)
        if endpoint is None:
            return
        self._around = _UDP_OVER[6 if endpoint[0].is_ipv6 else 4]
        smallest, ceiling = PROBE_SIZE_MIN + self._around, self._inner_max() + RECORD_OVERHEAD + self._around
        self._carry_out(self._machine.begin(smallest, ceiling, reason, now))

    def end(self) -> None:
        """The last session is over."""
        self._machine.end()

    def event(self, flags: int, now: Boottime) -> None:
        """What the plane says about the peer."""
        if flags & EVENT_PROBE_ACKED:
            for token in self._plane.acknowledged(self._handle):
                self._carry_out(self._machine.acknowledged(token, now))
        if flags & EVENT_RECORD_REFUSED:
            self._carry_out(self._machine.refused(now))

    def look(self, stats: PeerStats, now: Boottime) -> None:
        """Once a second: are large records under way, so that the size has to be verified?"""
        self._carry_out(self._machine.large_sent(Boottime(stats.last_tx_large_ns / 1e9), now))

    def next_timer(self) -> Boottime | None:
        """When ``handle_timer`` is due."""
        return self._machine.next_timer()

    def handle_timer(self, now: Boottime) -> None:
        """Whatever is due."""
        self._carry_out(self._machine.handle_timer(now))

    def _carry_out(self, outputs: Sequence[Output]) -> None:
        self._apply()
        for output in outputs:
            match output:
                case Probe(token, size):
                    index = self._sending_index()
                    if index is not None and self._plane.has(index):
                        self._plane.send_probe(index, token, size - self._around)
                case Found(old, new, reason):
                    self._observer.path_mtu_changed(self._peer_id, old, new, reason)

    def _inner_max(self) -> int:
        return min(self._mtu(), self._limit)

    def _apply(self) -> None:
        size, inner = self._machine.size, self._inner_max()
        record = size - self._around if size is not None else 0
        if record:
            inner = min(inner, record - RECORD_OVERHEAD)
        if (record, inner) == self._applied:
            return
        self._applied = record, inner
        self._plane.set_whole_max(self._handle, record)
        self._plane.set_peer_mtu(self._handle, inner)

    def _hinted(self) -> int | None:
        endpoint = self._plane.endpoint(self._handle)
        try:
            return self._hint(endpoint[0].host) if endpoint is not None else None
        except OSError:
            return None  # there is no way at the moment


def _token() -> int:
    """63 bits that nobody can guess, and a lowest one that is clear: C marks the acknowledged ones by it."""
    return (secrets.randbits(63) or 1) << 1
