"""The path to one peer: carries out what ``PathMtu`` decides, and has the data plane send by what it has found."""

import secrets
from collections.abc import Callable, Sequence
from typing import Final

from cryprq._fastpath import EVENT_PROBE_ACKED, EVENT_RECORD_REFUSED, PeerStats
from cryprq.peer_id import PeerId
from cryprq.peers.ports import EpochPlane, PeerObserver
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import MTU_SEALABLE_MAX, PROBE_SIZE_MIN, RECORD_OVERHEAD
from cryprq.protocol.path_mtu import Found, Output, PathMtu, Probe, State

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
        way: Callable[[str, int], tuple[str, int]],
        changed: Callable[[], None],
    ) -> None:
        """``mtu`` is the largest inner packet that this node has; ``sending_index`` names the epoch that is sent on;
        ``way`` is how this host reaches another: its own address there, and what its kernel believes that the path
        carries; OSError if there is none. ``changed`` is called when ``next_timer`` says something else."""
        self._peer_id = peer_id
        self._handle = handle
        self._plane = plane
        self._observer = observer
        self._mtu = mtu
        self._sending_index = sending_index
        self._way_to = way
        self._way: tuple[str, int] | None = None  # when the path was measured
        self._looked_ns = 0
        self._around = _UDP_OVER[4]
        self._changed = changed
        self._due: Boottime | None = None
        self._limit = MTU_SEALABLE_MAX
        self._applied: tuple[int, int, int] | None = None
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
        self._way = None
        self._around = _UDP_OVER[6 if endpoint[0].is_ipv6 else 4]
        smallest, ceiling = PROBE_SIZE_MIN + self._around, self._inner_max() + RECORD_OVERHEAD + self._around
        self._carry_out(self._machine.begin(smallest, ceiling, reason, now))

    def end(self) -> None:
        """The last session is over."""
        self._machine.end()
        self._carry_out(())

    def event(self, flags: int, now: Boottime) -> None:
        """What the plane says about the peer."""
        if flags & EVENT_PROBE_ACKED:
            for token in self._plane.acknowledged(self._handle):
                self._carry_out(self._machine.acknowledged(token, now))
        if flags & EVENT_RECORD_REFUSED:
            self._carry_out(self._machine.refused(now))

    def look(self, stats: PeerStats, now: Boottime) -> None:
        """Once a second: are large records under way, so that the size has to be verified? Do packets leave another way
        than before?"""
        if stats.last_tx_data_ns > self._looked_ns and self._machine.state is State.COMPLETE:
            way = self._way_now()
            if self._way is not None and way != self._way:
                self.begin("link", now)
            else:
                self._way = way
        self._looked_ns = stats.last_tx_data_ns
        if outputs := self._machine.large_sent(Boottime(stats.last_tx_large_ns / 1e9), now):
            self._carry_out(outputs)
        else:
            self._apply()  # the MTU of the tunnel may have changed; the search stands where it stood

    def measure(self) -> bool:
        """Sends the smallest probe, whose acknowledgement says nothing of the size, and how long the way is. False:
        there is no key to send it under."""
        index = self._sending_index()
        if index is None or not self._plane.has(index):
            return False
        self._plane.send_probe(index, _token(), PROBE_SIZE_MIN)
        return True

    def next_timer(self) -> Boottime | None:
        """When ``handle_timer`` is due."""
        return self._machine.next_timer()

    def handle_timer(self, now: Boottime) -> None:
        """Whatever is due; harmless when nothing is."""
        due = self._machine.next_timer()
        if due is not None and due <= now:
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
        if (due := self._machine.next_timer()) != self._due:
            self._due = due
            self._changed()

    def _inner_max(self) -> int:
        return min(self._mtu(), self._limit)

    def _apply(self) -> None:
        size, most = self._machine.size, self._inner_max()
        record = size - self._around if size is not None else 0
        inner = min(most, record - RECORD_OVERHEAD) if record else most
        told = inner if self._machine.settled else most
        if (record, inner, told) == self._applied:
            return
        self._applied = record, inner, told
        self._plane.set_whole_max(self._handle, record)
        self._plane.set_peer_mtu(self._handle, inner, told)

    def _hinted(self) -> int | None:
        way = self._way_now()
        return way[1] if way is not None else None

    def _way_now(self) -> tuple[str, int] | None:
        endpoint = self._plane.endpoint(self._handle)
        try:
            return self._way_to(endpoint[0].host, endpoint[1].group) if endpoint is not None else None
        except OSError:
            return None  # there is none at the moment


def _token() -> int:
    """63 bits that nobody can guess, and a lowest one that is clear: C marks the acknowledged ones by it."""
    return (secrets.randbits(63) or 1) << 1
