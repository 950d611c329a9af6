"""The Wireshark dissector (docs/wireshark/cryprq.lua) in tshark: every field of real records, what a receiver drops and
under which name, datagrams that a capture has in one, and QUIC beside them."""

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from cryprq.address import Address
from cryprq.quic.adapter import Quic, client_configuration
from lab import ROOT, sandbox
from lab.oracle import HEADER_SIZE, OVERHEAD, RECORDS_HARD, TAG_SIZE, Header, RecordSealer
from tests.rigs.planes import RX_INDEX, TX_INDEX, Bench, ipv4

SCRIPT = ROOT / "docs" / "wireshark" / "cryprq.lua"
PORT = 9999
_LINKTYPE_RAW = 101
_UDP = 17
_PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, _LINKTYPE_RAW)

Fields = dict[str, Any]


class Tshark:
    """Shows datagrams to tshark with the dissector, and nothing of what the user has set or installed."""

    def __init__(self, command: list[str], directory: Path) -> None:
        self._command = command
        self._capture = directory / "capture.pcap"
        self._env = {**os.environ, "HOME": str(directory), "WIRESHARK_CONFIG_DIR": str(directory)}

    def dissect(self, datagrams: Iterable[bytes], *options: str, port: int = PORT, keep: int = 1 << 18) -> list[Fields]:
        """The layers of each datagram, sent to ``port``, of whose packet the capture keeps so many bytes."""
        with self._capture.open("wb") as file:
            file.write(_PCAP_HEADER)
            for datagram in datagrams:
                udp = struct.pack(">HHHH", 40000, port, 8 + len(datagram), 0) + datagram
                packet = ipv4("192.0.2.1", "192.0.2.2", udp, _UDP)
                file.write(struct.pack("<IIII", 0, 0, min(keep, len(packet)), len(packet)) + packet[:keep])
        options = ("-T", "json", "--no-duplicate-keys", *options)
        return [packet["_source"]["layers"] for packet in json.loads(self._run(*options))]

    def columns(self) -> list[tuple[str, str]]:
        """Protocol and info of each packet of the last capture."""
        lines = self._run("-T", "fields", "-e", "_ws.col.Protocol", "-e", "_ws.col.Info").splitlines()
        return [(protocol, info) for protocol, info in (line.split("\t") for line in lines)]

    def _run(self, *options: str) -> str:
        command = [*self._command, "-X", f"lua_script:{SCRIPT}", "-r", str(self._capture), *options]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Lua" not in done.stderr
        assert "_ws.lua.error" not in done.stdout
        return done.stdout


@pytest.fixture
def tshark(tmp_path: Path) -> Tshark:
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("no tshark: Debian has it in the package of that name")
    if os.geteuid() != 0:
        return Tshark([program], tmp_path)
    # Since version 4.4 it takes no script from root, without a word; in there it is nobody, and may read the files.
    if (reason := sandbox.enter()) is not None:
        pytest.skip(f"tshark is not for root, and there are no namespaces: {reason}")
    return Tshark(["unshare", "--user", program], tmp_path)


def shown(record: bytes) -> Fields:
    """What tshark is to show of a record that is whole and that a receiver looks for the key of."""
    header = Header.decode(record)
    fields = {
        "cryprq.type": str(header.type),
        "cryprq.lane": str(header.lane),
        "cryprq.flags": f"0x{header.flags:04x}",
        "cryprq.flags_tree": {
            "cryprq.flags.vouched": str(header.flags & 1),
            "cryprq.flags.unknown": f"0x{header.flags >> 1:04x}",
        },
        "cryprq.index": f"0x{header.index:08x}",
        "cryprq.counter": str(header.counter),
        "cryprq.sealed": record[HEADER_SIZE:-TAG_SIZE].hex(":"),
        "cryprq.sealed.length": str(len(record) - OVERHEAD),
        "cryprq.tag": record[-TAG_SIZE:].hex(":"),
    }
    if len(record) == OVERHEAD:
        del fields["cryprq.sealed"]
    return fields


def sealer(lane: int = 3, index: int = RX_INDEX) -> RecordSealer:
    return RecordSealer(bytes(range(32)), bytes(12), lane, index)


def initial() -> bytes:
    """A dialer's first datagram."""
    quic = Quic(client_configuration())
    quic.connect(Address("192.0.2.2", PORT), 0.0)
    [(datagram, _)] = quic.datagrams_to_send(0.0)
    return datagram


def is_initial(packets: Any, datagram: bytes) -> bool:
    """Whether Wireshark's own dissector has recognised the datagram, whose padding it may show by itself."""
    packet = packets[0] if isinstance(packets, list) else packets
    return (packet["quic.long.packet_type"], packet["quic.dcid"]) == ("0", datagram[6 : 6 + datagram[5]].hex(":"))


def test_records_of_the_data_plane(bench: Bench, tshark: Tshark) -> None:
    records = []
    for size in (0, 20, 500, 1400):
        bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", bytes(size)))
        records.append(bench.udp.recv(2000))
    bench.plane.send_empty(RX_INDEX)
    records.append(bench.udp.recv(2000))
    assert [Header.decode(record).counter for record in records] == [0, 1, 2, 3, 4]
    assert [layers["cryprq"] for layers in tshark.dissect(records)] == [shown(record) for record in records]
    assert tshark.columns() == [
        *(
            ("CrypRQ", f"lane 0, index 0x{TX_INDEX:08x}, counter {counter}, {20 + size} bytes sealed")
            for counter, size in enumerate((0, 20, 500, 1400))
        ),
        ("CrypRQ", f"lane 0, index 0x{TX_INDEX:08x}, counter 4, empty"),
    ]


def test_lanes_flags_and_large_numbers(tshark: Tshark) -> None:
    records = [
        sealer(63, 0xFFFFFFFF).seal_at(RECORDS_HARD - 1, bytes(40), flags=1),
        sealer(0, 1).seal_at(1, b""),
    ]
    assert [layers["cryprq"] for layers in tshark.dissect(records)] == [shown(record) for record in records]
    assert tshark.columns() == [
        ("CrypRQ", "lane 63, index 0xffffffff, counter 268435455, 40 bytes sealed, vouched"),
        ("CrypRQ", "lane 0, index 0x00000001, counter 1, empty"),
    ]


@pytest.mark.parametrize(
    ("datagram", "fault", "reason", "info"),
    [
        pytest.param(lambda: b"\x01" * 31, "short", "short", "31 bytes", id="one-byte-short"),
        pytest.param(lambda: b"\x00", "short", "short", "1 bytes", id="one-byte"),
        pytest.param(
            lambda: b"\x00" + sealer().seal(b"x" * 20)[1:],
            "type",
            "bad_header",
            f"type 0, lane 3, index 0x{RX_INDEX:08x}, counter 0, 20 bytes sealed",
            id="type-0",
        ),
        pytest.param(
            lambda: b"\x3f" + sealer().seal(b"")[1:],
            "type",
            "bad_header",
            f"type 63, lane 3, index 0x{RX_INDEX:08x}, counter 0, empty",
            id="last-type-before-quic",
        ),
        pytest.param(
            lambda: sealer().seal(b"", flags=2),
            "flags",
            "bad_header",
            f"type 1, lane 3, index 0x{RX_INDEX:08x}, counter 0, empty",
            id="second-flag",
        ),
        pytest.param(
            lambda: sealer().seal(b"", flags=0x8001),
            "flags",
            "bad_header",
            f"type 1, lane 3, index 0x{RX_INDEX:08x}, counter 0, empty, vouched",
            id="last-flag",
        ),
        pytest.param(
            lambda: sealer(lane=64).seal(b"", flags=1),
            "lane",
            "bad_header",
            f"type 1, lane 64, index 0x{RX_INDEX:08x}, counter 0, empty, vouched",
            id="lane",
        ),
        pytest.param(
            lambda: sealer(lane=0, index=0).seal(b""),
            "index",
            "unknown_index",
            "type 1, lane 0, index 0x00000000, counter 0, empty",
            id="index",
        ),
        pytest.param(
            lambda: sealer(lane=0).seal_at(RECORDS_HARD, b""),
            "counter",
            "no_key",
            f"type 1, lane 0, index 0x{RX_INDEX:08x}, counter 268435456, empty",
            id="counter",
        ),
        pytest.param(
            lambda: sealer(lane=0).seal_at(2**64 - 1, b""),
            "counter",
            "no_key",
            f"type 1, lane 0, index 0x{RX_INDEX:08x}, counter 18446744073709551615, empty",
            id="last-counter",
        ),
    ],
)
def test_what_a_receiver_drops(
    bench: Bench, tshark: Tshark, datagram: Callable[[], bytes], fault: str, reason: str, info: str
) -> None:
    bad = datagram()
    [layers] = tshark.dissect([bad])
    found = layers["cryprq"]
    assert found.pop("cryprq.drop") == reason
    expert = found.pop("_ws.expert")
    assert f"cryprq.expert.{fault}" in expert
    assert expert["_ws.expert.severity"] == "8388608"  # an error
    assert ("_ws.malformed" in found) == (reason in ("short", "bad_header"))
    found.pop("_ws.malformed", None)
    assert found == (shown(bad) if len(bad) >= OVERHEAD else {})
    assert tshark.columns() == [("CrypRQ", f"dropped as {reason}: {info}")]
    # The receiver itself says the same.
    bench.send(bad)
    assert bench.dropped("rx", reason)
    assert sum(bench.plane.drops().values()) == 1


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([1420] * 46, id="as-much-as-one-send-takes"),
        pytest.param([1420, 1420, 1], id="shorter-last"),
        pytest.param([20, 20], id="two"),
        pytest.param([0] * 5, id="empty"),
    ],
)
def test_datagrams_that_a_capture_has_in_one(tshark: Tshark, sizes: list[int]) -> None:
    """As the kernel has them before it cuts a UDP_SEGMENT send up, or after GRO has merged them."""
    one = sealer()
    one.counter = 250  # carries into the next byte
    records = [one.seal(bytes(size), flags=number % 3 == 1) for number, size in enumerate(sizes)]
    del records[5:6]  # what was lost on the way to a receiver does not keep GRO from merging
    [layers] = tshark.dissect([b"".join(records)])
    assert layers["cryprq"].pop("cryprq.datagrams") == str(len(records))
    assert layers["cryprq"] == {"cryprq": [shown(record) for record in records]}
    [(protocol, info)] = tshark.columns()
    assert protocol == "CrypRQ"
    assert info.startswith(f"{len(records)} datagrams, the first: lane 3, index 0x{RX_INDEX:08x}, counter 250, ")


def test_one_record_is_not_taken_for_two(tshark: Tshark) -> None:
    """Another lane, another receiver, or a counter that no record has: not the next header."""
    first = sealer().seal(bytes(100))
    for other in (sealer(lane=4), sealer(index=RX_INDEX + 1)):
        datagram = first + other.seal(bytes(100))
        assert [layers["cryprq"] for layers in tshark.dissect([datagram])] == [shown(datagram)]
    datagram = first + sealer().seal_at(2**32, bytes(100))
    assert [layers["cryprq"] for layers in tshark.dissect([datagram])] == [shown(datagram)]


def test_quic_beside_records(tshark: Tshark) -> None:
    record, quic = sealer().seal(bytes(40)), initial()
    before, between, after = tshark.dissect([record, quic, record])
    assert before["cryprq"] == after["cryprq"] == shown(record)
    assert "cryprq" not in between
    assert is_initial(between["quic"], quic)
    columns = tshark.columns()
    assert [protocol for protocol, _ in columns] == ["CrypRQ", "QUIC", "CrypRQ"]
    assert columns[1][1].startswith("Initial, ")


def test_quic_that_was_merged_with_records(tshark: Tshark) -> None:
    """Where a network has set one TTL for all, GRO puts QUIC at the end of a batch."""
    one, quic = sealer(), initial()
    records = [one.seal(bytes(1300)), one.seal(bytes(1300))]
    [layers] = tshark.dissect([b"".join([*records, quic])])
    batch = layers["cryprq"]
    assert batch["cryprq.datagrams"] == "3"
    assert batch["cryprq"] == [shown(record) for record in records]
    assert is_initial(batch["quic"], quic)


def test_a_capture_of_the_first_bytes_only(tshark: Tshark) -> None:
    """``tcpdump -s``: lengths are those on the wire, and there is no tag to show."""
    record = sealer().seal(bytes(1000))
    headers = 20 + 8
    [layers] = tshark.dissect([record], keep=headers + 40)
    expected = shown(record)
    expected["cryprq.sealed"] = record[HEADER_SIZE:40].hex(":")
    del expected["cryprq.tag"]
    assert layers["cryprq"] == expected
    [layers] = tshark.dissect([record], keep=headers + HEADER_SIZE)
    del expected["cryprq.sealed"]
    assert layers["cryprq"] == expected
    [layers] = tshark.dissect([record], keep=headers + HEADER_SIZE - 1)
    assert layers["cryprq"] == "CrypRQ, header not captured"
    assert tshark.columns() == [("CrypRQ", "header not captured")]


def test_ports(tshark: Tshark) -> None:
    record = sealer().seal(bytes(40))
    for port, options, ours in (
        (PORT, (), True),
        (PORT + 1, (), False),
        (PORT + 1, ("-o", f"cryprq.ports:1,{PORT + 1}-{PORT + 2}"), True),
        (PORT, ("-o", f"cryprq.ports:{PORT + 1}"), False),
        (PORT + 1, ("-d", f"udp.port=={PORT + 1},cryprq"), True),
    ):
        [layers] = tshark.dissect([record], *options, port=port)
        assert ("cryprq" in layers) == ours, (port, options)
