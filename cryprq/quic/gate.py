"""Who gets in: what the first datagram of a connection leads to, and what its source has cost before.

It meets, in this order: form, a known peer's token, backoff of its source, Retry token, knock, limits on pending
connections, and what this node can do at present. Only then is anything kept, and beyond the limits only in a waiting
line. Strangers, who have not knocked, have to prove their address, and have places, a line and a rate of their own, so
that they can crowd out nobody but each other. Without I/O and without a clock: the endpoint carries out what is decided
here, and tells what became of whom it let in.
"""

from dataclasses import dataclass, field
from typing import Final

from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.packet import QuicHeader, QuicPacketType

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic, Realtime
from cryprq.protocol.token_bucket import TokenBucket
from cryprq.quic.adapter import VERSIONS, parse_header, version_negotiation
from cryprq.quic.admission import Admission, Rank, site_of, source_of
from cryprq.quic.backoff import BACKOFF_FREE_FAILURES, Backoff
from cryprq.quic.knocks import Knocks
from cryprq.quic.peer_tokens import PEER_TOKEN, PeerTokens
from cryprq.quic.refusals import Refusals
from cryprq.quic.retry_tokens import RetryTokens
from cryprq.quic.waiting_line import Beginning, WaitingLine

RESPONSE_RATE: Final = 200.0
"""Token bucket for M2s (one KEM encapsulation and two signatures each): refill a second."""
RESPONSE_BURST: Final = 200
UNVALIDATED_RATE: Final = 100.0
"""Connections a second, of all sources together, that begin without Retry. Each costs up to 1 ms of TLS, and what
fails at once is never pending; a Retry costs 20 microseconds."""
STRANGER_ANSWER_RATE: Final = 200.0
"""Answers a second to strangers, most of them a Retry. An older node dials again when it has none in time."""
STRANGER_RATE: Final = 20.0
"""Connections a second that strangers begin, with proven addresses: up to 2 % of a CPU."""
STRANGERS_WAITING_MAX: Final = 64
"""The strangers' line: three seconds' worth."""
SITE_FREE_FAILURES: Final = 8 * BACKOFF_FREE_FAILURES
"""Failures of an IPv6 /48 that cost it nothing yet: of many subscribers, or of one that changes its /64."""
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
    stranger_rate: float = STRANGER_RATE


@dataclass(frozen=True)
class Credentials:
    """By what a listener tells those who have business with it from strangers."""

    peer_id: bytes
    """The digest of its peer ID, which dialers know."""
    token_key: bytes = field(repr=False)
    """The key of the tokens that it gives to peers (32 bytes)."""


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

    def __init__(self, limits: GateLimits, credentials: Credentials) -> None:
        self._knocks = Knocks(credentials.peer_id)
        self._peer_tokens = PeerTokens(credentials.token_key)
        self._tokens = RetryTokens()
        base, most = limits.backoff_base_ms, limits.backoff_max_ms
        self._backoff = Backoff(base, most, free_failures=limits.backoff_free_failures)
        self._site_backoff = Backoff(base, most, free_failures=SITE_FREE_FAILURES)
        self._refusals = Refusals(base, most)
        self._admission = Admission(limits.max_inbound)
        self._beginnings = TokenBucket(limits.unvalidated_rate, limits.unvalidated_rate)
        self._responses = TokenBucket(RESPONSE_RATE, RESPONSE_BURST)
        self._stranger_answers = TokenBucket(STRANGER_ANSWER_RATE, STRANGER_ANSWER_RATE)
        self._stranger_beginnings = TokenBucket(limits.stranger_rate, limits.stranger_rate)
        self._line = WaitingLine()
        self._strangers_line = WaitingLine(STRANGERS_WAITING_MAX)

    @property
    def pending(self) -> int:
        """Accepted connections that have not authenticated themselves."""
        return self._admission.pending

    @property
    def waiting(self) -> int:
        """How many are in line."""
        return len(self._line) + len(self._strangers_line)

    # ---- judging ----

    def decide(
        self, data: bytes, remote: Address, local: Local, now: Monotonic, unix: Realtime, *, behind: bool = False
    ) -> Decision:
        """For a datagram that belongs to no connection. ``behind``: it may be in here twice, since the first was not
        answered in time; if that gets a Retry, a connection for the second is one that nobody wants."""
        header = _form(data, remote)
        if not isinstance(header, QuicHeader):
            return header
        original, rank, validated = header.destination_cid, Rank.STRANGER, False
        peer = self._peer_tokens.check(header.token, unix)
        if peer is not None and not self._admission.is_full(Rank.KNOWN):
            return Open(Beginning(data, header, original, remote, local, now, Rank.KNOWN, False, peer))
        source = source_of(remote)
        if self._is_held_back(source, now) or self._refusals.remaining(source, remote, now):
            return Drop("backoff")
        if header.token and header.token[0] != PEER_TOKEN:
            proof = self._tokens.check(header.token, remote, header.destination_cid, now)
            if proof is None:
                return Drop("bad_token")
            original, rank, validated = proof.original, proof.rank, True
        elif self._knocks.is_good(original, unix):
            rank = Rank.KNOCKED
        if self._knocks.is_spent(original):
            rank = Rank.STRANGER
        beginning = Beginning(data, header, original, remote, local, now, rank, validated)
        return self._proven(beginning) if validated else self._unproven(beginning, behind)

    def next_in_line(self, now: Monotonic) -> Beginning | None:
        """Takes the next one out of a waiting line that may begin; None if there is none at present."""
        if self._is_busy(now):
            return None
        beginning = self._take(self._line, Rank.KNOCKED, now)
        if beginning is None and self._strangers_line and self._stranger_beginnings.saved(now) >= 1:
            beginning = self._take(self._strangers_line, Rank.STRANGER, now)
            if beginning is not None:
                self._stranger_beginnings.take(now)
        return beginning

    def is_in_the_way(self, source: bytes, rank: Rank, now: Monotonic) -> bool:
        """Whether somebody waits who could begin if that pending connection were gone."""
        if rank is Rank.KNOWN or self._is_busy(now):
            return False
        for line, theirs in ((self._line, Rank.KNOCKED), (self._strangers_line, Rank.STRANGER)):
            if line and (rank <= theirs if self._admission.is_full(theirs) else line.has(source)):
                return theirs is Rank.KNOCKED or self._stranger_beginnings.saved(now) >= 1
        return False

    def send_away(self) -> None:
        """Nobody waits any more."""
        self._line.clear()
        self._strangers_line.clear()

    def allow_m2(self, rank: Rank, now: Monotonic) -> bool:
        """Takes a token for one M2 (a KEM encapsulation and two signatures); False: refuse the M1 instead. What others
        use up is not to keep known peers out."""
        return self._responses.take(now) or rank is Rank.KNOWN

    # ---- what becomes of them ----

    def opened(self, beginning: Beginning, unix: Realtime) -> None:
        """A connection begins."""
        self._admission.opened(beginning.source, beginning.rank, validated=beginning.validated)
        if beginning.token is not None:
            self._peer_tokens.use(beginning.token)
        if beginning.rank is Rank.KNOCKED:
            self._knocks.spend(beginning.original, unix)

    def became_validated(self, source: bytes, rank: Rank) -> None:
        """A connection of the source, unvalidated so far, completed its QUIC handshake."""
        self._admission.became_validated(source, rank)

    def settled(self, source: bytes, rank: Rank, *, validated: bool, authenticated: bool) -> None:
        """A connection of the source is not pending any more: its peer authenticated itself, or it ended."""
        self._admission.ended(source, rank, validated=validated)
        if authenticated:
            self._backoff.succeeded(source)
            if (site := site_of(source)) is not None:
                self._site_backoff.succeeded(site)

    def failed(self, source: bytes, now: Monotonic) -> float:
        """A source whose address is proven failed. Returns for how many seconds it is not listened to, most often 0."""
        wait = self._backoff.failed(source, now)
        if (site := site_of(source)) is not None:
            wait = max(wait, self._site_backoff.failed(site, now))
        return wait

    def refused(self, remote: Address, identity: bytes, now: Monotonic, unix: Realtime) -> float:
        """An identity that was proven may not connect. Returns for how many seconds its address and port, or its whole
        source, is not listened to: 0 unless the identity comes again too soon."""
        self._peer_tokens.revoke(identity, unix)
        wait = self._refusals.refused(remote, identity, now)
        return self.failed(source_of(remote), now) if wait is None else wait

    def token_for(self, peer: bytes, unix: Realtime) -> bytes:
        """What a peer that has authenticated itself shows the next time that it dials."""
        return self._peer_tokens.make(peer, unix)

    # ---- inside ----

    def _unproven(self, beginning: Beginning, behind: bool) -> Decision:
        now = beginning.at
        if beginning.rank is Rank.STRANGER:
            if not self._stranger_answers.take(now):
                return Drop("strangers")
            crowded = True
        else:
            crowded = self._admission.asks_for_proof(beginning.source) or behind or self._is_busy(now)
        if not crowded and self._beginnings.take(now):
            return Open(beginning)
        return Retry(self._tokens.packet(beginning.header, beginning.remote, beginning.rank, now))

    def _proven(self, beginning: Beginning) -> Decision:
        source, rank, now = beginning.source, beginning.rank, beginning.at
        line = self._strangers_line if rank is Rank.STRANGER else self._line
        at_once = self._admission.has_place(source, rank) and not line and not self._is_busy(now)
        if at_once and (rank is not Rank.STRANGER or self._stranger_beginnings.take(now)):
            return Open(beginning)
        return Wait(displaced=not line.add(source, beginning))

    def _take(self, line: WaitingLine, rank: Rank, now: Monotonic) -> Beginning | None:
        """The next one of a line: of a source that has not failed lately, if there is one, so that whoever only takes
        places up has each but once."""
        if not line or self._admission.is_full(rank):
            return None

        def admissible(source: bytes) -> bool:
            return self._admission.has_place(source, rank) and not self._is_held_back(source, now)

        def clean(source: bytes) -> bool:
            return source not in self._backoff and admissible(source)

        for may_begin in (clean, admissible):
            while (beginning := line.take(now, may_begin)) is not None:
                if rank is Rank.STRANGER or not self._knocks.is_spent(beginning.original):
                    return beginning
        return None

    def _is_held_back(self, source: bytes, now: Monotonic) -> bool:
        site = site_of(source)
        return bool(
            self._backoff.remaining(source, now) or (site is not None and self._site_backoff.remaining(site, now))
        )

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
