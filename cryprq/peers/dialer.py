"""When and where a dialled peer is dialled: quickly while a tunnel was up not long ago, then ever more rarely."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryprq.address import Address
from cryprq.multiaddr import Multiaddr
from cryprq.peer_id import PeerId
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import ANSWER_ROUND_TRIPS, DIAL_TIMEOUT, DIAL_TIMEOUT_MAX

REDIAL_FAST_WINDOW: Final = 300.0
"""For so long after a tunnel was up the dialer ..."""
REDIAL_FAST_INTERVAL: Final = 1.0
"""... dials at least this often, ..."""
REDIAL_FAST_TIMEOUT: Final = 3.0
"""... and gives each attempt up after this, or after ``ANSWER_ROUND_TRIPS`` of the tunnel's, if that is more, ..."""
REDIAL_PATIENT: Final = 5
"""... but every so manieth only after ``DIAL_TIMEOUT_MAX``: the way may have become longer."""
BACKOFF_JITTER: Final = 0.25
"""A wait is multiplied by a random factor in [1 - jitter, 1 + jitter]."""
NEXT_ADDRESS_AFTER: Final = 0.25
"""Seconds until the next address of a peer is tried beside the ones before it (RFC 8305, 5)."""
CONTEST_FORGET: Final = 3
"""After so many times the longest wait without losing a session to another host, it is as if there had been none."""
TELL_EVERY: Final = 30.0
"""Seconds between reports that a peer still does not answer; the first one comes at once."""
HURRY_WINDOW: Final = 5.0
"""For so long after the way to a peer may have opened, it is dialled as often as after a tunnel: an address comes after
its link, and a route after its address."""
_AT_ONCE: Final = Boottime(float("-inf"))


class DialSchedule:
    """When the next dial may start. Sans-IO; ``now`` is seconds of one clock that runs on during suspend.

    For five minutes after a tunnel was up: at least once a second, or twice in a round trip, each try for three
    seconds, or three round trips, and every fifth for longer. Before and after that, and after a refusal: after each
    failure a wait that doubles from ``base`` to ``maximum`` (seconds). Likewise each time that another host with the
    same identity takes the session away: to take it back at once would be a race that neither wins. All with jitter, so
    that dialers which lost the same gateway at the same moment do not go on in step.
    """

    def __init__(self, base: float, maximum: float, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._base = base
        self._maximum = maximum
        self._uniform = uniform
        self._fast_until: Boottime | None = None
        self._round_trip = 0.0
        self._starts = 0
        self._failures = 0
        self._not_before = _AT_ONCE
        self._spaced = _AT_ONCE
        self._unhurried_until = _AT_ONCE
        self._lost = 0
        self._lost_at = _AT_ONCE

    def fast(self, now: Boottime) -> bool:
        """True for five minutes after a tunnel was up."""
        return self._fast_until is not None and now < self._fast_until

    def timeout(self, now: Boottime) -> float:
        """For how many seconds a dial that starts now waits for an answer."""
        if not self.fast(now):
            usual = min(DIAL_TIMEOUT * (1 + self._failures), DIAL_TIMEOUT_MAX)
        elif self._starts % REDIAL_PATIENT == 0:
            usual = DIAL_TIMEOUT_MAX
        else:
            usual = REDIAL_FAST_TIMEOUT
        return max(usual, ANSWER_ROUND_TRIPS * self._round_trip)

    @property
    def due(self) -> Boottime:
        """The earliest start of the next dial."""
        return self._not_before

    def tunnel_up(self, now: Boottime, round_trip: float = 0.0) -> None:
        """A tunnel is up, or was until now; ``round_trip`` in seconds, as its connection measures it."""
        self._round_trip = round_trip
        self._starts = 0
        self._fast_until = Boottime(now + REDIAL_FAST_WINDOW)
        self._failures = 0
        self._not_before = _AT_ONCE

    def started(self, now: Boottime) -> None:
        """A dial starts."""
        self._starts += 1
        interval = max(REDIAL_FAST_INTERVAL, self._round_trip / 2)
        self._not_before = self._spaced = Boottime(now + interval * self._uniform(1 - BACKOFF_JITTER, 1))

    def hurry(self, now: Boottime) -> None:
        """The way to the peer may have opened: what there is to wait for is the way no more. The wait after a refusal,
        or after another host took the session, goes on."""
        if now >= self._unhurried_until:
            self._fast_until = Boottime(max(self._fast_until or now, now + HURRY_WINDOW))
            self._not_before = min(self._not_before, self._spaced)

    def failed(self, now: Boottime, *, refused: bool = False) -> float:
        """A dial came to nothing. Returns the seconds to wait from now; ``refused``: by a peer that is there, so
        that hurrying helps nobody."""
        if refused:
            self._fast_until = None
        if self.fast(now):
            return max(0.0, self._not_before - now)
        wait = self._wait(self._failures, now)
        self._failures += 1
        if refused:
            self._unhurried_until = self._not_before
        return wait

    def replaced(self, now: Boottime) -> float:
        """The peer gave the session up for one from another host. Returns the seconds to wait from now."""
        if now - self._lost_at > CONTEST_FORGET * self._maximum:
            self._lost = 0
        wait = self._wait(self._lost, now)
        self._unhurried_until = self._not_before
        self._lost += 1
        self._lost_at = now
        return wait

    def _wait(self, times: int, now: Boottime) -> float:
        """Sets the next dial to after a wait that doubles with each of so many ``times`` before."""
        wait = min(self._base * 2.0 ** min(times, 32), self._maximum)
        wait *= self._uniform(1 - BACKOFF_JITTER, 1 + BACKOFF_JITTER)
        self._not_before = Boottime(now + wait)
        return wait


class Attempt(Protocol):
    """One connection to one address (``cryprq.peers.outbound.Outbound``). It ends by itself, in its time."""

    @property
    def remote(self) -> Address: ...
    @property
    def detail(self) -> str:
        """Why nobody answered, once it is over."""

    @property
    def answered(self) -> bool:
        """True once QUIC is up and the handshake runs; it stays true when the attempt is over."""

    @property
    def over(self) -> bool:
        """True once the connection ended, or a session grew out of it."""

    def abandon(self) -> None:
        """Gives up; the attempt is over."""


class DialTarget(Protocol):
    """Who is dialled (``cryprq.peers.peer.Peer``)."""

    @property
    def peer_id(self) -> PeerId: ...
    @property
    def up(self) -> bool:
        """True while a tunnel is up and its connection stands."""

    @property
    def round_trip(self) -> float:
        """Seconds, as that connection measures it; 0 if it is not known."""

    def wants_dial(self) -> bool:
        """True if a tunnel is to be set up, or set up again."""

    def dial_failed(self) -> None:
        """A dial got no answer, or there was nowhere to dial."""


class DialObserver(Protocol):
    """Who is told (``cryprq.telemetry.reporter.Reporter``)."""

    def dial_started(self, peer_id: PeerId, remote: Address, *, again: bool) -> None: ...
    def dial_unanswered(self, peer_id: PeerId, remotes: Sequence[Address], detail: str, *, again: bool) -> None: ...
    def dial_unresolved(self, peer_id: PeerId, target: Multiaddr, error: str) -> None: ...


@dataclass(eq=False)
class _Volley:
    """One dial: the peer's addresses one after the other, a quarter of a second apart, until one answers."""

    began: Boottime
    timeout: float
    waiting: list[Address]
    next_at: Boottime
    attempts: list[Attempt] = field(default_factory=list)
    tried: list[Address] = field(default_factory=list)
    detail: str = "no answer"
    answered: bool = False
    """Some attempt got as far as a handshake; what failed then is told by whoever ran it."""


class Dialer:
    """Dials one peer for as long as it wants to be dialled. ``poll`` does what is due, whenever it is called.

    Dials overlap while they are unanswered (one a second, most for three seconds); the first answer ends the others.
    """

    def __init__(
        self,
        target: DialTarget,
        multiaddrs: Sequence[Multiaddr],
        schedule: DialSchedule,
        *,
        addresses: Callable[[Multiaddr], tuple[Address, ...]],
        resolve_error: Callable[[Multiaddr], str | None],
        connect: Callable[["Dialer", Address, float], Attempt],
        unanswered: Callable[[Boottime], None],
        observer: DialObserver,
    ) -> None:
        """``multiaddrs`` say where the peer is, the preferred place first, and ``addresses`` what is known of each of
        them. ``connect`` starts an attempt that gives up after so many seconds, and sees to it that ``poll`` is called
        when it is over; OSError if the address cannot be dialled from here. ``unanswered`` is called when none of the
        addresses has answered a dial that began then."""
        self.target = target
        self.multiaddrs = tuple(multiaddrs)
        self.schedule = schedule
        self._addresses = addresses
        self._resolve_error = resolve_error
        self._connect = connect
        self._unanswered = unanswered
        self._observer = observer
        self._volleys: list[_Volley] = []
        self._stopped = False
        self._again = False
        self._told_at: Boottime | None = None

    @property
    def dialling(self) -> bool:
        """True while an attempt runs."""
        return bool(self._volleys)

    def stop(self) -> None:
        """Gives up what runs and dials no more."""
        self._stopped = True
        self._abandon(lambda attempt: True)

    def hurry(self, now: Boottime) -> None:
        """The way to the peer may have opened: if it is to be dialled, then soon."""
        if self.target.wants_dial():
            self.schedule.hurry(now)

    def poll(self, now: Boottime) -> Boottime | None:
        """Starts and ends attempts as due. Returns when to call again at the latest; None: when something changes."""
        if self._stopped:
            return None
        self._reap(now)
        if self.target.up:
            self.schedule.tunnel_up(now, self.target.round_trip)
            self._again, self._told_at = False, None
        if not self.target.wants_dial():
            self._abandon(lambda attempt: not attempt.answered)
            return None
        if any(attempt.answered and not attempt.over for volley in self._volleys for attempt in volley.attempts):
            self._abandon(lambda attempt: not attempt.answered)
            return None  # the connection ends by itself, one way or the other
        if now >= self.schedule.due and (not self._volleys or self.schedule.fast(now)):
            self._start(now)
        for volley in self._volleys:
            self._advance(volley, now)
        self._reap(now)  # those of whose addresses none could even be tried
        return self._next(now)

    def _start(self, now: Boottime) -> None:
        found = {multiaddr: self._addresses(multiaddr) for multiaddr in self.multiaddrs}
        errors = {each: self._resolve_error(each) for each, addresses in found.items() if not addresses}
        for multiaddr, error in errors.items():
            if error is not None:
                self._observer.dial_unresolved(self.target.peer_id, multiaddr, error)
        known = dict.fromkeys(address for addresses in found.values() for address in addresses)
        if known:
            self.schedule.started(now)
            self._volleys.append(_Volley(now, self.schedule.timeout(now), list(known), now))
        elif all(error is not None for error in errors.values()):
            self.schedule.failed(now)
            self.target.dial_failed()

    def _advance(self, volley: _Volley, now: Boottime) -> None:
        while volley.waiting and now >= volley.next_at:
            remote = volley.waiting.pop(0)
            volley.tried.append(remote)
            hurried = self._again and self.schedule.fast(now)
            self._observer.dial_started(self.target.peer_id, remote, again=hurried)
            try:
                volley.attempts.append(self._connect(self, remote, volley.timeout))
            except OSError as error:
                volley.detail = error.strerror or str(error)
                continue  # of a family that this host does not have: the next one at once
            volley.next_at = Boottime(now + NEXT_ADDRESS_AFTER)

    def _reap(self, now: Boottime) -> None:
        """Forgets dials that came to an end."""
        for volley in tuple(self._volleys):
            volley.answered = volley.answered or any(attempt.answered for attempt in volley.attempts)
            if volley.waiting or any(not attempt.over for attempt in volley.attempts):
                continue
            self._volleys.remove(volley)
            if not volley.answered:
                detail = volley.attempts[0].detail if volley.attempts else volley.detail
                again = self._told_at is not None and now - self._told_at < TELL_EVERY
                self._observer.dial_unanswered(self.target.peer_id, volley.tried, detail, again=again)
                self._again = True
                if not again:
                    self._told_at = now
                self.schedule.failed(now)
                self.target.dial_failed()
                if volley.attempts:
                    self._unanswered(volley.began)

    def _abandon(self, which: Callable[[Attempt], bool]) -> None:
        for volley in tuple(self._volleys):
            volley.waiting.clear()
            volley.answered = volley.answered or any(attempt.answered for attempt in volley.attempts)
            for attempt in volley.attempts:
                if not attempt.over and which(attempt):
                    attempt.abandon()
            if all(attempt.over for attempt in volley.attempts):
                self._volleys.remove(volley)

    def _next(self, now: Boottime) -> Boottime | None:
        times = [volley.next_at for volley in self._volleys if volley.waiting]
        if not self._volleys or self.schedule.fast(now):
            # A dial that was due and did not start waits for a name to be looked up, which calls ``poll`` again.
            times.append(self.schedule.due if self.schedule.due > now else Boottime(now + REDIAL_FAST_INTERVAL))
        return min(times, default=None)
