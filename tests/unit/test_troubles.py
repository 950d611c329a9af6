"""Why peers are not there: the last failure with each, until it is there again."""

from cryprq.peer_id import PeerId
from cryprq.telemetry.troubles import REMEMBERED_MAX, Troubles

A, B = PeerId(bytes(32)), PeerId(b"\x01" * 32)


def test_the_last_failure_counts_until_the_tunnel_is_up() -> None:
    troubles = Troubles()
    troubles.note(A, "nobody answers at 192.0.2.1:9999", "check that UDP gets through")
    troubles.note(A, "the handshake fails (lanes)", None)
    assert (troubles.of(A), troubles.of(B)) == ("the handshake fails (lanes)", "")
    troubles.note(A, "the handshake fails (psk)", "the pre-shared key differs")
    assert troubles.of(A) == "the handshake fails (psk): the pre-shared key differs"
    troubles.denied = A
    troubles.over(B)
    assert troubles.of(A) and troubles.denied == A
    troubles.over(A)
    assert troubles.of(A) == "" and not troubles.denied


def test_strangers_fill_no_more_than_its_room() -> None:
    troubles = Troubles()
    troubles.note(A, "first", None)
    for number in range(REMEMBERED_MAX):
        troubles.note(PeerId(number.to_bytes(32, "big")[::-1][:31] + b"\x07"), "again", None)
    assert troubles.of(A) == ""
