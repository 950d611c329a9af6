"""After a rotation and its grace, neither of two nodes has anything of the epoch before in its memory or its registers:
not the roots and what they were made of, not a control or data key, nor what a cipher makes of one."""

import sys
import time

import pytest

from lab import ROOT
from lab.hosts import Lab
from lab.nodes import Node
from lab.tunnels import GATEWAY, make_tunnel
from tests.rigs.cipher_state import expanded
from tests.rigs.process_memory import found, search
from tests.rigs.telling_node import told

GRACE = 10


def remaining(node: Node, secrets: dict[str, bytes]) -> set[str]:
    """Names of those that are in the node's process."""
    needles = dict(secrets)
    for name, secret in secrets.items():
        if len(secret) == 32:
            needles |= {f"{name}, {part}": value for part, value in expanded("AES", secret, powers=66).items()}
    hits = search(node.running().pid, needles)
    for hit in hits:
        print(node.name, hit)
    return found(hits)


def test_nothing_is_left_after_the_grace(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    tunnel = make_tunnel(lab, up=False)
    file = lab.directory / "told"
    program = [sys.executable, str(ROOT / "tests" / "rigs" / "telling_node.py"), str(file)]
    monkeypatch.setattr(tunnel.dialer, "command", lambda: program)
    tunnel.start()
    both = (tunnel.listener, tunnel.dialer)

    def ping() -> None:
        assert tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=3, interval=0.01)["received"] == 3

    ping()
    first = {f"{number}: {name}": secret for number, (name, secret) in enumerate(told(file)) if "identity" not in name}
    data = {name for name in first if "data" in name and "key" in name}
    assert data
    for node in both:
        assert data <= remaining(node, first)  # the search is not blind
    tunnel.dialer.tool("rotate")
    for node in both:
        node.wait_event("key_rotation", status="success", epoch=1)
    ping()
    time.sleep(GRACE)
    ping()
    deadline = time.monotonic() + 60  # the plane is asked about its old tables once a second
    for node in both:
        while remaining(node, {name: first[name] for name in data}) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert remaining(node, first) == set()
