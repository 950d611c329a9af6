"""The handshake: SIGMA-I with a hybrid KEM, as two state machines without I/O (protocol, 3.1).

Bytes go in, bytes and a ``Session`` come out. Each machine serves one handshake on its own state; the first failure
ends it, wipes what it holds and is raised as ``HandshakeError``: nothing else can the other end's bytes make it raise.
"""

import hmac
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from cryprq.peer_id import RECORD_SIZE, PeerId
from cryprq.protocol import key_schedule
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import (
    AEADS,
    HASH_SIZE,
    KEMS,
    LANES_MAX,
    NONCE_SIZE,
    PROTOCOL_VERSION,
    X25519_SIZE,
)
from cryprq.protocol.frames import CloseCode, Cursor, FrameError
from cryprq.protocol.identity import SIG_ED25519_SIZE, SIG_MLDSA65_SIZE, Identity, verify_record
from cryprq.protocol.kem import SIZES, Ephemeral, KemError, encapsulate
from cryprq.protocol.key_schedule import wipe
from cryprq.protocol.parameters import Parameters
from cryprq.protocol.session import Role, Session, SessionSetup

STATUS_ACCEPTED: Final = 0
STATUS_DUPLICATE: Final = 1
ROTATE_SECS_DEFAULT: Final = 300
"""What an end says whose own parameters have no interval."""


class HandshakeError(Exception):
    """A handshake ended without a session.

    ``reason`` is one snake_case word for metrics and the local log: malformed, version, knock, aead, kem, tag,
    wrong_peer_id, own_peer_id, not_allowlisted, signature, parameters, order, busy. ``peer_id`` is who the other end
    claimed to be, verified or not, if it got that far. ``code`` is all that the other end may learn.
    """

    def __init__(self, reason: str, code: CloseCode, peer_id: PeerId | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.peer_id = peer_id


@dataclass(frozen=True)
class Accepted:
    """What M4 said to the dialer."""

    status: int
    parameters: Parameters
    session: Session | None
    """None unless the status is ``STATUS_ACCEPTED``."""


@dataclass(frozen=True)
class Auth:
    """What a verified M3 said to the listener."""

    peer_id: PeerId
    parameters: Parameters


class _State(Enum):
    START = auto()
    SENT_M1 = auto()
    SENT_M2 = auto()
    SENT_M3 = auto()
    VERIFIED_M3 = auto()
    OVER = auto()


class _Failure(Exception):
    """Inside a step: why it fails, and who the other end claims to be."""

    def __init__(self, reason: str, peer_id: PeerId | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.peer_id = peer_id


class _Machine:
    """What both ends have in common: their state, their secrets, and one way out on failure."""

    _failure_code: CloseCode

    def __init__(self, identity: Identity, channel_binding: bytes, lanes: int, new_index: Callable[[], int]) -> None:
        if not 1 <= lanes <= LANES_MAX:
            raise ValueError(f"lanes {lanes} is not in 1..{LANES_MAX}")
        if len(channel_binding) != HASH_SIZE:
            raise ValueError(f"a channel binding has {HASH_SIZE} bytes, not {len(channel_binding)}")
        self._identity = identity
        self._binding = channel_binding
        self._lanes = lanes
        self._new_index = new_index
        self._state = _State.START
        self._hs: bytearray | None = None
        self._k_i2r: bytearray | None = None
        self._index = 0
        self._peer_index = 0
        self._peer_lanes = 0
        self._aead = 0
        self._kem = 0
        self._transcript = b""  # th1, th2 or th3: the newest
        self._rotate_secs = ROTATE_SECS_DEFAULT

    def abort(self) -> None:
        """Ends the handshake and wipes its secrets. Harmless at any time; the session, if there is one, is apart."""
        wipe(self._hs, self._k_i2r)
        self._hs = self._k_i2r = None
        self._state = _State.OVER

    @contextmanager
    def _step(self, before: _State, after: _State) -> Iterator[None]:
        """One message: only in its turn, and on any failure the end."""
        if self._state is not before:
            self.abort()
            raise HandshakeError("order", self._failure_code)
        try:
            yield
        except _Failure as failure:
            raise HandshakeError(failure.reason, self._failure_code, failure.peer_id) from None
        except FrameError:
            raise HandshakeError("malformed", self._failure_code) from None
        except KemError:
            raise HandshakeError("kem", self._failure_code) from None
        else:
            self._state = after
        finally:
            if self._state is not after or after is _State.OVER:
                self.abort()

    def _agree(self, th1: bytes, shared: bytearray) -> bytearray:
        """Sets hs and k_i2r_hs; returns k_r2i_hs, which is used at once and wiped by the caller."""
        self._transcript = th1
        try:
            self._hs = key_schedule.handshake_secret(th1, shared)
        finally:
            wipe(shared)
        self._k_i2r = key_schedule.handshake_key(self._hs, key_schedule.I2R)
        return key_schedule.handshake_key(self._hs, key_schedule.R2I)

    def _first_root(self) -> bytearray:
        """root_0; hs has done its work."""
        assert self._hs is not None
        root = key_schedule.first_root(self._hs, self._transcript)
        wipe(self._hs)
        return root

    def _session(self, role: Role, peer_id: PeerId, root: bytearray, other: Parameters, now: Boottime) -> Session:
        """The session; takes the root over."""
        if other.rotate_secs is None:
            raise _Failure("parameters", peer_id)
        return Session(
            SessionSetup(
                role=role,
                peer_id=peer_id,
                suite=self._aead,
                kem=self._kem,
                rotate_secs=min(self._rotate_secs, other.rotate_secs),
                tx_lanes=self._lanes,
                rx_lanes=self._peer_lanes,
                new_index=self._new_index,
            ),
            root,
            self._index,
            self._peer_index,
            now,
        )


class Initiator(_Machine):
    """The dialer's end. ``message1``, ``receive_message2`` and ``receive_message4`` are called once each, in order."""

    _failure_code = CloseCode.MALFORMED

    def __init__(
        self,
        identity: Identity,
        peer_id: PeerId,
        channel_binding: bytes,
        *,
        lanes: int,
        aead_offer: Sequence[int],
        kem: int,
        new_index: Callable[[], int],
        parameters: Parameters,
    ) -> None:
        """``channel_binding`` is H of the listener's certificate as received; ``aead_offer`` is in order of preference.

        ``parameters`` go into M3, rotate_secs among them (300 if it is None). ``new_index`` draws a receiver index.
        HandshakeError (own_peer_id) if the dialled peer is this node; ValueError for a bad argument.
        """
        super().__init__(identity, channel_binding, lanes, new_index)
        if kem not in KEMS or not aead_offer or any(aead not in AEADS for aead in aead_offer):
            raise ValueError(f"unknown kem {kem} or aead offer {aead_offer}")
        if peer_id == identity.peer_id:
            self.abort()
            raise HandshakeError("own_peer_id", CloseCode.OK, peer_id)
        self._peer_id = peer_id
        self._offer = bytes(aead_offer)
        self._kem = kem
        self._parameters = _with_rotation(parameters)
        self._rotate_secs = self._parameters.rotate_secs or ROTATE_SECS_DEFAULT
        self._ephemeral: Ephemeral | None = None
        self._m1 = b""

    def abort(self) -> None:
        """Ends the handshake and wipes its secrets. Harmless at any time; the session, if there is one, is apart."""
        super().abort()
        self._ephemeral = None

    def message1(self) -> bytes:
        """M1: the offer, the ephemeral keys and the knock."""
        with self._step(_State.START, _State.SENT_M1):
            self._ephemeral = Ephemeral.generate(self._kem)
            self._index = self._new_index()
            body = (
                bytes((PROTOCOL_VERSION, self._lanes, len(self._offer)))
                + self._offer
                + bytes((self._kem,))
                + secrets.token_bytes(NONCE_SIZE)
                + self._index.to_bytes(4, "big")
                + self._ephemeral.kem_ek
                + self._ephemeral.x25519
            )
            self._m1 = body + key_schedule.knock(self._peer_id.digest, self._binding, body)
        return self._m1

    def receive_message2(self, body: bytes) -> bytes:
        """M3, once the listener has proved with both signatures that it is the peer that was dialled."""
        with self._step(_State.SENT_M1, _State.SENT_M3):
            cursor = Cursor(body)
            ciphertext, x25519 = self._parse_message2(cursor)
            clear, sealed = cursor.consumed, cursor.rest()
            assert self._ephemeral is not None
            ephemeral, self._ephemeral = self._ephemeral, None
            shared = ephemeral.agree(ciphertext, x25519)
            th1 = key_schedule.transcript1(self._binding, self._m1, clear)
            k_r2i = self._agree(th1, shared)
            opened = key_schedule.open_once(k_r2i, th1, sealed)
            wipe(k_r2i)
            if opened is None:
                raise _Failure("tag")
            self._verify_listener(th1, opened)
            th2 = key_schedule.transcript2(th1, body)
            record = self._identity.record
            plaintext = (
                record
                + b"".join(self._identity.sign(key_schedule.initiator_statement(th2, record)))
                + self._parameters.encode()
            )
            assert self._k_i2r is not None
            message3 = key_schedule.seal_once(self._k_i2r, th2, plaintext)
            wipe(self._k_i2r)
            self._transcript = key_schedule.transcript3(th2, message3)
        return message3

    def receive_message4(self, body: bytes, now: Boottime) -> Accepted:
        """The listener's answer. ``now`` (CLOCK_BOOTTIME, seconds) is when epoch 0 begins to age."""
        with self._step(_State.SENT_M3, _State.OVER):
            root = self._first_root()
            try:
                key = key_schedule.accept_key(root)
                opened = key_schedule.open_once(key, self._transcript, body)
                wipe(key)
                if opened is None:
                    raise _Failure("tag", self._peer_id)
                status, parameters = _decode_message4(opened, self._peer_id)
                session = None
                if status == STATUS_ACCEPTED:
                    session = self._session(Role.INITIATOR, self._peer_id, root, parameters, now)
            finally:
                wipe(root)  # the session has its own copy
        return Accepted(status, parameters, session)

    def _parse_message2(self, cursor: Cursor) -> tuple[bytes, bytes]:
        """The clear part; returns kem_ct and x25519_r."""
        if cursor.u8() != PROTOCOL_VERSION:
            raise _Failure("version")
        self._peer_lanes = _lanes(cursor)
        self._aead = cursor.u8()
        if self._aead not in self._offer:
            raise _Failure("aead")
        if cursor.u8() != self._kem:
            raise _Failure("kem")
        cursor.take(NONCE_SIZE)
        self._peer_index = cursor.index()
        return cursor.take(SIZES[self._kem].ciphertext), cursor.take(X25519_SIZE)

    def _verify_listener(self, th1: bytes, opened: bytes) -> None:
        """The peer ID first: a signature of somebody else is not worth a look."""
        cursor = Cursor(opened)
        record, sig_ed25519, sig_mldsa65 = _credentials(cursor)
        cursor.end()
        claimed = PeerId.of_record(record)
        if not hmac.compare_digest(claimed.digest, self._peer_id.digest):
            raise _Failure("wrong_peer_id", claimed)
        if not verify_record(record, key_schedule.responder_statement(th1, record), sig_ed25519, sig_mldsa65):
            raise _Failure("signature", claimed)


class Responder(_Machine):
    """The listener's end. ``receive_message1``, ``receive_message3`` and ``message4`` are called once each, in order.

    Every failure of M1 and M3 has the same close code. What costs post-quantum work comes after the knock.
    """

    _failure_code = CloseCode.REFUSED

    def __init__(
        self,
        identity: Identity,
        channel_binding: bytes,
        *,
        lanes: int,
        aead_preference: Sequence[int],
        kems: Sequence[int] = KEMS,
        new_index: Callable[[], int],
    ) -> None:
        """``channel_binding`` is H of our own certificate; ``aead_preference`` and ``kems`` are what we accept.

        The dialer's order decides between ciphers that both have: it is the end that may be a small machine.
        ValueError for a bad argument.
        """
        super().__init__(identity, channel_binding, lanes, new_index)
        self._aeads = tuple(aead_preference)
        self._kems = tuple(kems)
        self._peer_id: PeerId | None = None
        self._peer_parameters = Parameters()

    def receive_message1(self, body: bytes, admit: Callable[[], bool] = lambda: True) -> bytes:
        """M2, if the knock is right and the offer can be met.

        ``admit`` may say that there is no time for more (HandshakeError, busy). It is asked when only the costly part
        is left, so that those who do not know the peer ID cannot use up what it counts.
        """
        with self._step(_State.START, _State.SENT_M2):
            offered, knock = body[:-HASH_SIZE], body[-HASH_SIZE:]
            expected = key_schedule.knock(self._identity.peer_id.digest, self._binding, offered)
            if not hmac.compare_digest(knock, expected):
                raise _Failure("knock")
            kem_ek, x25519 = self._parse_message1(Cursor(offered))
            if not admit():
                raise _Failure("busy")
            answer = encapsulate(self._kem, kem_ek, x25519)
            self._index = self._new_index()
            clear = (
                bytes((PROTOCOL_VERSION, self._lanes, self._aead, self._kem))
                + secrets.token_bytes(NONCE_SIZE)
                + self._index.to_bytes(4, "big")
                + answer.ciphertext
                + answer.x25519
            )
            th1 = key_schedule.transcript1(self._binding, body, clear)
            k_r2i = self._agree(th1, answer.shared)
            try:
                record = self._identity.record
                plaintext = record + b"".join(self._identity.sign(key_schedule.responder_statement(th1, record)))
                message2 = clear + key_schedule.seal_once(k_r2i, th1, plaintext)
            finally:
                wipe(k_r2i)
            self._transcript = key_schedule.transcript2(th1, message2)
        return message2

    def receive_message3(self, body: bytes, permits: Callable[[PeerId], bool]) -> Auth:
        """Who dials. ``permits`` is asked only for who has proven the ID: what it refuses is held against that ID."""
        with self._step(_State.SENT_M2, _State.VERIFIED_M3):
            th2 = self._transcript
            assert self._k_i2r is not None
            opened = key_schedule.open_once(self._k_i2r, th2, body)
            wipe(self._k_i2r)
            if opened is None:
                raise _Failure("tag")
            cursor = Cursor(opened)
            record, sig_ed25519, sig_mldsa65 = _credentials(cursor)
            claimed = PeerId.of_record(record)
            if claimed == self._identity.peer_id:
                raise _Failure("own_peer_id", claimed)
            if not verify_record(record, key_schedule.initiator_statement(th2, record), sig_ed25519, sig_mldsa65):
                raise _Failure("signature", claimed)
            if not permits(claimed):
                raise _Failure("not_allowlisted", claimed)
            self._peer_parameters = _parameters(cursor.rest(), claimed)
            if self._peer_parameters.rotate_secs is None:
                raise _Failure("parameters", claimed)
            self._peer_id = claimed
            self._transcript = key_schedule.transcript3(th2, body)
        return Auth(claimed, self._peer_parameters)

    def message4(self, status: int, parameters: Parameters, now: Boottime) -> tuple[bytes, Session | None]:
        """M4, and the session if the status is ``STATUS_ACCEPTED``: install it (``Session.start``) before M4 leaves.

        ``now`` (CLOCK_BOOTTIME, seconds) is when epoch 0 begins to age. ValueError for a bad argument.
        """
        if status not in (STATUS_ACCEPTED, STATUS_DUPLICATE):
            raise ValueError(f"status {status} is unknown")
        with self._step(_State.VERIFIED_M3, _State.OVER):
            assert self._peer_id is not None
            parameters = _with_rotation(parameters)
            self._rotate_secs = parameters.rotate_secs or ROTATE_SECS_DEFAULT
            root = self._first_root()
            key = key_schedule.accept_key(root)
            try:
                body = key_schedule.seal_once(key, self._transcript, bytes((status,)) + parameters.encode())
                session = None
                if status == STATUS_ACCEPTED:
                    session = self._session(Role.RESPONDER, self._peer_id, root, self._peer_parameters, now)
            finally:
                wipe(key, root)  # the session has its own copy
        return body, session

    def _parse_message1(self, cursor: Cursor) -> tuple[bytes, bytes]:
        """M1 without its knock; returns kem_ek and x25519_i."""
        if cursor.u8() != PROTOCOL_VERSION:
            raise _Failure("version")
        self._peer_lanes = _lanes(cursor)
        offer = cursor.take(cursor.u8())
        aead = next((aead for aead in offer if aead in self._aeads), None)
        if aead is None:
            raise _Failure("aead")
        self._aead = aead
        self._kem = cursor.u8()
        if self._kem not in self._kems:
            raise _Failure("kem")
        cursor.take(NONCE_SIZE)
        self._peer_index = cursor.index()
        kem_ek, x25519 = cursor.take(SIZES[self._kem].encapsulation_key), cursor.take(X25519_SIZE)
        cursor.end()
        return kem_ek, x25519


def _with_rotation(parameters: Parameters) -> Parameters:
    if parameters.rotate_secs is None:
        parameters = replace(parameters, rotate_secs=ROTATE_SECS_DEFAULT)
    parameters.encode()  # ValueError now and here rather than in the middle of a handshake
    return parameters


def _lanes(cursor: Cursor) -> int:
    lanes = cursor.u8()
    if not 1 <= lanes <= LANES_MAX:
        raise FrameError(f"{lanes} lanes")
    return lanes


def _credentials(cursor: Cursor) -> tuple[bytes, bytes, bytes]:
    """An identity record and its two signatures."""
    return cursor.take(RECORD_SIZE), cursor.take(SIG_ED25519_SIZE), cursor.take(SIG_MLDSA65_SIZE)


def _parameters(data: bytes, peer_id: PeerId) -> Parameters:
    try:
        return Parameters.decode(data)
    except FrameError:
        raise _Failure("parameters", peer_id) from None


def _decode_message4(opened: bytes, peer_id: PeerId) -> tuple[int, Parameters]:
    cursor = Cursor(opened)
    status = cursor.u8()
    if status not in (STATUS_ACCEPTED, STATUS_DUPLICATE):
        raise _Failure("malformed", peer_id)
    return status, _parameters(cursor.rest(), peer_id)
