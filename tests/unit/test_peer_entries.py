"""Names, groups, expiry of peers in the configuration: in every notation, and what is said of a slip of the finger."""

import contextlib
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from cryprq.config.node_config import NodeConfig
from cryprq.config.peer_words import look_alikes
from cryprq.errors import ConfigError
from cryprq.node.declared import declared
from cryprq.peer_id import PeerId
from tests.unit.test_admin_socket import A, B

C = PeerId(b"\x02" * 32)
LISTEN = ["--listen", "/ip6/::/udp/9999/quic-v1", "--tun-address", "10.9.0.1/24"]
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
FILE = f"""
[peer.Alice]
id = "{A}"
networks = ["10.9.0.20/32"]
groups = ["staff", "admins"]
expires = 2027-01-01T00:00:00Z
psk-file = "alice.psk"

[peer.hq]
id = "{B}"
address = ["/ip4/192.0.2.1/udp/9999/quic-v1", "/dns/hq.example/udp/9999/quic-v1"]
disabled = true

[allow-peer]
{C} = ["10.9.0.21/32"]
"""


def load(*argv: str, **environ: str) -> NodeConfig:
    return NodeConfig.load([*LISTEN, *argv], environ)


def error_of(*argv: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*argv, **environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(FILE)
    return path


def test_table_of_a_peer(file: Path) -> None:
    config = load("--config", str(file))
    assert config.peer_names == {A: "alice", B: "hq"}
    assert config.allow_peers == {A: (ip_network("10.9.0.20/32"),), B: (), C: (ip_network("10.9.0.21/32"),)}
    assert config.peer_groups == {A: ("staff", "admins")}
    assert config.peer_expires == {A: NEW_YEAR}
    assert config.disabled_peers == {B}
    assert config.psk_files == {A: file.parent / "alice.psk"}
    assert [(peer.host, peer.peer_id) for peer in config.peers] == [("192.0.2.1", B), ("hq.example", B)]


def test_entries_of_the_registry_are_made_of_it(file: Path) -> None:
    entries = declared(load("--config", str(file), "--peer-name", f"guest={PeerId(bytes(31) + b'1')}"), "here")
    assert set(entries) == {A, B, C}, "a name alone lets nobody in"
    alice, hq = entries[A], entries[B]
    assert (alice.name, alice.groups, alice.disabled, alice.origin) == ("alice", ("staff", "admins"), False, "here")
    assert [alice.barred(now) for now in (NEW_YEAR - 1, NEW_YEAR)] == ["", "expired"]
    assert hq.barred(0) == "disabled"


def test_flags_and_environment_say_the_same(file: Path) -> None:
    config = load(
        *("--allow-peer", f"{A}=10.9.0.20/32", "--peer-name", f"Alice={A}", "--peer-groups", f"{A}=staff,admins"),
        *("--peer-expires", f"{A}=2027-01-01T00:00:00Z", "--disable-peer", str(B)),
    )
    environ = load(
        CRYPRQ_ALLOW_PEERS=f"{A}=10.9.0.20/32",
        CRYPRQ_PEER_NAMES=f"alice={A}",
        CRYPRQ_PEER_GROUPS=f"{A}=staff,admins",
        CRYPRQ_PEER_EXPIRES=f"{A}=2027-01-01T00:00:00+00:00",
        CRYPRQ_DISABLED_PEERS=str(B),
    )
    assert config == environ
    assert load("--config", str(file), "--peer-name", f"al={A}").peer_names == {A: "al", B: "hq"}


def test_name_stands_wherever_an_id_can(file: Path) -> None:
    text = file.read_text() + 'hq = ["10.9.0.22/32"]\n[psk-file]\nhq = "hq.psk"\n[successor]\nALICE = "hq"\n'
    file.write_text(text.replace('["10.9.0.20/32"]', '["10.9.0.22/32"]'))
    config = load(
        *("--config", str(file), "--peer", "/ip4/192.0.2.7/udp/1/quic-v1/p2p/alice"),
        *("--peer-groups", "hq=sites", "--peer-expires", "hq=2030-01-01", "--disable-peer", "alice"),
    )
    assert config.allow_peers[B] == (ip_network("10.9.0.22/32"),)
    assert config.psk_files[B] == file.parent / "hq.psk"
    assert config.successors == {A: B}
    assert config.peers[0].peer_id == A
    assert config.peer_groups[B] == ("sites",) and config.disabled_peers == {A, B}
    assert "peer-name = alice=" in config.describe()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('id = "Qm"', "[peer.x] in {file}: id: given twice"),
        ("groups = 3", "[peer.x] in {file}: groups: must be a string, or a list of strings"),
        ('networks = "10.0.0.0/8"', "[peer.x] in {file}: networks: must be a list of CIDRs, which may be empty"),
        ('expires = "in a week"', "'in a week' is no time: write 2027-01-31, "),
        ("expires = 3", "[peer.x] in {file}: expires: must be a date, or a date and time"),
        ("disabled = 1", "[peer.x] in {file}: disabled: must be true or false"),
        ("network = []", "[peer.x] in {file}: network: unknown key; known are id, networks, address"),
        ('groups = ["a b"]', "'a b' is no name for a group"),
        ('address = "/ip4/192.0.2.1/tcp/1"', "/ip4/192.0.2.1/tcp/1"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f'[peer.x]\nid = "{A}"\n{line}\n')
    if line.startswith("id"):
        path.write_text("[peer.x]\nnetworks = []\n")
        says = "[peer.x] in {file}: id: must be there"
    assert says.format(file=path) in error_of("--config", str(path))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--allow-peer", "alcie=10.0.0.0/24"], "--allow-peer: no peer is called 'alcie'; did you mean alice?"),
        (["--disable-peer", "somebody"], "--disable-peer: no peer is called 'somebody'"),
        (["--peer-name", f"hq={A}"], f"the name hq is given to two peers, {A} and {B}"),
        (["--peer-name", f"a={C}", "--peer-name", f"b={C}"], f"{C} is given two names, a and b"),
        (["--peer-name", f"a_b={C}"], "--peer-name: 'a_b' is no name for a peer: 1 to 63 letters"),
        (["--peer-name", "alone"], "--peer-name: 'alone' names no peer: the form is NAME=ID"),
        (["--psk-file", f"{str(A)[:-1]}=/f"], f"--psk-file: {str(A)[:-1]} is not a peer ID; did you mean {A}?"),
        (["--allow-peer", f"0{str(A)[1:]}"], "is not a peer ID"),
    ],
)
def test_slip_of_the_finger_is_named(file: Path, arguments: list[str], says: str) -> None:
    assert says in error_of("--config", str(file), *arguments)


def test_ids_that_are_much_alike_are_doubted() -> None:
    text = str(A)
    twin = PeerId.parse(text[:20] + ("x" if text[20] != "x" else "y") + text[21:])
    config = load("--allow-peer", text, "--allow-peer", str(B), "--allow-peer", str(twin))
    assert [doubt for doubt in config.doubts if "differ by a character" in doubt] == [
        f"the peers {A} and {twin} differ by a character or two: is one of them mistyped?"
    ]
    assert not load("--allow-peer", text, "--allow-peer", str(B)).doubts


def test_alike_are_found_wherever_the_slip_is_and_quickly() -> None:
    text = str(PeerId(bytes(range(32))))
    slips = {PeerId(bytes([n % 251, n // 251, *range(30)])) for n in range(2000)}
    twins = set()
    for at in range(5, 45):
        for change in (text[:at] + text[at + 1] + text[at] + text[at + 2 :], text[:at] + "z" + text[at + 1 :]):
            with contextlib.suppress(ValueError):  # too large a number
                twins.add(PeerId.parse(change))
    twins -= {PeerId.parse(text)}
    assert len(twins) > 40
    for twin in twins:
        assert list(look_alikes([PeerId.parse(text), twin])) == [(PeerId.parse(text), twin)]
    assert len(slips) == 2000
    list(look_alikes(slips))
