"""Who gets in: what the first datagram of a connection leads to, and what its source has cost before.

It meets, in this order: form, backoff of its source, Retry token, limits on pending connections, and what this node can
do at present. Only then is anything kept, and beyond the limits only in the waiting line. Without I/O and without a
clock: the endpoint carries out what is decided here, and tells what became of whom it let in.
"""

from dataclasses import dataclass
from typing import Final

from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.packet import QuicHeader, QuicPacketType

from cryprq.address import Address
from cryprq.protocol.clock import Monotonic
from cryprq.quic.adapter import VERSIONS, parse_header, version_negotiation
from cryprq.quic.admission import Admission, source_of
from cryprq.quic.backoff import BACKOFF_FREE_FAILURES, Backoff
from cryprq.quic.refusals import Refusals
from cryprq.quic.retry_tokens import RetryTokens
from cryprq.quic.token_bucket import TokenBucket
from cryprq.quic.waiting_line import Beginning, WaitingLine

RESPONSE_RATE: Final = 200.0
"""Token bucket for M2s (one KEM encapsulation and two signatures each): refill a second."""
RESPONSE_BURST: Final = 200
UNVALIDATED_RATE: Final = 100.0
"""Connections a second, of all sources together, that begin without Retry. Each costs up to 1 ms of TLS, and what
fails at once is never pending; a Retry costs 20 microseconds."""
_CLIENT_CID_MIN: Final = 8  # RFC 9000, 7.2


@dataclass(frozen=True)
class GateLimits:
    """What strangers may cost."""

    max_inbound: int
    """Accepted connections that have not authenticated themselves yet."""
    backoff_base_ms: int
    backoff_max_ms: int
    backoff_free_failures: int = BACKOFF_FREE_FAILURES
    unvalidated_rate: float = UNVALIDATED_RATE


# ---- what it decides ----


@dataclass(frozen=True, slots=True)
class Open:
    """A connection begins (``Gate.opened`` follows)."""

    beginning: Beginning


@dataclass(frozen=True, slots=True)
class Retry:
    """The source has to prove its address first: answer with this packet, keep nothing (RFC 9000, 8.1.2)."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class Negotiate:
    """It is of another version of QUIC: answer with this packet, keep nothing (RFC 9000, 6.1)."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Its address is proven and there is no place now: it is in the waiting line (``Gate.next_in_line``)."""

    displaced: bool
    """Somebody had to leave the line."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Keep nothing, say nothing."""

    reason: str


Decision = Open | Retry | Negotiate | Wait | Drop


class Gate:
    """Judges beginnings, and keeps count of what has come of others: pending connections, failures, M2s.

    Whoever acts on it says so: ``opened`` for every connection that begins, ``became_validated`` when one proves its
    address, ``settled`` once when it is not pending any more, ``failed`` or ``refused`` when it ended badly.
    """

    def __init__(self, limits: GateLimits) -> None:
        self._tokens = RetryTokens()
        self._backoff = Backoff(
            limits.backoff_base_ms, limits.backoff_max_ms, free_failures=limits.backoff_free_failures
        )
        self._refusals = Refusals(limits.backoff_base_ms, limits.backoff_max_ms)
        self._admission = Admission(limits.max_inbound)
        self._beginnings = TokenBucket(limits.unvalidated_rate, limits.unvalidated_rate)
        self._responses = TokenBucket(RESPONSE_RATE, RESPONSE_BURST)
        self._line = WaitingLine()

    @property
    def pending(self) -> int:
        """Accepted connections that have not authenticated themselves."""
        return self._admission.pending

    @property
    def waiting(self) -> int:
        """How many are in line."""
        return len(self._line)

    # ---- judging ----

    def decide(
        self, data: bytes, remote: Address, local: str | None, now: Monotonic, *, behind: bool = False
    ) -> Decision:
        """For a datagram that belongs to no connection. ``behind``: it may be in here twice, since the first was not
        answered in time; if that gets a Retry, a connection for the second is one that nobody wants."""
        header = _form(data, remote)
        if not isinstance(header, QuicHeader):
            return header
        source = source_of(remote)
        if self._backoff.remaining(source, now):
            return Drop("backoff")
        if not header.token:
            return self._unproven(source, Beginning(data, header, header.destination_cid, remote, local, now), behind)
        original = self._tokens.check(header.token, remote, header.destination_cid, now)
        if original is None:
            return Drop("bad_token")
        return self._proven(source, Beginning(data, header, original, remote, local, now))

    def next_in_line(self, now: Monotonic) -> Beginning | None:
        """Takes the next one out of the waiting line that may begin; None if there is none at present."""
        if self._is_busy(now):
            return None
        return self._line.take(now, lambda source: self._may_begin(source, now))

    def send_away(self) -> None:
        """Nobody waits any more."""
        self._line.clear()

    def allow_m2(self, now: Monotonic) -> bool:
        """Takes a token for one M2 (a KEM encapsulation and two signatures); False: refuse the M1 instead."""
        return self._responses.take(now)

    # ---- what becomes of them ----

    def opened(self, source: bytes, *, validated: bool) -> None:
        """A connection of the source begins."""
        self._admission.opened(source, validated=validated)

    def became_validated(self, source: bytes) -> None:
        """A connection of the source, unvalidated so far, completed its QUIC handshake."""
        self._admission.became_validated(source)

    def settled(self, source: bytes, *, validated: bool, authenticated: bool) -> None:
        """A connection of the source is not pending any more: its peer authenticated itself, or it ended."""
        self._admission.ended(source, validated=validated)
        if authenticated:
            self._backoff.succeeded(source)

    def failed(self, source: bytes, now: Monotonic) -> float:
        """A source whose address is proven failed. Returns for how many seconds it is not listened to, most often 0."""
        return self._backoff.failed(source, now)

    def refused(self, source: bytes, identity: bytes, now: Monotonic) -> float:
        """An identity that was proven may not connect. Returns for how many seconds its source is not listened to: 0
        unless the identity comes again too soon."""
        return 0.0 if self._refusals.refused(source, identity, now) else self.failed(source, now)

    # ---- inside ----

    def _unproven(self, source: bytes, beginning: Beginning, behind: bool) -> Decision:
        now, header = beginning.at, beginning.header
        crowded = self._admission.asks_for_proof(source) or behind or self._is_busy(now)
        if not crowded and self._beginnings.take(now):
            return Open(beginning)
        return Retry(self._tokens.packet(header, beginning.remote, now))

    def _proven(self, source: bytes, beginning: Beginning) -> Decision:
        if self._admission.has_place(source) and not self._line and not self._is_busy(beginning.at):
            return Open(beginning)
        return Wait(displaced=not self._line.add(source, beginning))

    def _may_begin(self, source: bytes, now: Monotonic) -> bool:
        return self._admission.has_place(source) and not self._backoff.remaining(source, now)

    def _is_busy(self, now: Monotonic) -> bool:
        """True if pending connections may need all the M2s that are left: who begins now would be refused his."""
        return self._responses.saved(now) < 1 + min(self._admission.pending, RESPONSE_BURST / 2)


def _form(data: bytes, remote: Address) -> QuicHeader | Negotiate | Drop:
    """The header of a first datagram, if it can be one."""
    if len(data) < SMALLEST_MAX_DATAGRAM_SIZE or remote.port == 0:
        return Drop("malformed")
    try:
        header = parse_header(data)
    except ValueError:
        return Drop("malformed")
    if header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
        return Drop("malformed")  # an answer to it could go on for ever
    if header.version not in VERSIONS:
        return Negotiate(version_negotiation(header))
    if header.packet_type is not QuicPacketType.INITIAL or len(header.destination_cid) < _CLIENT_CID_MIN:
        return Drop("malformed")
    return header
