"""Two hosts that had a WireGuard tunnel: what ``cryprq import wireguard`` makes of both files carries packets."""

import base64
from pathlib import Path

from lab.hosts import Lab, Namespace
from lab.nodes import PROGRAMS, Node

PSK = base64.b64encode(b"\x07" * 32).decode()
KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 5)]

GATEWAY = f"""\
[Interface]
Address = 10.66.0.1/24, fd66::1/64
ListenPort = 9999
PrivateKey = {KEYS[0]}
PostUp = sysctl -w net.ipv4.ip_forward=1

# branch
[Peer]
PublicKey = {KEYS[1]}
PresharedKey = {PSK}
AllowedIPs = 10.66.0.2/32, fd66::2/128, 192.168.9.0/24
"""
BRANCH = f"""\
[Interface]
Address = 10.66.0.2/32
Address = fd66::2/128
PrivateKey = {KEYS[2]}

[Peer] # gateway
PublicKey = {KEYS[3]}
PresharedKey = {PSK}
AllowedIPs = 10.66.0.0/24, fd66::/64
Endpoint = 192.0.2.1:9999
PersistentKeepalive = 25
"""


def imported(node: Node, text: str, peer: str, directory: Path) -> None:
    """The node has, instead of flags, what becomes of the file."""
    directory.mkdir()
    source, out = directory / "wg0.conf", directory / "node.toml"
    source.write_text(text)
    node.namespace.run(str(PROGRAMS / "cryprq"), "import", "wireguard", str(source), "--out", str(out), "--id", peer)
    node.namespace.run(str(PROGRAMS / "cryprq-node"), "--config", str(out), "--check")
    node.arguments = ["--config", str(out)]


def test_both_files_make_a_tunnel(lab: Lab, tmp_path: Path) -> None:
    hosts: tuple[Namespace, Namespace] = lab.namespace("gateway"), lab.namespace("branch")
    lab.veth(hosts[0], ["192.0.2.1/24"], hosts[1], ["192.0.2.2/24"])
    gateway, branch = (Node(host) for host in hosts)
    imported(gateway, GATEWAY, f"branch={branch.peer_id}", tmp_path / "at-gateway")
    imported(branch, BRANCH, f"gateway={gateway.peer_id}", tmp_path / "at-branch")
    gateway.start().wait_event("listener_ready")
    branch.start().wait_event("peer_connected")
    for target in ("10.66.0.1", "fd66::1"):
        assert branch.namespace.measure("ping", target, count=3)["received"] == 3
    assert branch.namespace.ip("route get 10.66.0.7").startswith("10.66.0.7 dev cryprq0")
    assert gateway.namespace.ip("route get 192.168.9.1").startswith("192.168.9.1 dev cryprq0")
