"""Packet sockets of tests and demo: they hear their own interface from the first packet on, and no other one ever."""

import runpy
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import ROOT
from lab.capture import Capture, tap
from lab.hosts import Lab, Namespace
from lab.lans import Packets
from lab.nodes import PORT

INNER = ("10.66.0.1", "10.66.0.2")
CLEAR = b"".join(map(socket.inet_aton, INNER))
"""What a packet that leaked from the tunnel would show."""
ETH_P_ALL = 0x0003


@pytest.fixture
def host(lab: Lab) -> Iterator[Namespace]:
    """A host on a cable, where nobody sends yet; at the other end somebody takes what comes."""
    host, other = lab.namespace("host"), lab.namespace("other")
    lab.veth(host, ["192.0.2.1/24"], other, ["192.0.2.2/24"])
    with other.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sink:
        sink.bind(("192.0.2.2", PORT))
        yield host


@pytest.fixture
def noise(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another interface of the host is at its busiest: a packet passes between every ``socket`` and its ``bind``."""
    with host.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    class Interrupted(socket.socket):
        def bind(self, address: Any) -> None:
            sender.sendto(CLEAR, ("127.0.0.1", PORT))  # it has passed the interface when this returns
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Interrupted)
    with sender:
        yield


def queued(sock: socket.socket) -> list[bytes]:
    """Of what has come the packets of this test, not the kernel's own about neighbours and multicast groups."""
    sock.setblocking(False)
    frames = []
    try:
        while True:
            frames.append(sock.recv(1 << 17))
    except BlockingIOError:
        return [frame for frame in frames if CLEAR in frame]


def send(host: Namespace, count: int = 1) -> None:
    with host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(CLEAR, ("192.0.2.2", PORT))


@pytest.mark.usefixtures("noise")
def test_socket_that_is_opened_with_a_protocol_hears_everything_until_it_is_bound(host: Namespace) -> None:
    """What the tests below would find, if they could."""
    with host.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as naive:
        naive.bind(("eth0", 0))
        assert queued(naive)


@pytest.mark.usefixtures("noise")
def test_tap_hears_its_own_interface_only(host: Namespace) -> None:
    with tap(host, "eth0") as sock:
        assert queued(sock) == []
        send(host)
        assert len(queued(sock)) == 1


@pytest.mark.usefixtures("noise")
def test_captures_hear_their_own_interface_only(host: Namespace) -> None:
    with Capture(host) as capture, Packets(host, "eth0") as arrived:
        send(host, 3)
    assert [one.payload for one in capture.datagrams] == [CLEAR] * 3
    assert capture.lost == 0
    assert not [start for start in arrived.starts if CLEAR in start]


@pytest.mark.usefixtures("noise")
def test_demo_takes_no_other_interface_for_the_wire(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    watch_wire = runpy.run_path(str(ROOT / "scripts" / "demo.py"))["watch_wire"]
    monkeypatch.setitem(watch_wire.__globals__, "WATCH_SECS", 0.1)
    monkeypatch.setitem(watch_wire.__globals__, "WATCHED", 0)
    assert watch_wire(host, *INNER) == (0, 0)


def test_demo_sees_what_leaks_onto_the_wire(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = runpy.run_path(str(ROOT / "scripts" / "demo.py"))
    watch_wire = demo["watch_wire"]
    monkeypatch.setitem(watch_wire.__globals__, "WATCH_SECS", 0.0)
    monkeypatch.setitem(watch_wire.__globals__, "WATCHED", 5)

    def tap_and_leak(*arguments: object) -> socket.socket:
        sock = tap(*arguments)  # type: ignore[arg-type]
        send(host, 5)
        return sock

    monkeypatch.setitem(watch_wire.__globals__, "tap", tap_and_leak)
    assert watch_wire(host, *INNER) == (5, 5)


def test_packet_sockets_are_opened_in_one_place() -> None:
    here = Path(__file__)
    sources = [
        path
        for folder in ("bench", "lab", "qa", "release", "scripts", "tests")
        for path in (ROOT / folder).rglob("*.py")
    ]
    opening = {path for path in sources if "AF_PACKET" in path.read_text()}
    sending = {ROOT / "tests" / "e2e" / "test_debugging.py"}  # of no protocol: it receives nothing
    assert opening == {here, ROOT / "lab" / "capture.py"} | sending
