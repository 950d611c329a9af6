"""A tunnel between a node of this machine and one of another architecture under qemu-user: both roles, traffic, and
the same session keys on two machines.

    FOREIGN_PYTHON="qemu-aarch64 -L ROOT ROOT/usr/bin/python3" FOREIGN_SITE=DIR release/foreign_tunnel.py

Environment: FOREIGN_PYTHON, the command that runs the other Python; FOREIGN_SITE, where its packages are.
CRYPRQ_PROGRAMS, where this machine's cryprq-node is (default: beside this Python).
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab import hosts, sandbox
from lab.nodes import PORT, Node

PATIENCE = 90.0
"""Seconds: qemu translates each instruction the first time that it is met, and the machine may be busy."""
PROGRAM = """
import socket, sys
set_option = socket.socket.setsockopt

# qemu-user cannot pass a BPF program on to the kernel. Without it the kernel spreads datagrams over the sockets of the
# group, which costs a hand-over inside the node and nothing else.
def without_bpf(sock, level, option, *value):
    if (level, option) != (socket.SOL_SOCKET, 51):  # SO_ATTACH_REUSEPORT_CBPF
        set_option(sock, level, option, *value)

socket.socket.setsockopt = without_bpf
from cryprq.cli.node import main
sys.exit(main())
"""


class ForeignNode(Node):
    """A node whose Python, libc and extension are another architecture's."""

    def command(self) -> Sequence[str]:
        self.env["PYTHONPATH"] = os.environ["FOREIGN_SITE"]
        return [*os.environ["FOREIGN_PYTHON"].split(), "-c", PROGRAM]


def run(lab: hosts.Lab, foreign_listens: bool) -> None:
    """One tunnel, from the handshake over a ping and a TCP transfer to the end of both nodes."""
    here, there = lab.namespace("here"), lab.namespace("there")
    lab.veth(here, ["192.0.2.1/24"], there, ["192.0.2.2/24"])
    classes = (ForeignNode, Node) if foreign_listens else (Node, ForeignNode)
    listener = classes[0](here, "--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", "--tun-address", "10.66.0.1/24")
    dialer = classes[1](there)
    listener.arguments += ["--allow-peer", dialer.peer_id]
    dialer.arguments += ["--peer", listener.multiaddr("192.0.2.1")]
    listener.start().wait_event("listener_ready", timeout=PATIENCE)
    dialer.start().wait_event("peer_connected", timeout=PATIENCE)
    done = listener.wait_event("handshake_complete", timeout=PATIENCE)
    listener.wait_event("peer_connected", timeout=PATIENCE)
    ping = there.measure("ping", "10.66.0.1", count=5, interval=0.2, timeout=10.0)
    serving = here.traffic("tcp_serve", "10.66.0.1", 5001, size=1 << 20)
    transfer = there.measure("tcp_transfer", "10.66.0.1", 5001, size=1 << 20, within=PATIENCE)
    served = serving.result()["connections"][0]
    if ping["received"] != 5 or not (transfer["ok"] and served["ok"]):
        raise hosts.CommandError(f"the tunnel is up but loses: {ping} {transfer} {served}")
    statuses = [node.stop(30.0) for node in (dialer, listener)]
    if statuses != [0, 0]:
        raise hosts.CommandError(f"the nodes ended with {statuses}")
    roles = "foreign listener, native dialer" if foreign_listens else "native listener, foreign dialer"
    print(f"{roles}: {done['kem']}, {done['sig']}, {done['aead']}; 5 pings, 1 MiB each way, clean stop")


def main() -> int:
    if reason := sandbox.enter():
        print(f"foreign_tunnel: no network namespaces: {reason}", file=sys.stderr)
        return 2
    for foreign_listens in (False, True):
        with tempfile.TemporaryDirectory(prefix="cryprq-foreign-") as directory, hosts.Lab(Path(directory)) as lab:
            try:
                run(lab, foreign_listens)
            except hosts.CommandError as error:
                print(f"foreign_tunnel: {error}", file=sys.stderr)
                for name, text in lab.logs().items():
                    print(f"--- {name}", *text.splitlines()[-30:], sep="\n", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
