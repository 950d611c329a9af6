"""The records of docs/edge-cases.json, sent to the compiled data plane: it hands on the packets that the file says, and
no others."""

import json
import socket
from typing import Any

import pytest

from cryprq._fastpath import Plane
from lab import ROOT
from lab.oracle import RecordSealer

GROUPS = [group for group in json.loads((ROOT / "docs" / "edge-cases.json").read_text())["groups"] if "aead" in group]
CASES = [
    pytest.param(group, case, id=f"{group['aead']}-{case['comment']}") for group in GROUPS for case in group["tests"]
]
LAST = bytes.fromhex("4500001c7fff0000403f00000a0000010a000002") + bytes(8)
"""A packet on a lane of its own, behind all that a case sends."""
LAST_INDEX = 0x7FFFFFFF


@pytest.mark.parametrize(("group", "case"), CASES)
def test_packets_that_come_out(group: dict[str, Any], case: dict[str, Any]) -> None:
    keys = [(bytes.fromhex(lane["key"]), bytes.fromhex(lane["iv"])) for lane in group["lanes"]]
    tun, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    udp, peer = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with tun, inner, udp, peer:
        inner.setblocking(False)
        udp.bind(("127.0.0.1", 0))
        tun.settimeout(20)
        plane = Plane([inner.fileno()], [[udp.fileno()]], mtu=1420, offloads=())
        try:
            handle = plane.add_peer()
            plane.set_routes([("0.0.0.0/0", handle), ("::/0", handle)])
            install(plane, handle, group["aead"], group["receiver_index"], keys)
            install(plane, handle, group["aead"], LAST_INDEX, keys[:1])
            plane.start()
            for datagram in case["inputs"]:
                peer.sendto(bytes.fromhex(datagram), udp.getsockname())
            peer.sendto(RecordSealer(*keys[0], 0, LAST_INDEX, group["aead"]).seal(LAST), udp.getsockname())
            came = list[str]()
            while (packet := tun.recv(2000)) != LAST:
                came.append(packet.hex())
        finally:
            plane.stop()
    assert came == case["packets"]


def install(plane: Plane, handle: int, suite: int, rx_index: int, keys: list[tuple[bytes, bytes]]) -> None:
    """An epoch that receives on these lanes."""
    plane.install(
        handle, number=0, suite=suite, rx_index=rx_index, tx_index=1, lifetime=600,
        tx_secrets=bytearray(b"".join(key + iv for key, iv in keys[:1])),
        rx_secrets=bytearray(b"".join(key + iv for key, iv in keys)),
    )  # fmt: skip
