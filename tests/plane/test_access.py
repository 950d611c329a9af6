"""Rules in the data plane: which packets of a peer go on, and which flows this side has begun (see ``planes``)."""

import select
import struct
from collections.abc import Iterator

import pytest

from cryprq._fastpath import EVENT_DENIED, Denial, Rules
from tests.rigs.planes import Bench, ipv4, ipv6, wait

PEER, HERE = "10.0.0.2", "10.0.0.1"
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16
NOTHING = Rules([])
ALL_PORTS = 0xFFFF


def service(protocol: int, port: int = 0) -> int:
    return protocol << 16 | port


def allow(network: str, protocol: int, first: int = 0, last: int | None = None) -> tuple[str, int, int]:
    return network, service(protocol, first), service(protocol, first if last is None else last)


WEB = Rules([allow("10.0.0.0/24", TCP, 443), allow("fd00::/64", TCP, 443), allow("10.0.0.0/24", UDP, 53)])


def tcp(source: int, destination: int, flags: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HHIIBBHHH", source, destination, 1, 1, 0x50, flags, 500, 0, 0) + payload


def udp(source: int, destination: int, payload: bytes = b"data") -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


def echo(kind: int, identifier: int) -> bytes:
    return struct.pack(">BBHHH", kind, 0, 0, identifier, 1)


def error(kind: int, quoted: bytes) -> bytes:
    return struct.pack(">BBHI", kind, 1, 0, 0) + quoted


def six(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    packet = ipv6(source, destination, payload)
    return packet[:6] + bytes([protocol]) + packet[7:]


def fragment(packet: bytes, offset: int, more: bool, identification: int = 77) -> bytes:
    """An IPv4 packet as the fragment that begins ``offset`` bytes into another one's payload."""
    head = struct.pack(">HH", identification, offset // 8 | (0x2000 if more else 0))
    return packet[:4] + head + packet[8:]


class Guarded(Bench):
    """A plane whose peer is held to rules. What is asked is answered by the first packet that comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.denied = 0

    def hold(self, rules: Rules | None, newcomers: Rules | None = NOTHING) -> None:
        self.plane.set_access({self.peer: rules}, newcomers if rules is not None else None)

    def passes(self, packet: bytes) -> bool:
        self.send(self.sealer.seal(packet))
        if not wait(lambda: self.arrived() or self.plane.drops()["rx", "access"] > self.denied):
            raise AssertionError("neither delivered nor refused")
        if self.plane.drops()["rx", "access"] > self.denied:
            self.denied += 1
            return False
        assert self.to_tun()[1] == packet
        return True

    def arrived(self) -> bool:
        return bool(select.select([self.tun], [], [], 0)[0])

    def sends(self, packet: bytes) -> None:
        """This side does, and the peer has it."""
        self.from_tun(packet)
        assert self.opener.open(self.udp.recv(2000))[0] == packet


@pytest.fixture
def plane() -> Iterator[Guarded]:
    bench = Guarded()
    yield bench
    bench.close()


def to_web(flags: int = SYN, port: int = 443) -> bytes:
    return ipv4(PEER, HERE, tcp(40000, port, flags), TCP)


def from_here(flags: int, port: int = 40000) -> bytes:
    return ipv4(HERE, PEER, tcp(port, 22, flags), TCP)


def answer(flags: int, port: int = 40000) -> bytes:
    return ipv4(PEER, HERE, tcp(22, port, flags), TCP)


# ---- rules ----


def test_without_rules_everything_passes(plane: Guarded) -> None:
    for packet in (to_web(), to_web(port=25), ipv4(PEER, HERE, b"x", 99), ipv4(PEER, HERE, echo(8, 1), ICMP)):
        assert plane.passes(packet)


def test_what_a_rule_has_passes_and_nothing_else(plane: Guarded) -> None:
    plane.hold(WEB)
    for flags in (SYN, ACK, FIN | ACK, RST):
        assert plane.passes(to_web(flags))
    assert plane.passes(six("fd00::2", "fd00::1", TCP, tcp(1, 443, SYN)))
    assert plane.passes(ipv4(PEER, HERE, udp(9, 53), UDP))
    for packet in (
        to_web(port=442),
        to_web(ACK, port=444),
        ipv4(PEER, "10.0.1.1", tcp(40000, 443, SYN), TCP),
        ipv4(PEER, HERE, udp(9, 443), UDP),
        six("fd00::2", "fd00:0:0:1::1", TCP, tcp(1, 443, SYN)),
        six("fd00::2", "fd00::1", TCP, tcp(1, 53, SYN)),
        ipv4(PEER, HERE, echo(8, 1), ICMP),
        ipv4(PEER, HERE, b"anything", 99),
    ):
        assert not plane.passes(packet)


def test_spoofed_source_is_refused_before_any_rule(plane: Guarded) -> None:
    plane.hold(WEB)
    plane.send(plane.sealer.seal(ipv4("10.0.0.3", HERE, tcp(1, 443, SYN), TCP)))
    assert plane.dropped("rx", "source_not_allowed")
    assert plane.plane.drops()["rx", "access"] == 0


def test_every_rule_has_its_ports(plane: Guarded) -> None:
    plane.hold(
        Rules([allow("0.0.0.0/0", TCP, 10, 20), allow("10.0.0.1/32", TCP, 30), allow("10.0.0.0/8", TCP, 18, 25)])
    )
    passed = [port for port in (1, 9, 10, 19, 20, 21, 25, 26, 29, 30, 31) if plane.passes(to_web(port=port))]
    assert passed == [10, 19, 20, 21, 25, 30]


def test_icmp_and_other_protocols_have_rules_too(plane: Guarded) -> None:
    plane.hold(Rules([allow("10.0.0.0/8", ICMP, 0, ALL_PORTS), allow("10.0.0.0/8", 47, 0, ALL_PORTS)]))
    assert plane.passes(ipv4(PEER, HERE, echo(8, 1), ICMP))
    assert plane.passes(ipv4(PEER, HERE, b"gre", 47))
    assert not plane.passes(ipv4(PEER, HERE, b"esp", 50))


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(PEER, HERE, tcp(1, 443, SYN)[:19], TCP),
        ipv4(PEER, HERE, udp(1, 53)[:7], UDP),
        ipv4(PEER, HERE, b"", TCP),
        six("fd00::2", "fd00::1", 0, b"\x06\xff" + bytes(6)),
        six("fd00::2", "fd00::1", 0, b"\0\0" * 1 + bytes(6) + b"\x06"),
        six("fd00::2", "fd00::1", 43, b"\x06\0\0\x01" + bytes(4) + tcp(1, 443, SYN)),
        six("fd00::2", "fd00::1", 0, b"".join(b"\0\0" + bytes(6) for _ in range(9)) + tcp(1, 443, SYN)),
        b"\x46" + ipv4(PEER, HERE, b"\x83\x04\x04\0" + tcp(1, 443, SYN), TCP)[1:],
    ],
    ids=["tcp", "udp", "empty", "extension", "cut", "routed", "deep", "source-routed"],
)
def test_headers_that_hide_something_need_a_rule_for_everything(plane: Guarded, packet: bytes) -> None:
    plane.hold(WEB)
    assert not plane.passes(packet)
    plane.hold(Rules([("0.0.0.0/0", 0, service(256, ALL_PORTS)), ("::/0", 0, service(256, ALL_PORTS))]))
    assert plane.passes(packet)


def test_extension_headers_are_followed(plane: Guarded) -> None:
    plane.hold(WEB)
    for extension in (0, 60):
        for port, passes in ((443, True), (442, False)):
            payload = bytes([60, 0]) + bytes(6) + bytes([TCP, 1]) + bytes(14) + tcp(1, port, SYN)
            assert plane.passes(six("fd00::2", "fd00::1", extension, payload)) is passes


# ---- flows that this side has begun ----


def test_answers_of_tcp_pass(plane: Guarded) -> None:
    plane.hold(NOTHING)
    assert not plane.passes(answer(SYN | ACK))
    plane.sends(from_here(SYN))
    for flags in (SYN | ACK, ACK, FIN | ACK, RST):
        assert plane.passes(answer(flags))
    assert not plane.passes(answer(ACK, port=40001))
    assert not plane.passes(ipv4("10.0.0.2", "10.0.0.3", tcp(22, 40000, ACK), TCP))


def test_the_peer_begins_nothing_by_the_ports_of_a_flow(plane: Guarded) -> None:
    plane.hold(NOTHING)
    plane.sends(from_here(SYN))
    assert plane.passes(answer(SYN | ACK))
    assert not plane.passes(answer(SYN))


def test_what_is_sent_in_a_connection_of_the_peer_makes_it_none_of_ours(plane: Guarded) -> None:
    plane.hold(WEB)
    assert plane.passes(to_web(SYN))
    for flags in (SYN | ACK, ACK):
        plane.sends(ipv4(HERE, PEER, tcp(443, 40000, flags), TCP))
    plane.hold(NOTHING)
    assert not plane.passes(to_web(ACK))
    plane.sends(ipv4(HERE, PEER, tcp(443, 40000, ACK), TCP))
    assert not plane.passes(to_web(ACK))


def test_connection_that_was_begun_before_there_were_rules_goes_on(plane: Guarded) -> None:
    plane.sends(from_here(SYN))
    assert plane.passes(answer(SYN | ACK))
    assert plane.passes(to_web(SYN))
    plane.sends(ipv4(HERE, PEER, tcp(443, 40000, SYN | ACK), TCP))
    plane.hold(NOTHING)
    assert plane.passes(answer(ACK))
    plane.sends(ipv4(HERE, PEER, tcp(443, 40000, ACK), TCP))
    assert not plane.passes(to_web(ACK))


def test_restarted_plane_takes_over_what_a_client_here_has(plane: Guarded) -> None:
    plane.hold(NOTHING)
    plane.sends(from_here(ACK))
    assert plane.passes(answer(ACK))
    plane.sends(ipv4(HERE, PEER, tcp(443, 40001, ACK), TCP))  # a server's
    assert not plane.passes(ipv4(PEER, HERE, tcp(40001, 443, ACK), TCP))


def test_answers_of_udp_pass_and_only_they(plane: Guarded) -> None:
    plane.hold(NOTHING)
    assert not plane.passes(ipv4(PEER, HERE, udp(53, 5000), UDP))
    plane.sends(ipv4(HERE, PEER, udp(5000, 53), UDP))
    assert plane.passes(ipv4(PEER, HERE, udp(53, 5000), UDP))
    assert not plane.passes(ipv4(PEER, HERE, udp(53, 5001), UDP))
    assert not plane.passes(ipv4(PEER, HERE, udp(54, 5000), UDP))
    plane.sends(six("fd00::1", "fd00::2", UDP, udp(5000, 53)))
    assert plane.passes(six("fd00::2", "fd00::1", UDP, udp(53, 5000)))


def test_udp_that_a_rule_let_in_is_no_flow_of_ours(plane: Guarded) -> None:
    plane.hold(WEB)
    assert plane.passes(ipv4(PEER, HERE, udp(5000, 53), UDP))
    plane.sends(ipv4(HERE, PEER, udp(53, 5000), UDP))
    plane.hold(NOTHING)
    plane.sends(ipv4(HERE, PEER, udp(53, 5000), UDP))
    assert not plane.passes(ipv4(PEER, HERE, udp(5000, 53), UDP))


def test_ping_from_here_is_answered(plane: Guarded) -> None:
    plane.hold(NOTHING)
    assert not plane.passes(ipv4(PEER, HERE, echo(0, 7), ICMP))
    plane.sends(ipv4(HERE, PEER, echo(8, 7), ICMP))
    assert plane.passes(ipv4(PEER, HERE, echo(0, 7), ICMP))
    assert not plane.passes(ipv4(PEER, HERE, echo(0, 8), ICMP))
    assert not plane.passes(ipv4(PEER, HERE, echo(8, 7), ICMP))
    plane.sends(six("fd00::1", "fd00::2", ICMP6, echo(128, 7)))
    assert plane.passes(six("fd00::2", "fd00::1", ICMP6, echo(129, 7)))
    assert not plane.passes(six("fd00::2", "fd00::1", ICMP6, echo(128, 7)))


def test_other_protocols_are_answered(plane: Guarded) -> None:
    plane.hold(NOTHING)
    plane.sends(ipv4(HERE, PEER, b"gre", 47))
    assert plane.passes(ipv4(PEER, HERE, b"gre", 47))
    assert not plane.passes(ipv4(PEER, HERE, b"esp", 50))


# ---- ICMP errors ----


def test_error_about_a_flow_passes(plane: Guarded) -> None:
    plane.hold(WEB)
    sent = from_here(SYN)
    about = ipv4(PEER, HERE, error(3, sent[:28]), ICMP)
    assert not plane.passes(about)
    plane.sends(sent)
    assert plane.passes(about)
    assert not plane.passes(ipv4(PEER, "10.0.0.9", error(3, sent[:28]), ICMP))  # not who has sent it
    assert not plane.passes(ipv4(PEER, HERE, error(5, sent[:28]), ICMP))  # a redirect
    for cut in (0, 19, 20, 27):
        assert not plane.passes(ipv4(PEER, HERE, error(3, sent[:cut]), ICMP))


def test_error_about_an_answer_of_ours_passes(plane: Guarded) -> None:
    """As it must, or the path's MTU is not found."""
    plane.hold(WEB)
    ours = ipv4(HERE, PEER, tcp(443, 40000, ACK), TCP)
    assert plane.passes(ipv4(PEER, HERE, error(3, ours[:28]), ICMP))
    other = ipv4(HERE, PEER, tcp(442, 40000, ACK), TCP)
    assert not plane.passes(ipv4(PEER, HERE, error(3, other[:28]), ICMP))
    ours6 = six("fd00::1", "fd00::2", TCP, tcp(443, 40000, ACK))
    assert plane.passes(six("fd00::2", "fd00::1", ICMP6, error(2, ours6)))


def test_error_about_somebody_elses_flow_is_refused(plane: Guarded) -> None:
    plane.hold(NOTHING)
    other = plane.plane.add_peer()
    plane.plane.change_routes([("10.0.0.3/32", other)])
    elsewhere = ipv4(HERE, "10.0.0.3", tcp(40000, 22, SYN), TCP)
    assert not plane.passes(ipv4(PEER, HERE, error(3, elsewhere[:28]), ICMP))


# ---- fragments ----


def test_fragments_go_as_the_first_did(plane: Guarded) -> None:
    plane.hold(WEB)
    whole = ipv4(PEER, HERE, udp(9, 53, bytes(16)), UDP)
    later = ipv4(PEER, HERE, bytes(8), UDP)
    assert not plane.passes(fragment(later, 24, more=False))
    assert plane.passes(fragment(whole, 0, more=True))
    assert plane.passes(fragment(later, 24, more=True))
    assert plane.passes(fragment(later, 32, more=False))
    assert not plane.passes(fragment(later, 24, more=False, identification=78))
    assert not plane.passes(fragment(ipv4(PEER, HERE, udp(9, 54, bytes(16)), UDP), 0, more=True, identification=79))
    assert not plane.passes(fragment(later, 24, more=False, identification=79))


def test_fragment_over_the_header_by_which_the_first_was_judged_is_refused(plane: Guarded) -> None:
    plane.hold(WEB)
    assert plane.passes(fragment(ipv4(PEER, HERE, tcp(1, 443, SYN, bytes(4)), TCP), 0, more=True))
    later = ipv4(PEER, HERE, bytes(8), TCP)
    for offset, passes in ((8, False), (16, False), (24, True)):
        assert plane.passes(fragment(later, offset, more=False)) is passes
    assert not plane.passes(fragment(ipv4(PEER, HERE, tcp(1, 443, SYN)[:16], TCP), 0, more=True, identification=80))


def test_fragments_of_ipv6(plane: Guarded) -> None:
    plane.hold(WEB)

    def part(offset: int, more: bool, payload: bytes, number: int = 5) -> bytes:
        head = struct.pack(">BBHI", TCP, 0, offset | more, number)
        return six("fd00::2", "fd00::1", 44, head + payload)

    assert not plane.passes(part(24, False, b"late"))
    assert plane.passes(part(0, True, tcp(1, 443, SYN, bytes(4))))
    assert plane.passes(part(24, False, b"late"))
    assert not plane.passes(part(16, False, b"over"))
    assert not plane.passes(part(0, True, tcp(1, 442, SYN, bytes(4)), 6))
    assert plane.passes(part(0, False, tcp(1, 443, SYN), 7))  # an atomic one


# ---- changes ----


def test_change_counts_from_the_next_packet_on(plane: Guarded) -> None:
    plane.hold(WEB)
    assert plane.passes(to_web(ACK))
    plane.hold(NOTHING)
    assert not plane.passes(to_web(ACK))
    plane.hold(WEB)
    assert plane.passes(to_web(ACK))
    plane.hold(None)
    assert plane.passes(to_web(ACK, port=25))


def test_new_peer_has_what_new_peers_have(plane: Guarded) -> None:
    plane.plane.set_access({}, NOTHING)
    assert plane.passes(to_web())  # of this one nothing was said
    newcomer = plane.plane.add_peer()
    plane.plane.change_routes([("10.0.0.2/32", newcomer)])
    plane.peer = newcomer
    plane.sealer, plane.opener = plane.install(9, 10, 3)
    assert not plane.passes(to_web())
    plane.hold(WEB)
    assert plane.passes(to_web())


def test_many_changes_leave_nothing_behind(plane: Guarded) -> None:
    others = [plane.plane.add_peer() for _ in range(20)]
    for round_ in range(200):
        some = Rules([allow("10.0.0.0/8", TCP, 1 + round_, 2 + round_)])
        plane.plane.set_access(dict.fromkeys(others[round_ % 7 :: 3], some) | {plane.peer: WEB}, some)
        assert round_ % 20 or plane.passes(to_web(ACK))
    for peer in others:
        plane.plane.remove_peer(peer)
    plane.plane.set_access({}, None)
    assert plane.passes(to_web(port=25))


def test_unknown_peer_and_bad_rules_change_nothing(plane: Guarded) -> None:
    with pytest.raises(KeyError):
        plane.plane.set_access({plane.peer: NOTHING, 99: NOTHING}, NOTHING)
    for rule in (("10.0.0.0/8", 5, 4), ("10.0.0.0/8", 0, 1 << 25), ("10.0.0.0/33", 0, 1)):
        with pytest.raises(ValueError):
            Rules([rule])
    with pytest.raises(TypeError):
        plane.plane.set_access({}, "none")  # type: ignore[arg-type]
    assert plane.passes(to_web())


# ---- what is told ----


def test_denial_is_told_at_most_once_a_second(plane: Guarded) -> None:
    plane.hold(NOTHING)
    assert plane.plane.take_denial(plane.peer) is None
    assert not plane.passes(to_web(port=25))
    assert not plane.passes(to_web(port=26))
    assert wait(lambda: any(event.flags & EVENT_DENIED for event in plane.plane.events()))
    assert plane.plane.take_denial(plane.peer) == Denial(TCP, HERE, 25)
    assert plane.plane.take_denial(plane.peer) is None
    assert plane.plane.peer_stats(plane.peer).denied_packets == 2
    with pytest.raises(KeyError):
        plane.plane.take_denial(99)
