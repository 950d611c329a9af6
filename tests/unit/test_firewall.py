"""Which rules of nftables are taken to be in the way: as ``nft -j`` shows them."""

import json
import subprocess

import pytest

from cryprq.node.firewall import blocks, ruleset
from lab.hosts import Lab, Namespace

PORT = 9999


@pytest.fixture
def host(lab: Lab) -> Namespace:
    return lab.namespace("host")


def judged(host: Namespace, rules: str, hook: str = "input", policy: str = "accept") -> list[str]:
    """What is found in a chain of these rules; the node listens and dials at PORT."""
    chain = f"chain c {{ type filter hook {hook} priority 0; policy {policy}; {rules} }}"
    text = f"table inet t {{ chain other {{ udp dport {PORT} drop; }}; {chain}; }}"
    with host.entered():
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        found = ruleset()
    assert found is not None
    host.run("nft", "flush", "ruleset")
    return [each.what for each in blocks(found, {PORT}, {PORT})]


@pytest.mark.netns
@pytest.mark.parametrize(
    ("rules", "policy"),
    [
        (f"udp dport {PORT} drop;", "accept"),
        (f"udp dport {{ 53, {PORT} }} reject;", "accept"),
        ("udp dport 9000-10000 drop;", "accept"),
        ("meta l4proto udp drop;", "accept"),
        (f"ip saddr 192.0.2.9 udp dport {PORT} drop;", "accept"),
        ("ct state established accept; drop;", "accept"),
        ("tcp dport 22 accept; ct state established,related accept;", "drop"),
        ("jump other;", "accept"),
        ("udp dport 53 accept;", "drop"),
    ],
)
def test_rule_that_drops_the_nodes_udp(host: Namespace, rules: str, policy: str) -> None:
    (found,) = judged(host, rules, policy=policy)
    assert "drops" in found or "rejects" in found


@pytest.mark.netns
@pytest.mark.parametrize(
    ("rules", "policy"),
    [
        ("", "accept"),
        ("tcp dport 9999 drop;", "accept"),
        ("udp dport 53 drop;", "accept"),
        ("udp dport != 9999 drop;", "accept"),
        ("ct state invalid drop;", "accept"),
        ("ip saddr 192.0.2.9 drop;", "accept"),
        (f"udp dport {PORT} accept; drop;", "accept"),
        (f"udp dport {PORT} accept;", "drop"),
        ("meta l4proto { udp, tcp } accept;", "drop"),
    ],
)
def test_rule_that_is_about_something_else(host: Namespace, rules: str, policy: str) -> None:
    assert judged(host, rules, policy=policy) == []


@pytest.mark.netns
def test_way_out_is_looked_at_too_and_forwarding_is_not(host: Namespace) -> None:
    assert judged(host, "udp dport 9999 drop;", hook="output") != []
    assert judged(host, "udp dport 9999 drop;", hook="forward") == []


def test_what_is_no_ruleset_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryprq.node.firewall.shutil.which", lambda *_, **__: None)
    assert ruleset() is None
    monkeypatch.setattr("cryprq.node.firewall.shutil.which", lambda *_, **__: "/bin/echo")
    assert ruleset() is None
    assert blocks(json.loads("[]"), {1}, {1}) == ()
