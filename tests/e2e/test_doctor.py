"""``cryprq doctor`` on real hosts: a tunnel that is well, and what is planted, one thing after the other."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lab.hosts import CommandError, Lab, Namespace
from lab.nodes import PORT, PROGRAMS, Node
from lab.tunnels import GATEWAY, OUTER, Tunnel, listen_address, make_tunnel

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/doctor.schema.json").read_text())
OTHER = "QmQUYyhzsSZYHSZSfLcGQhCcLKLaCMwNmVZSDHBTXtBCZD"


def doctor(
    there: Namespace, *words: str, status: int | None = None, before: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """What it finds there; its exit status is that of the faults."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CRYPRQ_")}
    with there.entered():
        done = subprocess.run(
            [*before, PROGRAMS / "cryprq", "doctor", "--json", *words],
            capture_output=True,
            text=True,
            timeout=60,
            env=environ,
        )
    assert done.stderr == ""
    report = json.loads(done.stdout)
    jsonschema.validate(report, SCHEMA)
    faults = [each for each in report["findings"] if each["level"] == "fault"]
    assert report["faults"] == len(faults)
    assert done.returncode == (1 if faults else 0)
    if status is not None:
        assert done.returncode == status, faults
    return list(report["findings"])


def asked(node: Node, *words: str, **how: Any) -> list[dict[str, Any]]:
    return doctor(node.namespace, "--control-socket", str(node.control), *words, **how)


def told(findings: Sequence[dict[str, Any]], check: str, level: str = "fault") -> str:
    """All that a check says at that level."""
    found = (each for each in findings if (each["check"], each["level"]) == (check, level))
    return " | ".join(f"{each['text']}; {each['todo']}" for each in found)


def wrong(findings: Sequence[dict[str, Any]]) -> set[str]:
    return {each["check"] for each in findings if each["level"] == "fault"}


def well(findings: Sequence[dict[str, Any]]) -> None:
    """Nothing is wrong, and nothing worth knowing either, but what is so on the machine of the test."""
    assert {each["check"] for each in findings if each["level"] != "ok"} <= {"clock", "nat", "offloads"}
    assert not wrong(findings)


@pytest.fixture
def tunnel(lab: Lab) -> Tunnel:
    found = make_tunnel(lab, listen=("--route", "192.168.5.0/24"), up=False)
    found.listener.namespace.sysctl("net.ipv4.ip_forward", 1)
    return found


def settled(tunnel: Tunnel) -> None:
    """The tunnel is up, and the search for the path's MTU has found it."""
    tunnel.start()
    for node in (tunnel.listener, tunnel.dialer):
        wait_for(partial(_has_path_mtu, node))


def _has_path_mtu(node: Node) -> bool:
    return bool(node.status()["peers"][0]["path_mtu"] == 1480)


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_healthy_tunnel_and_what_goes_wrong_while_it_is_up(tunnel: Tunnel) -> None:
    settled(tunnel)
    gateway, dialer = tunnel.listener, tunnel.dialer
    found = asked(dialer)
    well(found)
    assert f"a listener answers at {OUTER[4][0]}:{PORT}" in told(found, "port reachable", "ok")
    assert "agrees with that of the peer" in told(found, "clock", "ok")
    well(asked(gateway))
    about = [each["about"] for each in asked(gateway, dialer.peer_id[:10]) if each["check"] == "peer"]
    assert about == [dialer.peer_id]

    gateway.namespace.sysctl("net.ipv4.ip_forward", 0)
    found = asked(gateway)
    assert wrong(found) == {"forwarding"}
    assert told(found, "forwarding").endswith("sysctl -w net.ipv4.ip_forward=1")
    gateway.namespace.sysctl("net.ipv4.ip_forward", 1)

    gateway.namespace.ip(f"route add default via {OUTER[4][1]} table 77")
    gateway.namespace.ip("rule add to 10.66.0.0/24 lookup 77 priority 10")  # answers are to go another way
    gateway.namespace.sysctl("net.ipv4.conf.all.rp_filter", 1)
    dialer.namespace.measure("ping", GATEWAY[4], count=1, timeout=0.2)
    found = asked(gateway)
    assert "strict reverse path filters" in told(found, "rp_filter") and "ip rule" in told(found, "rp_filter")

    dialer.namespace.ip("rule add to 192.0.2.1 lookup 77 priority 10")
    dialer.namespace.ip("route add default dev cryprq0 table 77")
    assert "leads into the tunnel itself" in told(asked(dialer), "routes")


def test_clock_that_differs_from_the_peers(tunnel: Tunnel) -> None:
    """The doctor's own, which is the dialer's: the listener takes its knock for a stranger's."""
    tunnel.start()
    found = asked(tunnel.dialer, before=CLOCK_OFF)
    assert wrong(found) == {"clock"}
    assert "differs by more than half a minute" in told(found, "clock")


CLOCK_OFF = (sys.executable, str(ROOT / "tests/rigs/clock_off.py"), "-3600")


def test_narrow_path_that_nobody_tells_of(lab: Lab) -> None:
    tunnel = make_tunnel(lab, up=False)
    there = tunnel.dialer.namespace
    there.run("nft", "add table inet path")
    there.run("nft", "add chain inet path out { type filter hook output priority 0; }")
    there.run("nft", "add rule inet path out meta l4proto udp meta length > 1400 drop")
    tunnel.start()
    wait_for(lambda: bool(tunnel.dialer.status()["peers"][0]["path_mtu"]))
    assert "the path carries 1400 bytes and no more" in told(asked(tunnel.dialer), "path mtu", "note")


# ---- no tunnel ----


def dropping(there: Namespace, hook: str, rule: str) -> None:
    there.run("nft", "add table inet wall")
    there.run("nft", f"add chain inet wall {hook} {{ type filter hook {hook} priority 0; }}")
    there.run("nft", f"add rule inet wall {hook} {rule}")


def test_peer_that_is_not_there_and_why(lab: Lab) -> None:
    """Nobody, a firewall at either end, another node, and one that does not let this one in."""
    tunnel = make_tunnel(lab, up=False)
    gateway, dialer = tunnel.listener, tunnel.dialer
    dialer.start().wait_event("node_started")
    dialer.wait_event("transport_error", timeout=30)
    found = asked(dialer)
    assert {"peer", "port reachable"} <= wrong(found)
    assert "nobody listens there" in told(found, "port reachable")
    assert "nobody answers at 192.0.2.1:9999" in told(found, "peer")

    dropping(gateway.namespace, "input", f"udp dport {PORT} drop")
    gateway.start().wait_event("listener_ready")
    assert "nothing comes back from 192.0.2.1:9999" in told(asked(dialer), "port reachable")
    found = asked(gateway)
    assert "inet wall input drops the node's UDP" in told(found, "firewall")
    assert "nft delete rule inet wall input handle" in told(found, "firewall")
    gateway.namespace.run("nft", "flush ruleset")

    dropping(dialer.namespace, "output", "meta l4proto udp drop")
    found = asked(dialer)
    assert "lets no UDP out to 192.0.2.1:9999" in told(found, "port reachable")
    assert "inet wall output drops" in told(found, "firewall")
    dialer.namespace.run("nft", "flush ruleset")


def test_who_is_refused_and_why(lab: Lab) -> None:
    tunnel = make_tunnel(lab, up=False)
    gateway, dialer = tunnel.listener, tunnel.dialer
    at = gateway.arguments.index("--allow-peer")
    gateway.arguments[at + 1] = OTHER
    gateway.start().wait_event("listener_ready")
    dialer.start().wait_event("handshake_failed", reason="refused", timeout=30)
    found = asked(dialer)
    assert wrong(found) == {"peer"}
    assert f"--allow-peer {dialer.peer_id}" in told(found, "peer")
    assert f"cryprq peer add {dialer.peer_id}" in told(asked(gateway), "peer", "note")
    assert "has not come" in told(asked(gateway, OTHER), "peer")
    dialer.stop()

    at = dialer.arguments.index("--peer")
    dialer.arguments[at + 1] = dialer.arguments[at + 1].replace(gateway.peer_id, OTHER)
    dialer.start().wait_event("handshake_failed", timeout=30)
    found = asked(dialer)
    assert f"nobody there is {OTHER}" in told(found, "peer")
    assert "takes this host for a stranger" in told(found, "peer")


def test_name_without_an_address(lab: Lab) -> None:
    there = lab.namespace("dialer")
    node = Node(there, "--peer", f"/dns/nowhere.invalid/udp/{PORT}/quic-v1/p2p/{OTHER}")
    node.start().wait_event("transport_error", timeout=20)
    found = asked(node)
    assert "nowhere.invalid has no address" in told(found, "dns")
    assert "cannot resolve nowhere.invalid" in told(found, "peer")


# ---- no node ----


@pytest.fixture
def host(lab: Lab) -> Namespace:
    there, other = lab.namespace("host"), lab.namespace("other")
    lab.veth(there, ["192.0.2.1/24"], other, ["192.0.2.2/24"])
    return there


def down(there: Namespace, text: str, *words: str, before: Sequence[str] = ()) -> list[dict[str, Any]]:
    """With a configuration, and no node."""
    config = there.directory / "node.toml"
    config.write_text(f'identity = "{there.directory}/identity"\ncontrol-socket = "{there.directory}/no.sock"\n{text}')
    found = doctor(there, "--config", str(config), *words, before=before, status=1)
    assert "no node runs" in told(found, "node")
    return found


LISTENS = f'''listen = "{listen_address(4)}"
tun-address = "10.66.0.1/24"
[allow-peer]
{OTHER} = ["10.66.0.2/32"]
'''


def test_node_that_is_down_and_would_start(host: Namespace) -> None:
    assert wrong(down(host, LISTENS)) == {"node"}


def test_what_keeps_a_node_from_starting(host: Namespace) -> None:
    with held_port(host):
        found = down(host, LISTENS)
    assert wrong(found) == {"node", "port"}
    assert f"UDP port {PORT} on 0.0.0.0 is in use" in told(found, "port") and "ss -ulnp" in told(found, "port")

    host.ip("tuntap add dev cryprq0 mode tun")
    found = down(host, LISTENS)
    assert wrong(found) == {"node", "tun"} and "ip link delete cryprq0" in told(found, "tun")
    host.ip("link delete cryprq0")

    found = down(host, LISTENS, before=("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"))
    assert wrong(found) == {"node", "rights"} and "sudo" in told(found, "rights")

    found = down(host, LISTENS, before=("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh"))
    assert wrong(found) == {"node", "tun"} and "modprobe tun" in told(found, "tun")

    (host.directory / "identity").write_text("no identity")
    (host.directory / "identity").chmod(0o600)
    assert "identity" in wrong(down(host, LISTENS))
    (host.directory / "identity").unlink()

    found = down(host, 'listen = "nonsense"\n')
    assert "is not a multiaddr" in told(found, "configuration")
    found = down(
        host,
        f'peer = "/ip4/192.0.2.2/udp/9999/quic-v1/p2p/{OTHER}"\nroute-table = "main"\n'
        f'[allow-peer]\n{OTHER} = ["192.0.2.0/24"]\n',
    )
    assert "192.0.2.2" in told(found, "configuration")  # the tunnel would swallow itself


def test_what_a_kill_switch_has_left(host: Namespace) -> None:
    peer = f'peer = "/ip4/192.0.2.2/udp/9999/quic-v1/p2p/{OTHER}"'
    text = f'{peer}\nkill-switch = true\n[allow-peer]\n{OTHER} = ["0.0.0.0/0"]\n'
    node = Node(host, "--peer", f"/ip4/192.0.2.2/udp/9999/quic-v1/p2p/{OTHER}", "--kill-switch")
    node.arguments += ["--allow-peer", f"{OTHER}=0.0.0.0/0"]
    node.start().wait_event("node_started")
    node.kill()
    found = down(host, text)
    assert "cryprq down" in told(found, "routes")


@contextmanager
def held_port(there: Namespace) -> Iterator[None]:
    with there.entered():
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        holder.bind(("0.0.0.0", PORT))
    with holder:
        yield


def test_peer_that_nobody_knows_is_a_mistake_of_usage(host: Namespace) -> None:
    with pytest.raises(CommandError, match="no peer is called 'nobody'"):
        host.run(str(PROGRAMS / "cryprq"), "doctor", "nobody", "--config", str(down_config(host)))


def down_config(there: Namespace) -> Path:
    down(there, LISTENS)
    return there.directory / "node.toml"
