"""Retry tokens: proof that a dialer receives at the address it sends from (RFC 9000, 8.1.2). No state is kept."""

import hmac
import os
import socket
from dataclasses import dataclass
from typing import Final

from aioquic.quic.packet import QuicHeader, QuicProtocolVersion, encode_quic_retry

from cryprq.address import Address
from cryprq.protocol.clock import Monotonic
from cryprq.quic.adapter import CONNECTION_ID_SIZE
from cryprq.quic.admission import Rank

RETRY_TOKEN_LIFETIME: Final = 15.0
"""A dialer answers a Retry packet at once, and again while it dials."""
RETRY_TOKEN: Final = 1
"""The first byte of one: what is in a first datagram may also be a peer's token (``cryprq.quic.peer_tokens``)."""
_MAC_SIZE: Final = 16
_TIME_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class Proof:
    """What a good token says."""

    original: bytes
    """The connection ID that the dialer first sent to."""
    rank: Rank
    """What it was taken for then: the knock is in that connection ID, and was judged when it came."""


class RetryTokens:
    """Makes and checks tokens: 1 || MAC (16) || rank || time in ms (8) || the connection ID that was first sent to.

    The MAC covers the dialer's address and the connection ID that the Retry packet gave, so a token is good for one
    address, one connection ID and ``lifetime`` seconds. The key is made here and never leaves.
    """

    def __init__(self, lifetime: float = RETRY_TOKEN_LIFETIME) -> None:
        self._key = os.urandom(32)
        self._lifetime = lifetime

    def packet(self, header: QuicHeader, remote: Address, rank: Rank, now: Monotonic) -> bytes:
        """The Retry packet that answers a first packet (RFC 9000, 17.2.5)."""
        given = os.urandom(CONNECTION_ID_SIZE)
        return encode_quic_retry(
            version=QuicProtocolVersion.VERSION_1,
            source_cid=given,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=self.make(remote, header.destination_cid, given, rank, now),
        )

    def make(self, remote: Address, original: bytes, given: bytes, rank: Rank, now: Monotonic) -> bytes:
        """For a dialer of that rank whose first packet went to ``original`` and that is told to use ``given``."""
        body = bytes((rank,)) + int(now * 1000).to_bytes(_TIME_SIZE, "big") + original
        return bytes((RETRY_TOKEN,)) + self._mac(remote, given, body) + body

    def check(self, token: bytes, remote: Address, given: bytes, now: Monotonic) -> Proof | None:
        """What the token proves, None if it is not good."""
        mac, body = token[1 : 1 + _MAC_SIZE], token[1 + _MAC_SIZE :]
        if len(body) <= _TIME_SIZE or token[0] != RETRY_TOKEN:
            return None
        if not hmac.compare_digest(mac, self._mac(remote, given, body)):
            return None
        rank, time, original = Rank(body[0]), body[1 : 1 + _TIME_SIZE], body[1 + _TIME_SIZE :]
        age = now - int.from_bytes(time, "big") / 1000
        return Proof(original, rank) if age <= self._lifetime else None

    def _mac(self, remote: Address, given: bytes, body: bytes) -> bytes:
        family = socket.AF_INET6 if remote.is_ipv6 else socket.AF_INET
        host = socket.inet_pton(family, remote.host)
        # Every field has a length of its own before it, except the last.
        covered = bytes((len(host),)) + host + remote.port.to_bytes(2, "big") + bytes((len(given),)) + given + body
        return hmac.digest(self._key, covered, "sha256")[:_MAC_SIZE]
