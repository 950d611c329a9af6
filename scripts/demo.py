"""The demonstration behind ``make demo``: two hosts in a box, a CrypRQ tunnel between them, real traffic through it.

Both hosts are network namespaces that exist only inside this process; root is not needed where the kernel lets users
make namespaces. Takes about 40 seconds, exit status 0 when everything held.
"""

import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from lab import hosts, sandbox
from lab.capture import ETHERNET, tap
from lab.nodes import PORT, Node

LISTENER, DIALER = "192.0.2.1", "192.0.2.2"
GATEWAY = "10.66.0.1"
ROTATE_SECS = 5
UNDER_ROTATION_SECS = 16
UDP_RATE = 500
TCP_RATE = 20e6
WATCHED = 100
"""Packets of the tunnel that the capture has to see: on a busy machine it waits longer for them."""
WATCH_SECS = 1.0

Result = dict[str, Any]


class Broken(Exception):
    """Something that the demo promises did not hold."""


@contextmanager
def step(title: str) -> Iterator[None]:
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)
    yield


def say(name: str, text: object) -> None:
    print(f"  {name:<22} {text}", flush=True)


def gigabits(result: Result) -> str:
    return f"{result['bits_per_second'] / 1e9:.2f} Gbit/s"


def throughput(server: hosts.Namespace, client: hosts.Namespace, address: str, port: int) -> Result:
    """One TCP flow from client to server, counted at the server."""
    sink = server.traffic("tcp_sink", address, port)
    sent = client.measure("tcp_blast", address, port, seconds=3)
    return {**sent, **sink.result()}


def pings(client: hosts.Namespace, address: str) -> Result:
    result = client.measure("ping", address, count=50, interval=0.02, timeout=5.0)
    if result["received"] != result["sent"]:
        raise Broken(f"{result['sent'] - result['received']} of {result['sent']} pings to {address} went unanswered")
    return result


def under_rotation(listener: Node, dialer: Node, inside: str) -> None:
    """Numbered datagrams both ways and a checksummed TCP transfer both ways while keys are replaced."""
    here, there = listener.namespace, dialer.namespace
    before = dialer.metric("rotations_total")
    receivers = [here.traffic("udp_receive", GATEWAY, 5000), there.traffic("udp_receive", inside, 5000)]
    options: dict[str, object] = {"rate": UDP_RATE, "seconds": UNDER_ROTATION_SECS}
    senders = [
        there.traffic("udp_send", GATEWAY, 5000, **options),
        here.traffic("udp_send", inside, 5000, **options),
    ]
    size = int(TCP_RATE * (UNDER_ROTATION_SECS - 2))
    server = here.traffic("tcp_serve", GATEWAY, 5001, size=size, rate=TCP_RATE)
    client = there.traffic("tcp_transfer", GATEWAY, 5001, size=size, rate=TCP_RATE)
    seen, readable = watch_wire(there, GATEWAY, inside)
    ends = [client.result(), server.result()["connections"][0]]
    sent = sum(sender.result()["sent"] for sender in senders)
    counts = [receiver.result() for receiver in receivers]
    rotations = int(dialer.metric("rotations_total") - before)
    overflowed = sum(count["overflowed"] for count in counts)
    lost = sent - overflowed - sum(count["received"] for count in counts)
    twice = sum(end["spurious"] for end in ends)
    segments = sum(end["retransmits"] for end in ends) - twice
    epochs = [int(node.metric("peer_epoch")) for node in (listener, dialer)]

    say("key rotations", f"{rotations}, now in epoch {epochs[1]}")
    say("UDP, both ways", f"{sent} datagrams sent, {lost} lost")
    if overflowed:
        say("", f"{overflowed} more came through, but not in time for this demo's own receivers: a busy machine")
    total = sum(end["received"] for end in ends)
    good = all(end["ok"] for end in ends)
    digests = "equal" if good else "DIFFERS"
    say("TCP, both ways", f"{total / 1e6:.0f} MB, SHA-256 {digests}, {segments} segments lost, {twice} sent twice")
    say("on the wire", f"{seen} packets watched, {readable} with an inner address in clear")
    if rotations < 1:
        raise Broken("no key rotation happened")
    if lost:
        raise Broken(f"{lost} datagrams were lost")
    if not good:
        raise Broken("the TCP transfer was damaged")
    if readable:
        raise Broken(f"{readable} packets on the wire had an inner address in clear")
    if seen < WATCHED:
        raise Broken(f"the capture saw {seen} of the tunnel's packets on the wire, where {WATCHED} and more had to be")


def watch_wire(host: hosts.Namespace, *inner: str) -> tuple[int, int]:
    """Captures the cable for a while: how many packets of the tunnel there were, and how many of all packets bear an
    inner address pair in clear."""
    first, second = (socket.inet_aton(address) for address in inner)
    seen = readable = 0
    with tap(host, "eth0") as wire:
        wire.settimeout(0.1)
        start = time.monotonic()
        while (now := time.monotonic()) < start + WATCH_SECS or (seen < WATCHED and now < start + UNDER_ROTATION_SECS):
            try:
                frame = wire.recv(1 << 17)
            except TimeoutError:
                continue
            seen += is_of_tunnel(frame[ETHERNET:])
            readable += first + second in frame or second + first in frame
    return seen, readable


def is_of_tunnel(packet: bytes) -> bool:
    """Whether this is one of the nodes' own, which is over IPv4 here."""
    return packet[0] == 0x45 and packet[9] == socket.IPPROTO_UDP and PORT in struct.unpack_from("!HH", packet, 20)


def tunnel_address(host: hosts.Namespace) -> str:
    """The address that the gateway assigned to the dialer."""
    for line in host.ip("-o -4 address show dev cryprq0").splitlines():
        return str(ip_interface(line.split()[3]).ip)
    raise Broken("the dialer got no tunnel address")


def drops(node: Node) -> str:
    found = [
        f"{dict(labels)['direction']} {dict(labels)['reason']} {value:.0f}"
        for (name, labels), value in sorted(node.metrics().items(), key=lambda item: str(item[0]))
        if name == "dropped_packets_total" and value
    ]
    return ", ".join(found) or "none"


def demo(lab: hosts.Lab) -> None:
    with step("Two hosts and a cable"):
        here, there = lab.namespace("listener"), lab.namespace("dialer")
        lab.veth(here, [f"{LISTENER}/24"], there, [f"{DIALER}/24"])
        say("listener", LISTENER)
        say("dialer", DIALER)

    with step("The bare link"):
        bare = throughput(here, there, LISTENER, 5000)
        bare_ping = pings(there, LISTENER)
        say("TCP, one flow", gigabits(bare))
        say("ping", f"{bare_ping['p50_us']:.0f} µs (median)")

    with step("A tunnel over it"):
        rotate = ("--rotate-secs", str(ROTATE_SECS))
        dialer = Node(there, *rotate)
        listener = Node(here, "--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", "--tun-address", f"{GATEWAY}/24", *rotate)
        listener.arguments += ["--allow-peer", dialer.peer_id]
        dialer.arguments += ["--peer", listener.multiaddr(LISTENER)]
        listener.start().wait_event("listener_ready")
        dialer.start()
        done = dialer.wait_event("handshake_complete")
        listener.wait_event("handshake_complete")
        dialer.wait_event("peer_connected")
        inside = tunnel_address(there)
        say("listener", f"{listener.peer_id}, {GATEWAY} inside")
        say("dialer", f"{dialer.peer_id}, {inside} inside")
        say("handshake", f"{done['kem']}, {done['sig']}, {done['aead']}, {float(done['duration_ms']):.0f} ms")

    with step("Through the tunnel"):
        tunnel_ping = pings(there, GATEWAY)
        tunnel = throughput(here, there, GATEWAY, 5000)
        share = tunnel["bits_per_second"] / bare["bits_per_second"]
        added = tunnel_ping["p50_us"] - bare_ping["p50_us"]
        say("TCP, one flow", f"{gigabits(tunnel)}, {share:.0%} of the bare link")
        say("ping", f"{tunnel_ping['p50_us']:.0f} µs (median), {added:.0f} µs more than the bare link")

    with step(f"Under load for {UNDER_ROTATION_SECS} s, new keys every {ROTATE_SECS} s"):
        under_rotation(listener, dialer, inside)
        say("dropped by listener", drops(listener))
        say("dropped by dialer", drops(dialer))

    with step("The end"):
        statuses = dialer.stop(), listener.stop()
        say("exit statuses", f"dialer {statuses[0]}, listener {statuses[1]}")
        if statuses != (0, 0):
            raise Broken("a node did not stop cleanly")


def main() -> int:
    if (reason := sandbox.enter()) is not None:
        print(f"demo: no network namespaces here: {reason}", file=sys.stderr)
        return 1
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cryprq-demo-") as directory, hosts.Lab(Path(directory)) as lab:
        try:
            demo(lab)
        except (Broken, hosts.CommandError, subprocess.TimeoutExpired, KeyError, OSError) as error:
            print(f"\ndemo: failed: {error}", file=sys.stderr)
            for name, text in lab.logs().items():
                if name.startswith("node-"):
                    print(f"--- the end of the log of {name}\n" + "\n".join(text.splitlines()[-20:]), file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print(f"\nAll of it held. {time.monotonic() - start:.0f} s; namespaces and devices are gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
