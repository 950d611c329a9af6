"""The gate: every answer to a first datagram, and who is next in line. No socket, no loop, no clock of its own."""

from typing import Final

import pytest
from aioquic.quic.packet import QuicPacketType

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic, Realtime
from cryprq.protocol.constants import KNOCK_STEP
from cryprq.quic import waiting_line
from cryprq.quic.adapter import CONNECTION_ID_SIZE, Quic, client_configuration, parse_header
from cryprq.quic.admission import (
    PENDING_PER_SITE,
    PENDING_PER_SOURCE,
    SHARE_DIVISOR,
    UNVALIDATED_PER_SOURCE,
    Rank,
    source_of,
)
from cryprq.quic.gate import (
    RESPONSE_BURST,
    RESPONSE_RATE,
    SITE_FREE_FAILURES,
    STRANGER_ANSWER_RATE,
    STRANGER_RATE,
    STRANGERS_WAITING_MAX,
    Credentials,
    Decision,
    Drop,
    Gate,
    GateLimits,
    Negotiate,
    Open,
    Retry,
    Wait,
)
from cryprq.quic.knocks import make_knock
from cryprq.quic.peer_tokens import PEER_TOKEN
from cryprq.quic.refusals import IDENTITIES_PER_SOURCE
from cryprq.quic.retry_tokens import RETRY_TOKEN_LIFETIME
from cryprq.quic.waiting_line import Beginning, WaitingLine

HERE, LOCAL = Address("192.0.2.1", 4000), Local("192.0.2.9")
LIMITS: Final = GateLimits(max_inbound=64, backoff_base_ms=1000, backoff_max_ms=8000, backoff_free_failures=0)
CREDENTIALS: Final = Credentials(peer_id=b"p" * 32, token_key=b"k" * 32)
UNIX: Final = Realtime(1.8e9)
LIMITS_FREE: Final = GateLimits(max_inbound=64, backoff_base_ms=1000, backoff_max_ms=8000)
PEER: Final = b"peer" * 8


def address(host: int, port: int = 4000) -> Address:
    return Address(f"198.51.100.{host}", port)


def initial(
    destination: bytes | None = None, token: bytes = b"", *, first: int = 0xC0, version: int = 1, size: int = 1200
) -> bytes:
    """A first datagram, as far as the gate looks: nothing in it is protected. Without a ``destination`` of its own it
    knocks."""
    destination = make_knock(CREDENTIALS.peer_id, UNIX) if destination is None else destination
    head = bytes([first]) + version.to_bytes(4, "big") + bytes([len(destination)]) + destination + b"\x05peer!"
    head += (0x4000 | len(token)).to_bytes(2, "big") + token
    return head + (0x4000 | size - len(head) - 2).to_bytes(2, "big") + bytes(size - len(head) - 2)


class Door:
    """A gate with a clock that the test moves, and what the endpoint does with its answers."""

    def __init__(self, limits: GateLimits = LIMITS) -> None:
        self.gate = Gate(limits, CREDENTIALS)
        self.now = Monotonic(1000.0)
        self.unix = UNIX

    def knock(self, data: bytes, remote: Address = HERE, *, behind: bool = False) -> Decision:
        decision = self.gate.decide(data, remote, LOCAL, self.now, self.unix, behind=behind)
        if isinstance(decision, Open):
            self.begin(decision.beginning)
        return decision

    def begin(self, beginning: Beginning) -> None:
        self.gate.opened(beginning, self.unix)

    def proven(self, remote: Address = HERE, data: bytes | None = None) -> bytes:
        """A first datagram from somebody who has answered a Retry packet, which he got for ``data``."""
        decision = self.gate.decide(data or initial(), remote, LOCAL, self.now, self.unix, behind=True)
        assert isinstance(decision, Retry)
        header = parse_header(decision.packet)
        return initial(header.source_cid, header.token)

    def end(
        self,
        remote: Address = HERE,
        rank: Rank = Rank.KNOCKED,
        *,
        validated: bool = True,
        authenticated: bool = False,
    ) -> None:
        self.gate.settled(source_of(remote), rank, validated=validated, authenticated=authenticated)

    def use_up_m2s(self) -> None:
        while self.gate.allow_m2(Rank.KNOCKED, self.now):
            pass

    def sleep(self, seconds: float) -> None:
        self.now = Monotonic(self.now + seconds)
        self.unix = Realtime(self.unix + seconds)


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
    data = initial()
    decision = door.gate.decide(data, HERE, LOCAL, door.now, door.unix)
    assert isinstance(decision, Open)
    beginning = decision.beginning
    assert (beginning.data, beginning.remote, beginning.local, beginning.at) == (data, HERE, LOCAL, door.now)
    assert beginning.original == beginning.header.destination_cid == data[6:26]
    assert (beginning.rank, beginning.validated) == (Rank.KNOCKED, False)
    assert door.gate.pending == 0, "it is the endpoint's to begin it"


def test_more_of_a_source_are_asked_for_proof_and_other_sources_are_not(door: Door) -> None:
    for _ in range(UNVALIDATED_PER_SOURCE):
        assert isinstance(door.knock(initial()), Open)
    assert isinstance(door.knock(initial()), Retry)
    assert isinstance(door.knock(initial(), address(7)), Open)
    door.gate.became_validated(source_of(HERE), Rank.KNOCKED)
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
    quic = Quic(client_configuration(), first_destination=make_knock(CREDENTIALS.peer_id, UNIX))
    quic.connect(HERE, now=0.0)
    first = quic.datagrams_to_send(now=0.0)[0][0]
    retry = door.knock(first, behind=True)
    assert isinstance(retry, Retry)
    quic.receive_datagram(retry.packet, HERE, now=0.0)
    second = quic.datagrams_to_send(now=0.0)[0][0]
    decision = door.knock(second, behind=True)
    assert isinstance(decision, Open)
    assert decision.beginning.validated
    assert decision.beginning.original == first[6:26]
    assert second[5] == CONNECTION_ID_SIZE


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
    assert sum(door.gate.allow_m2(Rank.KNOCKED, door.now) for _ in range(RESPONSE_BURST)) == 4


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


# ---- strangers, and those who are none ----


@pytest.mark.parametrize(
    "destination",
    [
        pytest.param(b"original", id="none"),
        pytest.param(bytes(20), id="no-tag"),
        pytest.param(make_knock(b"q" * 32, UNIX), id="another-listeners"),
        pytest.param(make_knock(CREDENTIALS.peer_id, Realtime(UNIX - 2 * KNOCK_STEP)), id="too-old"),
        pytest.param(make_knock(CREDENTIALS.peer_id, Realtime(UNIX + 2 * KNOCK_STEP)), id="too-new"),
    ],
)
def test_stranger_has_to_prove_an_address_and_gets_a_place_of_the_strangers(door: Door, destination: bytes) -> None:
    proven = door.proven(data=initial(destination))
    decision = door.knock(proven)
    assert isinstance(decision, Open)
    assert (decision.beginning.rank, decision.beginning.validated) == (Rank.STRANGER, True)


@pytest.mark.parametrize("steps", [-1, 0, 1])
def test_knock_is_good_for_a_clock_that_is_a_step_away(door: Door, steps: int) -> None:
    decision = door.knock(initial(make_knock(CREDENTIALS.peer_id, Realtime(UNIX + steps * KNOCK_STEP))))
    assert isinstance(decision, Open)
    assert decision.beginning.rank is Rank.KNOCKED


def test_strangers_crowd_out_nobody_but_each_other(door: Door) -> None:
    places = LIMITS.max_inbound // SHARE_DIVISOR
    for host in range(100):
        decision = door.knock(door.proven(address(host), initial(bytes(8))), address(host))
        assert isinstance(decision, Open if host < places else Wait)
    assert door.gate.waiting == STRANGERS_WAITING_MAX
    assert door.gate.next_in_line(door.now) is None
    assert isinstance(door.knock(initial()), Open), "at once, and without a Retry"
    assert isinstance(door.knock(door.proven(address(200)), address(200)), Open), "past those in line"


def test_strangers_are_answered_and_begin_so_often_and_no_more(door: Door) -> None:
    strange, who = initial(bytes(8)), address(1)
    answers = [type(door.knock(strange, who)) for _ in range(2 * int(STRANGER_ANSWER_RATE))]
    assert answers == [Retry] * int(STRANGER_ANSWER_RATE) + [Drop] * int(STRANGER_ANSWER_RATE)
    assert isinstance(door.knock(initial()), Open)
    door.sleep(1.0)
    begun = 0
    for _ in range(2 * int(STRANGER_RATE)):
        if isinstance(door.knock(door.proven(data=strange)), Open):
            begun += 1
            door.end(rank=Rank.STRANGER)
    assert begun == STRANGER_RATE
    door.gate.send_away()
    door.sleep(1.05 / STRANGER_RATE)
    assert isinstance(door.knock(door.proven(data=strange)), Open)


def test_knock_opens_one_connection_and_is_as_good_as_none_after_that(door: Door) -> None:
    recorded = initial()
    before = door.proven(address(2), recorded)
    assert isinstance(door.knock(recorded), Open)
    door.end(validated=False)
    assert isinstance(door.knock(recorded), Retry)
    for replay, who in ((before, address(2)), (door.proven(address(3), recorded), address(3))):
        decision = door.knock(replay, who)
        assert isinstance(decision, Open)
        assert decision.beginning.rank is Rank.STRANGER


def test_recorded_knock_gets_only_one_of_those_in_line_in() -> None:
    door = Door(GateLimits(1, 1000, 8000))
    assert isinstance(door.knock(initial()), Open)
    recorded = initial()
    for host in (1, 2):
        assert isinstance(door.knock(door.proven(address(host), recorded), address(host)), Wait)
    door.end(validated=False)
    beginning = door.gate.next_in_line(door.now)
    assert beginning is not None
    door.begin(beginning)
    door.end(beginning.remote)
    assert door.gate.next_in_line(door.now) is None


def test_token_of_a_peer_passes_retry_line_backoff_and_what_is_scarce(door: Door) -> None:
    token = door.gate.token_for(PEER, door.unix)
    for _ in range(LIMITS.max_inbound):
        decision = door.knock(door.proven(address(door.gate.pending)), address(door.gate.pending))
    assert isinstance(decision, Wait)
    door.gate.failed(source_of(HERE), door.now)
    door.use_up_m2s()
    decision = door.knock(initial(bytes(8), token))
    assert isinstance(decision, Open)
    assert (decision.beginning.rank, decision.beginning.validated) == (Rank.KNOWN, False)
    assert door.gate.allow_m2(Rank.KNOWN, door.now)


def test_token_that_is_not_good_is_as_none(door: Door) -> None:
    token = door.gate.token_for(PEER, door.unix)
    newer = door.gate.token_for(PEER, door.unix)
    for bad in (token, newer[:-1], newer[:-1] + bytes([newer[-1] ^ 1]), bytes([PEER_TOKEN])):
        assert isinstance(door.knock(initial(bytes(8), bad), address(1)), Retry)
        decision = door.knock(initial(token=bad), address(2))
        assert isinstance(decision, Open)
        assert decision.beginning.rank is Rank.KNOCKED
        door.end(address(2), validated=False)


def test_peer_that_is_refused_is_known_no_more(door: Door) -> None:
    token = door.gate.token_for(PEER, door.unix)
    door.gate.refused(HERE, PEER, door.now, door.unix)
    assert isinstance(door.knock(initial(bytes(8), token)), Retry)


def test_who_is_in_the_way_of_somebody_who_waits() -> None:
    door = Door(GateLimits(8, 1000, 8000))
    for host in range(7):
        assert isinstance(door.knock(door.proven(address(host)), address(host)), Open)
    mine, another = source_of(address(0)), source_of(address(50))
    assert not door.gate.is_in_the_way(mine, Rank.KNOCKED, door.now), "nobody waits"
    assert isinstance(door.knock(door.proven(address(9)), address(9)), Wait)
    assert door.gate.is_in_the_way(mine, Rank.KNOCKED, door.now)
    assert door.gate.is_in_the_way(another, Rank.STRANGER, door.now)
    assert not door.gate.is_in_the_way(another, Rank.KNOWN, door.now)


def test_who_is_in_the_way_of_somebody_of_the_same_source() -> None:
    door = Door()
    for _ in range(PENDING_PER_SOURCE):
        door.knock(door.proven())
    door.knock(door.proven(address(1)), address(1))
    assert isinstance(door.knock(door.proven()), Wait)
    assert door.gate.is_in_the_way(source_of(HERE), Rank.KNOCKED, door.now)
    assert not door.gate.is_in_the_way(source_of(address(1)), Rank.KNOCKED, door.now)


def test_source_that_has_not_failed_goes_first_in_line() -> None:
    door = Door(GateLimits(1, 1000, 8000, backoff_free_failures=9))
    assert isinstance(door.knock(initial()), Open)
    for host in (1, 2, 3):
        door.knock(door.proven(address(host)), address(host))
    for host in (1, 2):
        door.gate.failed(source_of(address(host)), door.now)
    door.end(validated=False)
    served = []
    while (beginning := door.gate.next_in_line(door.now)) is not None:
        served.append(beginning.remote)
    assert served == [address(3), address(1), address(2)]


def test_site_of_ipv6_is_counted_beside_its_sources() -> None:
    door = Door(LIMITS_FREE)
    hosts = [Address(f"2001:db8:7:{n:x}::1", 4000) for n in range(100)]
    for host in hosts[:PENDING_PER_SITE]:
        assert isinstance(door.knock(door.proven(host), host), Open)
    assert isinstance(door.knock(door.proven(hosts[-1]), hosts[-1]), Wait)
    other = Address("2001:db8:8::1", 4000)
    assert not isinstance(door.knock(initial(), other), Drop)
    waits = [door.gate.failed(source_of(host), door.now) for host in hosts[: SITE_FREE_FAILURES + 1]]
    assert waits == [0.0] * SITE_FREE_FAILURES + [1.0]
    assert door.knock(initial(), hosts[-1]) == Drop("backoff")
    assert door.knock(initial(), other) != Drop("backoff")
    door.end(hosts[0], authenticated=True)
    assert door.knock(initial(), hosts[-1]) != Drop("backoff")


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
        door.gate._admission.opened(source_of(HERE), Rank.KNOCKED, validated=True)
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
        assert door.gate.refused(HERE, bytes([identity]) * 32, door.now, door.unix) == 0.0
    assert isinstance(door.knock(initial()), Open)


def test_refused_identity_that_does_not_wait_is_not_listened_to_where_it_is(door: Door) -> None:
    waits = [door.gate.refused(HERE, bytes(32), door.now, door.unix) for _ in range(4)]
    assert waits == [0.0, 0.0, 1.0, 2.0]
    assert door.knock(initial()) == Drop("backoff")
    assert isinstance(door.knock(initial(), HERE._replace(port=4001)), Open), "another host behind the same NAT"
    door.sleep(2.0)
    assert isinstance(door.knock(initial()), Open)


def test_refused_identity_that_comes_from_ever_more_ports_is_a_failure_of_its_source(door: Door) -> None:
    waits = [
        door.gate.refused(HERE._replace(port=5000 + number), bytes(32), door.now, door.unix)
        for number in range(IDENTITIES_PER_SOURCE + 4)
    ]
    assert waits == [0.0, 0.0, *[1.0] * IDENTITIES_PER_SOURCE, 1.0, 2.0]
    assert door.knock(initial()) == Drop("backoff")


# ---- M2s ----


def test_m2s_are_limited_in_rate(door: Door) -> None:
    assert sum(door.gate.allow_m2(Rank.KNOCKED, door.now) for _ in range(RESPONSE_BURST * 2)) == RESPONSE_BURST
    door.sleep(10.1 / RESPONSE_RATE)
    assert sum(door.gate.allow_m2(Rank.KNOCKED, door.now) for _ in range(RESPONSE_BURST)) == 10
