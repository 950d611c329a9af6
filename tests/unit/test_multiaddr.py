"""Multiaddrs: what is read, what is refused, and in which words."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryprq.multiaddr import Multiaddr
from cryprq.peer_id import PeerId

PEER = PeerId(bytes(range(32)))


def is_plain_ipv6(address: IPv4Address | IPv6Address) -> bool:
    return isinstance(address, IPv6Address) and address.ipv4_mapped is None


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
hosts = st.one_of(
    st.ip_addresses(v=4).map(lambda address: ("ip4", str(address))),
    st.ip_addresses(v=6).filter(is_plain_ipv6).map(lambda address: ("ip6", str(address))),
    st.tuples(st.sampled_from(["dns", "dns4", "dns6"]), st.lists(labels, min_size=1, max_size=4).map(".".join)),
)
peers = st.none() | st.binary(min_size=32, max_size=32).map(PeerId)


@given(host=hosts, port=st.integers(0, 65535), peer=peers)
def test_round_trip(host: tuple[str, str], port: int, peer: PeerId | None) -> None:
    text = f"/{host[0]}/{host[1]}/udp/{port}/quic-v1" + (f"/p2p/{peer}" if peer else "")
    address = Multiaddr.parse(text)
    assert (address.protocol, address.host, address.port, address.peer_id) == (*host, port, peer)
    assert str(address) == text


@given(st.text(max_size=80))
def test_any_text_gives_one_line_or_an_address(text: str) -> None:
    message = ""
    try:
        Multiaddr.parse(text)
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 600


PARTS = ["", "ip4", "ip6", "dns", "udp", "tcp", "quic-v1", "p2p", "1.2.3.4", "::1", "1", str(PEER)]


@given(st.lists(st.sampled_from(PARTS), min_size=4, max_size=9))
def test_any_order_of_parts_gives_an_error_or_round_trips(parts: list[str]) -> None:
    text = "/" + "/".join(parts)
    try:
        address = Multiaddr.parse(text)
    except ValueError:
        return
    assert str(address) == text


def test_ipv6_becomes_canonical() -> None:
    assert str(Multiaddr.parse("/ip6/2001:DB8:0:0::1/udp/9999/quic-v1")) == "/ip6/2001:db8::1/udp/9999/quic-v1"


def test_is_numeric() -> None:
    assert Multiaddr.parse("/ip6/::/udp/1/quic-v1").is_numeric
    assert not Multiaddr.parse("/dns/gw.example/udp/1/quic-v1").is_numeric


def test_name_with_final_dot() -> None:
    assert Multiaddr.parse("/dns4/gw.example./udp/1/quic-v1").host == "gw.example"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a multiaddr"),
        ("1.2.3.4:9999", "not a multiaddr"),
        ("ip4/1.2.3.4/udp/9999/quic-v1", "not a multiaddr"),
        ("/ip4/1.2.3.4/udp/9999/quic-v1/", "not a multiaddr"),
        (f"/ip4/1.2.3.4/udp/9999/quic-v1/p2p/{PEER}/x", "not a multiaddr"),
        ("/ip5/1.2.3.4/udp/9999/quic-v1", "begins with /ip5"),
        ("/ip4/1.2.3.4/tcp/9999/quic-v1", "not UDP with QUIC v1"),
        ("/ip4/1.2.3.4/udp/9999/quic", "not UDP with QUIC v1"),
        ("/ip4/1.2.3/udp/9999/quic-v1", "not an IPv4 address"),
        ("/ip4/01.2.3.4/udp/9999/quic-v1", "not an IPv4 address"),
        ("/ip4/::1/udp/9999/quic-v1", "not an IPv4 address"),
        ("/ip6/1.2.3.4/udp/9999/quic-v1", "not an IPv6 address"),
        ("/ip6/::ffff:1.2.3.4/udp/9999/quic-v1", "write /ip4/1.2.3.4"),
        ("/ip6/fe80::1%eth0/udp/9999/quic-v1", "zone"),
        ("/dns//udp/9999/quic-v1", "not a DNS name"),
        ("/dns/-a.example/udp/9999/quic-v1", "not a DNS name"),
        ("/dns/a..example/udp/9999/quic-v1", "not a DNS name"),
        (f"/dns/{'a' * 64}.example/udp/9999/quic-v1", "not a DNS name"),
        (f"/dns/{'a.' * 127}aa/udp/9999/quic-v1", "not a DNS name"),
        ("/ip4/1.2.3.4/udp/65536/quic-v1", "'65536' is not a port"),
        ("/ip4/1.2.3.4/udp/09999/quic-v1", "is not a port"),
        ("/ip4/1.2.3.4/udp/-1/quic-v1", "is not a port"),
        ("/ip4/1.2.3.4/udp/٣/quic-v1", "is not a port"),
        ("/ip4/1.2.3.4/udp//quic-v1", "is not a port"),
        ("/ip4/1.2.3.4/udp/9999/quic-v1/p2p/", "is not a peer ID"),
        (f"/ip4/1.2.3.4/udp/9999/quic-v1/ipfs/{PEER}", "/p2p/PEER-ID is expected"),
    ],
)
def test_refused_in_one_clear_line(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        Multiaddr.parse(text)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message


def test_host_is_what_the_standard_library_reads() -> None:
    assert IPv4Address(Multiaddr.parse("/ip4/192.0.2.1/udp/1/quic-v1").host) == IPv4Address("192.0.2.1")
    assert IPv6Address(Multiaddr.parse("/ip6/2001:db8::/udp/1/quic-v1").host) == IPv6Address("2001:db8::")
