"""Both machines of a handshake in memory, and how a message that must fail is delivered."""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network

import pytest

from cryprq.peer_id import PeerId
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305, KEMS
from cryprq.protocol.frames import CloseCode
from cryprq.protocol.handshake import STATUS_ACCEPTED, Accepted, HandshakeError, Initiator, Responder
from cryprq.protocol.identity import Identity
from cryprq.protocol.invitation import Keys
from cryprq.protocol.parameters import Parameters
from cryprq.protocol.session import Session

DIALER = Identity.from_seed(b"\x01" * 32)
LISTENER = Identity.from_seed(b"\x02" * 32)
STRANGER = Identity.from_seed(b"\x03" * 32)
BINDING = hashlib.sha256(b"connection").digest()
OTHER_BINDING = hashlib.sha256(b"another connection").digest()
TOLD = Parameters((ip_interface("10.9.0.2/24"),), (ip_network("10.9.0.0/24"),), 1400, 120, 10)


def nobody(_: PeerId) -> bool:
    return False


def anybody(_: PeerId) -> bool:
    return True


@dataclass
class Pair:
    """Both machines of one handshake, and its messages so far."""

    kem: int = KEMS[0]
    dialled: PeerId = LISTENER.peer_id
    dialer: Identity = DIALER
    listener: Identity = LISTENER
    binding_i: bytes = BINDING
    binding_r: bytes = BINDING
    offer: tuple[int, ...] = (AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305)
    accepts: tuple[int, ...] = (AEAD_CHACHA20_POLY1305, AEAD_AES_256_GCM)
    rotate_secs: int | None = 300
    permits: Callable[[PeerId], bool] = anybody
    psk_i: bytes | None = None
    psk_r: bytes | None = None
    invitation: Keys | None = None
    invitation_key: Callable[[bytes], bytes | None] = field(default=lambda _: None)
    messages: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        indices = itertools.count(1)
        self.initiator = Initiator(
            self.dialer,
            self.dialled,
            self.binding_i,
            lanes=1,
            aead_offer=self.offer,
            kem=self.kem,
            new_index=lambda: next(indices),
            parameters=Parameters(rotate_secs=self.rotate_secs),
            psk=self.psk_i,
            invitation=self.invitation,
        )
        self.responder = Responder(
            self.listener,
            self.binding_r,
            lanes=2,
            aead_preference=self.accepts,
            kems=KEMS,
            new_index=lambda: next(indices),
        )
        self.accepted: Accepted | None = None
        self.session_r: Session | None = None

    def step(self, number: int, message: bytes) -> bytes:
        """Hands message ``number`` over; returns the one after it, or nothing after M4."""
        if number == 1:
            return self.responder.receive_message1(message)
        if number == 2:
            return self.initiator.receive_message2(message)
        if number == 3:
            self.auth = self.responder.receive_message3(message, self.permits, self.invitation_key)
            answer, self.session_r = self.responder.message4(STATUS_ACCEPTED, TOLD, Boottime(1.0), self.psk_r)
            return answer
        self.accepted = self.initiator.receive_message4(message, Boottime(2.0))
        return b""

    def run(self, until: int = 5) -> bytes:
        """The message ``until``, unchanged ones before it delivered (5: everything)."""
        message = self.initiator.message1()
        for number in range(1, until):
            self.messages.append(message)
            message = self.step(number, message)
        return message

    def session(self) -> Session:
        assert self.accepted is not None
        assert self.accepted.session is not None
        return self.accepted.session


def refused(pair: Pair, number: int, message: bytes) -> HandshakeError:
    """Delivers a message that must fail, and checks that the machine is over and wiped after it."""
    machine = pair.responder if number in (1, 3) else pair.initiator
    with pytest.raises(HandshakeError) as caught:
        pair.step(number, message)
    assert machine._hs is None
    assert machine._k_i2r is None
    with pytest.raises(HandshakeError) as after:
        pair.step(number, message)
    assert after.value.reason == "order"
    assert pair.accepted is None
    if number < 4:
        assert pair.session_r is None
    assert caught.value.code is (
        CloseCode.REFUSED
        if number in (1, 3)
        else CloseCode.PSK
        if caught.value.reason == "psk"
        else CloseCode.MALFORMED
    )
    return caught.value


def answer_or_reason(pair: Pair, message1: bytes) -> bytes | str:
    """M2, or the reason why there is none."""
    try:
        return pair.step(1, message1)
    except HandshakeError as error:
        return error.reason
