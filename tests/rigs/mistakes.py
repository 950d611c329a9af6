"""What operators do wrong, and what the programs have to say about it: an exit status, and words of one line."""

from dataclasses import dataclass, field
from typing import Final

A: Final = "QmQUYyhzsSZYHSZSfLcGQhCcLKLaCMwNmVZSDHBTXtBCZD"
B: Final = "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51"
SLIP: Final = A[:20] + ("x" if A[20] != "x" else "y") + A[21:]
"""Of A, off by a character."""


@dataclass(frozen=True)
class Mistake:
    """Words have ``{dir}``, where the files are, and ``{OWN}``, the ID of the identity there."""

    command: str
    """The words of the program behind its name, as a shell splits them."""
    says: str
    """What the line has in it: several by ``|``. For a status of 0, a warning."""
    status: int = 2
    files: dict[str, str] = field(default_factory=dict)
    """By name; a name that ends in / is a directory. ``PSK`` is a pre-shared key."""
    env: dict[str, str] = field(default_factory=dict)
    given: str = ""
    """On standard input."""
    mode: int = 0o600
    """Of the files."""


def listening(more: str, says: str, status: int = 2, files: dict[str, str] | None = None) -> Mistake:
    """At a node that listens."""
    return Mistake(f"{LISTEN} {more}", says, status, files or {})


def dialling(more: str, says: str, status: int = 2) -> Mistake:
    """At one that dials."""
    return Mistake(f"{DIAL} {more}", says, status)


def in_file(text: str, says: str, status: int = 2, **files: str) -> Mistake:
    """In the configuration file."""
    return Mistake("--config {dir}/node.toml", says, status, {"node.toml": text, **files})


LISTEN: Final = "--listen /ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 10.77.0.1/24 --identity {dir}/identity"
DIAL: Final = f"--peer /ip4/198.51.100.1/udp/9999/quic-v1/p2p/{A} --identity {{dir}}/identity"
LISTENS: Final = 'listen = "/ip4/0.0.0.0/udp/9999/quic-v1"\ntun-address = "10.77.0.1/24"\n'
WG: Final = "[Interface]\n[Peer]\n"
PEER: Final = f"/ip4/198.51.100.1/udp/9999/quic-v1/p2p/{A}"

FLAGS: Final = (
    Mistake("", "give --listen MULTIADDR, --peer MULTIADDR/p2p/ID, or both"),
    Mistake("start", "start"),
    Mistake("--listn /ip4/0.0.0.0/udp/9999/quic-v1", "--listn|did you mean --listen?"),
    Mistake("--allow-peers x", "--allow-peers|did you mean --allow-peer?"),
    Mistake("-listen /ip4/0.0.0.0/udp/9999/quic-v1", "did you mean --listen?"),
    Mistake("--allow_peer x", "--allow_peer|did you mean --allow-peer?"),
    Mistake("--interface eth0", "--interface"),
    Mistake("-c node.toml", "-c"),
    Mistake("--listen", "--listen|expected one argument"),
    listening("--kill-switch=yes", "--kill-switch takes no value"),
    listening("--allow-any=true", "--allow-any takes no value"),
    Mistake("--listen 0.0.0.0:9999 --tun-address 10.77.0.1/24", "for that, /ip4/0.0.0.0/udp/9999/quic-v1"),
    Mistake("--listen [::]:9999 --tun-address 10.77.0.1/24", "for that, /ip6/::/udp/9999/quic-v1"),
    Mistake("--peer vpn.example:9999", "for that, /dns/vpn.example/udp/9999/quic-v1"),
    Mistake("--listen 9999 --tun-address 10.77.0.1/24", "'9999' is not a multiaddr"),
    Mistake("--listen :9999 --tun-address 10.77.0.1/24", "':9999' is not a multiaddr"),
    Mistake("--listen /ip4/0.0.0.0/tcp/9999 --tun-address 10.77.0.1/24", "multiaddr"),
    Mistake("--listen /ip4/0.0.0.0/tcp/9999/quic-v1 --tun-address 10.77.0.1/24", "is not UDP with QUIC v1"),
    Mistake("--listen /ip4/0.0.0.0/udp/9999/quic --tun-address 10.77.0.1/24", "is not UDP with QUIC v1"),
    Mistake("--listen /ip4/0.0.0.0/udp/9999 --tun-address 10.77.0.1/24", "is not a multiaddr of the form"),
    Mistake("--listen /ip4/0.0.0.0/udp/99999/quic-v1 --tun-address 10.77.0.1/24", "'99999' is not a port"),
    Mistake("--listen /ip4/::/udp/9999/quic-v1 --tun-address 10.77.0.1/24", "'::' is not an IPv4 address"),
    Mistake("--listen /ip6/0.0.0.0/udp/9999/quic-v1 --tun-address 10.77.0.1/24", "'0.0.0.0' is not an IPv6 address"),
    Mistake("--listen /ip4/256.0.0.1/udp/9999/quic-v1 --tun-address 10.77.0.1/24", "'256.0.0.1' is not an IPv4"),
    Mistake("--listen /dns/vpn.example/udp/9999/quic-v1 --tun-address 10.77.0.1/24", "--listen|address"),
    Mistake("--listen ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 10.77.0.1/24", "is not a multiaddr"),
    Mistake(f"--listen /ip4/0.0.0.0/udp/9999/quic-v1/p2p/{A} --tun-address 10.77.0.1/24", "--listen|p2p"),
    Mistake("--listen /ip4/0.0.0.0/udp/9999/quic-v1", "needs its own address in the tunnel|--tun-address"),
    listening("--listen /ip4/0.0.0.0/udp/9999/quic-v1", "/ip4/0.0.0.0/udp/9999/quic-v1"),
    listening("--listen /ip4/192.0.2.1/udp/9999/quic-v1", "192.0.2.1"),
    listening("--tun-address 10.77.0.5/24", "10.77.0"),
    Mistake("--listen /ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 10.77.0.1", "prefix length"),
    Mistake("--listen /ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 10.77.0.0/24", "is the network itself"),
    Mistake("--listen /ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 10.77.0.255/24", "10.77.0.255"),
    Mistake("--listen /ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 10.77.0.1/33", "prefix length"),
    Mistake("--listen /ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 127.0.0.1/8", "127.0.0.1"),
    Mistake("--listen /ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 224.0.0.1/24", "224.0.0.1"),
    listening("--mtu 1500000", "--mtu|65455"),
    listening("--mtu 1420b", "'1420b' is not a whole number"),
    listening("--mtu 100", "--mtu|576"),
    listening("--mtu 1200 --tun-address fd00::1/64", "1280"),
    listening("--rotate-secs 5m", "'5m' is not a whole number"),
    listening("--rotate-secs 1", "5 to 3600"),
    listening("--workers 0", "--workers"),
    listening("--workers -1", "--workers"),
    listening("--workers many", "'many' is not a whole number"),
    listening("--metrics-addr 9464", "'9464' is not HOST:PORT"),
    listening("--metrics-addr :9464", "':9464' is not HOST:PORT"),
    listening("--metrics-addr 127.0.0.1:99999", "is not HOST:PORT"),
    listening("--metrics-addr ::1:9464", "'::1:9464' is not HOST:PORT"),
    listening("--metrics-addr http://127.0.0.1:9464", "is not HOST:PORT"),
    listening("--aead aes", "--aead|aes-256-gcm"),
    listening("--kem mlkem768", "--kem|x25519-mlkem768"),
    listening("--kem kyber", "--kem"),
    listening("--log-level verbose", "'verbose' is not a log level; use one of debug, info"),
    listening("--log-format yaml", "--log-format|json"),
    listening("--no-offload gso", "--no-offload|udp_segment"),
    listening("--route 192.168.5.0/33", "'192.168.5.0/33' is not a network such as"),
    listening("--route 192.168.5.1/24", "192.168.5.1/24 is an address in 192.168.5.0/24", 0),
    listening("--route default", "'default' is not a network"),
    listening("--route 0.0.0.0/0", "0.0.0.0/0"),
    listening("--tun-name a-name-that-is-too-long", "a-name-that-is-too-long"),
    listening("--tun-name tun/0", "tun/0"),
    listening("--tun-name", "expected one argument"),
    listening("--fwmark 0", "--fwmark"),
    listening("--fwmark red", "'red' is not a number such as"),
    listening("--route-table local", "--route-table"),
    listening("--route-table 70000000000", "--route-table"),
    listening("--max-inbound 0", "--max-inbound"),
    listening("--backoff-base-ms 60000 --backoff-max-ms 1000", "--backoff"),
    listening("--lease-days -5", "--lease-days"),
    listening("--dns dns.example", "'dns.example' is not an address"),
    listening("--dns 10.99.0.53", "--dns 10.99.0.53 is in no network of this gateway", 0),
    listening("--search corp..example", "corp..example"),
    dialling("--accept-dns yes", "--accept-dns"),
    listening("--on-change notify.sh", "notify.sh"),
    listening("--on-change /nowhere/hook", "/nowhere/hook", 1),
    listening("--workers 2 --workers 1", "--workers is given more than once; only the last one counts, 1", 0),
    listening("--busy-poll-us -1", "--busy-poll-us"),
    listening("", "nobody may connect: name the dialers", 0),
)

PEERS: Final = (
    Mistake("--peer /ip4/198.51.100.1/udp/9999/quic-v1", "add /p2p/ID"),
    Mistake(f"--peer {A}", "is not a multiaddr of the form"),
    Mistake("--peer 198.51.100.1:9999", "'198.51.100.1:9999' is not a multiaddr"),
    Mistake("--peer vpn.example.org", "'vpn.example.org' is not a multiaddr"),
    Mistake(f"--peer /ip4/vpn.example.org/udp/9999/quic-v1/p2p/{A}", "'vpn.example.org' is not an IPv4 address"),
    Mistake(f"--peer /ip4/0.0.0.0/udp/9999/quic-v1/p2p/{A}", "0.0.0.0 is no host's address"),
    Mistake(f"--peer /ip4/198.51.100.1/udp/0/quic-v1/p2p/{A}", "port"),
    Mistake(f"--peer /ip4/198.51.100.1/udp/9999/quic-v1/ipfs/{A}", "/ipfs where /p2p/PEER-ID is expected"),
    Mistake(f"--peer /ip4/198.51.100.1/udp/9999/quic-v1/p2p/{A[:-1]}", "peer ID"),
    Mistake("--peer /ip4/198.51.100.1/udp/9999/quic-v1/p2p/alice", "alice"),
    Mistake(f"--peer /ip6/fe80::1%eth0/udp/9999/quic-v1/p2p/{A}", "zone"),
    Mistake(f"--peer /ip6/::ffff:192.0.2.1/udp/9999/quic-v1/p2p/{A}", "/ip4/192.0.2.1"),
    Mistake(f"--peer /ip4/224.0.0.1/udp/9999/quic-v1/p2p/{A}", "224.0.0.1 is no host's address"),
    Mistake("--peer /ip4/198.51.100.1/udp/9999/quic-v1/p2p/{OWN} --identity {dir}/identity", "this node's own peer ID"),
    listening("--allow-peer {OWN}", "this node's own peer ID"),
    listening(f"--allow-peer {A[:-1]}", "peer ID"),
    listening(f"--allow-peer {A}1", "peer ID"),
    listening(f"--allow-peer {A.lower()}", "peer ID"),
    listening("--allow-peer alice", "alice"),
    listening(f"--allow-peer {A} --allow-peer {SLIP}", f"{A}|{SLIP}|mistyped", 0),
    listening(f"--allow-peer {A}=10.77.0.2/32 --allow-peer {B}=10.77.0.2/32", "10.77.0.2/32 is given to both", 0),
    listening(f"--allow-peer {A}=10.5.0.9/16", "10.5.0.9/16 is an address in 10.5.0.0/16", 0),
    listening(f"--allow-peer {A}=10.5.0.0/99", "'10.5.0.0/99' is not a network"),
    listening(f"--allow-peer {A}:10.5.0.0/16", "peer ID"),
    listening(f"--allow-peer {A}=10.77.0.1/32", "10.77.0.1"),
    listening(f"--allow-peer={A},{B}", "one peer each"),
    listening("--allow-peer ''", "--allow-peer"),
    listening(f"--allow-peer {A}= ", "--allow-peer"),
    dialling(f"--route-table main --allow-peer {A}=0.0.0.0/0", "198.51.100.1"),
    dialling(f"--allow-peer {A}=198.51.100.0/24", "198.51.100"),
    listening(f"--allow-peer {A} --peer-name alice={B}", f"{B}, which is neither allowed nor dialled", 0),
    listening(f"--allow-peer {A} --peer-name {A}=alice", "is the wrong way round: the form is NAME=ID"),
    listening(f"--allow-peer {A} --peer-name alice", "the form is NAME=ID"),
    listening(f"--allow-peer {A} --peer-name a_b={A}", "'a_b' is no name for a peer"),
    listening(
        f"--allow-peer {A} --allow-peer {B} --peer-name x={A} --peer-name x={B}", "the name x is given to two peers"
    ),
    listening(f"--allow-peer {A} --peer-name x={A} --peer-name y={A}", "is given two names"),
    listening(f"--allow-peer {A} --peer-name alice={A} --disable-peer alize", "'alize'; did you mean alice?"),
    listening(f"--allow-peer {A} --peer-name alice={A} --disable-peer zoe", "no peer is called 'zoe'"),
    listening(f"--allow-peer {A} --peer-groups {A}", "the form is ID=GROUP,GROUP"),
    listening(f"--allow-peer {A} --peer-groups {A}=a_b", "'a_b' is no name for a group"),
    listening(f"--allow-peer {A} --peer-expires {A}=30d", "'30d' is no time: write 2027-01-31"),
    listening(f"--allow-peer {A} --peer-expires {A}=31.01.2027", "is no time: write"),
    listening(
        f"--allow-peer {A} --peer-expires {A}=2027-02-30",
        "is no time: write 2027-01-31, 2027-01-31T18:00 or",
    ),
    listening(f"--allow-peer {A} --successor {A}={A}", "to have a place and to give it up"),
    listening(f"--allow-peer {A} --successor {B}={A}", "is no --allow-peer, so nobody can have its place"),
    listening(f"--allow-peer {A} --successor {A}", "the form is OLD=NEW"),
    listening(f"--allow-peer {A} --psk-file {{dir}}/psk", "the form is ID=FILE"),
    listening(f"--allow-peer {A} --psk-file {A}", "the form is ID=FILE"),
    listening(f"--allow-peer {A} --psk-file {A}={{dir}}/nowhere", "no pre-shared key|cryprq genpsk", 1),
    Mistake(f"{LISTEN} --allow-peer {A} --psk-file {A}={{dir}}/psk", "is no pre-shared key", 1, {"psk": "secret\n"}),
    Mistake(f"{LISTEN} --allow-peer {A} --psk-file {A}={{dir}}/psk/", "psk", 1, {"psk/": ""}),
    Mistake(f"{LISTEN} --allow-peer {A} --psk-file {A}={{dir}}/k", "chmod 600 {dir}/k", 1, {"k": "PSK"}, mode=0o644),
    listening(
        f"--allow-peer {A} --psk-file {B}={{dir}}/b.psk", "neither allowed nor dialled", 0, files={"b.psk": "PSK"}
    ),
    listening("--allow-peer-dir /nowhere", "cannot read the peers in --allow-peer-dir /nowhere: No such file", 1),
    Mistake(f"{LISTEN} --allow-peer-dir {{dir}}/identity", "Not a directory", 1),
    Mistake(f"{LISTEN} --allow-peer-dir {{dir}}/p.d", "alice.toml|id", 0, {"p.d/alice.toml": "networks = []\n"}),
    Mistake(f"{LISTEN} --allow-peer-dir {{dir}}/p.d", "not valid TOML", 0, {"p.d/alice.toml": f"id = {A}\n"}),
    Mistake(f"{LISTEN} --allow-peer-dir {{dir}}/p.d", "a_b", 0, {"p.d/a_b.toml": f'id = "{A}"\n'}),
    Mistake(
        f"{LISTEN} --allow-peer-dir {{dir}}/p.d",
        "network: unknown key",
        0,
        {"p.d/a.toml": f'id = "{A}"\nnetwork = []\n'},
    ),
)

FILES: Final = (
    Mistake("--config {dir}/nowhere.toml", "cannot read the configuration file|No such file", 1),
    Mistake("--config {dir}", "cannot read the configuration file", 1),
    Mistake("--config", "expected one argument"),
    in_file("listen = /ip4/0.0.0.0/udp/9999/quic-v1\n", "TOML"),
    in_file(LISTENS + "mtu: 1400\n", "TOML"),
    in_file(LISTENS + LISTENS, "TOML"),
    in_file(LISTENS + 'mtu = "1400"\n', "mtu"),
    in_file(LISTENS + "mtu = 1400.0\n", "mtu"),
    in_file(LISTENS + "mtu = true\n", "mtu"),
    in_file(LISTENS + "kill-switch = 1\n", "kill-switch"),
    in_file(LISTENS + 'kill-switch = "yes"\n', "kill-switch"),
    in_file(LISTENS + "rotate-sec = 60\n", "rotate-sec|did you mean 'rotate-secs'"),
    in_file(LISTENS + "Listen = 1\n", "Listen"),
    in_file(LISTENS + "config = 'x'\n", "config"),
    in_file(LISTENS + "check = true\n", "check"),
    in_file(LISTENS + "allow-peer = 'x'\n", "allow-peer"),
    in_file(LISTENS + f"[allow-peer]\n{A} = '10.77.0.2/32'\n", "must be a list of CIDRs"),
    in_file(LISTENS + f"[allow-peer]\n{A} = [10.77.0.2/32]\n", "TOML"),
    in_file(LISTENS + f"[allow-peer]\n{A} = {{ network = [] }}\n", "network"),
    in_file(LISTENS + f"[allow-peers]\n{A} = []\n", "allow-peers|did you mean 'allow-peer'"),
    in_file(LISTENS + f"[peer]\n{A} = []\n", "peer"),
    in_file(LISTENS + "[peer.alice]\nnetworks = []\n", "id: must be there"),
    in_file(LISTENS + f"[peer.alice]\nid = '{A}'\nnetwork = []\n", "network: unknown key"),
    in_file(LISTENS + f"[peer.a_b]\nid = '{A}'\n", "'a_b' is no name for a peer"),
    in_file(LISTENS + "[peer.alice]\nid = 'ID-OF-alice'\n", "ID-OF-alice"),
    in_file(LISTENS + f"[peer.a]\nid = '{A}'\n[peer.b]\nid = '{A}'\n", "is given two names"),
    in_file(LISTENS + f"[peer.a]\nid = '{A}'\nexpires = '30d'\n", "'30d' is no time"),
    in_file(LISTENS + f"[peer.a]\nid = '{A}'\naddress = '198.51.100.1:9999'\n", "is not a multiaddr"),
    in_file(LISTENS + f"[peer.a]\nid = '{A}'\ndisabled = 'no'\n", "disabled: must be true or false"),
    in_file(LISTENS + f"[peer.a]\nid = '{A}'\ngroups = 'a b'\n", "'a b' is no name for a group"),
    in_file(LISTENS + f"[peer.a]\nid = '{A}'\npsk-file = true\n", "must be the name of a file"),
    in_file("[Interface]\nListenPort = 51820\n", "that is a file of WireGuard"),
    in_file("[Interface]\nAddress = 10.0.0.1/24\n", "that is a file of WireGuard"),
    in_file("[server]\n" + LISTENS, "server"),
    in_file("listen:\n  - x\n", "TOML"),
    in_file("", "give --listen MULTIADDR"),
    in_file("\x00\x01", "TOML"),
    in_file("peer = 'x'\n", "'x' is not a multiaddr"),
    in_file("tun-address = 10\n" + LISTENS.splitlines()[0], "tun-address"),
    in_file(LISTENS + "identity = ''\n", "identity"),
    Mistake(f"{LISTEN} --identity ''", "--identity"),
    Mistake(
        "--listen /ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 10.77.0.1/24 --identity {dir}", "not a regular file", 1
    ),
    Mistake(
        "--listen /ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 10.77.0.1/24 --identity {dir}/psk",
        "is no identity file",
        1,
        {"psk": "PSK"},
    ),
    Mistake(f"{LISTEN} --control-socket {{dir}}/{'x' * 120}.sock", "too long for a Unix socket"),
    Mistake(f"{LISTEN}", "CRYPRQ_ALLOW_PEER; did you mean CRYPRQ_ALLOW_PEERS?", 0, env={"CRYPRQ_ALLOW_PEER": A}),
    Mistake(f"{LISTEN}", "CRYPRQ_ALLOW_ANY|is a flag", 0, env={"CRYPRQ_ALLOW_ANY": "1"}),
    Mistake(f"{LISTEN}", "CRYPRQ_MTU", env={"CRYPRQ_MTU": "big"}),
    Mistake(f"{LISTEN}", "CRYPRQ_ALLOW_PEERS", env={"CRYPRQ_ALLOW_PEERS": f"{A};{B}"}),
    Mistake(f"{LISTEN}", "CRYPRQ_ALLOW_PEERS", env={"CRYPRQ_ALLOW_PEERS": f"{A} {B}"}),
    Mistake("", "CRYPRQ_PEER; did you mean CRYPRQ_PEERS?", env={"CRYPRQ_PEER": PEER}),
    Mistake(f"{LISTEN}", "CRYPRQ_LOG", env={"CRYPRQ_LOG": "chatty"}),
    Mistake(f"{LISTEN}", "CRYPRQ_AEAD_BACKEND names no back end", env={"CRYPRQ_AEAD_BACKEND": "fast"}),
)

SILENT: Final = (
    Mistake(
        "--listen /ip4/127.0.0.1/udp/9999/quic-v1 --tun-address 10.77.0.1/24 --identity {dir}/identity"
        f" --allow-peer {A}",
        "127.0.0.1|only programs of this host",
        0,
    ),
    Mistake(
        "--listen /ip4/0.0.0.0/udp/9999/quic-v1 --tun-address 10.77.0.1/30 --identity {dir}/identity"
        f" --allow-peer {A} --allow-peer {B}",
        "2 peers are to get an address, and 10.77.0.0/30 has 1",
        0,
    ),
    dialling("--route 192.168.5.0/24", "--route needs --listen"),
    dialling("--dns 10.77.0.1", "--dns and --search need --listen"),
)

NOBODY: Final = "--control-socket {dir}/no.sock --identity {dir}/identity"
"""No node answers; its registry lies in the directory."""

TOOL: Final = (
    Mistake("", "nothing to do: give keygen"),
    Mistake("statu", "did you mean status?"),
    Mistake("stat", "did you mean status?"),
    Mistake("start", "did you mean up?"),
    Mistake("connect", "did you mean up?"),
    Mistake("stop", "did you mean down?"),
    Mistake("show", "'show' is unknown"),
    Mistake("ls", "'ls' is unknown; valid are"),
    Mistake("help", "'help' is unknown"),
    Mistake("doc", "did you mean doctor?"),
    Mistake("keygen --out {dir}/identity", "exists", 1),
    Mistake("keygen --out {dir}", "exists", 1),
    Mistake("keygen --out ''", "--out is empty"),
    Mistake("keygen {dir}/new", "unrecognized arguments"),
    Mistake("keygen --signature rsa", "ml-dsa-65"),
    Mistake("keygen --out /proc/nowhere/identity", "/proc/nowhere", 1),
    Mistake("id {dir}/nowhere", "no identity file|cryprq keygen --out", 1),
    Mistake("id {dir}", "not a regular file", 1),
    Mistake("id {dir}/psk", "is no identity file", 1, {"psk": "PSK"}),
    Mistake("id ''", "FILE is empty"),
    Mistake("genpsk --out {dir}/identity", "exists already and is not overwritten", 1),
    Mistake("genpsk 32", "unrecognized arguments: 32"),
    Mistake("status --control-socket {dir}/no.sock", "no node answers at|is cryprq-node running?", 1),
    Mistake("status --control-socket {dir}/identity", "no node answers", 1),
    Mistake("status --watch 0", "0 seconds are not between"),
    Mistake("status --watch fast", "'fast' is not a number of seconds"),
    Mistake("status alice", "unrecognized arguments: alice"),
    Mistake("rotate --control-socket {dir}/no.sock", "no node answers at", 1),
    Mistake("events --control-socket {dir}/no.sock", "no node answers at", 1),
    Mistake("peer", "ACTION"),
    Mistake("peer ad", "did you mean add?"),
    Mistake("peer delete x", "did you mean remove?"),
    Mistake("peer add", "ID"),
    Mistake(f"peer add alice {NOBODY}", "is not a peer ID", 1),
    Mistake(f"peer add {A[:-1]} {NOBODY}", "peer ID", 1),
    Mistake(f"peer add {A} --name a_b {NOBODY}", "'a_b' is no name for a peer"),
    Mistake(f"peer add {A} --name '' {NOBODY}", "is no name for a peer"),
    Mistake(f"peer add {A} --networks 10.5.0.0/99 {NOBODY}", "is not a network such as"),
    Mistake(f"peer add {A} --networks 10.5.0.9/16 {NOBODY}", "10.5.0.9/16 is an address in 10.5.0.0/16", 0),
    Mistake(f"peer add {A} --expires soon {NOBODY}", "'soon'"),
    Mistake(f"peer add {A} --expires 30 {NOBODY}", "'30'"),
    Mistake(f"peer add {A} --expires 31.1.2027 {NOBODY}", "31.1.2027"),
    Mistake(f"peer add {A} --psk-file {{dir}}/nowhere {NOBODY}", "no pre-shared key", 1),
    Mistake(f"peer add {A} --psk-file '' {NOBODY}", "--psk-file is empty"),
    Mistake(f"peer add {A} --successor {A} {NOBODY}", "is the peer's ID as it is", 1),
    Mistake(f"peer add {A} --successor bob {NOBODY}", "is not a peer ID", 1),
    Mistake(f"peer add {A} --groups a_b {NOBODY}", "'a_b' is no name for a group"),
    Mistake(f"peer remove alice {NOBODY}", "no peer is called 'alice'", 1),
    Mistake(f"peer show {A} {NOBODY}", f"no peer is {A}", 1),
    Mistake(f"peer rename alice {NOBODY}", "NAME"),
    Mistake(f"peer rename {A} x_y {NOBODY}", "'x_y' is no name for a peer"),
    Mistake(f"peer expire alice whenever {NOBODY}", "whenever"),
    Mistake(f"peer disable Qm {NOBODY}", "'Qm'", 1),
    Mistake("peer list --control-socket {dir}/no.sock --identity /nowhere/identity", "give --identity FILE"),
    Mistake("invite", "NAME"),
    Mistake("invite a_b --control-socket {dir}/no.sock", "'a_b' is no name for a peer"),
    Mistake("invite alice --control-socket {dir}/no.sock", "no node answers at", 1),
    Mistake("invite alice --expires never", "an invitation expires"),
    Mistake("invite alice --expires tomorrow", "'tomorrow'"),
    Mistake("invite alice --address vpn.example:9999", "is not a multiaddr"),
    Mistake("invite alice --list", "not allowed with"),
    Mistake("join", "TOKEN"),
    Mistake("join xyz --config {dir}/new.toml --identity {dir}/id", "that is no invitation"),
    Mistake("join '' --config {dir}/new.toml --identity {dir}/id", "that is no invitation"),
    Mistake("join - --config {dir}/new.toml --identity {dir}/id", "that is no invitation", given="nonsense\n"),
    Mistake(f"join {A} --config {{dir}}/new.toml --identity {{dir}}/id", "that is no invitation"),
    Mistake("join --wait soon xyz", "'soon' is not a number of seconds"),
    Mistake("up --config {dir}/nowhere.toml", "nowhere.toml", 1),
    Mistake("up --wait 0", "0 seconds are not between"),
    Mistake("import", "FORMAT"),
    Mistake("import openvpn x", "'openvpn' is unknown"),
    Mistake("import wireguard", "FILE"),
    Mistake("import wireguard {dir}/nowhere.conf", "No such file", 1),
    Mistake("import wireguard {dir}", "Is a directory", 1),
    Mistake("import wireguard {dir}/node.toml", "neither [Interface] nor [Peer]", 2, {"node.toml": LISTENS}),
    Mistake("import wireguard {dir}/wg --id alice", "the form is NAME=ID", 2, {"wg": WG}),
    Mistake("import wireguard {dir}/wg --id a=Qm", "--id", 2, {"wg": WG}),
    Mistake(
        "import wireguard {dir}/wg --out {dir}/wg", "exists already and is not overwritten", 1, {"wg": "[Interface]\n"}
    ),
    Mistake("deploy", "--print"),
    Mistake("deploy --print kubernetes", "kubernetes"),
    Mistake("status --jsn", "did you mean --json?"),
    Mistake("bench --fast", "unrecognized arguments: --fast"),
    Mistake("doctor --fix", "unrecognized arguments: --fix"),
    Mistake(f"doctor nobody {NOBODY} --config {{dir}}/n.toml", "no peer is called 'nobody'", 2, {"n.toml": LISTENS}),
    Mistake("down now", "unrecognized arguments: now"),
)
