"""A session: what one handshake agreed on, from its first record to its last key (protocol, 3.1 to 3.3).

Without I/O and without a clock: bytes, events of the data plane and ``now`` (CLOCK_BOOTTIME, seconds) go in, actions
come out. A session holds at most three epochs: the previous one, which only receives; the current one; and during a
rotation the next, pending until the peer is known to have it. Only data keys outlive the control channel: roots and
control keys are wiped with it, since nothing can be derived or said any more.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from cryprq.peer_id import PeerId
from cryprq.protocol import frames, key_schedule
from cryprq.protocol.actions import (
    Action,
    Activate,
    CloseConnection,
    Dead,
    Established,
    Install,
    Promote,
    Remove,
    Rotated,
    RotationFailed,
    SendEmpty,
    SendFrame,
)
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import (
    ANSWER_PERIOD,
    CLOSE_REASON_MAX,
    EMPTY_INTERVAL,
    EPOCH_MAX,
    GRACE,
    PROMOTE_TIMEOUT,
    ROTATE_BURST,
    ROTATE_MIN_INTERVAL,
    ROTATE_RESPONSE_TIMEOUT,
    hard_age,
)
from cryprq.protocol.frames import CloseCode, FrameType
from cryprq.protocol.key_schedule import EpochKeys
from cryprq.protocol.rekey import Agreed, ControlChannel, Refused
from cryprq.protocol.token_bucket import TokenBucket

_REASON: Final = re.compile(rb"[a-z0-9_]{1,%d}" % CLOSE_REASON_MAX)


class Role(Enum):
    """Which end of the handshake this is. The initiator (dialer) also starts the rotations."""

    INITIATOR = auto()
    RESPONDER = auto()


class State(Enum):
    """Where a session is in its life."""

    NEW = auto()
    """Made, not started."""
    PROVISIONAL = auto()
    """Epoch 0 is installed; no record of the peer has come yet, so an older session still counts."""
    ESTABLISHED = auto()
    RETIRED = auto()
    """Replaced by a newer session: receives for the grace."""
    DEAD = auto()
    """No epoch left."""


class Rotation(Enum):
    """Where a rotation is."""

    IDLE = auto()
    AWAIT_RESPONSE = auto()
    """Initiator: R1 is sent."""
    AWAIT_RECORD = auto()
    """Initiator: R3 is sent, data goes out under the pending epoch, no record under it has come back yet."""
    AWAIT_DONE = auto()
    """Responder: R2 is sent, the pending epoch receives; R3 or a record under it will promote it."""
    LATE_DONE = auto()
    """Responder: a record has promoted the epoch, R3 is still on its way."""


@dataclass(frozen=True)
class SessionSetup:
    """What the handshake agreed on."""

    role: Role
    peer_id: PeerId
    suite: int
    """AEAD of the data plane (``constants.AEADS``)."""
    kem: int
    """``constants.KEMS``; rotations use the same."""
    rotate_secs: int
    """The smaller of both ends' values, or what either's floor makes of it."""
    tx_lanes: int
    rx_lanes: int
    new_index: Callable[[], int]
    """Draws a receiver index that no live or pending epoch of the node has."""


@dataclass
class _Epoch:
    number: int
    rx_index: int
    tx_index: int
    derived_at: Boottime
    expires_at: Boottime


class Session:
    """One session. No method raises because of what the peer does or when it does it."""

    def __init__(self, setup: SessionSetup, root: bytearray, rx_index: int, tx_index: int, now: Boottime) -> None:
        """``root`` is root_0, which is copied; epoch 0 ages from ``now``."""
        self.role = setup.role
        self.peer_id = setup.peer_id
        self.suite = setup.suite
        self.kem = setup.kem
        self.rotate_secs = setup.rotate_secs
        self._setup = setup
        self.state = State.NEW
        self.rotation = Rotation.IDLE
        self._dials = setup.role is Role.INITIATOR

        self._previous: _Epoch | None = None
        self._current: _Epoch | None = self._epoch(0, rx_index, tx_index, now)
        self._pending: _Epoch | None = None
        self._number = 0
        self._since = now  # when the current epoch was confirmed

        self._channel = ControlChannel(root, dials=self._dials, kem=setup.kem)
        self._connected = True  # the channel can be used; it is wiped when this ends
        self._r1_index = 0  # initiator: promised in R1
        self._requested = False  # responder: REKEY_REQUEST is sent and not answered
        self._pace = TokenBucket(1 / ROTATE_MIN_INTERVAL, ROTATE_BURST)  # responder: of R1s

        # Timers: when, or None.
        self._rotation_started: Boottime | None = None
        self._rotation_wanted: Boottime | None = None
        self._response_by: Boottime | None = None
        self._promoted_by: Boottime | None = None
        self._empty_at: Boottime | None = None
        self._empty_until: Boottime | None = None  # responder: the last repetition
        self._grace_until: Boottime | None = None
        self._retire_at: Boottime | None = None

    # ---- what the node may ask ----

    @property
    def number(self) -> int:
        """The epoch that we send on; the last one once the session is over."""
        return self._number

    @property
    def established(self) -> bool:
        """Promoted, and not replaced or dead yet."""
        return self.state is State.ESTABLISHED

    @property
    def connected(self) -> bool:
        """Whether the control channel is there, so that the session can rotate."""
        return self._connected

    @property
    def rotating(self) -> bool:
        """Whether a rotation is under way."""
        return self.rotation is not Rotation.IDLE

    @property
    def drained(self) -> bool:
        """Holds no epoch any more and may be forgotten."""
        return self.state is State.DEAD

    @property
    def sending_index(self) -> int | None:
        """The rx_index of the epoch that we send on, None if there is none.

        If a newer session dies unpromoted, the older one has to be activated again with it.
        """
        if self.state is State.ESTABLISHED or (self.state is State.PROVISIONAL and self._dials):
            epoch = self._pending if self._dials and self._pending else self._current
            return epoch.rx_index if epoch else None
        return None

    def rx_indices(self) -> set[int]:
        """The receiver indices of the epochs held, and the one that R1 has promised."""
        indices = {epoch.rx_index for epoch in self._epochs()}
        if self.rotation is Rotation.AWAIT_RESPONSE:
            indices.add(self._r1_index)
        return indices

    # ---- life ----

    def start(self, now: Boottime) -> list[Action]:
        """Installs epoch 0: the responder before it sends M4, the initiator when it has opened it."""
        if self.state is not State.NEW or self._current is None:
            return []
        self.state = State.PROVISIONAL
        self._promoted_by = Boottime(now + PROMOTE_TIMEOUT)
        epoch = self._current
        actions: list[Action] = [self._install(epoch, self._channel.root, now)]
        if self._dials:
            actions += [Activate(epoch.rx_index), SendEmpty(epoch.rx_index)]
            self._empty_at = Boottime(now + EMPTY_INTERVAL)
        return actions

    def first_record(self, rx_index: int, now: Boottime) -> list[Action]:
        """The first valid record of an epoch came.

        A responder's node looks at its allowlist again before it passes on the record that establishes a session.
        """
        if self.state is State.PROVISIONAL and self._current and self._current.rx_index == rx_index:
            return self._establish(now)
        if self.state is State.ESTABLISHED and self._pending and self._pending.rx_index == rx_index:
            self.rotation = Rotation.LATE_DONE if not self._dials and self._connected else Rotation.IDLE
            return self._confirm(now)
        return []

    def rotate(self, now: Boottime) -> list[Action]:
        """Asks for a rotation: the initiator starts one, the responder sends REKEY_REQUEST.

        Nothing if one is under way or there is no control channel. Within a second of the one before, it waits.
        """
        if not self._connected:
            return []
        if self._dials:
            if self.state in (State.PROVISIONAL, State.ESTABLISHED) and self.rotation is Rotation.IDLE:
                self._rotation_wanted = now
                return self._start_rotation_if_due(now)
            return []
        if self.state is not State.ESTABLISHED or self.rotation is not Rotation.IDLE or self._requested:
            return []
        self._requested = True
        return [SendFrame(self._channel.seal(frames.REKEY_REQUEST, b""))]

    def connection_lost(self, now: Boottime) -> list[Action]:
        """QUIC is gone. Data keys live on to their limits; a pending epoch may still be promoted by a record."""
        if not self._connected:
            return []
        return self._end_channel("connection_lost")

    def retire(self, now: Boottime) -> list[Action]:
        """A newer session has replaced this one: close the connection, receive for the grace, then remove."""
        if self.state not in (State.PROVISIONAL, State.ESTABLISHED):
            return []
        self.state = State.RETIRED
        self._retire_at = Boottime(now + GRACE)
        self._promoted_by = self._empty_at = None
        actions: list[Action] = []
        if self._connected:
            actions.append(CloseConnection(CloseCode.REPLACED, "replaced"))
        # A rotation that the takeover cut short has not failed: it is no longer needed.
        self._end_channel("replaced")
        self.rotation = Rotation.IDLE
        return actions

    def close(self, reason: str, now: Boottime) -> list[Action]:
        """Tells the peer with a sealed CLOSE and destroys every key. ``reason``: 1..64 of a-z, 0-9 and _ (ValueError).

        Between R2 and R3 a responder has no key that the peer is sure to have; then the closed connection has to do.
        """
        text = reason.encode()
        if not _REASON.fullmatch(text):
            raise ValueError(f"{reason!r} is not a close reason")
        actions: list[Action] = []
        if self._connected and self.state in (State.PROVISIONAL, State.ESTABLISHED):
            if self.rotation not in (Rotation.AWAIT_DONE, Rotation.LATE_DONE):
                actions.append(SendFrame(self._channel.seal(frames.CLOSE, text)))
            code = CloseCode.SHUTDOWN if reason == "shutdown" else CloseCode.OK
            actions.append(CloseConnection(code, reason))
        return actions + self.wipe()

    def wipe(self) -> list[Action]:
        """Destroys every key at once; the connection is the caller's to close."""
        actions: list[Action] = [] if self.state is State.NEW else [Remove(e.rx_index) for e in self._epochs()]
        self._previous = self._current = self._pending = None
        self._end_channel("wiped")
        self._promoted_by = self._empty_at = self._grace_until = self._retire_at = None
        self.rotation = Rotation.IDLE
        self.state = State.DEAD
        return actions

    def key_expired(self, rx_index: int, now: Boottime) -> list[Action]:
        """The data plane found a key of that epoch at a hard limit: it seals and opens nothing any more."""
        for epoch in self._epochs():
            if epoch.rx_index == rx_index and self.state is not State.NEW:
                return self._expire(epoch)
        return []

    # ---- timers ----

    def next_timer(self) -> Boottime | None:
        """When ``handle_timer`` is due, None for never."""
        times = [self._promoted_by, self._response_by, self._empty_at, self._grace_until, self._retire_at]
        times.append(self._rotation_due())
        if self.state is not State.NEW:
            times += [epoch.expires_at for epoch in (self._previous, self._current, self._pending) if epoch is not None]
        return min([time for time in times if time is not None], default=None)

    def handle_timer(self, now: Boottime) -> list[Action]:
        """Whatever is due. Harmless when nothing is; a late call (after a suspend, say) does everything in order."""
        actions: list[Action] = []
        if self.state is State.NEW:
            return actions
        for epoch in list(self._epochs()):
            if epoch.expires_at <= now and epoch in list(self._epochs()):
                actions += self._expire(epoch)
        if self._previous and self._grace_until is not None and self._grace_until <= now:
            actions.append(self._remove_previous(self._previous))
        if self._retire_at is not None and self._retire_at <= now:
            actions += self.wipe()
        if self._promoted_by is not None and self._promoted_by <= now:
            actions += self._die("not_promoted")
        if self._response_by is not None and self._response_by <= now:
            actions += self._fail_channel(CloseCode.TIMEOUT, "timeout")
        if self._empty_at is not None and self._empty_at <= now:
            actions += self._repeat_empty(now)
        return actions + self._start_rotation_if_due(now)

    # ---- frames from the peer ----

    def receive_frame(self, frame_type: FrameType, header: bytes, body: bytes, now: Boottime) -> list[Action]:
        """One frame of the control stream, in its order. A bad one ends the connection, never a data key."""
        if not self._connected or self.state not in (State.PROVISIONAL, State.ESTABLISHED):
            return []
        try:
            return self._dispatch(frame_type, self._channel.open(frame_type, header, body), now)
        except Refused as refused:
            return self._fail_channel(CloseCode.MALFORMED, str(refused))

    def _dispatch(self, frame_type: FrameType, body: bytes, now: Boottime) -> list[Action]:
        if frame_type == frames.CLOSE:
            return self._receive_close(body)
        if self._dials:
            if frame_type == frames.REKEY_REQUEST and not body:
                return self._receive_request(now)
            if frame_type == frames.REKEY_RESPONSE and self.rotation is Rotation.AWAIT_RESPONSE:
                return self._receive_response(body, now)
        elif self.state is State.ESTABLISHED:
            if frame_type == frames.REKEY and self.rotation is Rotation.IDLE:
                return self._receive_rekey(body, now)
            if frame_type == frames.REKEY_DONE and self.rotation in (Rotation.AWAIT_DONE, Rotation.LATE_DONE):
                return self._receive_done(body, now)
        raise Refused("order")

    def _receive_request(self, now: Boottime) -> list[Action]:
        """REKEY_REQUEST. One that crossed R1 is answered by that rotation; any other is kept until it can be met."""
        if self.rotation is not Rotation.AWAIT_RESPONSE and self._rotation_wanted is None:
            self._rotation_wanted = now
        return self._start_rotation_if_due(now)

    def _receive_rekey(self, r1: bytes, now: Boottime) -> list[Action]:
        """R1. The pending epoch receives before R2 leaves."""
        if not self._pace.take(now):
            raise Refused("too_often")
        number = self._next_number()
        agreed = self._channel.answer_rekey(r1, number, self._setup.new_index)
        self._rotation_started = now
        self.rotation = Rotation.AWAIT_DONE
        return [self._install_pending(number, agreed, now), SendFrame(agreed.frame)]

    def _receive_response(self, r2: bytes, now: Boottime) -> list[Action]:
        """R2. The peer has the new epoch for certain: send under it from here on."""
        number = self._next_number()
        agreed = self._channel.finish_rekey(r2, number)
        self._response_by = None
        self._empty_at = Boottime(now + EMPTY_INTERVAL)
        self._number = number
        self.rotation = Rotation.AWAIT_RECORD
        return [
            self._install_pending(number, agreed, now),
            Activate(agreed.rx_index),
            SendFrame(agreed.frame),
            SendEmpty(agreed.rx_index),
        ]

    def _receive_done(self, r3: bytes, now: Boottime) -> list[Action]:
        """R3. The epoch is promoted if no record was faster."""
        epoch = self._pending if self.rotation is Rotation.AWAIT_DONE else self._current
        if epoch is None:
            raise Refused("order")
        self._channel.receive_done(r3, epoch.number)
        promoted_before = self.rotation is Rotation.LATE_DONE
        self.rotation = Rotation.IDLE
        return [] if promoted_before else self._confirm(now)

    def _receive_close(self, reason: bytes) -> list[Action]:
        """CLOSE: the peer has destroyed its keys, so ours are of no use."""
        if not _REASON.fullmatch(reason):
            raise Refused("malformed")
        return self._die("peer_" + reason.decode(), CloseCode.OK)

    # ---- steps ----

    def _establish(self, now: Boottime) -> list[Action]:
        assert self._current is not None
        index = self._current.rx_index
        self.state = State.ESTABLISHED
        self._promoted_by = self._empty_at = None
        if self._dials:
            return [Promote(index), Established(), *self._start_rotation_if_due(now)]
        return [Promote(index), *self._answer(index, now), Established()]

    def _confirm(self, now: Boottime) -> list[Action]:
        """The pending epoch becomes the current one, the current one the previous; anything older goes."""
        assert self._pending is not None
        epoch = self._pending
        actions: list[Action] = []
        if self._previous:
            actions.append(self._remove_previous(self._previous))
        self._previous, self._current, self._pending = self._current, epoch, None
        self._grace_until = Boottime(now + GRACE) if self._previous else None
        self._empty_at = None
        self._number = epoch.number
        self._requested = False
        self._channel.confirm()
        actions.append(Promote(epoch.rx_index))
        if not self._dials:
            actions += self._answer(epoch.rx_index, now)
        started = now if self._rotation_started is None else self._rotation_started
        actions.append(Rotated(epoch.number, now - started, now - self._since))
        self._since = now
        return actions + self._start_rotation_if_due(now)

    def _answer(self, rx_index: int, now: Boottime) -> list[Action]:
        """The responder sends on a new epoch, and at once an empty record, which the initiator waits for."""
        self._empty_at = Boottime(now + EMPTY_INTERVAL)
        self._empty_until = Boottime(now + ANSWER_PERIOD)
        return [Activate(rx_index), SendEmpty(rx_index)]

    def _repeat_empty(self, now: Boottime) -> list[Action]:
        """The initiator goes on until it hears the peer. The responder, which gets no such sign, for a while."""
        index = self.sending_index
        if index is None or (not self._dials and self._empty_until is not None and now > self._empty_until):
            self._empty_at = None
            return []
        self._empty_at = Boottime(now + EMPTY_INTERVAL)
        return [SendEmpty(index)]

    def _rotation_due(self) -> Boottime | None:
        """When the initiator starts the next rotation; None while it cannot."""
        epoch = self._current
        if not (self._dials and self._connected and self.state is State.ESTABLISHED and epoch):
            return None
        if self.rotation is not Rotation.IDLE or epoch.number == EPOCH_MAX:
            return None
        wanted = self._rotation_wanted
        due = epoch.derived_at + self.rotate_secs if wanted is None else wanted
        if self._rotation_started is not None:
            due = max(due, self._rotation_started + ROTATE_MIN_INTERVAL)
        return Boottime(due)

    def _start_rotation_if_due(self, now: Boottime) -> list[Action]:
        due = self._rotation_due()
        if due is None or due > now or self._current is None:
            return []
        self._r1_index = self._setup.new_index()
        self._rotation_wanted = None
        self._rotation_started = now
        self._response_by = Boottime(now + ROTATE_RESPONSE_TIMEOUT)
        self.rotation = Rotation.AWAIT_RESPONSE
        return [SendFrame(self._channel.start_rekey(self._current.number + 1, self._r1_index))]

    def _expire(self, epoch: _Epoch) -> list[Action]:
        """A hard limit. Without an epoch to send on, now or soon, the tunnel fails closed and the dialer dials."""
        if epoch is self._previous:
            return [self._remove_previous(epoch)]
        if self.state is State.RETIRED:
            if len(list(self._epochs())) == 1:
                return self.wipe()
        elif (epoch is self._current and not self._pending) or (epoch is self._pending and not self._current):
            return self._die("key_expired")
        if epoch is self._current:
            self._current = None
            return [Remove(epoch.rx_index)]
        self._pending = None
        actions: list[Action] = [Remove(epoch.rx_index)]
        if self.state is not State.RETIRED and self._current is not None:
            self._empty_at = None
            self.rotation = Rotation.IDLE
            if self._dials:  # it was sending on the pending epoch
                self._number = self._current.number
                actions.append(Activate(self._current.rx_index))
            actions += [RotationFailed("key_expired"), *self._fail_channel(CloseCode.TIMEOUT, "key_expired")]
        return actions

    def _die(self, reason: str, code: CloseCode = CloseCode.TIMEOUT) -> list[Action]:
        """The end, by itself: every key goes, then the connection."""
        close: list[Action] = [CloseConnection(code, reason)] if self._connected else []
        return [*self.wipe(), *close, Dead(reason)]

    def _fail_channel(self, code: CloseCode, reason: str) -> list[Action]:
        """Ends the connection and leaves the data keys alone."""
        connected = self._connected
        actions = self._end_channel(reason)
        if connected:
            actions.append(CloseConnection(code, reason))
        return actions

    def _end_channel(self, reason: str) -> list[Action]:
        """Wipes what only the control channel needs. Says so if that cuts a rotation short."""
        self._connected = False
        self._channel.wipe()
        self._response_by = self._rotation_wanted = None
        if self.rotation is Rotation.AWAIT_RESPONSE:
            self.rotation = Rotation.IDLE
            return [RotationFailed(reason)]
        if self.rotation is Rotation.LATE_DONE:
            self.rotation = Rotation.IDLE
        return []

    # ---- small parts ----

    def _epochs(self) -> Iterator[_Epoch]:
        return (epoch for epoch in (self._previous, self._current, self._pending) if epoch)

    def _epoch(self, number: int, rx_index: int, tx_index: int, now: Boottime) -> _Epoch:
        return _Epoch(number, rx_index, tx_index, now, Boottime(now + hard_age(self.rotate_secs)))

    def _install(self, epoch: _Epoch, root: bytearray, now: Boottime) -> Install:
        keys = EpochKeys(
            number=epoch.number,
            suite=self.suite,
            rx_index=epoch.rx_index,
            tx_index=epoch.tx_index,
            tx_secrets=key_schedule.data_secrets(root, self._channel.tx, self._setup.tx_lanes),
            rx_secrets=key_schedule.data_secrets(root, self._channel.rx, self._setup.rx_lanes),
            derived_at=epoch.derived_at,
        )
        return Install(keys, epoch.expires_at - now)

    def _install_pending(self, number: int, agreed: Agreed, now: Boottime) -> Install:
        self._pending = self._epoch(number, agreed.rx_index, agreed.tx_index, now)
        return self._install(self._pending, agreed.root, now)

    def _remove_previous(self, epoch: _Epoch) -> Remove:
        self._previous = self._grace_until = None
        return Remove(epoch.rx_index)

    def _next_number(self) -> int:
        if self._current is None:
            raise Refused("order")
        return self._current.number + 1
