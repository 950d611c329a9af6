"""What ``cryprq doctor`` makes of facts: of each check, one fault and what is fine."""

import json
import runpy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cryprq.cli import doctor, tool
from cryprq.cli.paint import coloured
from cryprq.linux.host_facts import HostFacts, host_facts
from cryprq.linux.surroundings import Way
from cryprq.node import diagnosis, host_checks, peer_checks
from cryprq.node.findings import Check, Facts, Finding, Peer, Report
from cryprq.node.firewall import Block
from cryprq.node.reach import Reach
from cryprq.telemetry.samples import NodeStatus, PeerSample, as_json

ROOT = Path(__file__).parents[2]
ID = "QmQUYyhzsSZYHSZSfLcGQhCcLKLaCMwNmVZSDHBTXtBCZD"
AT = "198.51.100.1:9999"
ADDR = f"/ip4/198.51.100.1/udp/9999/quic-v1/p2p/{ID}"


def status(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"version": "1", "peer_id": ID, "tun_name": "cryprq0", "uptime_secs": 1.0, "healthy": True}
    return as_json(NodeStatus(**{**base, **changes}))


def peer(*, sample: dict[str, Any] | None = None, **changes: Any) -> Peer:
    """One that is dialled, and is there unless the sample says otherwise."""
    base: dict[str, Any] = {"connected": True, "direction": "outbound", "endpoint": AT, "dialled_at": (ADDR,)}
    made = asdict(PeerSample(peer_id=ID, **{**base, "path_mtu": 1480, **(sample or {})}))
    found = Peer(
        peer_id=ID, name="alice", sample=made, reach=(Reach(AT, "quic", "taken"),), way=Way("203.0.113.5", 1500)
    )
    return replace(found, **changes)


def away(trouble: str = "", **sample: Any) -> Peer:
    return peer(sample={"connected": False, "endpoint": "", "trouble": trouble, **sample})


HOST = HostFacts(forwarding={4: True, 6: True}, clock_synced=True, now=2e9)
UP = Facts(host=HOST, tun_name="cryprq0", status=status(), mtu=1420, peers=(peer(),))
DOWN = Facts(host=HOST, tun_name="cryprq0", identity_time=1e9, ports={"/ip4/0.0.0.0/udp/9999/quic-v1": ""})


def on(facts: Facts, **host: Any) -> Facts:
    return replace(facts, host=replace(facts.host, **host))


def up(**changes: Any) -> Facts:
    return replace(UP, status=status(**changes))


def with_peers(*peers: Peer, **changes: Any) -> Facts:
    return replace(UP, peers=peers, **changes)


def down(**changes: Any) -> Facts:
    return replace(DOWN, **changes)


BLOCK = Block(
    "inet filter input", "input", "drops the node's UDP (handle 7)", "nft delete rule inet filter input handle 7"
)

FAULTS: list[tuple[Check, Facts, str, str]] = [
    (host_checks.node, up(healthy=False, unhealthy="the TUN is gone"), "the TUN is gone", "journalctl"),
    (host_checks.node, down(), "no node runs", "cryprq up"),
    (host_checks.node, down(not_asked="no permission for /run/x.sock"), "no permission", "sudo cryprq doctor"),
    (host_checks.configuration, down(config_fault="--mtu: 'x' is not a whole number"), "not a whole number", "--check"),
    (host_checks.identity, down(identity_fault="identity is open to others"), "open to others", ""),
    (host_checks.registry, down(registry_fault="the registry is damaged"), "is damaged", ""),
    (host_checks.rights, on(DOWN, net_admin=False), "CAP_NET_ADMIN", "sudo"),
    (host_checks.tun, on(DOWN, tun_fault="No such file or directory"), "/dev/net/tun", "modprobe tun"),
    (host_checks.tun, on(DOWN, tun_taken=True), "cryprq0", "ip link delete cryprq0"),
    (host_checks.ports, down(ports={"x": "UDP port 9 is in use (see: ss)"}), "in use", ""),
    (host_checks.clock, on(down(identity_time=2.1e9)), "before this host's identity", "timedatectl"),
    (host_checks.entropy, on(UP, rng_ready=False), "randomness", "rngd"),
    (
        host_checks.forwarding,
        replace(on(UP, forwarding={4: False}), announced=("10.5.0.0/16",)),
        "10.5.0.0/16",
        "sysctl -w net.ipv4.ip_forward=1",
    ),
    (
        host_checks.forwarding,
        replace(on(UP, forwarding={4: True, 6: False}), announced=("fd05::/64",)),
        "fd05::/64",
        "sysctl -w net.ipv6.conf.all.forwarding=1",
    ),
    (host_checks.reverse_path, on(UP, rp_filter={"eth0": 1, "lo": 1}, rp_dropped=3), "eth0", "conf.eth0.rp_filter=2"),
    (host_checks.conntrack, on(UP, conntrack=(97, 100)), "97 of 100", "nf_conntrack_max=400"),
    (host_checks.routes, up(faults=("route 10.5.0.0/16: File exists",)), "10.5.0.0/16", "ip route"),
    (host_checks.routes, up(routes_missing=2), "2 routes", "ip route"),
    (host_checks.routes, on(DOWN, leftovers=4), "left 4 routes", "cryprq down"),
    (host_checks.firewall, with_peers(peer(reach=(Reach(AT, "silent"),)), blocks=(BLOCK,)), "handle 7", "nft delete"),
    (
        host_checks.firewall,
        with_peers(away(dialled_at=()), blocks=(BLOCK,), listening=("192.0.2.1",)),
        "inet filter input",
        "nft delete",
    ),
    (peer_checks.sessions, with_peers(away("nobody answers at 198.51.100.1:9999")), "is not there", "nobody answers"),
    (peer_checks.sessions, with_peers(away()), "is being dialled", "cryprq doctor alice"),
    (peer_checks.sessions, with_peers(peer(sample={"silent": True})), "does not answer", "UDP"),
    (peer_checks.sessions, with_peers(replace(away(dialled_at=()), wanted=True)), "has not come", "cryprq doctor"),
    (
        peer_checks.sessions,
        with_peers(replace(away(barred="disabled"), wanted=True)),
        "disabled",
        "cryprq peer enable alice",
    ),
    (peer_checks.sessions, with_peers(replace(away(barred="expired"), wanted=True)), "expired", "expire alice"),
    (peer_checks.sessions, with_peers(), "no peer at all", "cryprq invite"),
    (peer_checks.reachable, with_peers(replace(away(), reach=(Reach(AT, "silent"),))), "lost on the way", "UDP 9999"),
    (peer_checks.reachable, with_peers(replace(away(), reach=(Reach(AT, "refused"),))), "nobody listens", "ss -ulnp"),
    (peer_checks.reachable, with_peers(replace(away(), reach=(Reach(AT, "blocked"),))), "firewall", "nft list"),
    (
        peer_checks.reachable,
        with_peers(replace(away(), reach=(Reach(AT, "Network is unreachable"),))),
        "no way to 198.51.100.1:9999: Network is unreachable",
        "ip route",
    ),
    (peer_checks.knock, with_peers(peer(reach=(Reach(AT, "quic", "strange"),))), "half a minute", "date -u"),
    (
        peer_checks.knock,
        with_peers(replace(away(), reach=(Reach(AT, "quic", "strange"),))),
        "takes this host for a stranger",
        "listener_ready",
    ),
    (peer_checks.names, with_peers(peer(names={"vpn.example": "Name or service not known"})), "vpn.example", "getent"),
    (peer_checks.names, up(name_servers=("10.77.0.53",)), "10.77.0.53", "systemd-resolved"),
    (
        peer_checks.loops,
        replace(up(addresses=("10.77.0.2/24",)), peers=(peer(way=Way("10.77.0.2", 1420)),)),
        "itself",
        "ip rule",
    ),
]

NOTES: list[tuple[Check, Facts, str]] = [
    (host_checks.configuration, down(doubts=("nobody reads the variable CRYPRQ_X",)), "CRYPRQ_X"),
    (host_checks.identity, down(identity_time=None), "none yet"),
    (host_checks.clock, on(UP, clock_synced=False), "nothing keeps"),
    (host_checks.reverse_path, on(UP, rp_dropped=3), "none is strict"),
    (host_checks.offloads, up(offloads={"udp_gro": "unavailable", "rcvbuf": "1"}), "udp_gro (unavailable)"),
    (host_checks.firewall, with_peers(peer(), blocks=(BLOCK,)), "handle 7"),
    (peer_checks.sessions, with_peers(away(dialled_at=())), "has not come"),
    (peer_checks.sessions, up(denied=ID), f"{ID} was refused"),
    (peer_checks.reachable, with_peers(peer(reach=(Reach("192.0.2.1:1", "silent"),))), "nothing comes back"),
    (peer_checks.knock, with_peers(replace(away(), reach=(Reach(AT, "quic", "silent"),))), "for a while"),
    (peer_checks.nat, replace(UP, listening=("192.168.1.5",)), "port forward"),
    (peer_checks.nat, replace(UP, listening=("100.64.7.1",)), "carrier's NAT"),
    (peer_checks.path_mtu, with_peers(peer(sample={"path_mtu": 1400}), mtu=1420), "carries 1400 bytes"),
    (peer_checks.path_mtu, with_peers(peer(sample={"path_mtu": None})), "not known yet"),
]

FINE: list[tuple[Check, Facts]] = [
    *((check, UP) for check in diagnosis.CHECKS),
    *((check, DOWN) for check in diagnosis.CHECKS if check is not host_checks.node),
    (host_checks.forwarding, replace(UP, announced=("10.5.0.0/16", "fd05::/64"))),
    (host_checks.forwarding, on(UP, forwarding={4: False, 6: False})),
    (host_checks.forwarding, replace(on(UP, forwarding={}), announced=("10.5.0.0/16",))),
    (host_checks.reverse_path, on(UP, rp_filter={"eth0": 1, "cryprq0": 1})),
    (host_checks.conntrack, on(UP, conntrack=(94, 100))),
    (host_checks.clock, on(UP, clock_synced=None)),
    (host_checks.firewall, replace(UP, blocks=None)),
    (host_checks.offloads, up(offloads={"udp_gro": "on", "uso": "off", "rcvbuf": "425984"})),
    (peer_checks.names, with_peers(peer(names={"vpn.example": ""}))),
    (peer_checks.names, up(name_servers=("10.77.0.53",), dns_by="resolvectl")),
    (peer_checks.loops, replace(up(addresses=("10.77.0.2/24",)), peers=(peer(),))),
    (peer_checks.path_mtu, with_peers(peer(sample={"path_mtu": 1480}, way=Way("203.0.113.5", 9000)), mtu=1420)),
    (peer_checks.path_mtu, with_peers(peer(sample={"path_mtu": 1492}, way=Way("203.0.113.5", 1492)), mtu=1460)),
    (peer_checks.nat, with_peers(peer(way=Way("192.168.1.5", 1500)))),
    (peer_checks.nat, replace(UP, listening=("203.0.113.5",))),
]


def id_of(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("check", "facts", "text", "todo"), FAULTS, ids=id_of)
def test_fault_is_named_with_what_to_do(check: Check, facts: Facts, text: str, todo: str) -> None:
    faults = [each for each in check(facts) if each.level == "fault"]
    assert len(faults) == 1
    assert text in faults[0].text and todo in faults[0].todo
    assert "\n" not in faults[0].text + faults[0].todo
    assert check in diagnosis.CHECKS


@pytest.mark.parametrize(("check", "facts", "text"), NOTES, ids=id_of)
def test_what_is_worth_knowing_is_no_fault(check: Check, facts: Facts, text: str) -> None:
    found = [each for each in check(facts) if each.level != "ok"]
    assert [each.level for each in found] == ["note"]
    assert text in found[0].text


@pytest.mark.parametrize(("check", "facts"), FINE, ids=id_of)
def test_what_is_fine_is_no_more_than_that(check: Check, facts: Facts) -> None:
    assert {each.level for each in check(facts)} <= {"ok"}


def test_each_check_can_fail() -> None:
    assert {check for check, *_ in FAULTS} | {host_checks.offloads, peer_checks.nat, peer_checks.path_mtu} == set(
        diagnosis.CHECKS
    )


def test_nat_is_told_by_the_address_that_this_host_sends_from() -> None:
    def of(source: str) -> str:
        (found,) = peer_checks.nat(with_peers(peer(way=Way(source, 1500))))
        return found.text

    assert "behind a NAT (192.168.1.5)" in of("192.168.1.5")
    assert "behind a carrier's NAT (100.64.0.9)" in of("100.64.0.9")
    assert "no NAT is known of" in of("203.0.113.5")


# ---- the program ----


REPORT = Report(
    version="1",
    time=1.0,
    running=True,
    faults=1,
    findings=(
        Finding(check="node", level="ok", text="runs"),
        Finding(
            check="forwarding", level="fault", about="alice", text="is off", todo="sysctl -w net.ipv4.ip_forward=1"
        ),
    ),
)


def test_one_line_each_and_colours_on_terminals_only() -> None:
    assert doctor.render(REPORT.findings).splitlines() == [
        "ok    node: runs",
        "fault forwarding (alice): is off; do: sysctl -w net.ipv4.ip_forward=1",
        "1 to mend",
    ]
    assert doctor.render(REPORT.findings, coloured).splitlines()[1].startswith("\x1b[1;31mfault\x1b[0m forwarding")
    assert doctor.render(REPORT.findings[:1]).splitlines()[-1] == "nothing is wrong"


@pytest.mark.parametrize(("faults", "exit_status"), [(1, 1), (0, 0)])
def test_exit_status_and_json(
    faults: int, exit_status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_: replace(REPORT, faults=faults))
    assert tool.main(["doctor", "--json"]) == exit_status
    printed = json.loads(capsys.readouterr().out)
    schemas = runpy.run_path(str(ROOT / "scripts/make_schemas.py"))["schemas"]()
    assert json.loads((ROOT / "docs/doctor.schema.json").read_text()) == schemas["doctor.schema.json"]
    jsonschema.Draft202012Validator.check_schema(schemas["doctor.schema.json"])
    jsonschema.validate(printed, schemas["doctor.schema.json"])


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["doctor", "--no-such-flag"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_this_host_answers_all_questions() -> None:
    found = host_facts("no-such-tun")
    assert found.now > 1e9 and not found.tun_taken and found.leftovers == 0
    assert found.rng_ready
