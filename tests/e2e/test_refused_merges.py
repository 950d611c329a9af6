"""A TUN that takes the offloads and then refuses super-packets, as some kernels do: nothing is lost, nothing hangs.

The refusal is a seccomp filter's, on ``writev`` with more parts than a vnet header and one packet.
"""

import sys
from collections.abc import Sequence

import pytest

from lab.hosts import Lab
from lab.nodes import PROGRAMS, Node
from lab.tunnels import GATEWAY, LISTEN_FLAGS, OUTER, listen_address, make_tunnel

SIZE = 20_000_000
"""Bytes each way."""

_REFUSING = """
import ctypes, errno, os, platform, struct, sys
arch, writev = {"x86_64": (0xC000003E, 20), "aarch64": (0xC00000B7, 66)}[platform.machine()]
LOAD, EQUAL, GREATER, RETURN = 0x20, 0x15, 0x25, 0x06
ERRNO, ALLOW = 0x00050000, 0x7FFF0000
program = [
    (LOAD, 0, 0, 4), (EQUAL, 0, 5, arch), (LOAD, 0, 0, 0), (EQUAL, 0, 3, writev),
    (LOAD, 0, 0, 32), (GREATER, 0, 1, 2), (RETURN, 0, 0, ERRNO | errno.EINVAL), (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog, 0, 0)):
    if libc.prctl(*call) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"""


class Refusing(Node):
    """Its kernel writes one packet at a time."""

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", _REFUSING, str(PROGRAMS / "cryprq-node")]

    def coalesce(self) -> str:
        (state,) = (
            dict(labels)["state"]
            for name, labels in self.metrics()
            if name == "offload_info" and dict(labels)["name"] == "coalesce"
        )
        return state


@pytest.mark.parametrize("family", [4, 6])
def test_tcp_goes_on_packet_by_packet_where_merged_writes_are_refused(lab: Lab, family: int) -> None:
    tunnel = make_tunnel(lab, up=False)
    dialer = tunnel.dialer
    flags = ("--listen", listen_address(4), *LISTEN_FLAGS, "--allow-peer", dialer.peer_id)
    tunnel.listener = Refusing(tunnel.listener.namespace, *flags, name="refusing")
    dialer.arguments[-1] = tunnel.listener.multiaddr(OUTER[4][0])
    tunnel.start()
    assert tunnel.listener.coalesce() == "on"
    tunnel.listener.namespace.traffic("tcp_serve", GATEWAY[family], 5001, size=SIZE)
    assert dialer.namespace.measure("tcp_transfer", GATEWAY[family], 5001, size=SIZE, timeout=20)["ok"]
    assert tunnel.listener.coalesce() == f"refused by the TUN: tso{family}"
    assert ("rx", "tun_write") not in tunnel.drops(tunnel.listener)
