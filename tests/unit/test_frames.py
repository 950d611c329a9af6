"""Frames, the cursor that reads their bodies, and the tunnel parameters."""

from collections.abc import Callable
from ipaddress import ip_address, ip_interface, ip_network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryprq.protocol import frames
from cryprq.protocol.constants import FRAME_MAX
from cryprq.protocol.frames import Cursor, FrameError, FrameReader, FrameType, encode
from cryprq.protocol.parameters import Parameters, Serial

# ---- the reader ----


def test_encode_known_bytes() -> None:
    assert encode(FrameType.INIT, b"abc") == b"\x01\x00\x00\x03abc"
    assert encode(FrameType.CLOSE, bytes(0x1234))[:4] == b"\x14\x00\x12\x34"


def test_numbers_of_the_frame_types_are_those_of_the_protocol() -> None:
    assert {kind.name: int(kind) for kind in FrameType} == {
        "INIT": 1,
        "RESPONSE": 2,
        "AUTH": 3,
        "ACCEPT": 4,
        "REKEY_REQUEST": 16,
        "REKEY": 17,
        "REKEY_RESPONSE": 18,
        "REKEY_DONE": 19,
        "CLOSE": 20,
    }
    assert frames.REKEY is FrameType.REKEY


@pytest.mark.parametrize("size", [0, 1, 1000, FRAME_MAX - 4])
def test_feed_whole_frame_returns_type_header_and_body(size: int) -> None:
    body = bytes(i % 251 for i in range(size))
    data = encode(FrameType.AUTH, body)
    assert FrameReader().feed(data) == [(FrameType.AUTH, data[:4], body)]


def test_feed_byte_by_byte_returns_the_same_frames() -> None:
    data = encode(FrameType.INIT, b"one") + encode(FrameType.CLOSE, b"") + encode(FrameType.REKEY, b"three")
    reader = FrameReader()
    got = [frame for byte in data for frame in reader.feed(bytes((byte,)))]
    assert [(kind, body) for kind, _, body in got] == [
        (FrameType.INIT, b"one"),
        (FrameType.CLOSE, b""),
        (FrameType.REKEY, b"three"),
    ]
    assert reader.pending == 0


def test_pending_counts_a_truncated_frame() -> None:
    reader = FrameReader()
    assert reader.feed(encode(FrameType.INIT, b"abc")[:-1]) == []
    assert reader.pending == 6


def test_encode_beyond_16_kib_is_our_own_mistake() -> None:
    with pytest.raises(ValueError):
        encode(FrameType.AUTH, bytes(FRAME_MAX - 3))


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\0\0\0",
        b"\x05\0\0\0",
        b"\x0f\0\0\0",
        b"\x15\0\0\0",
        b"\xff\0\0\0",
        b"\x01\x00\x5f\xfd",
        b"\x01\xff\xff\xff",
    ],
)
def test_feed_bad_header_raises_before_any_body_comes(head: bytes) -> None:
    reader = FrameReader()
    with pytest.raises(FrameError):
        reader.feed(encode(FrameType.INIT, b"") + head)
    assert reader.pending == 0
    with pytest.raises(FrameError):
        reader.feed(encode(FrameType.INIT, b""))


@given(st.lists(st.binary(max_size=64), max_size=12))
def test_feed_anything_raises_only_frame_errors_and_holds_one_frame_at_most(chunks: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for chunk in chunks:
            reader.feed(chunk)
            assert reader.pending < FRAME_MAX
    except FrameError:
        assert reader.pending == 0


@given(
    st.lists(st.tuples(st.sampled_from(list(FrameType)), st.binary(max_size=300)), max_size=6),
    st.randoms(use_true_random=False),
)
def test_feed_in_any_pieces_returns_the_same_frames(sent: list[tuple[FrameType, bytes]], random: Random) -> None:
    data = b"".join(encode(kind, body) for kind, body in sent)
    reader = FrameReader()
    got = []
    while data:
        size = random.randint(1, 200)
        got += reader.feed(data[:size])
        data = data[size:]
    assert [(kind, body) for kind, _, body in got] == sent


# ---- the cursor ----


def test_cursor_reads_big_endian_fields_in_order() -> None:
    cursor = Cursor(bytes(range(1, 11)))
    assert (cursor.u8(), cursor.u16(), cursor.u32()) == (1, 0x0203, 0x04050607)
    assert cursor.consumed == bytes(range(1, 8))
    assert cursor.take(1) == b"\x08"
    assert cursor.rest() == b"\x09\x0a"
    assert cursor.rest() == b""
    cursor.end()


@pytest.mark.parametrize(
    "read",
    [lambda c: c.take(4), lambda c: c.u32(), lambda c: c.end(), lambda c: (c.u16(), c.u16()), lambda c: c.index()],
)
def test_cursor_short_or_left_over_raises(read: Callable[[Cursor], object]) -> None:
    with pytest.raises(FrameError):
        read(Cursor(b"\0\0\0"))


def test_cursor_index_zero_raises() -> None:
    assert Cursor(b"\0\0\0\1").index() == 1
    with pytest.raises(FrameError):
        Cursor(bytes(4)).index()


# ---- tunnel parameters ----

FULL = Parameters(
    addresses=(ip_interface("10.9.0.2/24"), ip_interface("fd00:9::2/64")),
    routes=(ip_network("10.9.0.0/24"), ip_network("::/0"), ip_network("0.0.0.0/0"), ip_network("192.0.2.1/32")),
    mtu=1420,
    rotate_secs=300,
    keepalive=0,
    name_servers=(ip_address("10.9.0.1"), ip_address("fd00:9::1")),
    search=("corp.example", "lan"),
    token=b"token",
    messages=(0x10, 0x12, 0x1F),
    lanes=4,
    rotate_floor=30,
    serial=Serial(b"lifelife", 7),
    ecn=True,
    lane_ports=True,
)


def test_parameters_known_bytes() -> None:
    parameters = Parameters(
        (ip_interface("10.9.0.2/24"),),
        (ip_network("fd00::/8"),),
        1420,
        300,
        10,
        messages=(0x12,),
        lanes=8,
        rotate_floor=60,
        serial=Serial(b"12345678", 258),
        ecn=True,
        lane_ports=True,
    )
    assert parameters.encode().hex() == (
        "01 0006 04 18 0a090002 02 0012 06 08 fd000000000000000000000000000000 03 0002 058c 04 0002 012c 05 0002 000a"
        "09 0002 0008 0a 0002 003c 08 0001 12 0b 0010 3132333435363738 0000000000000102 0c 0000 0e 0000"
    ).replace(" ", "")


@pytest.mark.parametrize("parameters", [Parameters(), FULL, Parameters(keepalive=0), Parameters(rotate_secs=5)])
def test_parameters_round_trip(parameters: Parameters) -> None:
    assert Parameters.decode(parameters.encode()) == parameters


def test_name_servers_and_search_known_bytes() -> None:
    parameters = Parameters(
        name_servers=(ip_address("10.9.0.1"), ip_address("fd00::1")), search=("corp.example", "9.10.in-addr.arpa")
    )
    assert parameters.encode() == (
        bytes.fromhex("06 0016 04 0a090001 06 fd000000000000000000000000000001 07 001f")
        + b"\x0ccorp.example\x119.10.in-addr.arpa"
    )


@pytest.mark.parametrize(
    "parameters",
    [
        Parameters(name_servers=tuple(ip_address(f"10.9.0.{n}") for n in range(1, 10))),
        Parameters(name_servers=(ip_address("10.9.0.1"),) * 2),
        Parameters(name_servers=(ip_address("127.0.0.1"),)),
        Parameters(search=tuple(f"d{n}.example" for n in range(33))),
        Parameters(search=("Corp.example",)),
        Parameters(search=("corp.example\nnameserver 192.0.2.1",)),
        Parameters(search=("",)),
    ],
)
def test_name_servers_and_search_that_nobody_may_tell_are_our_own_mistake(parameters: Parameters) -> None:
    with pytest.raises(ValueError):
        parameters.encode()


BAD_SERVERS = ["127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.251", "169.254.1.1", "255.255.255.255", "240.0.0.1"]
BAD_SERVERS += ["::", "::1", "ff02::fb", "fe80::1", "::ffff:10.9.0.1"]
BAD_DOMAINS = [
    b"",
    b".",
    b"corp.example.",
    b"Corp.example",
    b"a..b",
    b".a",
    b"-a.example",
    b"a-.example",
    b"a_b.example",
]
BAD_DOMAINS += [b"a b", b"a\nb", b"a\0b", b"a;b", b"--help", b"~.", b"*.example", b"b\xc3\xbccher.example", b"\xff"]
BAD_DOMAINS += [b"a" * 64 + b".example", b"a." * 126 + b"aa", b"example\n"]


def refused(kind: int, value: bytes) -> bool:
    try:
        Parameters.decode(bytes((kind,)) + len(value).to_bytes(2, "big") + value)
    except FrameError:
        return True
    return False


@pytest.mark.parametrize("text", BAD_SERVERS)
def test_name_server_that_no_host_asks_is_an_error(text: str) -> None:
    address = ip_address(text)
    assert refused(6, bytes((address.version,)) + address.packed)


@pytest.mark.parametrize("name", BAD_DOMAINS)
def test_domain_that_is_none_is_an_error(name: bytes) -> None:
    assert refused(7, bytes((len(name),)) + name)


def test_lists_of_name_servers_and_domains_are_bounded_and_whole() -> None:
    servers = [b"\x04\x0a\x09\x00" + bytes((n,)) for n in range(1, 10)]
    domains = [b"\x0a" + b"d%02d.domain" % n for n in range(33)]
    for kind, items in ((6, servers), (7, domains)):
        assert not refused(kind, b"".join(items[:-1]))
        assert refused(kind, b"".join(items))
        assert refused(kind, b"")
        assert refused(kind, items[0] * 2)
        assert refused(kind, items[0][:-1])
    assert not refused(7, b"\xfd" + b".".join([b"a" * 61] * 4) + b".aaaaa")  # 253 characters
    assert refused(6, b"\x05\x0a\x09\x00\x01")


def test_parameters_of_unknown_type_are_skipped_in_any_order() -> None:
    data = b"\x63\x00\x03abc" + b"\x04\x00\x02\x00\x3c" + b"\x00\x00\x00" + b"\x03\x00\x02\x05\x00"
    assert Parameters.decode(data) == Parameters(mtu=1280, rotate_secs=60)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("04 0002 003c 04 0002 003c", "twice"),
        ("63 0000 63 0000", "unknown twice"),
        ("04", "no length"),
        ("04 00", "half a length"),
        ("04 0002 00", "short value"),
        ("04 0001 3c", "u8 for a u16"),
        ("04 0003 00003c", "three bytes"),
        ("04 0002 0004", "rotate_secs 4"),
        ("04 0002 0e11", "rotate_secs 3601"),
        ("03 0002 023f", "mtu 575"),
        ("05 0002 0e11", "keepalive 3601"),
        ("10 0000", "no token"),
        ("10 0101" + " 00" * 257, "token of 257 bytes"),
        ("08 0000", "no message"),
        ("08 0001 0f", "a message's type below 0x10"),
        ("08 0001 20", "a message's type above 0x1f"),
        ("08 0002 1211", "messages that do not ascend"),
        ("08 0002 1212", "message twice"),
        ("01 0000", "no address"),
        ("02 0000", "no route"),
        ("01 0006 05 18 0a090002", "family 5"),
        ("01 0006 04 21 0a090002", "prefix 33"),
        ("02 0012 06 81 fd000000000000000000000000000000", "prefix 129"),
        ("01 0005 04 18 0a0900", "short address"),
        ("01 0012 04 80 fd000000000000000000000000000000", "IPv6 address as IPv4"),
        ("02 0006 04 18 0a090002", "host bits in a route"),
        ("01 0006 04 18 00000000", "unspecified"),
        ("01 0006 04 18 e0000001", "multicast"),
        ("01 0006 04 18 7f000001", "loopback"),
        ("02 000c 04 18 0a090000 04 18 0a090000", "route twice"),
        ("01 0036" + " 04 18 0a090001 04 18 0a090002 04 18 0a090003 04 18 0a090004 04 18 0a090005 04 18 0a090006"
         " 04 18 0a090007 04 18 0a090008 04 18 0a090009", "nine addresses"),
    ],
)  # fmt: skip
def test_parameters_malformed_raise(data: str, why: str) -> None:
    with pytest.raises(FrameError):
        Parameters.decode(bytes.fromhex(data.replace(" ", "")))


@pytest.mark.parametrize("cut", range(1, len(FULL.encode())))
def test_parameters_truncated_raise_or_end_between_tlvs(cut: int) -> None:
    try:
        decoded = Parameters.decode(FULL.encode()[:cut])
    except FrameError:
        return
    assert FULL.encode().startswith(decoded.encode())
    assert len(decoded.encode()) == cut


@pytest.mark.parametrize(
    "parameters",
    [
        Parameters(mtu=575),
        Parameters(mtu=65536),
        Parameters(rotate_secs=4),
        Parameters(keepalive=-1),
        Parameters(lanes=0),
        Parameters(lanes=65),
        Parameters(rotate_floor=4),
        Parameters(rotate_floor=301),
        Parameters(token=bytes(257)),
        Parameters(messages=(0x20,)),
        Parameters(messages=(0x12, 0x10)),
        Parameters(routes=(ip_network("10.0.0.0/8"),) * 2),
        Parameters(addresses=tuple(ip_interface(f"10.0.0.{i}/24") for i in range(1, 10))),
    ],
)
def test_parameters_out_of_range_are_not_encoded(parameters: Parameters) -> None:
    with pytest.raises(ValueError):
        parameters.encode()


@settings(max_examples=300)
@given(st.binary(max_size=80) | st.lists(st.binary(min_size=0, max_size=24), max_size=4).map(
    lambda values: b"".join(bytes((i + 1,)) + len(v).to_bytes(2, "big") + v for i, v in enumerate(values))
))  # fmt: skip
def test_parameters_of_any_bytes_raise_only_frame_errors(data: bytes) -> None:
    try:
        decoded = Parameters.decode(data)
    except FrameError:
        return
    assert Parameters.decode(decoded.encode()) == decoded
