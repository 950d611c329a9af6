"""What is allowed and hardly meant: each is told once, in words, and what is meant is not doubted."""

import errno
from collections.abc import Callable
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from cryprq.config.node_config import NodeConfig
from cryprq.linux.surroundings import Way
from cryprq.multiaddr import Multiaddr
from cryprq.networks import Network
from cryprq.node import doubts as module
from cryprq.node.doubts import of_configuration, of_machine
from tests.rigs.fakes import identity

PEERS = [identity(number).peer_id for number in range(4)]
LISTEN = ["--listen", "/ip4/0.0.0.0/udp/9999/quic-v1", "--tun-address", "10.9.0.1/24", "--allow-peer", str(PEERS[1])]


def listener(**settings: Any) -> NodeConfig:
    settings.setdefault("tun_addresses", (ip_interface("10.9.0.1/24"),))
    return NodeConfig(listen=(Multiaddr.parse("/ip6/::/udp/9999/quic-v1"),), **settings)


def dialer(*hosts: str, **settings: Any) -> NodeConfig:
    peers = [Multiaddr.parse(f"{host}/udp/9999/quic-v1/p2p/{peer}") for host, peer in zip(hosts, PEERS, strict=False)]
    return NodeConfig(peers=tuple(peers), **settings)


# ---- what was written ----


def test_usual_flags_and_variables_are_not_doubted() -> None:
    environ = {"CRYPRQ_MTU": "1400", "CRYPRQ_QLOG_DIR": "/tmp", "CRYPRQ_AEAD_BACKEND": "evp", "HOME": "/root"}
    flags = [*LISTEN, "--allow-peer", str(PEERS[2]), "--route", "10.1.0.0/16", "--route", "10.2.0.0/16"]
    config = NodeConfig.load(flags, environ)
    assert config.doubts == ()
    assert of_configuration(config) == ()


def test_networks_that_were_written_with_an_address_of_a_host_are_told(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f'[allow-peer]\n{PEERS[2]} = ["10.3.0.9/24", "10.4.0.0/24", "fd00::/64"]\n')
    flags = [
        *LISTEN,
        "--config",
        str(file),
        "--allow-peer",
        f"{PEERS[3]}=fd01::1/64,10.5.0.1",
        "--route",
        "10.6.0.1/16",
    ]
    assert NodeConfig.load(flags, {"CRYPRQ_ROUTES": "10.7.0.1/16"}).doubts == (  # the flag counts alone
        "--allow-peer: fd01::1/64 is an address in fd01::/64, which is taken as a whole",
        f"{file}: allow-peer: 10.3.0.9/24 is an address in 10.3.0.0/24, which is taken as a whole",
        "--route: 10.6.0.1/16 is an address in 10.6.0.0/16, which is taken as a whole",
    )


@pytest.mark.parametrize(("flag", "first", "last"), [("--tun-name", "a", "b"), ("--mtu", "1300", "1280")])
def test_flag_whose_last_value_wins_is_told(flag: str, first: str, last: str) -> None:
    config = NodeConfig.load([*LISTEN, flag, first, flag, first, flag, last], {})
    assert config.doubts == (f"{flag} is given more than once; only the last one counts, {last}",)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("CRYPRQ_ALLOW_PEER", "; did you mean CRYPRQ_ALLOW_PEERS?"),
        ("CRYPRQ_LISTEN_ADDR", "; did you mean CRYPRQ_LISTEN?"),
        ("CRYPRQ_ALLOW_ANY", "; --allow-any is a flag, and a key of the file, alone"),
        ("CRYPRQ_XYZZY", ""),
    ],
)
def test_variable_that_nobody_reads_is_told(name: str, says: str) -> None:
    assert NodeConfig.load(LISTEN, {name: "x"}).doubts == (f"nobody reads the variable {name}{says}",)


def test_doubts_are_no_setting() -> None:
    assert NodeConfig.load(LISTEN, {"CRYPRQ_XYZZY": ""}) == NodeConfig.load(LISTEN, {})
    assert "doubts" not in NodeConfig.load(LISTEN, {}).describe()


# ---- what it comes to ----


@pytest.mark.parametrize(
    ("config", "doubted"),
    [
        (listener(), True),
        (listener(allow_any=True), False),
        (listener(allow_peers={PEERS[0]: ()}), False),
        (dialer("/ip4/192.0.2.1"), False),
    ],
)
def test_listener_to_which_nobody_may_come(config: NodeConfig, doubted: bool) -> None:
    assert (
        "nobody may connect: name the dialers with --allow-peer ID, or add them with cryprq peer add ID"
        in of_configuration(config)
    ) is doubted


def test_name_server_that_no_dialer_will_ask() -> None:
    far = "--dns 192.0.2.53 is in no network of this gateway, so dialers pass over it: add a --route to it"
    arguments = [*LISTEN, "--dns", "192.0.2.53", "--dns", "10.9.0.1"]
    assert of_configuration(NodeConfig.load(arguments, {})) == (far,)
    assert of_configuration(NodeConfig.load([*arguments, "--route", "192.0.2.0/24"], {})) == ()


def test_pool_that_is_smaller_than_the_peers_who_are_to_have_an_address() -> None:
    def told(network: str, by_hand: str | None = None) -> tuple[str, ...]:
        allowed: dict[Any, tuple[Network, ...]] = {PEERS[0]: (), PEERS[1]: ()}
        if by_hand is not None:
            allowed[PEERS[2]] = (ip_network(by_hand),)
        addresses = (ip_interface(network), ip_interface("fd00:9::1/64"))
        return of_configuration(listener(allow_peers=allowed, tun_addresses=addresses))

    assert told("10.9.0.1/29") == ()
    assert told("10.9.0.1/30") == ("2 peers are to get an address, and 10.9.0.0/30 has 1: use a wider --tun-address",)
    assert told("10.9.0.1/29", "10.9.0.4/30") == ()
    assert "10.9.0.0/29 has 0" in told("10.9.0.1/29", "10.9.0.0/29")[0]


# ---- what the machine makes of it ----


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the machine answers."""

    def machine(*, lans: tuple[tuple[str, str], ...] = (), mtu: int = 1500, unreachable: str = "none") -> None:
        def way_to(host: str) -> Way:
            if host.startswith(unreachable):
                raise OSError(errno.ENETUNREACH, "Network is unreachable")
            return Way("192.0.2.1", mtu)

        found = [(name, ip_network(network)) for name, network in lans]
        monkeypatch.setattr(module, "local_networks", lambda *, without: [lan for lan in found if lan[0] != without])
        monkeypatch.setattr(module, "way_to", way_to)

    machine()
    return machine


def test_nothing_is_doubted_on_an_ordinary_machine(machine: Callable[..., None]) -> None:
    machine(lans=(("eth0", "192.168.1.0/24"), ("cryprq0", "10.9.0.0/24")))
    assert of_machine(listener()) == ()
    assert of_machine(dialer("/ip4/192.0.2.1", "/ip6/2001:db8::9", "/dns/gateway.example")) == ()


def test_tunnel_in_a_network_of_this_host(machine: Callable[..., None]) -> None:
    machine(lans=(("eth0", "10.9.0.0/16"), ("eth1", "192.168.1.0/24")))
    (doubt,) = of_machine(listener())
    assert doubt.startswith("--tun-address 10.9.0.1/24 is in 10.9.0.0/16, where eth0 is: ")


def test_way_that_is_too_narrow(machine: Callable[..., None]) -> None:
    machine(mtu=1400)
    assert of_machine(dialer("/ip4/192.0.2.9")) == (
        "--mtu 1420 makes datagrams of 1480 bytes, and the way to 192.0.2.9 takes 1400: senders are told to make their "
        "packets smaller; --mtu 1340 spares them that",
    )
    assert of_machine(dialer("/ip4/192.0.2.9", mtu=1340)) == ()
    assert "--mtu 1320 spares" in of_machine(dialer("/ip6/2001:db8::9", mtu=1321))[0]
    assert of_machine(dialer("/ip6/2001:db8::9", mtu=1320)) == ()
    both = of_machine(listener(mtu=1341))
    assert ["the way to dialers" in doubt for doubt in both] == [True, True]


def test_peer_to_which_there_is_no_way(machine: Callable[..., None]) -> None:
    machine(unreachable="2001:")
    assert of_machine(dialer("/ip6/2001:db8::9", "/ip4/192.0.2.9")) == (
        f"--peer /ip6/2001:db8::9/udp/9999/quic-v1/p2p/{PEERS[0]}: there is no way to 2001:db8::9 "
        "(Network is unreachable): this machine has no IPv6 address or route",
    )
    assert of_machine(listener()) == ()  # a listener may serve its own network, or one IP version
