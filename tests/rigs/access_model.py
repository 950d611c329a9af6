"""The rules of access once more, slowly: which packets of a peer go on, by reading them as RFC 791, 8200, 792 and 4443
say, and by looking through lists. What takes time (flows end) is left out."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

UNREADABLE = 256
TCP, UDP, FRAGMENT = 6, 17, 44
ICMP = {4: 1, 6: 58}
EXTENSIONS = (0, 43, 60)
ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
ASKS, ANSWERS = {4: 8, 6: 128}, {4: 0, 6: 129}
SYN, ACK = 2, 16
CLIENT_PORTS = 32768

Address = IPv4Address | IPv6Address
Rule = tuple[IPv4Network | IPv6Network, int, int]
"""Network, first and last service: protocol << 16 | port."""


class Packet(NamedTuple):
    """What there is to know of one."""

    version: int
    source: Address
    destination: Address
    protocol: int
    ports: tuple[int, int] = (0, 0)
    flags: int = 0
    kind: int = -1
    """Of ICMP."""
    part: str = "whole"
    number: int = 0
    quoted: bytes | None = None

    @property
    def icmp(self) -> bool:
        return self.protocol == ICMP[self.version]

    @property
    def service(self) -> int:
        return self.protocol << 16 | (self.ports[1] if self.protocol in (TCP, UDP) else 0)


def source_routed(options: bytes) -> bool:
    while options and options[0] != 0:
        if options[0] == 1:
            options = options[1:]
            continue
        if options[0] in (131, 137) or len(options) < 2 or options[1] < 2:
            return True
        options = options[options[1] :]
    return False


def transport(packet: Packet, body: bytes, quoted: bool) -> Packet:
    """The packet with what its transport header says."""
    if not packet.icmp and packet.protocol not in (TCP, UDP):
        return packet
    if len(body) < (20 if packet.protocol == TCP and not quoted else 8):
        return packet._replace(protocol=UNREADABLE)
    if not packet.icmp:
        flags = body[13] if packet.protocol == TCP and not quoted else 0
        return packet._replace(ports=(int.from_bytes(body[:2]), int.from_bytes(body[2:4])), flags=flags)
    kind = body[0]
    echo = int.from_bytes(body[4:6]) if kind in (ASKS[packet.version], ANSWERS[packet.version]) else 0
    about = body[8:] if kind in ERRORS[packet.version] and not quoted else None
    return packet._replace(kind=kind, ports=(echo, echo), quoted=about)


def later(packet: Packet, offset: int) -> Packet:
    if packet.protocol == TCP and offset < 20:
        return packet._replace(protocol=UNREADABLE)
    return packet._replace(part="later")


def read4(data: bytes, quoted: bool) -> Packet:
    header = (data[0] & 15) * 4
    packet = Packet(4, ip_address(data[12:16]), ip_address(data[16:20]), data[9], number=int.from_bytes(data[4:6]))
    where = int.from_bytes(data[6:8])
    if source_routed(data[20:header]):
        return packet._replace(protocol=UNREADABLE)
    if where & 0x1FFF:
        return later(packet, (where & 0x1FFF) * 8)
    packet = packet._replace(part="first" if where & 0x2000 else "whole")
    return transport(packet, data[header:], quoted)


def read6(data: bytes, quoted: bool) -> Packet:
    packet = Packet(6, ip_address(data[8:24]), ip_address(data[24:40]), UNREADABLE)
    following, body, fragmented = data[6], data[40:], False
    for _ in range(9):
        if following not in (*EXTENSIONS, FRAGMENT):
            return transport(packet._replace(protocol=following), body, quoted)
        if len(body) < 8 or fragmented or (following == 43 and body[3]):
            return packet
        size = (body[1] + 1) * 8
        if following == FRAGMENT:
            where, fragmented, size = int.from_bytes(body[2:4]), True, 8
            packet = packet._replace(number=int.from_bytes(body[4:8]))
            if where & 0xFFF8:
                return later(packet._replace(protocol=body[0]), where & 0xFFF8)
            packet = packet._replace(part="first" if where & 1 else "whole")
        if len(body) < size:
            return packet
        following, body = body[0], body[size:]
    return packet


def read(data: bytes, quoted: bool = False) -> Packet:
    return read4(data, quoted) if data[0] >> 4 == 4 else read6(data, quoted)


def read_quoted(data: bytes) -> Packet | None:
    """The beginning of a packet, as far as there is one."""
    if len(data) >= 20 and data[0] >> 4 == 4 and (data[0] & 15) >= 5 and len(data) >= (data[0] & 15) * 4:
        return read(data, quoted=True)
    if len(data) >= 40 and data[0] >> 4 == 6:
        return read(data, quoted=True)
    return None


Flow = tuple[object, ...]


def flow(packet: Packet, *, out: bool) -> Flow:
    """The same for both directions: this side first."""
    ends = ((packet.source, packet.ports[0]), (packet.destination, packet.ports[1]))
    return (packet.version, packet.protocol, *(ends if out else ends[::-1]))


@dataclass
class Guard:
    """One peer, which owns ``networks``. ``rules`` None: there are none."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    rules: list[Rule] | None = None
    ours: set[Flow] = field(default_factory=set)
    """Flows that this side has begun."""
    heard: set[Flow] = field(default_factory=set)
    """And those of which a rule has let something in before."""
    firsts: set[Flow] = field(default_factory=set)
    """Packets whose first fragment was let in."""

    def allows(self, to: Address, service: int) -> bool:
        return any(
            network.version == to.version and to in network and first <= service <= last
            for network, first, last in self.rules or ()
        )

    def sends(self, data: bytes) -> None:
        packet = read(data)
        if packet.protocol == UNREADABLE or packet.part == "later":
            return
        if packet.icmp and packet.kind != ASKS[packet.version]:
            return
        begins = packet.flags & (SYN | ACK) == SYN
        if packet.protocol == TCP:
            taken_over = packet.ports[0] >= CLIENT_PORTS > packet.ports[1] and packet.flags & 7 == 0
            if begins or (taken_over and self.rules is not None):
                self.ours.add(flow(packet, out=True))
        elif self.rules is not None and flow(packet, out=True) not in self.heard:
            self.ours.add(flow(packet, out=True))

    def admits(self, data: bytes) -> bool:
        if self.rules is None:
            return True
        packet = read(data)
        fragments: Flow = (packet.version, packet.protocol, packet.source, packet.destination, packet.number)
        if packet.part == "later":
            return fragments in self.firsts or self.allows(packet.destination, UNREADABLE << 16)
        admitted = self._whole(packet)
        if admitted and packet.part == "first":
            self.firsts.add(fragments)
        return admitted

    def _whole(self, packet: Packet) -> bool:
        own = flow(packet, out=False)
        if self.allows(packet.destination, packet.service):
            if packet.protocol not in (TCP, UNREADABLE) and not packet.icmp and own not in self.ours:
                self.heard.add(own)
            return True
        begins = packet.protocol == TCP and packet.flags & (SYN | ACK) == SYN
        question = packet.icmp and packet.kind != ANSWERS[packet.version]
        if packet.protocol != UNREADABLE and not begins and not question and own in self.ours:
            return True
        return packet.quoted is not None and self._about(packet, packet.quoted)

    def _about(self, error: Packet, data: bytes) -> bool:
        quoted = read_quoted(data)
        if quoted is None or quoted.version != error.version or quoted.part == "later":
            return False
        if quoted.source != error.destination:
            return False
        if not any(network.version == quoted.version and quoted.destination in network for network in self.networks):
            return False
        if flow(quoted, out=True) in self.ours:
            return True
        answered = quoted._replace(destination=quoted.source, ports=(0, quoted.ports[0]))
        return not quoted.icmp and self.allows(answered.destination, answered.service)
