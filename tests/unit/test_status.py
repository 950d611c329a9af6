"""The table of ``cryprq status``."""

from dataclasses import asdict

import pytest

from cryprq.cli.status import render
from cryprq.telemetry.samples import NodeStatus, PeerSample
from tests.unit.test_admin_socket import STATUS, UP, A, B


def test_table() -> None:
    down = PeerSample(peer_id=str(B), connected=False)
    text = render(asdict(STATUS) | {"peers": [asdict(UP), asdict(down)]})
    lines = text.splitlines()
    assert lines[:4] == [
        f"node      {B}",
        "version   0.1.0, up 1d01h",
        f"listening /ip4/192.0.2.1/udp/9999/quic-v1/p2p/{B}",
        "tunnel    cryprq0, 10.9.0.1/24, MTU 1420",
    ]
    assert lines[5].split() == [
        "PEER",
        "ENDPOINT",
        "ADDRESS",
        "ALLOWED",
        "IPS",
        "EPOCH",
        "AGE",
        "HEARD",
        "PATH",
        "MTU",
        "RECEIVED",
        "SENT",
    ]
    assert lines[6].split() == [
        *(
            str(A),
            "[2001:db8::1]:9999",
            "10.9.0.2/24",
            "10.9.0.2/32",
            "3",
            "1m15s",
            "2s",
            "ago",
            "1480",
            "5.0",
            "MiB",
            "1023",
            "B",
        ),
    ]
    assert lines[7].split() == ["fd00:9::2/64", "fd00:9::2/128"]
    assert lines[8].split() == ["10.5.0.0/16"]
    assert lines[8].index("10.5.0.0/16") == lines[5].index("ALLOWED IPS")
    assert lines[9].split() == [str(B), "-", "-", "-", "down", "-", "never", "-", "0", "B", "0", "B"]
    assert lines[-1] == "dropped   rx/replay 1, tx/no_key 2"
    assert not any(line.endswith(" ") for line in lines)


def test_table_of_an_empty_node() -> None:
    empty = NodeStatus(
        version="0.1.0", peer_id=str(B), tun_name="tun1", uptime_secs=3, healthy=False, unhealthy="no TUN"
    )
    lines = render(asdict(empty)).splitlines()
    assert "version   0.1.0, up 3s, NOT HEALTHY: no TUN" in lines
    assert "tunnel    tun1, no address yet, MTU 0" in lines
    assert "no peers" in lines
    assert lines[-1] == "dropped   nothing"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20, "1.0 MiB"),
        (2**30 * 3, "3.0 GiB"),
        (2**40, "1.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    peer = PeerSample(peer_id=str(A), connected=True, tx_bytes=count)
    assert render(asdict(STATUS) | {"peers": [asdict(peer)]}).splitlines()[6].endswith(f"  {text}")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (86400, "1d00h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert f"up {text}" in render(asdict(STATUS) | {"uptime_secs": seconds})
