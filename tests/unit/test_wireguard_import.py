"""``cryprq import wireguard``: files as people publish them, what becomes of them, and what is said of each line."""

import base64
import hashlib
import os
import stat
import tomllib
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cryprq.cli import tool
from cryprq.config import wireguard_file, wireguard_import
from cryprq.config.node_config import NodeConfig
from cryprq.config.psk_file import load_psk
from cryprq.config.wireguard_import import PLACEHOLDER, Imported
from cryprq.errors import ConfigError
from cryprq.peer_id import PeerId

PRIVATE, PSK = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(10, 20)]

SERVER = f"""\
# /etc/wireguard/wg0.conf
[Interface]
Address = 10.8.0.1/24, fd42:42:42::1/64
SaveConfig = true
PostUp = iptables -A FORWARD -i %i -j ACCEPT; iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE
PostDown = iptables -D FORWARD -i %i -j ACCEPT; iptables -t nat -D POSTROUTING -o eth0 -j MASQUERADE
ListenPort = 51820
PrivateKey = {PRIVATE}

### Client alice
[Peer]
PublicKey = {KEYS[0]}
PresharedKey = {PSK}
AllowedIPs = 10.8.0.2/32,fd42:42:42::2/128

# BEGIN_PEER bob
[Peer]
PublicKey={KEYS[1]}
AllowedIPs=10.8.0.3/32
# END_PEER bob
"""

CLIENT = f"""\
[Interface]
PrivateKey = {PRIVATE}
Address = 10.8.0.2/32
DNS = 10.8.0.1, corp.example
MTU = 1380

[Peer]
# the gateway
PublicKey = {KEYS[2]}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = vpn.example.org:51820
PersistentKeepalive = 25
"""


def imported(text: str | bytes, **ids: PeerId) -> Imported:
    data = text if isinstance(text, bytes) else text.encode()
    return wireguard_import.translate(wireguard_file.parse(data), ids)


def config(result: Imported, tmp_path: Path) -> NodeConfig:
    """What a node makes of it once each placeholder has an ID."""
    text = result.toml("wg0.conf")
    for peer in result.peers:
        text = text.replace(f'{PLACEHOLDER}{peer.name}"', f'{made_up(peer.name)}"')
    path = tmp_path / "node.toml"
    path.write_text(text)
    return NodeConfig.load(["--config", str(path)], {})


def made_up(name: str) -> PeerId:
    return PeerId(hashlib.sha256(name.encode()).digest())


def about(result: Imported, line: int) -> str:
    return " | ".join(remark.text for remark in result.remarks if remark.line == line)


def loaded(text: str, tmp_path: Path) -> tuple[Imported, NodeConfig]:
    result = imported(text)
    return result, config(result, tmp_path)


# ---- the two usual files ----


def test_server(tmp_path: Path) -> None:
    result, node = loaded(SERVER, tmp_path)
    assert [str(address) for address in node.listen] == ["/ip6/::/udp/51820/quic-v1"]
    assert [str(address) for address in node.tun_addresses] == ["10.8.0.1/24", "fd42:42:42::1/64"]
    assert {str(peer): [str(each) for each in networks] for peer, networks in node.allow_peers.items()} == {
        str(made_up("alice")): ["10.8.0.2/32", "fd42:42:42::2/128"],
        str(made_up("bob")): ["10.8.0.3/32"],
    }
    assert node.psk_files == {made_up("alice"): tmp_path / "alice.psk"}
    assert node.peers == ()
    lines = SERVER.splitlines()
    for start, says in (
        ("SaveConfig", "never writes"),
        ("PostUp", "firewall rules"),
        ("PostUp", "NAT"),
        ("PostDown", "The device is cryprq0"),
        ("PrivateKey", "`cryprq keygen`"),
        (f"PublicKey = {KEYS[0]}", f"{PLACEHOLDER}alice"),
        (f"PublicKey={KEYS[1]}", f"{PLACEHOLDER}bob"),
    ):
        number = next(number for number, line in enumerate(lines, 1) if line.startswith(start))
        assert says in about(result, number), start
    assert len({remark.line for remark in result.remarks}) == 6


def test_client(tmp_path: Path) -> None:
    result, node = loaded(CLIENT, tmp_path)
    assert [str(peer) for peer in node.peers] == [
        f"/dns/vpn.example.org/udp/51820/quic-v1/p2p/{made_up('the-gateway')}"
    ]
    assert (node.listen, node.mtu, node.accept_dns) == ((), 1380, "auto")
    assert [str(address) for address in node.tun_addresses] == ["10.8.0.2/32"]
    assert 'dns = ["10.8.0.1"] search = ["corp.example"]' in about(result, 4)
    assert "keeps its way open" in about(result, 12)


def test_site_to_site(tmp_path: Path) -> None:
    text = CLIENT.replace("MTU", "ListenPort = 51821\nMTU").replace("0.0.0.0/0, ::/0", "10.8.0.0/24, 192.168.7.0/24")
    _, node = loaded(text, tmp_path)
    assert [str(address) for address in node.listen] == ["/ip6/::/udp/51821/quic-v1"]
    assert len(node.peers) == 1
    assert node.accept_dns == "all"  # wg-quick gives the whole host these servers


# ---- how people write ----


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),  # what `>` of PowerShell writes
        lambda text: text.upper().replace("WIREGUARD", "x").encode(),
        lambda text: text.replace(" = ", "=").replace("\n", "\n  \t").encode(),
        lambda text: text.replace(" = ", "\t =  ").replace(",", " , ").encode(),
        lambda text: "\n".join(f"{line} # and so on" if "=" in line else line for line in text.split("\n")).encode(),
        lambda text: text.replace("[", "[ ").replace("]", " ]").encode(),
        lambda text: b"\xef\xbb\xbf" + text.replace("# the gateway", "# the gateway \u00e9").encode("latin-1"),
        lambda text: text.rstrip("\n").encode(),
        lambda text: text.replace(
            "AllowedIPs = 0.0.0.0/0, ::/0", "AllowedIPs = 0.0.0.0/0\nAllowedIPs = ::/0,"
        ).encode(),
    ],
)
def test_another_hand_means_the_same(change: object, tmp_path: Path) -> None:
    assert callable(change)
    usual = config(imported(CLIENT), tmp_path)
    result = imported(change(CLIENT))
    assert len(result.peers) == 1
    result.peers[0].peer_id = str(made_up("the-gateway"))
    other = config(result, tmp_path)
    assert [str(peer).lower() for peer in other.peers] == [str(peer).lower() for peer in usual.peers]
    assert (other.tun_addresses, other.mtu) == (usual.tun_addresses, usual.mtu)
    assert set(other.allow_peers.values()) == set(usual.allow_peers.values())


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("# laptop\n[Peer]\n", "laptop"),
        ("### begin laptop ###\n[Peer]\n", "laptop"),
        ("# Client: laptop (7a5c2a0e)\n[Peer]\n", "laptop"),
        ("[Peer] # laptop\n", "laptop"),
        ("[Peer]\n# Name = Laptop\n", "laptop"),
        ("[Peer]\n# friendly_name=My Laptop\n", "my-laptop"),
        ("# PublicKey = x\n[Peer]\n", "peer1"),
        (f"# {KEYS[5]}\n[Peer]\n", "peer1"),
        ("# this is where all those people come from on Mondays\n[Peer]\n", "peer1"),
        ("# \u30ce\u30fc\u30c8\n[Peer]\n", "peer1"),
        ("# about something else\n\n[Peer]\n", "peer1"),
    ],
)
def test_names_come_from_comments(peer: str, name: str) -> None:
    result = imported(f"[Interface]\nAddress = 10.0.0.1/24\n{peer}PublicKey = {KEYS[0]}\nAllowedIPs = 10.0.0.2/32\n")
    assert [peer.name for peer in result.peers] == [name]


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("vpn.example.org:51820", "vpn-example-org"),
        ("192.0.2.1:51820", "192-0-2-1"),
        ("[2001:db8::1]:51820", "2001-db8-1"),
        (f"{'long-' * 11}name.example:51820", "peer1"),
        ("nowhere", "peer1"),
    ],
)
def test_peer_without_a_comment_is_called_as_its_endpoint(endpoint: str, name: str, tmp_path: Path) -> None:
    result, node = loaded(interface("", f"Endpoint = {endpoint}"), tmp_path)
    assert [peer.name for peer in result.peers] == [name]
    assert dict(node.peer_names) == {made_up(name): name}


def test_all_of_a_peer_stands_in_its_table(tmp_path: Path) -> None:
    """So its ID has to be written once."""
    text = interface("", f"# site b\nPresharedKey = {PSK}\nEndpoint = 192.0.2.1:51820")
    made = tomllib.loads(imported(text).toml("wg0.conf"))
    assert made["peer"] == {
        "site-b": {
            "id": f"{PLACEHOLDER}site-b",
            "networks": ["10.0.0.2/32"],
            "address": "/ip4/192.0.2.1/udp/51820/quic-v1",
            "psk-file": "site-b.psk",
        }
    }
    _, node = loaded(text, tmp_path)
    assert [str(peer) for peer in node.peers] == [f"/ip4/192.0.2.1/udp/51820/quic-v1/p2p/{made_up('site-b')}"]
    assert dict(node.psk_files) == {made_up("site-b"): tmp_path / "site-b.psk"}


def test_names_are_different() -> None:
    peers = "".join(
        f"[Peer]\n# phone\nPublicKey = {key}\nAllowedIPs = 10.0.0.{n}/32\n" for n, key in enumerate(KEYS, 2)
    )
    result = imported(f"[Interface]\nAddress = 10.0.0.1/24\n{peers}")
    names = [peer.name for peer in result.peers]
    assert names[:3] == ["phone", "phone-2", "phone-3"]
    assert len(set(names)) == len(KEYS)


# ---- what is allowed there and not here ----


def interface(more: str, peer: str = "") -> str:
    return (
        f"[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.0.0.1/24\n{more}\n"
        f"[Peer]\nPublicKey = {KEYS[0]}\nAllowedIPs = 10.0.0.2/32\n{peer}\n"
    )


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (interface("MTU = 9"), 4, "576 to 65455"),
        (interface("MTU = 1200\nAddress = fd00::1/64"), 4, "1280 to 65455"),
        (interface("Table = 1234wg"), 4, "is not a number, main or off"),
        (interface("ListenPort = 70000"), 4, "ListenPort: '70000' is none"),
        (interface("DNS = not_a_name!"), 4, "DNS: 'not_a_name!' is none"),
        (interface("Address = 10.0.0.5/24"), 1, "10.0.0.5/24 is in the network of another one"),
        (interface("Address = 10.1.0.0/24"), 4, "is the network itself"),
        (interface("Address = 10.300.0.1/24"), 4, "'10.300.0.1/24' is none"),
        (interface("Jc = 4"), 4, "jc is nothing that WireGuard has here"),
        (interface("ExcludedApplications = com.example"), 4, "the tunnel is all programs'"),
        (interface("[Servers]\nx = 1"), 4, "[Servers] is nothing that WireGuard has"),
        (interface("PostUp = /usr/local/bin/tell-somebody"), 4, "run it by on-change"),
        (interface("PreUp = ip rule add from 10.0.0.1 table 7"), 4, "routes or rules"),
        (interface("PostUp = wg set %i private-key <(pass wg)"), 4, "keys or peers of WireGuard"),
        (interface("PostUp = resolvectl dns %i 10.0.0.3"), 4, "name servers"),
        (interface("hello world"), 4, "is no KEY = VALUE"),
        (interface("", "Endpoint = example.org"), 8, "Endpoint: 'example.org' is none"),
        (interface("", "Endpoint = [fe80::1%eth0]:51820"), 8, "Endpoint: "),
        (interface("", "Endpoint = 0.0.0.0:51820"), 8, "Endpoint: "),
        (interface("", "Endpoint = 192.0.2.1:0"), 8, "Endpoint: "),
        (interface("", "AllowedIPs = 10.9.0.0/16, 10.0.0.0/33"), 8, "'10.0.0.0/33' is none"),
        (interface("", "AllowedIPs = 10.0.0.1/32"), 5, "is this node's own Address"),
        (interface("", "AllowedIPs = 192.0.2.0/24\nEndpoint = 192.0.2.1:51820"), 5, "the peer's own Endpoint in it"),
        (interface("Address = 192.0.2.9/24", "Endpoint = 192.0.2.1:51820"), 1, "taken as 192.0.2.9/32"),
        (interface("", "PresharedKey = c2hvcnQ="), 8, "no key of 32 bytes"),
        (interface("", f"[Peer]\nPublicKey = {KEYS[1]}\nAllowedIPs = 10.0.0.2/32"), 5, "a later peer's, too"),
        (interface("", f"[Peer]\nPublicKey = {KEYS[0]}\nAllowedIPs = 10.0.0.4/32"), 5, "the same peer is in line 8"),
        (interface("", "[Peer]\nAllowedIPs = 10.0.0.4/32"), 8, "a peer without PublicKey"),
        (interface("", f"[Peer]\nPublicKey = {KEYS[1]}"), 8, "has no AllowedIPs"),
        (interface(""), 1, "it has to dial this node, at port 9999"),
        ("[Interface]\nAddress = 10.0.0.1/24\nListenPort = 1\n", 0, "there is no [Peer]"),
    ],
)
def test_what_does_not_go_is_said_and_the_rest_is_good(text: str, line: int, says: str, tmp_path: Path) -> None:
    result, _ = loaded(text, tmp_path)
    assert says in about(result, line)


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("Table = off", "route_table", "off"),
        ("Table = main", "route_table", "main"),
        ("Table = 1234", "route_table", 1234),
        ("Table = auto", "route_table", "auto"),
        ("FwMark = 0xca6c", "fwmark", 0xCA6C),
        ("FwMark = off", "fwmark", None),
        ("MTU = 1420", "mtu", 1420),
        (
            "PostUp = iptables -I OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) -m addrtype"
            " ! --dst-type LOCAL -j REJECT && ip6tables -I OUTPUT ! -o %i -j REJECT",
            "kill_switch",
            True,
        ),
        ("PostUp = iptables -A OUTPUT -o eth0 -j ACCEPT", "kill_switch", False),
    ],
)
def test_settings(setting: str, key: str, value: object, tmp_path: Path) -> None:
    assert getattr(loaded(interface(setting), tmp_path)[1], key) == value


def test_zero_psk_is_none(tmp_path: Path) -> None:
    zero = base64.b64encode(bytes(32)).decode()
    result, node = loaded(interface("", f"PresharedKey = {zero}"), tmp_path)
    assert (result.psks(), dict(node.psk_files)) == ({}, {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[Peer]\nPublicKey = x\nAllowedIPs = 10.0.0.2/32\n", "there is no [Interface]"),
        ("[Interface]\nListenPort = 51820\n", "a listener needs one"),
    ],
)
def test_half_a_file_is_translated_and_check_says_what_is_missing(text: str, says: str, tmp_path: Path) -> None:
    result = imported(text)
    assert any(says in remark.text for remark in result.remarks)
    with pytest.raises(ConfigError, match="needs its own address in the tunnel"):
        config(result, tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x7fELF\x00\x01", b"hello\n", b'listen = "x"\n', b"# nothing\n\n"])
def test_no_such_file_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="neither"):
        wireguard_file.parse(data)


# ---- the program ----


def test_placeholders_are_found_by_check(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(imported(SERVER).toml("wg0.conf"))
    with pytest.raises(ConfigError, match=f"{PLACEHOLDER}alice"):
        NodeConfig.load(["--config", str(path)], {})
    path.write_text(imported(CLIENT).toml("wg0.conf"))
    with pytest.raises(ConfigError, match=f"{PLACEHOLDER}the-gateway"):
        NodeConfig.load(["--config", str(path)], {})


def test_program_writes_new_files_and_shows_no_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "wg0.conf", tmp_path / "made" / "node.toml"
    source.write_text(SERVER)
    ids = ["--id", f"alice={made_up('a')}", "--id", f"{KEYS[1]}={made_up('b')}"]
    assert tool.main(["import", "wireguard", str(source), "--out", str(out), *ids]) == 0
    key = out.with_name("alice.psk")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert load_psk(key) == base64.b64decode(PSK)
    node = NodeConfig.load(["--config", str(out)], {})
    assert node.psk_files == {made_up("a"): key}
    assert PLACEHOLDER not in out.read_text()

    before = out.read_bytes()
    assert tool.main(["import", "wireguard", str(source), "--out", str(out)]) == 1
    assert out.read_bytes() == before
    said = capfd.readouterr()
    assert f"{source}:8: PrivateKey" in said.err
    assert said.err.count("is not overwritten") == 1
    assert tool.main(["import", "wireguard", str(source)]) == 0
    printed = capfd.readouterr()
    assert tomllib.loads(printed.out)["listen"] == "/ip6/::/udp/51820/quic-v1"
    assert "alice.psk is not written" in printed.err
    for secret in (PRIVATE, PSK):
        assert secret not in said.err + said.out + printed.err + printed.out + out.read_text()


def test_secret_in_the_wrong_place_is_not_shown(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = tmp_path / "wg0.conf"
    wrong = f"{PRIVATE}\nMTU = {PRIVATE}\nPostUp = wg set %i private-key {PRIVATE}\nDNS = {PRIVATE}\nTable = {PRIVATE}"
    wrong += f"\n{PRIVATE} = 1\nAddress = {PRIVATE}\n# {PRIVATE}\n[{PRIVATE}]\n"
    peer = f"AllowedIPs = {PSK}\nEndpoint = {PSK}:1\nPresharedKey = {PSK}x\n# {PSK}\n"
    source.write_text(interface(wrong, peer))
    tool.main(["import", "wireguard", str(source)])
    said = "".join(capfd.readouterr())
    assert PRIVATE not in said
    assert PSK not in said


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["import"], 2, "FORMAT"),
        (["import", "openvpn"], 2, "is unknown"),
        (["import", "wireguard"], 2, "FILE"),
        (["import", "wireguard", "/nowhere/wg0.conf"], 1, "cannot read /nowhere/wg0.conf: No such file"),
        (["import", "wireguard", "/"], 1, "cannot read /: Is a directory"),
        (["import", "wireguard", os.devnull], 2, f"{os.devnull} has neither [Interface] nor [Peer]"),
        (["import", "wireguard", os.devnull, "--id", "alice"], 2, "neither"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], status: int, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert tool.main(arguments) == status
    said = capfd.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert says in said.err


@pytest.mark.parametrize("word", ["alice", "alice=Qm", f"={made_up('x')}"])
def test_bad_id_is_one_line(word: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "wg0.conf"
    source.write_text(SERVER)
    assert tool.main(["import", "wireguard", str(source), "--id", word]) == 2
    assert "--id" in capfd.readouterr().err


WORDS = st.sampled_from(
    (
        "[Interface] [Peer] [ Address DNS MTU ListenPort Table FwMark PostUp AllowedIPs Endpoint PresharedKey name"
        " off %i PublicKey PersistentKeepalive = = , # 10.0.0.1/24 ::/0 0.0.0.0/0 fd00::1 192.0.2.1:51820 25"
        f" [2001:db8::1]:1 a.example:51820 1420 {PSK} {KEYS[0]}"
    ).split(" ")
    + ["\n"] * 5
    + ["\r\n", "\0", '"', "\\", "\u2028", " "]
)


@given(st.lists(WORDS, max_size=60))
def test_whatever_stands_there_the_result_is_toml(words: list[str]) -> None:
    try:
        result = imported("".join(words))
    except ConfigError:
        return
    tomllib.loads(result.toml("wg0.conf"))
    assert PSK not in "\n".join(result.report("wg0.conf"))
