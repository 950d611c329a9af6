"""A peer that dials in and owns everything: its records, and the answers to its handshakes, stay out of the tunnel."""

import json

from lab.hosts import Lab, Namespace
from lab.nodes import Node
from lab.tunnels import DIALER, GATEWAY
from lab.uplink import BEHIND, OUTER, SERVER, answers, make_uplink, soon


def way(host: Namespace, *to: str) -> str:
    """The device that a packet would leave by."""
    return str(json.loads(host.ip(f"-j -{6 if ':' in to[0] else 4} route get {' '.join(to)}"))[0]["dev"])


def rules(host: Namespace) -> str:
    """Those of a node."""
    shown = host.ip("rule show") + host.ip("-6 rule show")
    return "".join(line for line in shown.splitlines() if "proto 113" in line)


def test_records_for_a_peer_that_owns_everything_and_dials_in_leave_outside(lab: Lab) -> None:
    uplink = make_uplink(lab)
    gateway, host, listener = uplink.gateway, uplink.dialer, uplink.listener
    gateway.sysctl("net.ipv4.conf.all.rp_filter", 1)  # strict: what comes must come the way that answers would go
    node = Node(host, "--tun-address", f"{DIALER[4]}/24", "--tun-address", f"{DIALER[6]}/64", name="exit")
    config = lab.directory / "gateway.toml"
    config.write_text(f'[allow-peer]\n{node.peer_id} = ["0.0.0.0/0", "::/0"]\n')
    listener.reload()
    listener.wait_event("config_reloaded")
    for outer in (4, 6):  # the rules are there before it comes
        node.start("--peer", listener.multiaddr(OUTER[outer])).wait_event("peer_connected", timeout=15)
        assert soon(lambda: answers(host, GATEWAY[4]) and answers(host, GATEWAY[6]))
        for version, near in ((4, "192.0.2.2"), (6, "2001:db8:2::2")):
            assert way(gateway, SERVER[version]) == way(gateway, near) == "cryprq0"  # what others send there
        ping = host.traffic("ping", GATEWAY[4], count=30, interval=0.01)
        rotations = len(listener.events("key_rotation", status="success"))
        listener.tool("rotate")
        listener.wait_event("key_rotation", status="success", count=rotations + 1)
        assert ping.result()["received"] == 30
        node.kill()
    forwarded = (SERVER[4], "from", "192.168.50.77", "iif", "lan0", "ipproto", "udp", "sport", "9999", "dport", "7")
    assert BEHIND[4] in gateway.ip("address show dev lan0") and way(gateway, *forwarded) == "cryprq0"
    assert listener.http("/healthz") == (200, "ok\n")
    assert "sport 9999" in rules(gateway)
    listener.stop()
    assert rules(gateway) == ""
