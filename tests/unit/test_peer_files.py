"""The directory of peers: what its files say, and that one that is wrong costs the others nothing."""

import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from cryprq.config.node_config import NodeConfig
from cryprq.config.peer_files import SIZE_MAX, PeerFiles
from cryprq.errors import MachineError
from cryprq.peer_id import PeerId
from tests.unit.test_admin_socket import A, B

LISTEN = ["--listen", "/ip6/::/udp/9999/quic-v1", "--tun-address", "10.9.0.1/24"]
C = PeerId(b"\x02" * 32)


class Directory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = PeerFiles()

    def write(self, name: str, text: str) -> Path:
        """As an editor does: elsewhere, and then a rename."""
        hidden = self.path / f".{name}.tmp"
        hidden.write_text(text)
        return hidden.rename(self.path / name)

    def load(self, *argv: str) -> NodeConfig:
        return NodeConfig.load([*LISTEN, "--allow-peer-dir", str(self.path), *argv], {}, self.files)

    def fault(self, *argv: str) -> str:
        (fault,) = self.load(*argv).peer_faults
        assert "\n" not in fault
        return fault


@pytest.fixture
def peers(tmp_path: Path) -> Directory:
    directory = Directory(tmp_path / "peers.d")
    directory.path.mkdir()
    directory.write("alice.toml", f'id = "{A}"\nnetworks = ["10.9.0.20/32"]\n')
    directory.write("bob.toml", f'id = "{B}"\ngroups = ["staff"]\n')
    return directory


def test_file_is_a_peer_and_has_its_name(peers: Directory) -> None:
    peers.write("README", "nothing")
    config = peers.load("--allow-peer", f"{C}=10.9.0.21/32", "--peer-name", f"carol={C}", "--disable-peer", "bob")
    assert config.peer_names == {A: "alice", B: "bob", C: "carol"}
    assert config.allow_peers[A] == (ip_network("10.9.0.20/32"),)
    assert set(config.allow_peers) == {A, B, C}
    assert config.peer_groups == {B: ("staff",)} and config.disabled_peers == {B}
    assert config.peer_faults == ()
    (peers.path / "alice.toml").unlink()
    assert set(peers.load().allow_peers) == {B}


WRONG = [
    ("id = ", ":1: not valid TOML: Invalid value"),
    (f'id = "{C}"\n\nnetworks = [', ":3: not valid TOML: "),
    (f'id = "{C}"\n# more\nnetworks = ["10.0.0.0/33"]\n', ":3: '10.0.0.0/33' is not a network"),
    (f'id = "{C}"\nexpire = 2027-01-01\n', ":2: expire: unknown key; known are id, networks"),
    ('networks = ["10.0.0.0/8"]\n', ":1: id: must be there"),
    (f'id = "{str(C)[:-1]}"\n', "is not a peer ID: it has 46"),
    (f'id = "{A}"\n', f":1: {A} is the peer alice already"),
    (f'id = "{C}"\nnetworks = ["10.9.0.1/32"]\n', "10.9.0.1/32 is this node's own --tun-address"),
    (f'psk_file = 3\nid = "{C}"\n', ":1: psk-file: must be the name of a file"),
    ("\x00", "not valid TOML"),
    ("#" * SIZE_MAX + "\n", f"is no file of at most {SIZE_MAX} bytes"),
]


@pytest.mark.parametrize(("text", "says"), WRONG, ids=range(len(WRONG)))
def test_file_that_is_wrong_is_one_line_and_the_others_stay(peers: Directory, text: str, says: str) -> None:
    path = peers.write("carol.toml", text)
    fault = peers.fault()
    assert fault.startswith((str(path), f"cannot read {path}"))
    assert says in fault and fault.endswith("; the file is not in force")
    assert set(peers.load().allow_peers) == {A, B}


@pytest.mark.parametrize(("text", "says"), WRONG[:4] + WRONG[7:8], ids=range(5))
def test_what_a_file_said_before_stays_in_force(peers: Directory, text: str, says: str) -> None:
    peers.load()
    peers.write("bob.toml", text)
    config = peers.load()
    assert set(config.allow_peers) == {A, B} and config.peer_groups == {B: ("staff",)}
    assert config.peer_faults[0].endswith("; what it said before stays in force")
    peers.write("bob.toml", f'id = "{B}"\n')
    assert (peers.load().peer_faults, peers.load().peer_groups) == ((), {})


def test_names_of_files(peers: Directory) -> None:
    peers.write("Bad Name.toml", f'id = "{C}"\n')
    assert "'Bad Name' is no name for a peer" in peers.fault()
    (peers.path / "Bad Name.toml").unlink()
    peers.write("BOB.toml", f'id = "{C}"\n')
    assert "another peer is called bob already" in peers.fault()


def test_other_things_in_the_directory_hang_nothing(peers: Directory) -> None:
    os.mkfifo(peers.path / "fifo.toml")
    (peers.path / "dangling.toml").symlink_to("nowhere")
    (peers.path / "directory.toml").mkdir()
    config = peers.load()
    assert set(config.allow_peers) == {A, B} and len(config.peer_faults) == 3


def test_file_that_is_being_written_says_what_it_said_before(peers: Directory) -> None:
    peers.load()
    (peers.path / "alice.toml").write_text(f'id = "{A}"\n')  # its networks are yet to come
    (peers.path / "new.toml").write_text(f'id = "{C}"\n')
    peers.files.unfinished = frozenset({"alice.toml", "new.toml"})
    config = peers.load()
    assert config.allow_peers == {A: (ip_network("10.9.0.20/32"),), B: ()}
    peers.files.unfinished = frozenset()
    assert set(peers.load().allow_peers) == {A, B, C}


def test_directory_that_is_not_there(peers: Directory) -> None:
    with pytest.raises(MachineError, match=r"cannot read the peers in --allow-peer-dir .*: No such file"):
        NodeConfig.load([*LISTEN, "--allow-peer-dir", str(peers.path / "none")], {})


def test_thousand_files_are_not_read_again_for_one_that_is_new(
    peers: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1000):
        peers.write(f"p{number}.toml", f'id = "{PeerId(bytes([3, number % 256, number // 256, *bytes(29)]))}"\n')
    assert len(peers.load().allow_peers) == 1002
    parsed: list[str] = []

    def loads(text: str) -> dict[str, str]:
        parsed.append(text)
        return {"id": str(C)}

    monkeypatch.setattr("cryprq.config.peer_files.tomllib.loads", loads)
    peers.write("new.toml", f'id = "{C}"\n')
    assert len(peers.load().allow_peers) == 1003 and len(parsed) == 1
