"""Where settings come from, which source wins, and what every mistake is told."""

import dataclasses
import socket
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from cryprq.config.node_config import BUSY_POLL_US_MAX, OFFLOAD_NAMES, NodeConfig
from cryprq.config.options import table
from cryprq.config.paths import default_control_socket, default_identity
from cryprq.errors import ConfigError, MachineError
from cryprq.multiaddr import Multiaddr
from cryprq.peer_id import PeerId
from cryprq.protocol.constants import MTU_MIN, MTU_SEALABLE_MAX

A = PeerId(bytes(32))
B = PeerId(b"\x01" * 32)
C = PeerId(b"\x02" * 32)
OPTIONS = table(NodeConfig).values()
load = NodeConfig.load
LISTEN = ["--listen", "/ip6/::/udp/9999/quic-v1", "--tun-address", "10.9.0.1/24"]
DIAL = ["--peer", f"/ip4/192.0.2.1/udp/9999/quic-v1/p2p/{A}"]


def error_of(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(argv, environ or {})
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_status == 2
    return message


# ---- sources ----

# name, attribute, text and value for the flag, for the environment, for the file (as TOML), and the default
MATRIX = [
    ("listen", "listen", *(f"/ip4/127.0.0.1/udp/{port}/quic-v1" for port in (1, 2, 3))),
    ("identity", "identity", "/a", "/b", "/c"),
    ("invitation-file", "invitation_file", "/a", "/b", "/c"),
    ("tun-name", "tun_name", "tun1", "tun2", "tun3"),
    ("tun-address", "tun_addresses", "10.1.0.1/24", "10.2.0.1/24", "10.3.0.1/24"),
    ("mtu", "mtu", "1401", "1402", "1403"),
    ("rotate-secs", "rotate_secs", "11", "12", "13"),
    ("rotate-min-secs", "rotate_min_secs", "6", "7", "8"),
    ("reauth-secs", "reauth_secs", "601", "602", "603"),
    ("lease-days", "lease_days", "7", "8", "9"),
    ("metrics-addr", "metrics_addr", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"),
    ("aead", "aead", "aes-256-gcm", "chacha20-poly1305", "auto"),
    ("kem", "kems", "x25519-mlkem1024", "x25519-mlkem768", "x25519-mlkem1024"),
    ("workers", "workers", "12", "13", "14"),
    ("busy-poll-us", "busy_poll_us", "2", "3", "0"),
    ("max-inbound", "max_inbound", "2", "3", "4"),
    ("backoff-base-ms", "backoff_base_ms", "2", "3", "4"),
    ("backoff-max-ms", "backoff_max_ms", "1002", "1003", "1004"),
    ("log-level", "log_level", "debug", "error", "warn"),
    ("log-format", "log_format", "json", "logfmt", "json"),
    ("route", "routes", "10.11.0.0/24", "10.12.0.0/24", "10.13.0.0/24"),
    ("dns", "dns", "10.11.0.1", "10.12.0.1", "fd00::1"),
    ("search", "search", "a.example", "b.example", "c.example"),
    ("accept-dns", "accept_dns", "all", "off", "auto"),
    ("on-change", "on_change", "/bin/a", "/bin/b", "/bin/c"),
    ("control-socket", "control_socket", "/a.sock", "/b.sock", "/c.sock"),
    ("fwmark", "fwmark", "11", "12", "13"),
    ("route-table", "route_table", "main", "77", "off"),
    ("dscp", "dscp", "inherit", "46", "inherit"),
    ("no-offload", "disabled_offloads", "uso", "tso4", "tso6"),
]
VALUES: dict[str, object] = {
    "listen": lambda text: (Multiaddr.parse(text),),
    "identity": Path,
    "invitation-file": Path,
    "tun-address": lambda text: (ip_interface(text),),
    "metrics-addr": lambda text: ("127.0.0.1", int(text[-1])),
    "route": lambda text: (ip_network(text),),
    "dns": lambda text: (ip_address(text),),
    "search": lambda text: (text,),
    "on-change": Path,
    "control-socket": Path,
    "kem": lambda text: (text,),
    "no-offload": lambda text: frozenset({text}),
}
ENV = {option.name: option.env for option in OPTIONS}


def listens(*hosts: str) -> list[str]:
    """Flags for one port at these."""
    return [word for host in hosts for word in ("--listen", f"{host}/udp/1/quic-v1")]


def parsed(name: str, text: str) -> object:
    convert = VALUES.get(name, int if text.isdigit() else str)
    return convert(text)  # type: ignore[operator]


@pytest.mark.parametrize(("name", "attribute", "flag", "env", "file"), MATRIX, ids=[row[0] for row in MATRIX])
def test_flag_beats_environment_beats_file(
    tmp_path: Path, name: str, attribute: str, flag: str, env: str, file: str
) -> None:
    config_file = tmp_path / "node.toml"
    config_file.write_text(f"{name} = {file if file.isdigit() else repr(file)}\n")
    base = ["--config", str(config_file)]
    if name not in ("listen", "tun-address"):
        base += LISTEN
    elif name == "listen":
        base += LISTEN[2:]
    else:
        base += LISTEN[:2]
    if name == "search":
        base += ["--dns", "10.9.0.1"]
    variable = ENV[name]
    assert variable is not None
    assert getattr(load(base, {}), attribute) == parsed(name, file)
    assert getattr(load(base, {variable: env}), attribute) == parsed(name, env)
    assert getattr(load(base, {variable: ""}), attribute) == parsed(name, file), "empty is unset"
    assert getattr(load([*base, f"--{name}", flag], {variable: env}), attribute) == parsed(name, flag)


def test_matrix_covers_every_setting() -> None:
    assert {row[0] for row in MATRIX} | {
        "config",
        "peer",
        "allow-peer",
        "psk-file",
        "successor",
        "peer-name",
        "peer-groups",
        "peer-expires",
        "disable-peer",
        "allow-peer-dir",
        "allow-any",
        "kill-switch",
        "no-ecn",
        "lane-ports",
    } == {o.name for o in OPTIONS}


def test_defaults() -> None:
    config = load(LISTEN, {})
    assert config == NodeConfig(
        listen=(Multiaddr.parse("/ip6/::/udp/9999/quic-v1"),), tun_addresses=(ip_interface("10.9.0.1/24"),)
    )
    assert (config.identity, config.tun_name) == (Path("/var/lib/cryprq/identity"), "cryprq0")
    assert (config.mtu, config.rotate_secs) == (1420, 300)
    assert (config.max_inbound, config.backoff_base_ms, config.backoff_max_ms) == (64, 500, 30000)
    assert (config.log_level, config.log_format, config.aead) == ("info", "logfmt", "auto")
    assert config.control_socket == Path("/run/cryprq/cryprq0.sock")
    assert (config.metrics_addr, config.allow_any, dict(config.allow_peers)) == (None, False, {})


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (128, 4)])
def test_workers_follow_the_cpus_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(cpus)))
    assert load(LISTEN, {}).workers == workers


def test_repeatable_flags() -> None:
    config = load(
        [
            *(*LISTEN, "--tun-address", "fd00:9::1/64", "--route", "10.1.0.0/16", "--route", "fd00:1::/64"),
            *("--no-offload", "uso", "--no-offload", "packing"),
            *("--kem", "x25519-mlkem1024", "--kem", "X25519-MLKEM768", "--kem", "x25519-mlkem1024"),
            *("--peer", f"/ip4/192.0.2.1/udp/1/quic-v1/p2p/{A}"),
            *("--peer", f"/dns/gw.example/udp/1/quic-v1/p2p/{B}"),
        ],
        {},
    )
    assert [str(address) for address in config.tun_addresses] == ["10.9.0.1/24", "fd00:9::1/64"]
    assert [str(route) for route in config.routes] == ["10.1.0.0/16", "fd00:1::/64"]
    assert config.disabled_offloads == {"uso", "packing"}
    assert [peer.peer_id for peer in config.peers] == [A, B]


def test_lists_in_the_environment() -> None:
    environ = {
        "CRYPRQ_LISTEN": "/ip6/::/udp/9999/quic-v1",
        "CRYPRQ_TUN_ADDRESS": "10.9.0.1/24, fd00:9::1/64",
        "CRYPRQ_PEERS": f"/ip4/192.0.2.1/udp/1/quic-v1/p2p/{A},/ip6/2001:db8::1/udp/1/quic-v1/p2p/{B},",
        "CRYPRQ_ROUTES": "10.1.0.0/16,10.2.0.0/16",
        "CRYPRQ_NO_OFFLOAD": "uso,tso4",
    }
    config = load([], environ)
    assert len(config.tun_addresses) == len(config.peers) == len(config.routes) == len(config.disabled_offloads) == 2


def test_config_file_from_the_environment(tmp_path: Path) -> None:
    for number in (1401, 1402):
        (tmp_path / f"{number}.toml").write_text(f"mtu = {number}\n")
    environ = {"CRYPRQ_CONFIG": str(tmp_path / "1401.toml")}
    assert load(LISTEN, environ).mtu == 1401
    assert load(LISTEN, environ).config_file == tmp_path / "1401.toml"
    assert load([*LISTEN, "--config", str(tmp_path / "1402.toml")], environ).mtu == 1402


def test_systemd_directories() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "RUNTIME_DIRECTORY": "/run/a"}
    config = load([*LISTEN, "--tun-name", "vpn"], environ)
    assert config.identity == default_identity(environ) == Path("/var/lib/a/identity")
    assert config.control_socket == default_control_socket(environ, "vpn") == Path("/run/a/vpn.sock")
    assert load(LISTEN, environ | {"CRYPRQ_IDENTITY": "/x"}).identity == Path("/x")


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({"RUST_LOG": "debug"}, "debug"),
        ({"RUST_LOG": "TRACE"}, "debug"),
        ({"RUST_LOG": "warn"}, "warn"),
        ({"RUST_LOG": "off"}, "off"),
        ({"RUST_LOG": "hyper=debug,info,error"}, "error"),
        ({"RUST_LOG": "hyper=debug"}, "info"),
        ({"RUST_LOG": "nonsense"}, "info"),
        ({"RUST_LOG": "debug", "CRYPRQ_LOG": "error"}, "error"),
        ({"CRYPRQ_LOG": "Warning"}, "warn"),
    ],
)
def test_log_level_words(environ: dict[str, str], level: str) -> None:
    assert load(LISTEN, environ).log_level == level


def test_rust_log_beats_the_file_and_not_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('log-level = "error"\n')
    base = [*LISTEN, "--config", str(path)]
    assert load(base, {}).log_level == "error"
    assert load(base, {"RUST_LOG": "debug"}).log_level == "debug"
    assert load([*base, "--log-level", "warn"], {"RUST_LOG": "debug"}).log_level == "warn"


def test_log_level_unknown_to_cryprq_log_is_an_error() -> None:
    assert "CRYPRQ_LOG: 'loud' is not a log level" in error_of(LISTEN, {"CRYPRQ_LOG": "loud"})


# ---- the allowlist ----


def test_allow_peers_of_all_sources_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f'allow-peer = ["{C}"]\n')
    config = load([*LISTEN, "--config", str(path), "--allow-peer", str(A)], {"CRYPRQ_ALLOW_PEERS": f"{A},{B}"})
    assert dict(config.allow_peers) == {A: (), B: (), C: ()}


def test_networks_of_the_strongest_source_that_has_some(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f'[allow-peer]\n{A} = ["10.1.0.0/24"]\n{B} = ["10.2.0.0/24"]\n{C} = []\n')
    config = load(
        [*LISTEN, "--config", str(path), "--allow-peer", f"{A}=10.3.0.0/24", "--allow-peer", f"{A}=10.4.0.0/24"],
        {"CRYPRQ_ALLOW_PEERS": f"{A},{B}"},
    )
    assert dict(config.allow_peers) == {
        A: (ip_network("10.3.0.0/24"), ip_network("10.4.0.0/24")),
        B: (ip_network("10.2.0.0/24"),),
        C: (),
    }


def test_networks_in_the_environment_list() -> None:
    config = load(LISTEN, {"CRYPRQ_ALLOW_PEERS": f"{A}=10.1.0.0/24,fd00:1::/64,10.1.1.1,{B},{C}=10.2.0.0/24"})
    assert [len(config.allow_peers[peer]) for peer in (A, B, C)] == [3, 0, 1]


@pytest.mark.parametrize("where", ["flag", "environment", "table", "column"])
def test_successor_has_networks_and_key_of_its_predecessor(tmp_path: Path, where: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        {
            "table": f'[successor]\n{A} = "{B}"\n',
            "column": f'[allow-peer.{A}]\nnetworks = ["10.1.0.0/24"]\nsuccessor = "{B}"\n',
        }.get(where, "")
    )
    flags = ["--successor", f"{A}={B}"] if where == "flag" else []
    environ = {"CRYPRQ_SUCCESSORS": f"{A}={B}"} if where == "environment" else {}
    given = ["--config", str(path), "--allow-peer", f"{A}=10.1.0.0/24", "--psk-file", f"{A}=/a.psk"]
    config = load([*LISTEN, *given, *flags], environ)
    assert dict(config.successors) == {A: B}
    assert config.allow_peers[A] == config.allow_peers[B] == (ip_network("10.1.0.0/24"),)
    assert config.psk_files[A] == config.psk_files[B] == Path("/a.psk")
    assert dataclasses.replace(config) == config


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((f"{B}={C}",), f"{B} is no --allow-peer"),
        ((f"{A}={A}",), f"{A} is to have a place and to give it up"),
        ((f"{A}={B}", f"{B}={C}"), f"{B} is "),
        ((f"{A}={B}", f"{A}={C}"), f"{A} is given two"),
        ((f"{A}=nobody",), "nobody"),
        ((f"{A}",), "--successor"),
    ],
)
def test_successors_that_cannot_be(flags: tuple[str, ...], says: str) -> None:
    given = [word for flag in flags for word in ("--successor", flag)]
    assert says in error_of([*LISTEN, "--allow-peer", str(A), *given], {})


def test_successor_with_networks_of_its_own() -> None:
    flags = ["--allow-peer", f"{A}=10.1.0.0/24", "--allow-peer", f"{B}=10.2.0.0/24", "--successor", f"{A}={B}"]
    assert f"{B} is an --allow-peer with other networks than {A}" in error_of([*LISTEN, *flags], {})


def test_floor_of_rotations_above_the_own_interval() -> None:
    flags = ["--rotate-secs", "30", "--rotate-min-secs", "31"]
    assert error_of([*LISTEN, *flags], {}) == "--rotate-min-secs 31 is above --rotate-secs 30"


def test_host_bits_are_cleared_and_single_addresses_taken() -> None:
    config = load([*LISTEN, "--allow-peer", f"{A}=10.1.2.3/16,10.5.5.5,fd00::5"], {})
    assert [str(network) for network in config.allow_peers[A]] == ["10.1.0.0/16", "10.5.5.5/32", "fd00::5/128"]


def test_nested_networks_of_two_peers_are_fine() -> None:
    load([*LISTEN, "--allow-peer", f"{A}=10.1.0.0/16", "--allow-peer", f"{B}=10.1.2.0/24"], {})


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("Qm123", "'Qm123' is not a peer ID"),
        (f"{B}=10.1.0.0/33", "'10.1.0.0/33' is not a network"),
        (f"{B}=", "'' is not a network"),
        (f"{B}=10.1.0.0/24,", "'' is not a network"),
        (f"{B}=gw.example", "'gw.example' is not a network"),
        (f"{B}=10.9.0.1", "10.9.0.1/32 is this node's own --tun-address"),
    ],
)
def test_bad_allow_entry_refused(entry: str, says: str) -> None:
    assert says in error_of([*LISTEN, "--allow-peer", entry])


@pytest.mark.parametrize(
    ("extra", "source"),
    [
        (["--allow-peer", f"{A}=192.0.2.0/24"], f"--allow-peer {A}"),
        (["--allow-peer", f"{A}=0.0.0.0/0", "--route-table", "main"], f"--allow-peer {A}"),
        (["--allow-peer", f"{A}=0.0.0.0/0", "--route-table", "99"], f"--allow-peer {A}"),
        (["--tun-address", "192.0.2.7/24"], "--tun-address"),
    ],
)
def test_network_that_covers_the_peers_own_endpoint_refused(extra: list[str], source: str) -> None:
    message = error_of([*DIAL, *extra])
    assert message.startswith(source)
    assert "covers the peer's own endpoint 192.0.2.1" in message


@pytest.mark.parametrize("extra", [[f"{A}=0.0.0.0/0,::/0"], [f"{A}=192.0.2.0/24", "--route-table", "off"]])
def test_network_around_the_endpoint_is_fine_where_routing_spares_it(extra: list[str]) -> None:
    load([*DIAL, "--allow-peer", *extra], {})


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (
            ["--route-table", "other"],
            "--route-table 'other' is unknown; valid are auto, main, off and a table's number",
        ),
        (["--route-table", "0"], "--route-table 0 is no routing table"),
        (["--fwmark", "0"], "--fwmark 0 is out of range"),
        (["--fwmark", "0x100000000"], "--fwmark 4294967296 is out of range"),
        (["--dscp", "64"], "--dscp 64 is no DSCP: 0 to 63 (46 is expedited forwarding), or inherit"),
        (["--dscp", "-1"], "--dscp -1 is no DSCP"),
        (["--dscp", "af41"], "--dscp: 'af41' is not a whole number"),
        (["--fwmark", "blue"], "--fwmark: 'blue' is not a number"),
    ],
)
def test_tables_and_marks_that_there_cannot_be(extra: list[str], text: str) -> None:
    assert text in error_of([*DIAL, *extra])


def test_mark_may_be_hexadecimal() -> None:
    assert load([*DIAL, "--fwmark", "0xca6c"], {}).fwmark == 51820


def test_kill_switch_from_every_source(tmp_path: Path) -> None:
    assert not load(DIAL, {}).kill_switch
    assert load([*DIAL, "--kill-switch"], {}).kill_switch
    assert load(DIAL, {"CRYPRQ_KILL_SWITCH": "true"}).kill_switch
    (tmp_path / "node.toml").write_text("kill-switch = true\nroute-table = 77\n")
    config = load([*DIAL, "--config", str(tmp_path / "node.toml")], {})
    assert config.kill_switch and config.route_table == 77


def test_networks_beside_the_endpoint_are_fine() -> None:
    load([*DIAL, "--allow-peer", f"{A}=192.0.2.128/25,::/0"], {})


# ---- the file ----


def test_file_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        f"""
        listen = "/ip4/0.0.0.0/udp/9999/quic-v1"
        tun_address = "10.9.0.1/24"
        allow-any = true
        identity = "keys/identity"
        control-socket = "/run/x.sock"
        rotate_secs = 60
        peer = ["/ip4/192.0.2.1/udp/1/quic-v1/p2p/{A}"]
        """
    )
    config = load(["--config", str(path)], {})
    assert config.allow_any
    assert config.rotate_secs == 60
    assert config.identity == tmp_path / "keys/identity"
    assert config.control_socket == Path("/run/x.sock")
    assert len(config.peers) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rotate-sec = 5", "unknown key 'rotate-sec'"),
        ("rotate-sec = 5", "did you mean 'rotate-secs'?"),
        ("zzz = 5", "known are listen"),
        ("check = true", "unknown key 'check'"),
        ('mtu = "1400"', "'mtu' in"),
        ("mtu = true", "must be a whole number"),
        ("allow-any = 1", "must be true or false"),
        ("tun-name = 5", "must be a string"),
        ("peer = 5", "must be a string or a list of strings"),
        ("route = [5]", "must be a string or a list of strings"),
        ("tun-name = ''", "is empty"),
        ("mtu = 1400\nmtu = 1400", "is not valid TOML"),
        ("rotate-secs = 5\nrotate_secs = 5", "given twice"),
        ("listen", "is not valid TOML"),
        ("mtu = 99999999999", "not a whole number"),
        (f'[allow-peer]\n{A} = "10.1.0.0/24"', "must be a list of CIDRs"),
        ("[allow-peer]\nx = []", "'x' is not a peer ID"),
    ],
)
def test_mistake_in_the_file_names_it(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    message = error_of([*LISTEN, "--config", str(path)])
    assert says in message
    assert str(path) in message


def test_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    with pytest.raises(MachineError, match="cannot read the configuration file"):
        load([*LISTEN, "--config", str(path)], {})
    path.write_bytes(b"\xff\xfe")
    assert "is not valid TOML" in error_of([*LISTEN, "--config", str(path)])


# ---- does it make a node? ----


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (
            listens("/ip4/192.0.2.1", "/ip6/::1", "/ip4/192.0.2.1"),
            "/ip4/192.0.2.1/udp/1/quic-v1 is given twice",
        ),
        (
            listens("/ip4/192.0.2.1", "/ip4/0.0.0.0"),
            "/ip4/192.0.2.1/udp/1/quic-v1 is a part of /ip4/0.0.0.0/",
        ),
        (
            listens("/ip6/::", "/ip4/192.0.2.1"),
            "is a part of /ip6/::/udp/1/quic-v1; leave it out",
        ),
        (listens("/ip6/2001:db8::1", "/ip6/::"), "is a part of /ip6/::/udp/1/quic-v1"),
        (listens(*(f"/ip4/192.0.2.{n}" for n in range(1, 10))), "--listen: 9 addresses, and 8 are the most"),
        ([], "give --listen MULTIADDR, --peer MULTIADDR/p2p/ID, or both"),
        (LISTEN[:2], "needs its own address in the tunnel: give --tun-address"),
        (["--listen", "nonsense"], "--listen: 'nonsense' is not a multiaddr"),
        (["--listen", f"/ip4/0.0.0.0/udp/1/quic-v1/p2p/{A}"], "leave out /p2p/"),
        (["--listen", "/dns/gw.example/udp/1/quic-v1"], "listens on an address, not on a name"),
        (["--peer", "/ip4/192.0.2.1/udp/1/quic-v1"], "add /p2p/ID, the peer_id in that node's listener_ready line"),
        (["--peer", "/ip4/192.0.2.1/udp/1/quic-v1/p2p/Qm"], "is not a peer ID"),
        ([*DIAL, *DIAL], f"--peer: {DIAL[1]} is given twice"),
        (
            [word for n in range(1, 10) for word in ("--peer", f"/ip4/192.0.2.{n}/udp/1/quic-v1/p2p/{A}")],
            f"--peer: more than 8 addresses of {A}",
        ),
        (["--peer", f"/ip4/192.0.2.1/udp/0/quic-v1/p2p/{A}"], "port 0"),
        ([*DIAL, "--route", "10.1.0.0/24"], "--route needs --listen"),
        ([*LISTEN, "--route", "0.0.0.0/0"], "a default route is not announced"),
        ([*LISTEN, *(x for n in range(256) for x in ("--route", f"10.77.{n}.0/24"))], "up to 8 --tun-address and 256"),
        ([*LISTEN, *(x for n in range(8) for x in ("--tun-address", f"10.77.{n}.1/24"))], "not 9 and 9"),
        ([*LISTEN, "--route", "x"], "--route: 'x' is not a network"),
        ([*DIAL, "--dns", "10.9.0.1"], "--dns and --search need --listen"),
        ([*LISTEN, "--dns", "ns.example"], "--dns: 'ns.example' is not an address such as 10.9.0.1"),
        ([*LISTEN, "--dns", "fe80::1%eth0"], "--dns: 'fe80::1%eth0' is not an address"),
        ([*LISTEN, "--dns", "127.0.0.53"], "--dns 127.0.0.53 is not an address that a name server in a tunnel can"),
        ([*LISTEN, "--dns", "10.9.0.1", "--dns", "10.9.0.1"], "--dns: 10.9.0.1 is given twice"),
        ([*LISTEN, *(x for n in range(9) for x in ("--dns", f"10.9.0.{n + 1}"))], "up to 8 --dns, not 9"),
        ([*LISTEN, "--search", "corp.example"], "--search needs --dns"),
        ([*LISTEN, "--dns", "10.9.0.1", "--search", "a..b"], "--search: 'a..b' is not a domain such as corp.example"),
        ([*LISTEN, "--dns", "10.9.0.1", "--search", "com"], "--search com: a domain of one label is told only if it"),
        ([*LISTEN, "--accept-dns", "yes"], "valid are auto, all, off"),
        ([*LISTEN, "--on-change", "hook"], "--on-change hook is not an absolute path"),
        ([*LISTEN, "--mtu", "575"], "--mtu 575 is out of range: 576 to 65455"),
        ([*LISTEN, "--mtu", "65456"], "out of range"),
        ([*LISTEN, "--mtu", "1279", "--tun-address", "fd00::1/64"], "IPv6 needs 1280"),
        ([*LISTEN, "--mtu", "1e3"], "--mtu: '1e3' is not a whole number"),
        ([*LISTEN, "--rotate-secs", "4"], "--rotate-secs 4 is out of range: 5 to 3600"),
        ([*LISTEN, "--rotate-secs", "3601"], "5 to 3600"),
        ([*LISTEN, "--rotate-secs=-5"], "out of range"),
        ([*LISTEN, "--workers", "0"], "1 to 64"),
        ([*LISTEN, "--workers", "65"], "1 to 64"),
        ([*LISTEN, "--busy-poll-us", "1001"], "0 to 1000"),
        ([*LISTEN, "--busy-poll-us=-1"], "0 to 1000"),
        ([*LISTEN, "--max-inbound", "0"], "out of range"),
        ([*LISTEN, "--backoff-base-ms", "0"], "out of range"),
        ([*LISTEN, "--backoff-base-ms", "600", "--backoff-max-ms", "500"], "is above --backoff-max-ms 500"),
        ([*LISTEN, "--aead", "aes"], "valid are auto, aes-256-gcm, chacha20-poly1305"),
        ([*LISTEN, "--kem", "mlkem768"], "valid are x25519-mlkem768, x25519-mlkem1024, x25519-mlkem768-frodokem976aes"),
        ([*LISTEN, "--log-level", "loud"], "is not a log level; use one of debug, info, warn, error, off"),
        ([*LISTEN, "--log-format", "xml"], "valid are logfmt, json"),
        (
            [*LISTEN, "--no-offload", "tso"],
            "'tso' is unknown; valid are vnet_hdr, tso4, tso6, uso, udp_segment, udp_gro, coalesce, packing",
        ),
        ([*LISTEN, "--tun-name", "a" * 16], "up to 15"),
        ([*LISTEN, "--tun-name", "a/b"], "no interface name"),
        ([*LISTEN, "--tun-name", "tun%d"], "no interface name"),
        ([*LISTEN, "--tun-name", ".."], "no interface name"),
        ([*LISTEN, "--tun-name", ""], "--tun-name is empty"),
        ([*LISTEN, "--tun-address", "fd00::1"], "is not an address with its prefix length"),
        ([*LISTEN, "--tun-address", "10.9.0.300/24"], "is not an address with its prefix length"),
        ([*LISTEN, "--tun-address", "10.8.0.0/24"], "is the network itself"),
        ([*LISTEN, "--tun-address", "10.8.0.255/24"], "broadcast"),
        ([*LISTEN, "--tun-address", "fd00::/64"], "is the network itself"),
        ([*LISTEN, "--tun-address", "127.0.0.1/8"], "not an address that a host can have in a tunnel"),
        ([*LISTEN, "--tun-address", "ff02::1/16"], "not an address that a host can have in a tunnel"),
        ([*LISTEN, "--tun-address", "10.9.0.5/16"], "overlaps 10.9.0.0/24"),
        ([*LISTEN, "--metrics-addr", "9464"], "is not HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464"),
        ([*LISTEN, "--metrics-addr", ":9464"], "is not HOST:PORT"),
        ([*LISTEN, "--metrics-addr", "::1:9464"], "is not HOST:PORT"),
        ([*LISTEN, "--metrics-addr", "127.0.0.1:65536"], "is not HOST:PORT"),
        ([*LISTEN, "--metrics-addr", "127.0.0.1:-1"], "is not HOST:PORT"),
        (["--mtu"], "argument --mtu: expected one argument; see cryprq-node --help"),
        (["--rotate", "5"], "unrecognized arguments: --rotate 5"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_mistake_is_told_in_one_line(argv: list[str], says: str) -> None:
    assert says in error_of(argv)


def test_mistake_in_the_environment_names_the_variable() -> None:
    assert error_of([], {"CRYPRQ_PEERS": "x"}).startswith("CRYPRQ_PEERS: 'x' is not a multiaddr")
    assert error_of(LISTEN, {"CRYPRQ_MTU": "x"}).startswith("CRYPRQ_MTU: ")


@pytest.mark.parametrize(
    ("listen", "peer", "fits"),
    [
        ("/ip6/::", "/ip4/192.0.2.1", True),
        ("/ip6/::", "/ip6/2001:db8::1", True),
        ("/ip6/::", "/dns4/gw.example", True),
        ("/ip4/0.0.0.0", "/ip4/192.0.2.1", True),
        ("/ip4/0.0.0.0", "/dns/gw.example", True),
        ("/ip4/0.0.0.0", "/ip6/2001:db8::1", False),
        ("/ip4/0.0.0.0", "/dns6/gw.example", False),
        ("/ip6/2001:db8::2", "/ip4/192.0.2.1", False),
        ("/ip6/2001:db8::2", "/dns4/gw.example", False),
        ("/ip6/2001:db8::2", "/ip6/2001:db8::1", True),
    ],
)
def test_peer_must_be_reachable_from_the_listening_socket(listen: str, peer: str, fits: bool) -> None:
    argv = ["--listen", f"{listen}/udp/1/quic-v1", *LISTEN[2:], "--peer", f"{peer}/udp/1/quic-v1/p2p/{A}"]
    if fits:
        load(argv, {})
    else:
        assert "cannot be reached from --listen" in error_of(argv)


def test_a_node_listens_at_several_addresses_however_they_are_written(tmp_path: Path) -> None:
    wanted = ("/ip4/192.0.2.1/udp/1/quic-v1", "/ip4/192.0.2.1/udp/2/quic-v1", "/ip6/2001:db8::1/udp/1/quic-v1")
    path = tmp_path / "node.toml"
    path.write_text(f"listen = {list(wanted)}\n")
    flags = [word for address in wanted for word in ("--listen", address)]
    for argv, environ in (
        (flags, {}),
        ([], {"CRYPRQ_LISTEN": ", ".join(wanted)}),
        (["--config", str(path)], {}),
    ):
        config = load([*argv, *LISTEN[2:]], environ)
        assert tuple(map(str, config.listen)) == wanted and not config.doubts
        assert [line for line in config.describe().splitlines() if line.startswith("listen")] == [
            f"listen = {address}" for address in wanted
        ]
    # the stronger source alone counts
    assert load([*LISTEN], {"CRYPRQ_LISTEN": ",".join(wanted)}).listen == (Multiaddr.parse(LISTEN[1]),)


def test_ports_that_the_kernel_chooses_and_families_apart_are_no_parts_of_each_other() -> None:
    everything = ["/ip4/0.0.0.0/udp/1", "/ip4/192.0.2.1/udp/0", "/ip6/2001:db8::1/udp/1", "/ip6/::/udp/2"]
    load([*(word for each in everything for word in ("--listen", f"{each}/quic-v1")), *LISTEN[2:]], {})


def test_one_address_may_stand_alone_in_a_program() -> None:
    only: Any = Multiaddr.parse(LISTEN[1])
    assert NodeConfig(listen=only, tun_addresses=load(LISTEN, {}).tun_addresses).listen == (only,)


def test_who_listens_at_several_addresses_dials_by_either_ip_version() -> None:
    flags = [*listens("/ip4/192.0.2.1", "/ip4/192.0.2.2"), *LISTEN[2:]]
    load([*flags, "--peer", f"/ip6/2001:db8::1/udp/1/quic-v1/p2p/{A}"], {})


def test_valid_edges() -> None:
    load([*LISTEN, "--mtu", "576", "--rotate-secs", "5", "--workers", "64"], {})
    load([*LISTEN, "--mtu", "65455", "--rotate-secs", "3600"], {})
    load([*LISTEN[:2], "--tun-address", "10.9.0.0/31"], {})
    load([*LISTEN[:2], "--tun-address", "10.9.0.0/32"], {})
    load([*LISTEN[:2], "--tun-address", "fd00::/127"], {})
    assert load([*LISTEN, "--metrics-addr", "[::1]:9464"], {}).metrics_addr == ("::1", 9464)
    assert load([*LISTEN, "--metrics-addr", "localhost:0"], {}).metrics_addr == ("localhost", 0)


def test_node_config_is_frozen_and_checked_when_made_by_hand() -> None:
    with pytest.raises(ConfigError, match="nothing to do"):
        NodeConfig()
    allowed = {A: (ip_network("10.1.0.0/24"),)}
    config = NodeConfig(peers=(Multiaddr.parse(DIAL[1]),), allow_peers=allowed)
    allowed.clear()
    assert A in config.allow_peers
    with pytest.raises(TypeError):
        config.allow_peers[B] = ()  # type: ignore[index]
    with pytest.raises(AttributeError):
        config.mtu = 1  # type: ignore[misc]


def test_describe_round_trips_what_matters() -> None:
    text = load([*LISTEN, "--allow-peer", f"{A}=10.1.2.3/16", "--metrics-addr", "[::1]:9464"], {}).describe()
    for line in (
        "listen = /ip6/::/udp/9999/quic-v1",
        f"allow-peer = {A}=10.1.0.0/16",
        "metrics-addr = [::1]:9464",
        "tun-address = 10.9.0.1/24",
        "rotate-secs = 300",
    ):
        assert line in text.splitlines()
    assert {line.partition(" = ")[0] for line in text.splitlines()} == {o.name for o in OPTIONS}


def test_offload_names_are_those_of_the_data_plane() -> None:
    fastpath = pytest.importorskip("cryprq._fastpath")
    assert OFFLOAD_NAMES == fastpath.OFFLOADS


@pytest.mark.parametrize(
    ("mtu", "busy_poll_us", "says"),
    [
        (MTU_MIN, 0, None),
        (MTU_SEALABLE_MAX, BUSY_POLL_US_MAX, None),
        (MTU_MIN - 1, 0, "MTU"),
        (MTU_SEALABLE_MAX + 1, 0, "MTU"),
        (MTU_MIN, BUSY_POLL_US_MAX + 1, "busy polling"),
    ],
)
def test_ranges_are_those_of_the_data_plane(mtu: int, busy_poll_us: int, says: str | None) -> None:
    fastpath = pytest.importorskip("cryprq._fastpath")
    inner, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with inner, other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        inner.setblocking(False)

        def make() -> None:
            fastpath.Plane([inner.fileno()], [[port.fileno()]], mtu=mtu, offloads=(), busy_poll_us=busy_poll_us).stop()

        if says is None:
            make()
        else:
            with pytest.raises(ValueError, match=says):
                make()
