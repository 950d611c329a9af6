"""The session: promotion, rotation, grace, limits and ends, one condition after the other."""

import pytest

from cryprq.protocol import frames, key_schedule
from cryprq.protocol.actions import (
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
from cryprq.protocol.clock import Boottime as at
from cryprq.protocol.constants import (
    EMPTY_INTERVAL,
    GRACE,
    KEMS,
    PROMOTE_TIMEOUT,
    ROTATE_BURST,
    ROTATE_MIN_INTERVAL,
    ROTATE_RESPONSE_TIMEOUT,
    hard_age,
)
from cryprq.protocol.frames import CloseCode
from cryprq.protocol.session import Rotation, Session, State
from tests.rigs.session_pair import established, frame, install, kinds, sessions


def rotate(initiator: Session, responder: Session, now: float) -> tuple[Install, Install]:
    """One whole rotation in which R3 comes before any record; the epochs that both ends installed."""
    answer = responder.receive_frame(*frame(initiator.rotate(at(now))), at(now))
    done = initiator.receive_frame(*frame(answer), at(now))
    responder.receive_frame(*frame(done), at(now))
    initiator.first_record(install(done).keys.rx_index, at(now))
    return install(done), install(answer)


# ---- promotion ----


def test_start_installs_receive_only_at_the_responder_and_sends_at_the_initiator() -> None:
    initiator, responder = sessions()
    assert kinds(responder.start(at(0.0))) == [Install]
    assert kinds(initiator.start(at(0.0))) == [Install, Activate, SendEmpty]
    assert responder.sending_index is None
    assert initiator.sending_index == 1
    assert not initiator.established
    assert not responder.established


def test_start_gives_both_ends_the_same_data_keys_crosswise() -> None:
    initiator, responder = sessions(lanes=(3, 2))
    ours, theirs = install(initiator.start(at(0.0))).keys, install(responder.start(at(0.0))).keys
    assert ours.tx_secrets == theirs.rx_secrets
    assert ours.rx_secrets == theirs.tx_secrets
    assert len(ours.tx_secrets) == 3 * 44
    assert len(ours.rx_secrets) == 2 * 44
    assert (ours.rx_index, ours.tx_index) == (theirs.tx_index, theirs.rx_index) == (1, 2)
    assert ours.tx_secrets[:44] != ours.tx_secrets[44:88]


def test_start_twice_does_nothing() -> None:
    initiator, _ = sessions()
    initiator.start(at(0.0))
    assert initiator.start(at(1.0)) == []


def test_start_late_counts_the_age_from_the_root() -> None:
    initiator, _ = sessions(rotate_secs=300)
    assert install(initiator.start(at(4.0))).lifetime == hard_age(300) - 4.0


def test_first_record_promotes_at_the_responder_which_answers() -> None:
    _, responder = sessions()
    responder.start(at(0.0))
    assert responder.first_record(2, at(1.0)) == [Promote(2), Activate(2), SendEmpty(2), Established()]
    assert responder.established
    assert responder.first_record(2, at(1.0)) == []


def test_first_record_at_the_initiator_establishes() -> None:
    initiator, _ = sessions()
    initiator.start(at(0.0))
    assert initiator.first_record(1, at(0.5)) == [Promote(1), Established()]


def test_first_record_of_an_unknown_epoch_does_nothing() -> None:
    for session in (*sessions(), *established()):
        assert session.first_record(77, at(0.0)) == []


def test_initiator_repeats_the_empty_record_until_it_is_answered() -> None:
    initiator, _ = sessions()
    initiator.start(at(0.0))
    for second in (1.0, 2.0, 3.0):
        assert initiator.next_timer() == second * EMPTY_INTERVAL
        assert initiator.handle_timer(at(second)) == [SendEmpty(1)]
    initiator.first_record(1, at(3.5))
    assert initiator.handle_timer(at(20.0)) == []


@pytest.mark.parametrize("dials", [True, False])
def test_unpromoted_session_is_wiped(dials: bool) -> None:
    session = sessions()[0 if dials else 1]
    session.start(at(0.0))
    assert Dead("not_promoted") not in session.handle_timer(at(PROMOTE_TIMEOUT - 0.1))
    assert session.handle_timer(at(PROMOTE_TIMEOUT)) == [
        Remove(1 if dials else 2),
        CloseConnection(CloseCode.TIMEOUT, "not_promoted"),
        Dead("not_promoted"),
    ]
    assert session.drained
    assert session.next_timer() is None


def test_provisional_session_survives_the_loss_of_its_connection() -> None:
    initiator, responder = sessions()
    initiator.start(at(0.0))
    responder.start(at(0.0))
    assert initiator.connection_lost(at(1.0)) == []
    assert responder.connection_lost(at(1.0)) == []
    assert Established() in responder.first_record(2, at(2.0))
    assert Established() in initiator.first_record(1, at(2.0))


def test_responder_repeats_its_answer_for_as_long_as_the_initiator_waits() -> None:
    """Its record may be lost, it may have nothing else to send, and no sign of the initiator tells it apart."""
    _, responder = sessions()
    responder.start(at(0.0))
    responder.first_record(2, at(0.5))
    sent = []
    while (due := responder.next_timer()) is not None and due < 100.0:
        sent += responder.handle_timer(due)
    assert sent == [SendEmpty(2)] * 15


# ---- rotation ----


@pytest.mark.usefixtures("fake_liboqs")
@pytest.mark.parametrize("kem", KEMS)
def test_rotation_actions_in_order(kem: int) -> None:
    initiator, responder = established(kem=kem)
    r1 = initiator.rotate(at(10.0))
    assert kinds(r1) == [SendFrame]
    r2 = responder.receive_frame(*frame(r1), at(10.1))
    assert kinds(r2) == [Install, SendFrame], "the responder must be able to receive before R2 leaves"
    assert responder.sending_index == 2
    r3 = initiator.receive_frame(*frame(r2), at(10.2))
    assert kinds(r3) == [Install, Activate, SendFrame, SendEmpty]
    ours, theirs = install(r3).keys, install(r2).keys
    assert (ours.rx_index, ours.tx_index) == (theirs.tx_index, theirs.rx_index)
    assert (ours.tx_secrets, ours.rx_secrets) == (theirs.rx_secrets, theirs.tx_secrets)
    assert ours.number == theirs.number == 1
    new = theirs.rx_index
    promoted = responder.receive_frame(*frame(r3), at(10.3))
    assert promoted[:3] == [Promote(new), Activate(new), SendEmpty(new)]
    assert kinds(promoted[3:]) == [Rotated]
    assert responder.first_record(new, at(10.3)) == [], "R3 has promoted it already"
    confirmed = initiator.first_record(ours.rx_index, at(10.4))
    assert kinds(confirmed) == [Promote, Rotated]
    for session in (initiator, responder):
        assert session.number == 1
        assert not session.rotating
        assert len(session.rx_indices()) == 2


def test_rotation_reports_duration_and_interval() -> None:
    initiator, responder = established()
    r2 = responder.receive_frame(*frame(initiator.rotate(at(100.0))), at(100.1))
    r3 = initiator.receive_frame(*frame(r2), at(100.2))
    rotated = responder.receive_frame(*frame(r3), at(100.5))[-1]
    assert isinstance(rotated, Rotated)
    assert (rotated.number, rotated.interval) == (1, 100.5)
    assert rotated.duration == pytest.approx(0.4)
    assert initiator.first_record(install(r3).keys.rx_index, at(101.0))[-1] == Rotated(1, 1.0, 101.0)
    rotate(initiator, responder, 150.0)
    assert initiator.number == 2


def test_rotations_never_repeat_a_key() -> None:
    initiator, responder = established()
    seen = set()
    for number in range(1, 6):
        ours, theirs = rotate(initiator, responder, number * 10.0)
        assert ours.keys.tx_secrets == theirs.keys.rx_secrets
        seen |= {bytes(ours.keys.tx_secrets), bytes(ours.keys.rx_secrets)}
    assert len(seen) == 10


def test_initiator_rotates_by_itself_after_rotate_secs() -> None:
    initiator, responder = established(rotate_secs=60)
    assert initiator.next_timer() == 60.0
    assert responder.next_timer() == hard_age(60)
    assert kinds(initiator.handle_timer(at(60.0))) == [SendFrame]


def test_record_before_r3_promotes_and_r3_ends_the_old_control_key() -> None:
    initiator, responder = established()
    r2 = responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    r3 = initiator.receive_frame(*frame(r2), at(10.0))
    new = install(r2).keys.rx_index
    assert responder.first_record(new, at(10.1))[:3] == [Promote(new), Activate(new), SendEmpty(new)]
    before_r3 = responder.rotation
    assert before_r3 is Rotation.LATE_DONE
    assert responder.rotate(at(10.2)) == [], "nothing may be said between R2 and R3"
    assert responder.receive_frame(*frame(r3), at(10.3)) == []
    assert responder.rotation is Rotation.IDLE
    initiator.first_record(install(r3).keys.rx_index, at(10.3))
    rotate(initiator, responder, 20.0)
    assert responder.number == initiator.number == 2


def test_close_between_r1_and_r2_is_under_the_old_key() -> None:
    initiator, responder = established()
    responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    ended = responder.receive_frame(*frame(initiator.close("shutdown", at(10.1))), at(10.2))
    assert Dead("peer_shutdown") in ended


def test_close_after_r3_is_under_the_new_key_even_if_a_record_was_first() -> None:
    initiator, responder = established()
    r2 = responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    r3 = initiator.receive_frame(*frame(r2), at(10.0))
    responder.first_record(install(r2).keys.rx_index, at(10.0))
    close = frame(initiator.close("shutdown", at(10.1)))
    responder.receive_frame(*frame(r3), at(10.2))
    assert Dead("peer_shutdown") in responder.receive_frame(*close, at(10.2))


def test_responder_closing_between_r2_and_r3_sends_no_frame() -> None:
    initiator, responder = established()
    responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    assert kinds(responder.close("shutdown", at(10.1))) == [CloseConnection, Remove, Remove]


def test_rotations_start_at_least_a_second_apart() -> None:
    initiator, responder = established()
    rotate(initiator, responder, 10.0)
    assert initiator.rotate(at(10.4)) == []
    assert initiator.next_timer() == 10.0 + ROTATE_MIN_INTERVAL
    assert kinds(initiator.handle_timer(at(11.0))) == [SendFrame]


def test_responder_holds_the_initiator_to_the_pace() -> None:
    initiator, responder = established()
    for number in range(40):
        rotate(initiator, responder, 10.0 + number * ROTATE_MIN_INTERVAL)
    late = 200.0
    for _ in range(ROTATE_BURST):
        initiator._rotation_started = None  # it does not keep the second
        rotate(initiator, responder, late)
    number = responder.number
    initiator._rotation_started = None
    refused = responder.receive_frame(*frame(initiator.rotate(at(late))), at(late))
    assert refused == [CloseConnection(CloseCode.MALFORMED, "too_often")]
    assert responder.established
    assert responder.number == number
    assert responder.sending_index is not None


def test_rotate_during_a_rotation_does_nothing() -> None:
    initiator, responder = established()
    r1 = initiator.rotate(at(10.0))
    assert initiator.rotate(at(12.0)) == []
    r2 = responder.receive_frame(*frame(r1), at(12.0))
    r3 = initiator.receive_frame(*frame(r2), at(12.0))
    assert initiator.rotate(at(14.0)) == []
    responder.receive_frame(*frame(r3), at(14.0))
    assert initiator.first_record(install(r3).keys.rx_index, at(14.0))[-1] == Rotated(1, 4.0, 14.0)
    assert initiator.rotation is Rotation.IDLE


def test_request_of_the_responder_starts_a_rotation_once() -> None:
    initiator, responder = established()
    request = responder.rotate(at(10.0))
    assert kinds(request) == [SendFrame]
    assert responder.rotate(at(10.1)) == [], "one request is enough"
    r1 = initiator.receive_frame(*frame(request), at(10.2))
    r2 = responder.receive_frame(*frame(r1), at(10.3))
    r3 = initiator.receive_frame(*frame(r2), at(10.4))
    responder.receive_frame(*frame(r3), at(10.5))
    initiator.first_record(install(r3).keys.rx_index, at(10.5))
    assert initiator.next_timer() is not None
    assert initiator.handle_timer(at(12.0)) == []
    assert kinds(responder.rotate(at(20.0))) == [SendFrame], "the next epoch may be asked about again"


def test_request_that_crosses_r1_is_answered_by_that_rotation() -> None:
    initiator, responder = established()
    request, r1 = responder.rotate(at(10.0)), initiator.rotate(at(10.0))
    assert initiator.receive_frame(*frame(request), at(10.1)) == []
    r3 = initiator.receive_frame(*frame(responder.receive_frame(*frame(r1), at(10.1))), at(10.2))
    responder.receive_frame(*frame(r3), at(10.2))
    assert kinds(initiator.first_record(install(r3).keys.rx_index, at(10.2))) == [Promote, Rotated]
    assert initiator.handle_timer(at(15.0)) == []


def test_request_right_after_a_rotation_waits_for_its_second() -> None:
    initiator, responder = established()
    rotate(initiator, responder, 10.0)
    assert initiator.receive_frame(*frame(responder.rotate(at(10.1))), at(10.2)) == []
    assert kinds(initiator.handle_timer(at(11.0))) == [SendFrame]


def test_request_before_the_first_record_is_kept() -> None:
    initiator, responder = sessions()
    initiator.start(at(0.0))
    responder.start(at(0.0))
    responder.first_record(2, at(0.1))
    assert initiator.receive_frame(*frame(responder.rotate(at(0.2))), at(0.3)) == []
    assert kinds(initiator.first_record(1, at(0.4))) == [Promote, Established, SendFrame]


def test_no_answer_to_r1_closes_and_dials_afresh() -> None:
    initiator, _ = established()
    initiator.rotate(at(10.0))
    assert initiator.next_timer() == 10.0 + ROTATE_RESPONSE_TIMEOUT
    assert initiator.handle_timer(at(25.0)) == [
        RotationFailed("timeout"),
        CloseConnection(CloseCode.TIMEOUT, "timeout"),
    ]
    assert initiator.established
    assert initiator.sending_index == 1
    assert initiator.handle_timer(at(60.0)) == []


def test_initiator_repeats_the_empty_record_on_the_new_epoch() -> None:
    initiator, responder = established()
    r2 = responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    new = install(initiator.receive_frame(*frame(r2), at(10.0))).keys.rx_index
    assert initiator.handle_timer(at(11.0)) == [SendEmpty(new)]
    assert initiator.handle_timer(at(12.0)) == [SendEmpty(new)]
    initiator.first_record(new, at(12.5))
    assert initiator.handle_timer(at(13.0)) == []


# ---- grace and hard limits ----


def test_grace_starts_at_promotion_and_at_the_first_record_back() -> None:
    initiator, responder = established()
    r2 = responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    r3 = initiator.receive_frame(*frame(r2), at(10.0))
    responder.receive_frame(*frame(r3), at(12.0))
    ours, theirs = install(r3).keys.rx_index, install(r2).keys.rx_index
    assert initiator.handle_timer(at(29.9)) == [SendEmpty(ours)], "no grace before the peer was heard"
    initiator.first_record(ours, at(30.0))
    assert responder.handle_timer(at(12.0 + GRACE - 0.1)) == [SendEmpty(theirs)]
    assert responder.handle_timer(at(12.0 + GRACE)) == [Remove(2)]
    assert initiator.handle_timer(at(30.0 + GRACE - 0.1)) == []
    assert initiator.handle_timer(at(30.0 + GRACE)) == [Remove(1)]


def test_promotion_wipes_anything_older_than_the_previous_epoch() -> None:
    initiator, responder = established()
    first, _ = rotate(initiator, responder, 10.0)
    r2 = responder.receive_frame(*frame(initiator.rotate(at(12.0))), at(12.0))
    assert len(responder.rx_indices()) == 3
    r3 = initiator.receive_frame(*frame(r2), at(12.0))
    assert len(initiator.rx_indices()) == 3
    assert responder.receive_frame(*frame(r3), at(12.0))[0] == Remove(2)
    assert initiator.first_record(install(r3).keys.rx_index, at(12.0))[0] == Remove(1)
    assert initiator.rx_indices() == {first.keys.rx_index, install(r3).keys.rx_index}


@pytest.mark.parametrize("rotate_secs", [5, 30, 31, 3600])
@pytest.mark.parametrize("dials", [True, False])
def test_hard_age_destroys_the_keys(rotate_secs: int, dials: bool) -> None:
    session = established(rotate_secs)[0 if dials else 1]
    session.connection_lost(at(1.0))
    age = max(rotate_secs, 30) + 150.0
    assert session.next_timer() == age
    assert session.handle_timer(at(age - 0.1)) == []
    ended = session.handle_timer(at(age))
    assert ended == [Remove(1 if dials else 2), Dead("key_expired")]


def test_hard_age_ends_the_grace_too() -> None:
    initiator, responder = established(rotate_secs=30)
    responder_late = hard_age(30) - 3.0
    r2 = responder.receive_frame(*frame(initiator.rotate(at(responder_late))), at(responder_late))
    responder.receive_frame(*frame(initiator.receive_frame(*frame(r2), at(responder_late))), at(responder_late))
    assert responder.handle_timer(at(hard_age(30))) == [Remove(2), SendEmpty(install(r2).keys.rx_index)]
    assert responder.established


def test_expired_current_epoch_leaves_a_pending_one_alive() -> None:
    initiator, responder = established(rotate_secs=30)
    late = hard_age(30) - 1.0
    r2 = responder.receive_frame(*frame(initiator.rotate(at(late))), at(late))
    new = install(r2).keys.rx_index
    assert responder.handle_timer(at(hard_age(30))) == [Remove(2)]
    assert responder.sending_index is None
    assert responder.first_record(new, at(hard_age(30) + 1))[:3] == [Promote(new), Activate(new), SendEmpty(new)]
    assert responder.sending_index == new


def test_key_at_a_volume_limit_ends_the_session() -> None:
    initiator, responder = established()
    assert Dead("key_expired") in initiator.key_expired(1, at(5.0))
    assert responder.key_expired(99, at(5.0)) == []
    assert responder.key_expired(2, at(5.0)) == [
        Remove(2),
        CloseConnection(CloseCode.TIMEOUT, "key_expired"),
        Dead("key_expired"),
    ]


def test_pending_key_at_a_volume_limit_fails_the_rotation_only() -> None:
    initiator, responder = established()
    r2 = responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    new = install(initiator.receive_frame(*frame(r2), at(10.0))).keys.rx_index
    assert initiator.key_expired(new, at(11.0)) == [
        Remove(new),
        Activate(1),
        RotationFailed("key_expired"),
        CloseConnection(CloseCode.TIMEOUT, "key_expired"),
    ]
    assert initiator.rx_indices() == {1}
    assert (initiator.sending_index, initiator.number) == (1, 0), "the plane sends on what the session says"


def test_timer_after_a_long_sleep_ends_everything_at_once() -> None:
    initiator, responder = established()
    rotate(initiator, responder, 10.0)
    for session in (initiator, responder):
        ended = session.handle_timer(at(1e6))
        assert kinds(ended).count(Remove) == 2
        assert ended[-1] == Dead("key_expired")
        assert session.handle_timer(at(2e6)) == []


# ---- ends ----


def test_retired_session_receives_for_the_grace_and_sends_nothing() -> None:
    initiator, responder = established()
    r2 = responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    new = install(r2).keys.rx_index
    assert responder.retire(at(11.0)) == [CloseConnection(CloseCode.REPLACED, "replaced")]
    assert responder.first_record(new, at(11.1)) == [], "it must not take the sending back from the newer session"
    assert responder.rotate(at(11.2)) == []
    assert responder.connection_lost(at(11.3)) == []
    assert responder.sending_index is None
    assert responder.handle_timer(at(20.9)) == []
    assert responder.handle_timer(at(21.0)) == [Remove(2), Remove(new)]
    assert responder.drained
    assert responder.next_timer() is None


def test_retired_dialer_does_not_dial() -> None:
    initiator, _ = established()
    assert initiator.retire(at(5.0)) == [CloseConnection(CloseCode.REPLACED, "replaced")]
    assert initiator.connection_lost(at(5.1)) == []
    assert initiator.handle_timer(at(15.0)) == [Remove(1)]


def test_retire_during_a_rotation_is_no_failure() -> None:
    initiator, _ = established()
    initiator.rotate(at(3.0))
    assert kinds(initiator.retire(at(5.0))) == [CloseConnection]
    assert not initiator.rotating


@pytest.mark.parametrize("dials", [True, False])
def test_close_tells_the_peer_and_both_destroy_their_keys(dials: bool) -> None:
    pair = established()
    closing, other = pair if dials else pair[::-1]
    index = 1 if dials else 2
    actions = closing.close("shutdown", at(5.0))
    assert kinds(actions) == [SendFrame, CloseConnection, Remove]
    assert actions[1:] == [CloseConnection(CloseCode.SHUTDOWN, "shutdown"), Remove(index)]
    assert other.receive_frame(*frame(actions), at(5.1)) == [
        Remove(3 - index),
        CloseConnection(CloseCode.OK, "peer_shutdown"),
        Dead("peer_shutdown"),
    ]
    assert closing.drained
    assert other.drained


@pytest.mark.parametrize("reason", ["", "Shutdown", "two words", "x" * 65, "é", "line\n"])
def test_close_with_a_bad_reason_is_refused(reason: str) -> None:
    with pytest.raises(ValueError):
        established()[0].close(reason, at(0.0))


def test_connection_lost_keeps_the_data_keys_and_wipes_the_rest() -> None:
    initiator, responder = established()
    assert initiator.connection_lost(at(5.0)) == []
    assert responder.connection_lost(at(5.0)) == []
    for session in (initiator, responder):
        assert session.established
        assert session.connection_lost(at(6.0)) == []
        assert session.rotate(at(7.0)) == []
        assert session.handle_timer(at(301.0)) == []
        assert not any(session._channel.root)
        assert session.close("shutdown", at(302.0)) == [Remove(1 if session is initiator else 2)]


def test_secrets_are_wiped_as_soon_as_an_epoch_is_confirmed() -> None:
    initiator, responder = established()
    old_i, old_r = initiator._channel.root, responder._channel.root
    seal_i, seal_r, open_i, open_r = (
        key._key
        for key in (
            initiator._channel._seal,
            responder._channel._seal,
            initiator._channel._open,
            responder._channel._open,
        )
    )
    r2 = responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    assert not any(seal_r)
    assert any(open_r)
    r3 = initiator.receive_frame(*frame(r2), at(10.0))
    assert not any(old_i)
    assert not any(seal_i)
    assert not any(open_i)
    responder.first_record(install(r2).keys.rx_index, at(10.0))
    assert not any(old_r)
    assert any(open_r), "the old key of the initiator's frames lives until R3"
    responder.receive_frame(*frame(r3), at(10.0))
    assert not any(open_r)
    assert initiator._channel._ephemeral is None


def test_wipe_removes_every_epoch_at_any_time() -> None:
    for session in sessions():
        assert session.wipe() == [], "nothing was installed yet"
        assert session.drained
    initiator, responder = established()
    responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    assert kinds(responder.wipe()) == [Remove, Remove]
    assert initiator.wipe() == [Remove(1)]
    for session in (initiator, responder):
        assert session.state is State.DEAD
        for actions in (
            session.start(at(1.0)),
            session.rotate(at(1.0)),
            session.retire(at(1.0)),
            session.connection_lost(at(1.0)),
            session.handle_timer(at(1e9)),
            session.first_record(1, at(1.0)),
            session.receive_frame(frames.CLOSE, b"\x14\0\0\x10", bytes(16), at(1.0)),
            session.close("shutdown", at(1.0)),
            session.wipe(),
        ):
            assert actions == []


def test_control_keys_of_both_directions_differ() -> None:
    i2r, r2i = (key_schedule.control_key(bytes(32), way) for way in (key_schedule.I2R, key_schedule.R2I))
    assert i2r != r2i


# ---- the connection is lost in the middle ----


def test_responder_hears_the_pending_epoch_after_the_connection_is_lost() -> None:
    initiator, responder = established()
    r2 = responder.receive_frame(*frame(initiator.rotate(at(10.0))), at(10.0))
    r3 = initiator.receive_frame(*frame(r2), at(10.0))
    assert isinstance(r3[2], SendFrame)
    responder.connection_lost(at(10.1))  # R3 is lost
    new = install(r2).keys.rx_index
    promoted = responder.first_record(new, at(10.2))
    assert promoted[:3] == [Promote(new), Activate(new), SendEmpty(new)]
    assert responder.rotation is Rotation.IDLE
    initiator.connection_lost(at(10.3))
    assert kinds(initiator.first_record(install(r3).keys.rx_index, at(10.4))) == [Promote, Rotated]


def test_connection_lost_between_r1_and_r2_fails_the_rotation() -> None:
    initiator, _ = established()
    initiator.rotate(at(10.0))
    assert initiator.connection_lost(at(10.1)) == [RotationFailed("connection_lost")]
    assert initiator.sending_index == 1
