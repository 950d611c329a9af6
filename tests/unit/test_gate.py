"""The gate: every answer to a first datagram, and who is next in line. No socket, no loop, no clock of its own."""

import itertools
from typing import Final

import pytest
from aioquic.quic.packet import QuicPacketType

from cryprq.address import Address
from cryprq.protocol.clock import Monotonic
from cryprq.quic import waiting_line
from cryprq.quic.adapter import Quic, client_configuration, parse_header
from cryprq.quic.admission import PENDING_PER_SOURCE, UNVALIDATED_PER_SOURCE, source_of
from cryprq.quic.gate import (
    RESPONSE_BURST,
    RESPONSE_RATE,
    Decision,
    Drop,
    Gate,
    GateLimits,
    Negotiate,
    Open,
    Retry,
    Wait,
)
from cryprq.quic.retry_tokens import RETRY_TOKEN_LIFETIME
from cryprq.quic.waiting_line import Beginning, WaitingLine

HERE, LOCAL = Address("192.0.2.1", 4000), "192.0.2.9"
LIMITS: Final = GateLimits(max_inbound=64, backoff_base_ms=1000, backoff_max_ms=8000, backoff_free_failures=0)
_names = itertools.count(1)


def address(host: int, port: int = 4000) -> Address:
    return Address(f"198.51.100.{host}", port)


def initial(
    destination: bytes | None = None, token: bytes = b"", *, first: int = 0xC0, version: int = 1, size: int = 1200
) -> bytes:
    """A first datagram, as far as the gate looks: nothing in it is protected."""
    destination = next(_names).to_bytes(8, "big") if destination is None else destination
    head = bytes([first]) + version.to_bytes(4, "big") + bytes([len(destination)]) + destination + b"\x05peer!"
    head += (0x4000 | len(token)).to_bytes(2, "big") + token
    return head + (0x4000 | size - len(head) - 2).to_bytes(2, "big") + bytes(size - len(head) - 2)


class Door:
    """A gate with a clock that the test moves, and what the endpoint does with its answers."""

    def __init__(self, limits: GateLimits = LIMITS) -> None:
        self.gate = Gate(limits)
        self.now = Monotonic(1000.0)

    def knock(self, data: bytes, remote: Address = HERE, *, behind: bool = False) -> Decision:
        decision = self.gate.decide(data, remote, LOCAL, self.now, behind=behind)
        if isinstance(decision, Open):
            self.begin(decision.beginning)
        return decision

    def begin(self, beginning: Beginning) -> None:
        self.gate.opened(source_of(beginning.remote), validated=beginning.validated)

    def proven(self, remote: Address = HERE) -> bytes:
        """A first datagram from somebody who has answered a Retry packet."""
        decision = self.gate.decide(initial(), remote, LOCAL, self.now, behind=True)
        assert isinstance(decision, Retry)
        header = parse_header(decision.packet)
        return initial(header.source_cid, header.token)

    def end(self, remote: Address = HERE, *, validated: bool = True, authenticated: bool = False) -> None:
        self.gate.settled(source_of(remote), validated=validated, authenticated=authenticated)

    def use_up_m2s(self) -> None:
        while self.gate.allow_m2(self.now):
            pass

    def sleep(self, seconds: float) -> None:
        self.now = Monotonic(self.now + seconds)


@pytest.fixture
def door() -> Door:
    return Door()


# ---- form ----


@pytest.mark.parametrize(
    ("data", "remote"),
    [
        pytest.param(initial(size=1199), HERE, id="short"),
        pytest.param(initial(), HERE._replace(port=0), id="port"),
        pytest.param(b"\xc0" + bytes(4) + b"\x08original\x05peer!" + bytes(1200), HERE, id="version-negotiation"),
        pytest.param(b"\xc0\0\0\0\x01\xff" + bytes(1300), HERE, id="no-header"),
        pytest.param(initial(first=0xE0), HERE, id="handshake-packet"),
        pytest.param(initial(bytes(7)), HERE, id="short-connection-id"),
    ],
)
def test_what_cannot_begin_a_connection_is_dropped(door: Door, data: bytes, remote: Address) -> None:
    assert door.knock(data, remote) == Drop("malformed")
    assert door.gate.pending == door.gate.waiting == 0


def test_another_version_is_told_ours_and_nothing_is_kept(door: Door) -> None:
    decision = door.knock(initial(b"whatever", version=0x1A2A3A4A))
    assert isinstance(decision, Negotiate)
    header = parse_header(decision.packet)
    assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
    assert (header.destination_cid, header.source_cid) == (b"peer!", b"whatever")
    assert header.supported_versions == [1]
    assert door.gate.pending == 0


# ---- addresses that are not proven ----


def test_first_of_a_source_begins_at_once(door: Door) -> None:
    data = initial(b"original")
    decision = door.gate.decide(data, HERE, LOCAL, door.now)
    assert isinstance(decision, Open)
    beginning = decision.beginning
    assert (beginning.data, beginning.remote, beginning.local, beginning.at) == (data, HERE, LOCAL, door.now)
    assert beginning.original == beginning.header.destination_cid == b"original"
    assert not beginning.validated
    assert door.gate.pending == 0, "it is the endpoint's to begin it"


def test_more_of_a_source_are_asked_for_proof_and_other_sources_are_not(door: Door) -> None:
    for _ in range(UNVALIDATED_PER_SOURCE):
        assert isinstance(door.knock(initial()), Open)
    assert isinstance(door.knock(initial()), Retry)
    assert isinstance(door.knock(initial(), address(7)), Open)
    door.gate.became_validated(source_of(HERE))
    assert isinstance(door.knock(initial()), Open)


def test_everybody_is_asked_for_proof_when_half_of_the_places_are_taken() -> None:
    door = Door(GateLimits(6, 1000, 8000))
    for host in range(3):
        assert isinstance(door.knock(initial(), address(host)), Open)
    assert isinstance(door.knock(initial(), address(9)), Retry)
    door.end(address(0), validated=False)
    assert isinstance(door.knock(initial(), address(9)), Open)


def test_everybody_is_asked_for_proof_while_datagrams_come_too_fast(door: Door) -> None:
    assert isinstance(door.knock(initial(), behind=True), Retry)
    assert isinstance(door.knock(initial()), Open)


def test_everybody_is_asked_for_proof_when_too_many_begin_in_a_second() -> None:
    door = Door(GateLimits(64, 1000, 8000, unvalidated_rate=10.0))
    answers = []
    for host in range(20):
        answers.append(door.knock(initial(), address(host)))
        door.end(address(host), validated=False)  # comes to nothing at once
    assert [type(answer) for answer in answers] == [Open] * 10 + [Retry] * 10
    door.sleep(0.11)
    assert isinstance(door.knock(initial(), address(0)), Open)


def test_who_is_asked_for_proof_anyway_takes_nobody_elses_beginning() -> None:
    door = Door(GateLimits(64, 1000, 8000, unvalidated_rate=1.0))
    for _ in range(9):
        assert isinstance(door.knock(initial(), behind=True), Retry)
    assert isinstance(door.knock(initial()), Open)


def test_everybody_is_asked_for_proof_while_m2s_are_scarce(door: Door) -> None:
    door.use_up_m2s()
    assert isinstance(door.knock(initial()), Retry)
    door.sleep(1.5 / RESPONSE_RATE)
    assert isinstance(door.knock(initial()), Open)
    assert isinstance(door.knock(initial()), Retry), "the M2 that there is may be needed by the one before"


# ---- proof ----


def test_real_dialer_that_answers_a_retry_packet_is_let_in(door: Door) -> None:
    quic = Quic(client_configuration())
    quic.connect(HERE, now=0.0)
    first = quic.datagrams_to_send(now=0.0)[0][0]
    retry = door.knock(first, behind=True)
    assert isinstance(retry, Retry)
    quic.receive_datagram(retry.packet, HERE, now=0.0)
    second = quic.datagrams_to_send(now=0.0)[0][0]
    decision = door.knock(second, behind=True)
    assert isinstance(decision, Open)
    assert decision.beginning.validated
    assert decision.beginning.original == first[6:14] != second[6:14]


def test_proof_is_good_for_its_address_its_connection_id_and_a_while(door: Door) -> None:
    data = door.proven()
    token = parse_header(data).token
    assert door.knock(data, HERE._replace(port=4001)) == Drop("bad_token")
    assert door.knock(initial(token=token)) == Drop("bad_token")
    assert door.knock(initial(data[6:14], token[:-1])) == Drop("bad_token")
    door.sleep(RETRY_TOKEN_LIFETIME + 0.1)
    assert door.knock(data) == Drop("bad_token")
    door.sleep(-0.2)
    assert isinstance(door.knock(data), Open)


def test_source_gets_no_more_than_its_share_and_the_rest_waits(door: Door) -> None:
    for _ in range(PENDING_PER_SOURCE):
        assert isinstance(door.knock(door.proven()), Open)
    waits = door.proven()
    assert door.knock(waits) == Wait(displaced=False)
    assert door.gate.waiting == 1
    assert door.gate.next_in_line(door.now) is None
    door.end()
    beginning = door.gate.next_in_line(door.now)
    assert beginning is not None
    assert (beginning.data, beginning.remote, beginning.validated) == (waits, HERE, True)
    assert door.gate.waiting == 0


def test_who_comes_while_others_wait_gets_in_line_behind_them(door: Door) -> None:
    for _ in range(PENDING_PER_SOURCE):
        door.knock(door.proven())
    assert door.knock(door.proven()) == Wait(displaced=False)
    assert door.knock(door.proven(address(7)), address(7)) == Wait(displaced=False), "though there would be a place"
    beginning = door.gate.next_in_line(door.now)
    assert beginning is not None
    assert beginning.remote == address(7), "its place is not taken by those who have none"


def test_full_table_lets_nobody_in_and_the_line_is_served_in_turn() -> None:
    door = Door(GateLimits(1, 1000, 8000))
    assert isinstance(door.knock(door.proven()), Open)
    for host, port in ((1, 1), (1, 2), (2, 1)):
        assert door.knock(door.proven(address(host, port)), address(host, port)) == Wait(displaced=False)
    served = []
    last = HERE
    for _ in range(3):
        assert door.gate.next_in_line(door.now) is None
        door.end(last)
        beginning = door.gate.next_in_line(door.now)
        assert beginning is not None
        door.begin(beginning)
        last = beginning.remote
        served.append(last)
    assert served == [address(1, 1), address(2, 1), address(1, 2)]


def test_line_is_not_served_while_m2s_are_scarce(door: Door) -> None:
    data = door.proven()
    door.use_up_m2s()
    assert door.knock(data) == Wait(displaced=False)
    assert door.gate.next_in_line(door.now) is None
    door.sleep(1.5 / RESPONSE_RATE)
    assert door.gate.next_in_line(door.now) is not None


def test_pending_connections_keep_the_m2s_that_they_may_need(door: Door) -> None:
    door.use_up_m2s()
    door.sleep(4.5 / RESPONSE_RATE)
    assert all(isinstance(door.knock(door.proven(address(host)), address(host)), Open) for host in range(4))
    assert door.knock(door.proven(address(5)), address(5)) == Wait(displaced=False)
    assert sum(door.gate.allow_m2(door.now) for _ in range(RESPONSE_BURST)) == 4


def test_somebody_leaves_a_full_line(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(GateLimits(0, 1000, 8000))
    monkeypatch.setattr(door.gate, "_line", WaitingLine(size=2))
    answers = [door.knock(door.proven(address(host)), address(host)) for host in (1, 2, 3)]
    assert answers == [Wait(displaced=False), Wait(displaced=False), Wait(displaced=True)]
    assert door.gate.waiting == 2


def test_nobody_is_served_who_gave_up_or_was_sent_away() -> None:
    door = Door(GateLimits(1, 1000, 8000))
    door.knock(door.proven())
    door.knock(door.proven(address(1)), address(1))
    door.end()
    door.sleep(waiting_line.WAITING_LIFETIME + 0.1)
    assert door.gate.next_in_line(door.now) is None
    door.knock(door.proven())
    door.knock(door.proven(address(2)), address(2))
    assert door.gate.waiting == 1
    door.gate.send_away()
    door.end()
    assert door.gate.waiting == 0
    assert door.gate.next_in_line(door.now) is None


# ---- backoff ----


def test_source_that_failed_is_not_listened_to_for_a_time_that_doubles(door: Door) -> None:
    data = door.proven()
    for wait in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert door.gate.failed(source_of(HERE), door.now) == wait
        for attempt in (initial(), data, initial(token=b"no token of ours, which is not looked at")):
            assert door.knock(attempt) == Drop("backoff")
        assert door.knock(initial(size=1199)) == Drop("malformed")
        door.sleep(wait - 0.01)
        assert door.knock(initial()) == Drop("backoff")
        door.sleep(0.01)
    assert isinstance(door.knock(initial(), address(7)), Open)
    assert isinstance(door.knock(initial()), Open)


def test_first_failures_are_free_unless_they_are_not() -> None:
    door = Door(GateLimits(64, 1000, 8000, backoff_free_failures=2))
    assert [door.gate.failed(source_of(HERE), door.now) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_success_wipes_a_sources_slate_and_its_mere_end_does_not(door: Door) -> None:
    for authenticated in (False, True):
        door.gate.opened(source_of(HERE), validated=True)
        door.gate.failed(source_of(HERE), door.now)
        door.end(authenticated=authenticated)
        assert isinstance(door.knock(initial()), Open if authenticated else Drop)
    assert door.gate.failed(source_of(HERE), door.now) == 1.0


def test_source_that_fails_while_it_waits_keeps_its_place_until_its_time_is_over() -> None:
    door = Door(GateLimits(1, 500, 8000, backoff_free_failures=0))
    door.knock(door.proven())
    door.knock(door.proven(HERE._replace(port=4001)), HERE._replace(port=4001))
    door.gate.failed(source_of(HERE), door.now)
    door.end()
    assert door.gate.next_in_line(door.now) is None
    door.sleep(0.5)
    assert door.gate.next_in_line(door.now) is not None


def test_refused_identities_that_keep_their_waits_leave_the_source_alone(door: Door) -> None:
    for identity in range(8):
        assert door.gate.refused(source_of(HERE), bytes([identity]) * 32, door.now) == 0.0
    assert isinstance(door.knock(initial()), Open)


def test_refused_identity_that_does_not_wait_is_a_failure_of_its_source(door: Door) -> None:
    waits = [door.gate.refused(source_of(HERE), bytes(32), door.now) for _ in range(4)]
    assert waits == [0.0, 0.0, 1.0, 2.0]
    assert door.knock(initial()) == Drop("backoff")
    assert isinstance(door.knock(initial(), address(7)), Open)


# ---- M2s ----


def test_m2s_are_limited_in_rate(door: Door) -> None:
    assert sum(door.gate.allow_m2(door.now) for _ in range(RESPONSE_BURST * 2)) == RESPONSE_BURST
    door.sleep(10.1 / RESPONSE_RATE)
    assert sum(door.gate.allow_m2(door.now) for _ in range(RESPONSE_BURST)) == 10
