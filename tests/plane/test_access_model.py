"""The guard of ``csrc/`` against ``tests/rigs/access_model.py``: random rules, random packets in both directions."""

import random
import struct
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from tests.rigs.access_model import UNREADABLE, Guard, Rule
from tests.rigs.c_programs import build, run_lines

Network = IPv4Network | IPv6Network
HERE = {4: ("10.0.0.1", "10.0.0.2", "10.1.0.1"), 6: ("fd00::1", "fd00::2", "fd01::1")}
THERE = {4: ("10.9.0.2", "10.9.0.3"), 6: ("fd09::2", "fd09::3")}
OWNED = (ip_network("10.9.0.2/32"), ip_network("fd09::/64"))
NETWORKS = tuple(
    map(ip_network, ("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/31", "10.1.0.1/32", "::/0", "fd00::/64", "fd00::2/128"))
)
PORTS = (53, 443, 40000)
PROTOCOLS = {4: (1, 6, 17, 47), 6: (58, 6, 17, 47)}
ROUNDS, PACKETS = 60, 250


def packed(network: Network) -> bytes:
    address = network.network_address.packed
    return bytes([network.version, network.prefixlen]) + address.ljust(16, b"\0")


class Maker:
    """Packets of few addresses and ports, so that many belong together, some of them damaged."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pick = self.random.choice

    def rules(self) -> list[Rule]:
        return [self._rule() for _ in range(self.random.randrange(6))]

    def _rule(self) -> Rule:
        network, protocol = self.pick(NETWORKS), self.pick((1, 6, 6, 17, 17, 47, 58, UNREADABLE))
        if protocol == UNREADABLE:
            return network, 0, UNREADABLE << 16 | 0xFFFF
        low = self.pick((0, *PORTS))
        high = self.pick((low, 0xFFFF))
        return network, protocol << 16 | low, protocol << 16 | high

    def packet(self, *, out: bool, quotes: bool = True) -> bytes:
        version = self.pick((4, 6))
        here, there = (ip_address(self.pick(side[version])).packed for side in (HERE, THERE))
        source, destination = (here, there) if out else (there, here)
        protocol = self.pick(PROTOCOLS[version])
        body = self._body(version, protocol, out=out, quotes=quotes)
        whole = self._four if version == 4 else self._six
        return self._damaged(whole(source, destination, protocol, body))

    def _body(self, version: int, protocol: int, *, out: bool, quotes: bool) -> bytes:
        first, second = self.pick(PORTS), self.pick(PORTS)
        if protocol == 6:
            flags = self.pick((2, 18, 16, 16, 17, 4))
            return struct.pack(">HHIIBBHHH", first, second, 1, 1, 0x50, flags, 9, 0, 0) + bytes(self.pick((0, 4)))
        if protocol == 17:
            return struct.pack(">HHHH", first, second, 8, 0)
        if protocol == 47:
            return b"gre!"
        kinds = {4: (8, 0, 3, 11, 5), 6: (128, 129, 1, 2, 135)}[version]
        kind = self.pick(kinds)
        head = struct.pack(">BBHHH", kind, 0, 0, self.pick((1, 2)), 0)
        if kind in kinds[2:] and quotes:
            about = self.packet(out=not out, quotes=False)
            return head + about[: self.pick((len(about), 48, 28, 24))]
        return head

    def _four(self, source: bytes, destination: bytes, protocol: int, body: bytes) -> bytes:
        options = self.pick(
            (b"", b"", b"", b"\x01\x01\x01\x00", b"\x83\x04\x04\x00", b"\x94\x04\x00\x00", b"\x07\x01\0\0")
        )
        where = self.pick((0, 0, 0, 0x4000, 0x2000, 1, 2, 3, 0x2003))
        header = 20 + len(options)
        head = struct.pack(
            ">BBHHHBBH", 0x40 | header // 4, 0, header + len(body), self.pick((7, 8)), where, 64, protocol, 0
        )
        return head + source + destination + options + body

    def _six(self, source: bytes, destination: bytes, protocol: int, body: bytes) -> bytes:
        following = protocol
        for extension in self.random.sample((0, 43, 44, 60), self.pick((0, 0, 0, 1, 2))):
            head = struct.pack(">BBBBI", following, 0, 0, self.pick((0, 0, 1)), 0)
            if extension == 44:
                where = self.pick((0, 1, 1, 8, 24, 25))
                head = struct.pack(">BBHI", following, 0, where, self.pick((7, 8)))
            body, following = head + body, extension
        return struct.pack(">IHBB", 6 << 28, len(body), following, 64) + source + destination + body

    def _damaged(self, packet: bytes) -> bytes:
        if self.random.random() < 0.8:
            return packet
        data = bytearray(packet)
        at = self.random.randrange(len(data))
        if at not in (0, 2, 3, 4, 5):
            data[at] = self.random.randrange(256)
        if self.random.random() < 0.5:
            least = (data[0] & 15) * 4 if data[0] >> 4 == 4 else 40
            del data[max(least, len(data) - self.random.randrange(24)) :]
        if data[0] >> 4 == 4:
            data[2:4] = len(data).to_bytes(2)
        else:
            data[4:6] = (len(data) - 40).to_bytes(2)
        return bytes(data)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_as_the_model(seed: int) -> None:
    make = Maker(seed)
    commands: list[str] = []
    expected: list[str] = []

    def say(command: str, answer: str) -> None:
        commands.append(command)
        expected.append(answer)

    for _ in range(ROUNDS):
        model = Guard(OWNED)
        say("peer " + " ".join(packed(network).hex() for network in OWNED), "ok")
        for number in range(PACKETS):
            if number % 50 == make.pick((10, 20, 30)):
                model.rules = make.rules()
                rules = b"".join(packed(n) + struct.pack(">II", low, high) for n, low, high in model.rules)
                say(f"rules {rules.hex() or '-'}", "ok")
            out = make.random.random() < 0.4
            packet = make.packet(out=out)
            if out:
                model.sends(packet)
                say(f"out {packet.hex()}", "ok")
            else:
                say(f"in {packet.hex()}", str(int(model.admits(packet))))
    answers = run_lines(build("access_lines"), commands)
    wrong = [at for at, answer in enumerate(answers) if answer != expected[at]]
    assert not wrong, f"{commands[wrong[0]]}: {answers[wrong[0]]}, rules {last(commands, wrong[0], 'rules')}"
    passed, refused = expected.count("1"), expected.count("0")
    assert passed > 1000 and refused > 1000


def last(commands: list[str], at: int, word: str) -> str:
    return next((each for each in reversed(commands[:at]) if each.startswith(word)), "none")
