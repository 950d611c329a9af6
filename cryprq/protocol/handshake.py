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

from cryprq.peer_id import PeerId
from cryprq.protocol import invitation as invitations
from cryprq.protocol import key_schedule
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import (
    AEADS,
    HASH_SIZE,
    KEMS,
    KEMS_DEFAULT,
    LANES_MAX,
    NONCE_SIZE,
    PROTOCOL_VERSION,
    VERSION_MAX,
    X25519_SIZE,
)
from cryprq.protocol.frames import CloseCode, Cursor, FrameError
from cryprq.protocol.identity import Identity, Kind, Proof
from cryprq.protocol.kem import SIZES, Ephemeral, KemError, encapsulate
from cryprq.protocol.key_schedule import Secret, wipe
from cryprq.protocol.parameters import Parameters
from cryprq.protocol.session import Role, Session, SessionSetup

STATUS_ACCEPTED: Final = 0
STATUS_DUPLICATE: Final = 1
ROTATE_SECS_DEFAULT: Final = 300
"""What an end says whose own parameters have no interval."""


class HandshakeError(Exception):
    """A handshake ended without a session.

    ``reason`` is one snake_case word for metrics and the local log: malformed, version, downgrade, knock, aead, kem,
    tag, wrong_peer_id, own_peer_id, not_allowlisted, invitation, signature, psk, parameters, lanes, order, busy.
    ``peer_id`` is who the other end claimed to be, verified or not, if it got that far. ``code`` is all that the other
    end may learn.
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
    kind: Kind
    """By what the listener has proven who it is."""
    session: Session | None
    """None unless the status is ``STATUS_ACCEPTED``."""


@dataclass(frozen=True)
class Auth:
    """What a verified M3 said to the listener."""

    peer_id: PeerId
    kind: Kind
    """By what the dialer has proven who it is."""
    parameters: Parameters
    invited_by: bytes | None = None
    """The ID of the invitation by which it wants to become a peer; None: it is one."""


class _State(Enum):
    START = auto()
    SENT_M1 = auto()
    SENT_M2 = auto()
    SENT_M3 = auto()
    VERIFIED_M3 = auto()
    OVER = auto()


class _Failure(Exception):
    """Inside a step: why it fails, and who the other end claims to be."""

    def __init__(self, reason: str, peer_id: PeerId | None = None, code: CloseCode | None = None) -> None:
        """``code`` where it is not that of every other failure of this end."""
        super().__init__(reason)
        self.reason = reason
        self.peer_id = peer_id
        self.code = code


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

    @property
    def peer_lanes(self) -> int:
        """On how many lanes the other end wants to send; 0 until it has said so."""
        return self._peer_lanes

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
            code = self._failure_code if failure.code is None else failure.code
            raise HandshakeError(failure.reason, code, failure.peer_id) from None
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

    def _first_root(self, psk: Secret | None) -> bytearray:
        """root_0; hs has done its work."""
        assert self._hs is not None
        root = key_schedule.first_root(self._hs, psk, self._transcript)
        wipe(self._hs)
        return root

    def _session(
        self, role: Role, peer_id: PeerId, root: bytearray, own: Parameters, other: Parameters, now: Boottime
    ) -> Session:
        """The session, on what M3 and M4 have said; takes the root over."""
        if own.rotate_secs is None or other.rotate_secs is None:
            raise _Failure("parameters", peer_id)
        rotate_secs = min(own.rotate_secs, other.rotate_secs)
        if own.rotate_floor is not None and other.rotate_floor is not None:
            rotate_secs = max(rotate_secs, own.rotate_floor, other.rotate_floor)
        tx_lanes, rx_lanes = self._lanes, self._peer_lanes
        if own.lanes is not None and other.lanes is not None:
            tx_lanes, rx_lanes = min(tx_lanes, other.lanes), min(rx_lanes, own.lanes)
        elif own.lanes is not None and rx_lanes > own.lanes:  # of a version that would send on all of them
            raise _Failure("lanes", peer_id)
        return Session(
            SessionSetup(
                role=role,
                peer_id=peer_id,
                suite=self._aead,
                kem=self._kem,
                rotate_secs=rotate_secs,
                tx_lanes=tx_lanes,
                rx_lanes=rx_lanes,
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
        psk: Secret | None = None,
        invitation: invitations.Keys | None = None,
    ) -> None:
        """``channel_binding`` is the connection's; ``aead_offer`` is in order of preference.

        ``parameters`` go into M3, rotate_secs among them (300 if it is None). ``new_index`` draws a receiver index.
        ``psk`` is the key shared with that peer, if there is one: 32 bytes, which are copied. ``invitation`` is what
        the peer has given this node to become known by.
        HandshakeError (own_peer_id) if the dialled peer is this node; ValueError for a bad argument.
        """
        super().__init__(identity, channel_binding, lanes, new_index)
        if kem not in KEMS or not aead_offer or any(aead not in AEADS for aead in aead_offer):
            raise ValueError(f"unknown kem {kem} or aead offer {aead_offer}")
        if peer_id == identity.peer_id:
            raise HandshakeError("own_peer_id", CloseCode.OK, peer_id)
        self._peer_id = peer_id
        self._offer = bytes(aead_offer)
        self._kem = kem
        self._parameters = _with_rotation(parameters)
        self._parameters.encode()  # ValueError now and here rather than in the middle of a handshake
        self._psk = None if psk is None else bytearray(psk)
        self._invitation = invitation
        self._ephemeral: Ephemeral | None = None
        self._peer_kind: Kind | None = None
        self._m1 = b""

    def abort(self) -> None:
        """Ends the handshake and wipes its secrets. Harmless at any time; the session, if there is one, is apart."""
        super().abort()
        if self._ephemeral is not None:
            self._ephemeral.drop()
        wipe(self._psk)
        self._ephemeral = self._psk = None

    def message1(self) -> bytes:
        """M1: the offer, the ephemeral keys and the knock."""
        with self._step(_State.START, _State.SENT_M1):
            self._ephemeral = Ephemeral.generate(self._kem)
            self._index = self._new_index()
            body = (
                bytes((PROTOCOL_VERSION, VERSION_MAX, self._lanes, len(self._offer)))
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
            statement = key_schedule.initiator_statement(th2, self._identity.record)
            if self._invitation is not None:
                invited = self._invitation.prove(th2, self._identity.peer_id)
                self._parameters = replace(self._parameters, invitation=invited)
            plaintext = Proof.of(self._identity, statement).encode() + self._parameters.encode()
            assert self._k_i2r is not None
            message3 = key_schedule.seal_once(self._k_i2r, th2, plaintext)
            wipe(self._k_i2r)
            self._transcript = key_schedule.transcript3(th2, message3)
        return message3

    def receive_message4(self, body: bytes, now: Boottime) -> Accepted:
        """The listener's answer. ``now`` (CLOCK_BOOTTIME, seconds) is when epoch 0 begins to age.

        The listener has been authenticated, and its M4 arrives on the stream that M2 came by: if it does not open, the
        two ends have different pre-shared keys (psk), or somebody has got into TLS to break the connection.
        """
        with self._step(_State.SENT_M3, _State.OVER):
            assert self._peer_kind is not None
            root = self._first_root(self._psk)
            try:
                key = key_schedule.accept_key(root)
                opened = key_schedule.open_once(key, self._transcript, body)
                wipe(key)
                if opened is None:
                    raise _Failure("psk", self._peer_id, CloseCode.PSK)
                status, parameters = _decode_message4(opened, self._peer_id)
                session = None
                if status == STATUS_ACCEPTED:
                    session = self._session(Role.INITIATOR, self._peer_id, root, self._parameters, parameters, now)
            finally:
                wipe(root)  # the session has its own copy
        return Accepted(status, parameters, self._peer_kind, session)

    def _parse_message2(self, cursor: Cursor) -> tuple[bytes, bytes]:
        """The clear part; returns kem_ct and x25519_r."""
        _check_version(cursor)
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
        proof = Proof.take(cursor)
        cursor.end()
        claimed = proof.peer_id
        if not hmac.compare_digest(claimed.digest, self._peer_id.digest):
            raise _Failure("wrong_peer_id", claimed)
        if not proof.verify(key_schedule.responder_statement(th1, proof.record)):
            raise _Failure("signature", claimed)
        self._peer_kind = proof.kind


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
        kems: Sequence[int] = KEMS_DEFAULT,
        new_index: Callable[[], int],
    ) -> None:
        """``channel_binding`` is the connection's; ``aead_preference`` and ``kems`` are what we accept.

        The dialer's order decides between ciphers that both have: it is the end that may be a small machine.
        ValueError for a bad argument.
        """
        super().__init__(identity, channel_binding, lanes, new_index)
        self._aeads = tuple(aead_preference)
        self._kems = tuple(kems)
        self._peer_id: PeerId | None = None
        self._peer_parameters = Parameters()

    @property
    def offered_kem(self) -> int:
        """The KEM that the dialer wants; 0 as long as M1 has not said."""
        return self._kem

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
                bytes((PROTOCOL_VERSION, VERSION_MAX, self._lanes, self._aead, self._kem))
                + secrets.token_bytes(NONCE_SIZE)
                + self._index.to_bytes(4, "big")
                + answer.ciphertext
                + answer.x25519
            )
            th1 = key_schedule.transcript1(self._binding, body, clear)
            k_r2i = self._agree(th1, answer.shared)
            try:
                proof = Proof.of(self._identity, key_schedule.responder_statement(th1, self._identity.record))
                message2 = clear + key_schedule.seal_once(k_r2i, th1, proof.encode())
            finally:
                wipe(k_r2i)
            self._transcript = key_schedule.transcript2(th1, message2)
        return message2

    def receive_message3(
        self,
        body: bytes,
        permits: Callable[[PeerId], bool],
        invitation_key: Callable[[bytes], bytes | None] = lambda _: None,
    ) -> Auth:
        """Who dials. ``permits`` is asked only for who has proven the ID: what it refuses is held against that ID.

        Whom it refuses may have an invitation: ``invitation_key`` gives the key of the one with that ID, or None if it
        is not to be used. Then ``Auth.invited_by`` is its ID, and M4 waits until the caller has used it up.
        """
        with self._step(_State.SENT_M2, _State.VERIFIED_M3):
            th2 = self._transcript
            assert self._k_i2r is not None
            opened = key_schedule.open_once(self._k_i2r, th2, body)
            wipe(self._k_i2r)
            if opened is None:
                raise _Failure("tag")
            cursor = Cursor(opened)
            proof = Proof.take(cursor)
            claimed = proof.peer_id
            if claimed == self._identity.peer_id:
                raise _Failure("own_peer_id", claimed)
            if not proof.verify(key_schedule.initiator_statement(th2, proof.record)):
                raise _Failure("signature", claimed)
            told = cursor.rest()
            invitation = None if permits(claimed) else _invited(told, th2, claimed, invitation_key)
            self._peer_parameters = _parameters(told, claimed)
            if self._peer_parameters.rotate_secs is None:
                raise _Failure("parameters", claimed)
            self._peer_id = claimed
            self._transcript = key_schedule.transcript3(th2, body)
        return Auth(claimed, proof.kind, self._peer_parameters, invitation)

    def message4(
        self, status: int, parameters: Parameters, now: Boottime, psk: Secret | None = None
    ) -> tuple[bytes, Session | None]:
        """M4, and the session if the status is ``STATUS_ACCEPTED``: install it (``Session.start``) before M4 leaves.

        ``now`` (CLOCK_BOOTTIME, seconds) is when epoch 0 begins to age. ``psk`` is the key shared with the dialer, if
        there is one: 32 bytes, which stay the caller's. ValueError for a bad argument.
        """
        if status not in (STATUS_ACCEPTED, STATUS_DUPLICATE):
            raise ValueError(f"status {status} is unknown")
        with self._step(_State.VERIFIED_M3, _State.OVER):
            assert self._peer_id is not None
            parameters = _with_rotation(parameters)
            told = parameters.encode()
            root = self._first_root(psk)
            key = key_schedule.accept_key(root)
            try:
                body = key_schedule.seal_once(key, self._transcript, bytes((status,)) + told)
                session = None
                if status == STATUS_ACCEPTED:
                    other = self._peer_parameters
                    session = self._session(Role.RESPONDER, self._peer_id, root, parameters, other, now)
            finally:
                wipe(key, root)  # the session has its own copy
        return body, session

    def _parse_message1(self, cursor: Cursor) -> tuple[bytes, bytes]:
        """M1 without its knock; returns kem_ek and x25519_i."""
        _check_version(cursor)
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
    return parameters


def _check_version(cursor: Cursor) -> None:
    """That the handshake is in this version, and that the two ends have no later one in common.

    Both maxima are in th1, which both ends sign: whoever makes a later version fail on the way, so that the dialer
    falls back to this one, cannot hide from either end that the other speaks more.
    """
    version, highest = cursor.u8(), cursor.u8()
    if version != PROTOCOL_VERSION:
        raise _Failure("version")
    if highest < version:
        raise FrameError(f"version {version} of at most {highest}")
    if min(highest, VERSION_MAX) != version:
        raise _Failure("downgrade")


def _lanes(cursor: Cursor) -> int:
    lanes = cursor.u8()
    if not 1 <= lanes <= LANES_MAX:
        raise FrameError(f"{lanes} lanes")
    return lanes


def _parameters(data: bytes, peer_id: PeerId) -> Parameters:
    try:
        return Parameters.decode(data)
    except FrameError:
        raise _Failure("parameters", peer_id) from None


def _invited(told: bytes, th2: bytes, claimed: PeerId, key_of: Callable[[bytes], bytes | None]) -> bytes:
    """The ID of the invitation that the parameters of a stranger prove; on any doubt he is one of those without."""
    try:
        proof = Parameters.decode(told).invitation
    except FrameError:
        proof = None
    if proof is None:
        raise _Failure("not_allowlisted", claimed)
    key = key_of(proof.invitation)
    if key is None or not proof.verify(key, th2, claimed):
        raise _Failure("invitation", claimed)
    return proof.invitation


def _decode_message4(opened: bytes, peer_id: PeerId) -> tuple[int, Parameters]:
    cursor = Cursor(opened)
    status = cursor.u8()
    if status not in (STATUS_ACCEPTED, STATUS_DUPLICATE):
        raise _Failure("malformed", peer_id)
    return status, _parameters(cursor.rest(), peer_id)
