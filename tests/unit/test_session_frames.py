"""Control frames that are not what they should be: damaged, repeated, out of order, from another session, or sealed by
a peer that has the keys and no manners. Each ends the connection at most. None raises, none touches a data key."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryprq.protocol import frames, key_schedule
from cryprq.protocol.actions import (
    Action,
    Activate,
    CloseConnection,
    Dead,
    Install,
    Promote,
    Remove,
    RotationFailed,
    SendFrame,
)
from cryprq.protocol.clock import Boottime as at
from cryprq.protocol.constants import TAG_SIZE
from cryprq.protocol.frames import FrameType
from cryprq.protocol.session import Rotation, Session
from tests.rigs.session_pair import Frame, established, frame, install, kinds, sessions

TOUCH_KEYS = (Install, Activate, Promote, Remove, Dead)


def refuse(session: Session, received: Frame, now: float = 20.0) -> str:
    """Delivers a frame that must end the connection and nothing else; the reason."""
    state, sending, indices = session.state, session.sending_index, session.rx_indices()
    awaited = session.rotation is Rotation.AWAIT_RESPONSE
    actions = session.receive_frame(*received, at(now))
    assert not [action for action in actions if isinstance(action, TOUCH_KEYS)]
    assert session.state is state
    assert session.sending_index == sending
    assert session.rx_indices() == (indices - {session._r1_index} if awaited else indices)
    expected: list[type[Action]] = [RotationFailed] if awaited else []
    expected.append(CloseConnection)
    assert kinds(actions) == expected
    assert session.receive_frame(*received, at(now)) == [], "nothing is read after the end of the connection"
    assert not any(session._channel.root)
    (close,) = (action for action in actions if isinstance(action, CloseConnection))
    return close.reason


@dataclass
class Scene:
    """Two sessions at a point of a rotation; ``frame`` is on its way to ``target``."""

    target: Session
    sender: Session
    frame: Frame


def before_request() -> Scene:
    initiator, responder = established()
    return Scene(initiator, responder, frame(responder.rotate(at(10.0))))


def before_r1() -> Scene:
    initiator, responder = established()
    return Scene(responder, initiator, frame(initiator.rotate(at(10.0))))


def before_r2() -> Scene:
    scene = before_r1()
    return Scene(scene.sender, scene.target, frame(scene.target.receive_frame(*scene.frame, at(10.0))))


def before_r3() -> Scene:
    scene = before_r2()
    return Scene(scene.sender, scene.target, frame(scene.target.receive_frame(*scene.frame, at(10.0))))


def before_late_r3() -> Scene:
    scene = before_r3()
    pending = scene.target._pending
    assert pending is not None
    scene.target.first_record(pending.rx_index, at(10.0))
    return scene


def before_close() -> Scene:
    initiator, responder = established()
    return Scene(responder, initiator, frame(initiator.close("shutdown", at(10.0))))


SCENES = [before_request, before_r1, before_r2, before_r3, before_late_r3, before_close]
scenes = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)


@scenes
def test_the_frame_itself_is_accepted(scene: Callable[[], Scene]) -> None:
    here = scene()
    assert not [a for a in here.target.receive_frame(*here.frame, at(10.0)) if isinstance(a, RotationFailed)]


@scenes
@pytest.mark.parametrize("share", [i / 8 for i in range(9)])
def test_truncated_or_flipped_frame_ends_the_connection_only(scene: Callable[[], Scene], share: float) -> None:
    here = scene()
    kind, header, body = here.frame
    cut = body[: int(share * (len(body) - 1))]
    assert refuse(here.target, (kind, frames.header(kind, len(cut)), cut)) == "tag"
    here = scene()
    kind, header, body = here.frame
    place = min(int(share * len(body)), len(body) - 1)
    assert refuse(here.target, (kind, header, body[:place] + bytes((body[place] ^ 0x10,)) + body[place + 1 :])) == "tag"


@scenes
@pytest.mark.parametrize("kind", list(FrameType))
def test_frame_under_another_type_ends_the_connection_only(scene: Callable[[], Scene], kind: FrameType) -> None:
    here = scene()
    _, _, body = here.frame
    if kind is not here.frame[0]:
        assert refuse(here.target, (kind, frames.header(kind, len(body)), body)) == "tag"


@scenes
def test_repeated_frame_ends_the_connection_only(scene: Callable[[], Scene]) -> None:
    here = scene()
    here.target.receive_frame(*here.frame, at(10.0))
    if here.target.drained:
        assert here.target.receive_frame(*here.frame, at(10.0)) == []
    else:
        assert refuse(here.target, here.frame) == "tag"


@scenes
def test_frame_of_another_session_ends_the_connection_only(scene: Callable[[], Scene]) -> None:
    here = scene()
    others = sessions(root=b"\x55" * 32)
    for other in others:
        other.start(at(0.0))
    others[1].first_record(2, at(0.0))
    others[0].first_record(1, at(0.0))
    target = others[0] if here.target._dials else others[1]
    assert refuse(target, here.frame) == "tag"


@scenes
def test_reflected_frame_ends_the_connection_only(scene: Callable[[], Scene]) -> None:
    here = scene()
    if not here.sender.drained:
        assert refuse(here.sender, here.frame) == "tag"


def test_swapped_frames_end_the_connection_only() -> None:
    initiator, responder = established()
    request = frame(responder.rotate(at(10.0)))
    close = frame(responder.close("shutdown", at(10.1)))
    assert refuse(initiator, close) == "tag"
    assert initiator.receive_frame(*request, at(10.2)) == []


def test_epoch_keys_do_not_open_frames_of_the_epoch_before() -> None:
    initiator, responder = established()
    old = responder._channel._seal
    stale = bytes(old._key)
    here_r2 = responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    initiator.receive_frame(*frame(here_r2), at(10.0))
    forger = key_schedule.ControlKey(bytes(32), key_schedule.R2I)
    forger._key[:] = stale
    forger._counter = 1
    header = frames.header(frames.REKEY_REQUEST, TAG_SIZE)
    assert refuse(initiator, (frames.REKEY_REQUEST, header, forger.seal(header, b""))) == "tag"


# ---- a peer that has the keys ----


def say(sender: Session, kind: FrameType, body: bytes) -> Frame:
    """The sender's next frame, which opens whatever it says."""
    header = frames.header(kind, len(body) + TAG_SIZE)
    return kind, header, sender._channel._seal.seal(header, body)


def awaited_key(here: Scene) -> key_schedule.ControlKey:
    """A copy of the key, and its counter, that the target opens the scene's frame with."""
    channel = here.target._channel
    key = channel._next_open if here.frame[0] is frames.REKEY_DONE else channel._open
    assert key is not None
    copy = key_schedule.ControlKey(bytes(32), channel.rx)
    copy._key[:] = key._key
    copy._counter = key._counter
    return copy


def opened(here: Scene) -> bytes:
    """What the scene's frame says."""
    body = awaited_key(here).open(here.frame[1], here.frame[2])
    assert body is not None
    return body


def resaid(here: Scene, body: bytes) -> Frame:
    """The scene's frame with another body, in its place in the stream."""
    header = frames.header(here.frame[0], len(body) + TAG_SIZE)
    return here.frame[0], header, awaited_key(here).seal(header, body)


EPOCH = 4


@pytest.mark.parametrize("scene", [before_r1, before_r2, before_r3], ids=lambda scene: scene.__name__)
def test_resealed_frame_is_accepted_so_that_the_refusals_below_mean_something(scene: Callable[[], Scene]) -> None:
    here = scene()
    assert kinds(here.target.receive_frame(*resaid(here, opened(here)), at(10.0)))[0] in (Install, Promote)


@pytest.mark.parametrize("scene", [before_r1, before_r2, before_r3], ids=lambda scene: scene.__name__)
@pytest.mark.parametrize("number", [0, 2, 2**32 - 1])
def test_rotation_frame_for_another_epoch_is_refused(scene: Callable[[], Scene], number: int) -> None:
    here = scene()
    body = number.to_bytes(4, "big") + opened(here)[EPOCH:]
    assert refuse(here.target, resaid(here, body)) == "order"


@pytest.mark.parametrize("scene", [before_r1, before_r2, before_r3], ids=lambda scene: scene.__name__)
@pytest.mark.parametrize(
    "change", [lambda body: body + b"\0", lambda body: body[:-1], lambda body: body[:3], lambda _: b""]
)
def test_rotation_frame_of_another_size_is_refused(
    scene: Callable[[], Scene], change: Callable[[bytes], bytes]
) -> None:
    here = scene()
    assert refuse(here.target, resaid(here, change(opened(here)))) == "malformed"


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [(4, b"\xff\xff\xff", "kem"), (4 + 1184, bytes(32), "kem"), (4 + 1184 + 32, bytes(4), "malformed")],
)
def test_r1_with_a_bad_share_or_index_is_refused(place: int, value: bytes, reason: str) -> None:
    here = before_r1()
    body = opened(here)
    assert refuse(here.target, resaid(here, body[:place] + value + body[place + len(value) :])) == reason


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (4, b"\0\0\0", "tag"),
        (4 + 1088, bytes(32), "kem"),
        (4 + 1088, b"\x09" + bytes(31), "tag"),
        (4 + 1088 + 32, bytes(4), "malformed"),
        (4 + 1088 + 32, b"\x12\x34\x56\x78", "tag"),
        (-32, bytes(32), "tag"),
    ],
)
def test_r2_that_does_not_prove_the_new_root_is_refused(place: int, value: bytes, reason: str) -> None:
    here = before_r2()
    body = bytearray(opened(here))
    place %= len(body)
    body[place : place + len(value)] = value
    assert refuse(here.target, resaid(here, bytes(body))) == reason
    assert here.target.number == 0


def test_r3_with_a_wrong_tag_is_refused_and_the_pending_epoch_lives() -> None:
    here = before_r3()
    body = opened(here)
    assert refuse(here.target, resaid(here, body[:-1] + bytes((body[-1] ^ 1,)))) == "tag"
    pending = here.target._pending
    assert pending is not None
    assert kinds(here.target.first_record(pending.rx_index, at(21.0)))[:2] == [Promote, Activate]


@pytest.mark.parametrize("kind", [frames.REKEY, frames.REKEY_RESPONSE, frames.REKEY_DONE])
def test_rotation_frames_that_only_the_other_end_may_send_are_refused(kind: FrameType) -> None:
    initiator, responder = established()
    wrong_for_initiator = kind is not frames.REKEY_RESPONSE
    target, sender = (initiator, responder) if wrong_for_initiator else (responder, initiator)
    reason = refuse(target, say(sender, kind, bytes(100)))
    assert reason == ("tag" if kind is frames.REKEY_DONE else "order")


def test_second_r1_before_r3_is_refused() -> None:
    here = before_r1()
    again = opened(here)
    here.target.receive_frame(*here.frame, at(10.0))
    assert refuse(here.target, say(here.sender, frames.REKEY, again)) == "order"


def test_r2_that_nobody_asked_for_is_refused() -> None:
    initiator, responder = established()
    assert refuse(initiator, say(responder, frames.REKEY_RESPONSE, bytes(1192))) == "order"


def test_r1_before_the_session_is_promoted_is_refused() -> None:
    initiator, responder = sessions()
    initiator.start(at(0.0))
    responder.start(at(0.0))
    initiator.first_record(1, at(0.0))
    assert refuse(responder, frame(initiator.rotate(at(1.0)))) == "order"


@pytest.mark.parametrize("body", [b"\0", b"again"])
def test_request_with_a_body_is_refused(body: bytes) -> None:
    initiator, responder = established()
    assert refuse(initiator, say(responder, frames.REKEY_REQUEST, body)) == "order"


@pytest.mark.parametrize("reason", [b"", b"x" * 65, b"two words", b"\x1b[2J", b"a\n", "é".encode(), b"\xff"])
def test_close_with_a_reason_unfit_for_a_log_is_refused(reason: bytes) -> None:
    initiator, responder = established()
    assert refuse(responder, say(initiator, frames.CLOSE, reason)) == "malformed"


@pytest.mark.parametrize("kind", [frames.INIT, frames.RESPONSE, frames.AUTH, frames.ACCEPT])
def test_sealed_handshake_frame_is_refused(kind: FrameType) -> None:
    initiator, responder = established()
    assert refuse(responder, say(initiator, kind, b"")) == "order"


# ---- anything at all ----


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SCENES), st.sampled_from(list(FrameType)), st.binary(max_size=100), st.binary(max_size=4))
def test_any_bytes_end_the_connection_only(
    scene: Callable[[], Scene], kind: FrameType, body: bytes, header: bytes
) -> None:
    assert refuse(scene().target, (kind, header, body)) == "tag"


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([before_request, before_r1, before_r2, before_r3, before_late_r3]),
    st.lists(
        st.tuples(
            st.sampled_from(list(FrameType)),
            st.sampled_from([b"", bytes(3) + b"\1", bytes(3) + b"\2"]),
            st.binary(max_size=40) | st.sampled_from([bytes(1192), bytes(1224), bytes(36), b"shutdown"]),
        ),
        max_size=4,
    ),
)
def test_anything_sealed_by_the_peer_never_raises_nor_installs_a_key(
    scene: Callable[[], Scene], said: list[tuple[FrameType, bytes, bytes]]
) -> None:
    here = scene()
    if here.frame[0] is not frames.REKEY_RESPONSE:
        here.target.receive_frame(*here.frame, at(10.0))
    before = here.target.rx_indices()
    for kind, number, rest in said:
        actions = here.target.receive_frame(*say(here.sender, kind, number + rest), at(20.0))
        assert not [action for action in actions if isinstance(action, Install | Activate | Promote)]
        assert not [a for a in actions if isinstance(a, Remove)] or isinstance(actions[-1], Dead)
    assert here.target.rx_indices() <= before | {here.target._r1_index}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["timer", "rotate", "record", "lost", "retire", "expired"]), st.floats(0, 400)),
        max_size=12,
    ),
    st.booleans(),
)
def test_any_order_of_events_keeps_the_books(events: list[tuple[str, float]], dials: bool) -> None:
    """Whatever the node calls and when: what was installed and not removed is what the session says it holds."""
    initiator, responder = established(rotate_secs=30)
    session = initiator if dials else responder
    held, now = session.rx_indices(), 0.0
    for event, delay in events:
        now += delay / 4
        calls: dict[str, Callable[[], list[Action]]] = {
            "timer": lambda: session.handle_timer(at(now)),  # noqa: B023 - called in this turn of the loop
            "rotate": lambda: session.rotate(at(now)),  # noqa: B023
            "record": lambda: session.first_record(max(session.rx_indices(), default=0), at(now)),  # noqa: B023
            "lost": lambda: session.connection_lost(at(now)),  # noqa: B023
            "retire": lambda: session.retire(at(now)),  # noqa: B023
            "expired": lambda: session.key_expired(min(session.rx_indices(), default=0), at(now)),  # noqa: B023
        }
        actions = calls[event]()
        for action in actions:
            if isinstance(action, Install):
                held.add(action.keys.rx_index)
            elif isinstance(action, Remove):
                held.remove(action.rx_index)
        assert held == session.rx_indices() - ({session._r1_index} - held)
        due = session.next_timer()
        if event == "timer":
            assert due is None or due > now
        if session.drained:
            assert not held
            assert due is None
        if not session.connected:
            assert not any(isinstance(action, SendFrame) for action in session.rotate(at(now)))


def test_scenes_reach_every_state_of_a_rotation() -> None:
    seen = set()
    for scene in SCENES:
        here = scene()
        seen |= {here.target.rotation, here.sender.rotation}
    assert seen == set(Rotation)
    here = before_r2()
    assert install(here.target.receive_frame(*here.frame, at(10.0))).keys.number == 1
