"""docs/vectors.json through the compiled data plane: it opens each record of the file, and seals under the file's keys
what the slow twin seals. Every built wheel has to pass this, whatever its compiler, libcrypto and architecture."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cryprq._fastpath import Plane
from cryprq.address import Address
from lab import ROOT
from lab.oracle import RecordOpener, RecordSealer

VECTORS = json.loads((ROOT / "docs" / "vectors.json").read_text())
CASES = [
    pytest.param(case, sample, id=f"{case['name']}, {sample['direction']}")
    for case in VECTORS["handshakes"]
    for sample in case["records_0"]
]
OTHER_INDEX = 0x01020304


def lanes(case: dict[str, Any], direction: str) -> list[tuple[bytes, bytes]]:
    """Key and IV of each lane of the first epoch."""
    return [(bytes.fromhex(lane["key"]), bytes.fromhex(lane["iv"])) for lane in case["epoch_0"][f"data_{direction}"]]


@contextmanager
def plane(
    case: dict[str, Any], rx: list[tuple[bytes, bytes]], tx: list[tuple[bytes, bytes]], rx_index: int
) -> Iterator[tuple[socket.socket, socket.socket, tuple[str, int]]]:
    """A plane that allows its one peer every address: its TUN's other end, its peer's socket, its own UDP address."""
    tun, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    udp, peer = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with tun, inner, udp, peer:
        inner.setblocking(False)
        for end in (udp, peer):
            end.bind(("127.0.0.1", 0))
        for end in (tun, peer):
            end.settimeout(20)
        made = Plane([inner.fileno()], [[udp.fileno()]], mtu=1420, offloads=())
        try:
            handle = made.add_peer()
            made.set_routes([("0.0.0.0/0", handle)])
            made.set_endpoint(handle, Address(*peer.getsockname()))
            made.install(
                handle, number=0, suite=case["aead"], rx_index=rx_index, tx_index=OTHER_INDEX, lifetime=600,
                tx_secrets=bytearray(b"".join(key + iv for key, iv in tx)),
                rx_secrets=bytearray(b"".join(key + iv for key, iv in rx)),
            )  # fmt: skip
            made.activate(rx_index)
            made.promote(rx_index)
            made.start()
            yield tun, peer, udp.getsockname()
        finally:
            made.stop()


@pytest.mark.parametrize(("case", "sample"), CASES)
def test_record_of_the_file_is_opened(case: dict[str, Any], sample: dict[str, Any]) -> None:
    keys = lanes(case, sample["direction"])
    with plane(case, keys, keys[:1], sample["receiver_index"]) as (tun, peer, address):
        damaged = bytearray.fromhex(sample["record"])
        damaged[-1] ^= 1
        peer.sendto(damaged, address)
        peer.sendto(bytes.fromhex(sample["record"]), address)
        assert tun.recv(2000).hex() == sample["payload"]


@pytest.mark.parametrize("case", VECTORS["handshakes"], ids=lambda case: case["name"])
def test_probe_of_the_file_is_acknowledged_as_in_the_file(case: dict[str, Any]) -> None:
    probe, ack = case["path_0"]
    rx, tx = lanes(case, "i2r"), lanes(case, "r2i")[:1]
    with plane(case, rx, tx, probe["receiver_index"]) as (_, peer, address):
        peer.sendto(bytes.fromhex(probe["record"]), address)
        assert RecordOpener(*tx[0], 0, case["aead"]).open(peer.recv(2000))[0].hex() == ack["payload"]


@pytest.mark.parametrize(("case", "sample"), CASES)
def test_packet_is_sealed_like_by_the_twin(case: dict[str, Any], sample: dict[str, Any]) -> None:
    keys = lanes(case, sample["direction"])
    twin = RecordSealer(*keys[0], 0, OTHER_INDEX, case["aead"])
    packet = bytes.fromhex(sample["payload"])
    with plane(case, keys, keys[:1], sample["receiver_index"]) as (tun, peer, _):
        tun.send(packet)
        assert peer.recv(2000) == twin.seal(packet)
