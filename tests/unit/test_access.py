"""Rules of access: how they are written, whom they are about, and what the data plane is told of them."""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import pytest

from cryprq._fastpath import Rules
from cryprq.config import access_entries
from cryprq.config.access_entries import ICMP, AccessRule
from cryprq.config.node_config import NodeConfig
from cryprq.errors import ConfigError
from cryprq.node.access import AccessKeeper, services
from cryprq.node.doubts import of_configuration
from cryprq.peer_id import PeerId
from cryprq.peers.peer import Peer
from cryprq.registry.entries import PeerEntry
from cryprq.registry.fleet import Fleet

A, B, C = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))
LISTEN = ["--listen", "/ip4/0.0.0.0/udp/9999/quic-v1", "--tun-address", "10.9.0.1/24", "--allow-peer", str(A)]
TEN = ip_network("10.0.0.0/8")


def load(*arguments: str, environ: Mapping[str, str] | None = None) -> NodeConfig:
    return NodeConfig.load([*LISTEN, *arguments], environ or {})


# ---- how they are written ----


def test_every_form_of_a_rule() -> None:
    config = load(
        *("--access", "group:staff=10.0.0.0/8:443/tcp"),
        *("--access", "group:Staff=10.0.0.7:80,8000-8080/TCP,any:*/icmp"),
        *("--access", "everyone=[fd00::/8]:53/udp,fd01::/16:53/17,*:*/*"),
        *("--access", f"{A}=10.1.2.3/8:*/47"),
        *("--access", "peer:Bob="),
    )
    assert config.access == {
        "group:staff": (
            AccessRule(TEN, 6, ((443, 443),)),
            AccessRule(ip_network("10.0.0.7/32"), 6, ((80, 80), (8000, 8080))),
            AccessRule(None, ICMP),
        ),
        "*": (
            AccessRule(ip_network("fd00::/8"), 17, ((53, 53),)),
            AccessRule(ip_network("fd01::/16"), 17, ((53, 53),)),
            AccessRule(None, None),
        ),
        f"peer:{A}": (AccessRule(TEN, 47),),
        "peer:bob": (),
    }


def test_file_environment_and_flag_say_the_same_and_the_strongest_counts(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[access]\n"group:staff" = ["10.0.0.0/8:80,443/tcp", "any:*/icmp"]\n"*" = []\n')
    text = "group:staff=10.0.0.0/8:80,443/tcp,any:*/icmp"
    by_file = load("--config", str(file)).access
    assert (
        load(environ={"CRYPRQ_ACCESS": f"{text},*="}).access
        == by_file
        == load("--access", text, "--access", "*=").access
    )
    assert load("--config", str(file), "--access", "*=any:*/*").access == {"*": (AccessRule(None, None),)}
    described = load("--config", str(file)).describe()
    assert (
        "access = group:staff=10.0.0.0/8:80,443/tcp,any:*/icmp\n" in described and "access = *= (nothing)" in described
    )
    assert "access = none" in load().describe() and load().access == {}


def test_what_a_rule_is_shown_as_means_the_same() -> None:
    for text in ("*=any:*/*", "group:a=10.0.0.0/8:1,2-3/udp", "peer:b=[fd00::/8]:*/icmp,any:*/58"):
        entry = access_entries.parse(text)
        assert access_entries.show(entry) == text and access_entries.parse(access_entries.show(entry)) == entry


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("group:staff", "'group:staff' says nothing of where to: the form is SUBJECT=DEST:PORTS/PROTO"),
        ("grup:staff=any:*/*", "'grup:staff' is nobody: .*; did you mean group?"),
        ("staff=any:*/*", "'staff' is nobody: group:NAME, peer:NAME, a peer's ID, or \\* for everyone"),
        ("group:a_b=any:*/*", "'a_b' is no name for a group"),
        ("peer:Qmx=any:*/*,", None),
        ("*=10.0.0.0/8", "'10.0.0.0/8' is no rule: the form is DEST:PORTS/PROTO, such as 10.0.0.0/8:443/tcp"),
        ("*=10.0.0.0/8:443", "'10.0.0.0/8:443' is no rule"),
        ("*=10.0.0.0/33:1/tcp", "'10.0.0.0/33' is not a network"),
        ("*=any:443/tpc", "the protocol 'tpc' is unknown; did you mean tcp?"),
        ("*=any:*/256", "256 is no protocol: 0 to 255"),
        ("*=any:*/1000000000000", "1000000000000 is no protocol"),
        ("*=any:443/*", "ports are of tcp and udp alone"),
        ("*=any:443/icmp", "ports are of tcp and udp alone"),
        ("*=any:0/tcp", "'0' is no port: 1 to 65535"),
        ("*=any:65536/tcp", "'65536' is no port"),
        ("*=any:90-80/tcp", "'90-80' is no port"),
        ("*=any:web/tcp", "'web' is no port"),
    ],
)
def test_mistakes_are_one_line(text: str, said: str | None) -> None:
    if said is None:
        load("--access", text)
        return
    with pytest.raises(ConfigError, match=said.replace("?", "\\?")) as error:
        load("--access", text)
    assert "\n" not in str(error.value) and str(error.value).startswith("--access")


def test_mistakes_in_a_file_name_the_subject(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    for text, said in (
        ('[access]\n"group:a" = "any:*/*"', "'group:a' under 'access' in .* must be a list"),
        ('[access]\n"a=b" = ["any:*/*"]', "'a=b' under 'access' in .* is nobody"),
        ('[access]\n"group:a" = ["any:*/tpc"]', "did you mean tcp"),
        ('[acess]\n"group:a" = []', "did you mean 'access'"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load("--config", str(file))


def test_rule_about_nobody_is_a_doubt() -> None:
    known = ("--peer-name", f"Alice={A}", "--peer-groups", f"{A}=staff")
    assert of_configuration(load(*known, "--access", "group:staff=any:*/*", "--access", "peer:alice=any:*/*")) == ()
    assert of_configuration(load(*known, "--access", f"{A}=any:*/*", "--access", "*=any:*/*")) == ()
    doubts = of_configuration(load(*known, "--access", "group:stuff=any:*/*", "--access", "peer:zoe=any:*/*"))
    assert doubts == (
        "--access group:stuff: no peer is in that group; did you mean group:staff?",
        "--access peer:zoe: there is no such peer",
    )
    registered = {B: PeerEntry(peer_id=B, name="zoe", groups=("stuff",))}
    config = load(*known, "--access", "group:stuff=any:*/*", "--access", "peer:zoe=any:*/*")
    assert of_configuration(config, registered) == ()


# ---- what the plane is told ----


def test_services_of_a_rule() -> None:
    four, six = ip_network("0.0.0.0/0"), ip_network("::/0")
    assert list(services(AccessRule(TEN, 6, ((80, 81), (443, 443))))) == [
        (TEN, 6 << 16 | 80, 6 << 16 | 81),
        (TEN, 6 << 16 | 443, 6 << 16 | 443),
    ]
    assert list(services(AccessRule(None, ICMP))) == [
        (four, 1 << 16, 1 << 16 | 0xFFFF),
        (six, 58 << 16, 58 << 16 | 0xFFFF),
    ]
    assert list(services(AccessRule(TEN, None))) == [(TEN, 0, 256 << 16 | 0xFFFF)]
    assert list(services(AccessRule(TEN, 58))) == [(TEN, 58 << 16, 58 << 16 | 0xFFFF)]


class Plane:
    def __init__(self) -> None:
        self.held: dict[int, Rules | None] = {}
        self.newcomers: Rules | None = None
        self.calls = 0

    def set_access(self, peers: Mapping[int, Rules | None], newcomers: Rules | None) -> None:
        self.calls += 1
        self.newcomers = newcomers
        self.held = {**self.held, **peers} if newcomers is not None else {}


class Known:
    """What a keeper asks of a fleet."""

    def __init__(self, *entries: PeerEntry) -> None:
        self.entries = {entry.peer_id: entry for entry in entries}
        self.successors: dict[PeerId, PeerId] = {}

    def entry(self, peer: PeerId) -> PeerEntry | None:
        return self.entries.get(peer)


class Handle:
    def __init__(self, peer_id: PeerId, handle: int) -> None:
        self.peer_id, self.handle = peer_id, handle


def keeper(plane: Plane, known: Known, peers: list[Handle], **access: str) -> AccessKeeper:
    rules = access_entries.collect([access_entries.parse(each) for each in access.values()])
    return AccessKeeper(plane, cast(Fleet, known), cast(Any, peers), rules)


STAFF, ALL = "group:staff=10.0.0.0/8:443/tcp", "*=any:*/icmp"


def test_without_rules_the_plane_is_told_nothing() -> None:
    plane = Plane()
    kept = keeper(plane, Known(), [Handle(A, 1)])
    kept.added(cast(Peer, Handle(A, 1)))
    kept.revise([A])
    assert plane.calls == 0 and kept.subjects(A) is None and kept.describe(A) is None


def test_peers_of_the_same_groups_share_their_rules() -> None:
    plane, known = Plane(), Known(*(PeerEntry(peer_id=i, groups=("staff",)) for i in (A, B)))
    kept = keeper(plane, known, [Handle(A, 1), Handle(B, 2), Handle(C, 3)], one=STAFF, two=ALL)
    assert plane.held[1] is plane.held[2] is not plane.held[3] is plane.newcomers
    assert kept.subjects(A) == ("group:staff", "*") and kept.subjects(C) == ("*",)
    assert kept.describe(A) == ["10.0.0.0/8:443/tcp (group:staff)", "any:*/icmp (*)"]
    kept.added(cast(Peer, Handle(PeerId(bytes(32)), 4)))
    assert plane.held[4] is plane.newcomers


def test_what_is_known_of_a_peer_changes() -> None:
    plane, known = Plane(), Known(PeerEntry(peer_id=A, groups=("staff",)))
    kept = keeper(plane, known, [Handle(A, 1), Handle(B, 2)], one=STAFF, two="peer:bob=any:*/*")
    before = dict(plane.held)
    known.entries = {A: PeerEntry(peer_id=A), B: PeerEntry(peer_id=B, name="bob")}
    kept.revise([B])
    assert plane.held[1] is before[1] and plane.held[2] is not before[2]
    kept.revise([A])
    assert plane.held[1] is before[2] and kept.subjects(B) == ("peer:bob",)
    kept.change({})
    assert plane.held == {} and plane.newcomers is None


def test_successor_may_what_the_one_before_it_may() -> None:
    known = Known(PeerEntry(peer_id=A, name="alice", groups=("staff",)), PeerEntry(peer_id=B))
    known.successors = {A: B}
    kept = keeper(Plane(), known, [], one=STAFF, two="peer:alice=any:*/*", three=f"peer:{A}=any:*/*")
    assert kept.subjects(B) == ("group:staff", "peer:alice", f"peer:{A}")
