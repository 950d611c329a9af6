"""What a node is told to do: ``NodeConfig``, checked as a whole when it is made, and ``load``, which reads it.

Every error is a ConfigError with one line that names the flag, variable or file key and says what to do.
"""

import argparse
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_interface, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from cryprq import limits, settings
from cryprq.allowed import Interface, Network, covering, overlapping
from cryprq.errors import ConfigError
from cryprq.identity import PeerId
from cryprq.multiaddr import Multiaddr
from cryprq.settings import AEAD_NAMES, LOG_FORMATS, LOG_LEVEL_WORDS, LOG_LEVELS, OFFLOAD_NAMES, Settings, Value

__all__ = ["OFFLOAD_NAMES", "ConfigError", "NodeConfig", "describe", "load", "parse_args"]

T = TypeVar("T")
D = TypeVar("D")

DEFAULT_IDENTITY: Final = Path("/var/lib/cryprq/identity")
DEFAULT_TUN_NAME: Final = "cryprq0"
RUNTIME_DIRECTORY: Final = Path("/run/cryprq")
MTU_MAX: Final = 65455
"""A packet of this size, sealed, is the largest datagram that is sent (65,487 bytes, ``CQ_SEND_MAX``)."""

_TUN_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)  # IFNAMSIZ is 16 with the terminator
_NUMBER: Final = re.compile(r"-?[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """Everything that a node needs to know. Immutable; ConfigError if the parts do not make a working node."""

    listen: Multiaddr | None = None
    peers: tuple[Multiaddr, ...] = ()
    """Whom to dial, each with its peer ID."""
    allow_peers: Mapping[PeerId, tuple[Network, ...]] = field(default_factory=dict)
    """Who may connect, with the peer's networks; without any, it gets an address from the tunnel network."""
    allow_any: bool = False
    identity: Path = DEFAULT_IDENTITY
    tun_name: str = DEFAULT_TUN_NAME
    tun_addresses: tuple[Interface, ...] = ()
    """This node's addresses in the tunnel, with the prefix length of the tunnel's network."""
    mtu: int = limits.MTU_DEFAULT
    rotate_secs: int = limits.ROTATE_SECS_DEFAULT
    metrics_addr: tuple[str, int] | None = None
    aead: str = "auto"
    workers: int = field(default_factory=lambda: default_workers())
    """Worker threads per direction, each with a TUN queue and a socket of its own."""
    busy_poll_us: int = limits.BUSY_POLL_US
    """Microseconds for which a worker without packets looks for more before it sleeps."""
    max_inbound: int = limits.MAX_INBOUND
    backoff_base_ms: int = limits.BACKOFF_BASE_MS
    backoff_max_ms: int = limits.BACKOFF_MAX_MS
    log_level: str = "info"
    log_format: str = "logfmt"
    routes: tuple[Network, ...] = ()
    """Networks behind this listener, announced to its dialers."""
    control_socket: Path = Path()
    """Empty means ``/run/cryprq/<tun_name>.sock``."""
    disabled_offloads: frozenset[str] = frozenset()
    config_file: Path | None = None
    qlog_dir: Path | None = None
    """Where each control connection leaves a qlog file, for debugging. No flag: CRYPRQ_QLOG_DIR."""
    rotate_records: int = 2**26
    """Records under one key after which it is rotated early. No flag: tests make it small."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "allow_peers", MappingProxyType(dict(self.allow_peers)))
        if self.control_socket == Path():
            object.__setattr__(self, "control_socket", RUNTIME_DIRECTORY / f"{self.tun_name}.sock")
        self.validate()

    def validate(self) -> None:
        """ConfigError for the first thing that is wrong."""
        _check_values(self)
        _check_listen(self)
        _check_peers(self)
        _check_tun(self)
        _check_networks(self)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``cryprq-node`` (without the program's name) as text. ConfigError."""
    return settings.parser().parse_args(argv)


def load(argv: Sequence[str], environ: Mapping[str, str]) -> NodeConfig:
    """The configuration that flags, environment and file give together. Called again on SIGHUP with the same arguments.

    The allowlist is what all three allow; for everything else the strongest source that gives it counts.
    ConfigError, or MachineError if the file cannot be read.
    """
    given = settings.collect(parse_args(argv), environ)
    tun_name = _one(given, "tun-name", str, DEFAULT_TUN_NAME)
    return NodeConfig(
        listen=_one(given, "listen", Multiaddr.parse, None),
        peers=_many(given, "peer", Multiaddr.parse),
        allow_peers=_allow_peers(given),
        allow_any=_one(given, "allow-any", lambda text: text == "true", False),
        identity=_one(given, "identity", Path, default_identity(environ)),
        tun_name=tun_name,
        tun_addresses=_many(given, "tun-address", _interface),
        mtu=_one(given, "mtu", _number, limits.MTU_DEFAULT),
        rotate_secs=_one(given, "rotate-secs", _number, limits.ROTATE_SECS_DEFAULT),
        metrics_addr=_one(given, "metrics-addr", _host_port, None),
        aead=_one(given, "aead", str.lower, "auto"),
        workers=_one(given, "workers", _number, default_workers()),
        busy_poll_us=_one(given, "busy-poll-us", _number, limits.BUSY_POLL_US),
        max_inbound=_one(given, "max-inbound", _number, limits.MAX_INBOUND),
        backoff_base_ms=_one(given, "backoff-base-ms", _number, limits.BACKOFF_BASE_MS),
        backoff_max_ms=_one(given, "backoff-max-ms", _number, limits.BACKOFF_MAX_MS),
        log_level=_one(given, "log-level", _log_level, "info"),
        log_format=_one(given, "log-format", str.lower, "logfmt"),
        routes=_many(given, "route", _network),
        control_socket=_one(given, "control-socket", Path, default_control_socket(environ, tun_name)),
        disabled_offloads=frozenset(_many(given, "no-offload", str)),
        config_file=given.config_file,
        qlog_dir=Path(text) if (text := environ.get("CRYPRQ_QLOG_DIR")) else None,
    )


def default_workers() -> int:
    """Workers per direction if nobody says: each is two threads, so one for every two CPUs that the process may use."""
    return max(1, min(limits.WORKERS_DEFAULT_MAX, len(os.sched_getaffinity(0)) // 2))


def default_identity(environ: Mapping[str, str]) -> Path:
    """Where the identity lies if nobody says: in systemd's state directory for the service, or /var/lib/cryprq."""
    state = environ.get("STATE_DIRECTORY", "").split(":")[0]  # systemd gives a list
    return Path(state) / "identity" if state else DEFAULT_IDENTITY


def default_control_socket(environ: Mapping[str, str], tun_name: str) -> Path:
    """Where the control socket of the node with that TUN is if nobody says."""
    runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return (Path(runtime) if runtime else RUNTIME_DIRECTORY) / f"{tun_name}.sock"


def describe(config: NodeConfig) -> str:
    """The effective configuration, one ``name = value`` a line, names as in the file (for ``--check``)."""
    host_port = "off"
    if config.metrics_addr is not None:
        host, port = config.metrics_addr
        host_port = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    allowed = [
        f"{peer}={','.join(map(str, networks))}" if networks else f"{peer} (gets an address)"
        for peer, networks in sorted(config.allow_peers.items())
    ]
    lines: list[tuple[str, object]] = [
        ("config", config.config_file or "none"),
        ("listen", config.listen or "none"),
        *(("peer", peer) for peer in config.peers or ("none",)),
        *(("allow-peer", entry) for entry in allowed or ("none",)),
        ("allow-any", str(config.allow_any).lower()),
        ("identity", config.identity),
        ("tun-name", config.tun_name),
        *(("tun-address", address) for address in config.tun_addresses or ("from the gateway",)),
        ("mtu", config.mtu),
        ("rotate-secs", config.rotate_secs),
        ("metrics-addr", host_port),
        ("aead", config.aead),
        ("workers", config.workers),
        ("busy-poll-us", config.busy_poll_us),
        ("max-inbound", config.max_inbound),
        ("backoff-base-ms", config.backoff_base_ms),
        ("backoff-max-ms", config.backoff_max_ms),
        ("log-level", config.log_level),
        ("log-format", config.log_format),
        *(("route", route) for route in config.routes or ("none",)),
        ("control-socket", config.control_socket),
        ("no-offload", " ".join(sorted(config.disabled_offloads)) or "none"),
    ]
    return "\n".join(f"{name} = {value}" for name, value in lines)


# ---- from text ----


def _convert(value: Value, text: str, convert: Callable[[str], T]) -> T:
    try:
        return convert(text)
    except ValueError as error:
        raise ConfigError(f"{value.source}: {error}") from None


def _one(given: Settings, name: str, convert: Callable[[str], T], default: D) -> T | D:
    value = given.first(name)
    if value is None:
        return default
    if len(value.items) != 1 or not value.items[0]:
        raise ConfigError(f"{value.source} is empty")
    return _convert(value, value.items[0], convert)


def _many(given: Settings, name: str, convert: Callable[[str], T]) -> tuple[T, ...]:
    value = given.first(name)
    return () if value is None else tuple(_convert(value, item, convert) for item in value.items)


def _allow_peers(given: Settings) -> dict[PeerId, tuple[Network, ...]]:
    """The union over all sources. Where several give one peer networks, the strongest source counts."""
    result: dict[PeerId, tuple[Network, ...]] = {}
    for value in reversed(given.values["allow-peer"]):
        entries: dict[PeerId, tuple[Network, ...]] = {}
        for item in value.items:
            peer, networks = _convert(value, item, _allow_entry)
            entries[peer] = tuple(dict.fromkeys((*entries.get(peer, ()), *networks)))
        result.update({peer: networks or result.get(peer, ()) for peer, networks in entries.items()})
    return result


def _allow_entry(text: str) -> tuple[PeerId, tuple[Network, ...]]:
    name, equals, cidrs = text.partition("=")
    peer = PeerId.parse(name.strip())
    return peer, tuple(_network(cidr.strip()) for cidr in cidrs.split(",")) if equals else ()


def _network(text: str) -> Network:
    """A CIDR; without a prefix length it is one address, and host bits are cleared, as ``wg`` and ``ip route`` users
    expect. ValueError."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network such as 10.9.0.0/24 or fd00:9::/64") from None


def _interface(text: str) -> Interface:
    try:
        interface = ip_interface(text)
    except ValueError:
        interface = None
    if interface is None or "/" not in text:
        # Without a prefix length it would silently be a network of one address.
        raise ValueError(f"{text!r} is not an address with its prefix length, such as 10.9.0.1/24 or fd00:9::1/64")
    return interface


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _log_level(text: str) -> str:
    level = LOG_LEVEL_WORDS.get(text.lower())
    if level is None:
        raise ValueError(f"{text!r} is not a log level; use one of {', '.join(LOG_LEVELS)}")
    return level


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not _NUMBER.fullmatch(port) or not 0 <= int(port) <= 0xFFFF:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464")
    return host, int(port)


# ---- does it make a node? ----


def _check_values(config: NodeConfig) -> None:
    bounds = (
        ("mtu", config.mtu, limits.MTU_MIN, MTU_MAX),
        ("rotate-secs", config.rotate_secs, limits.ROTATE_SECS_MIN, limits.ROTATE_SECS_MAX),
        ("workers", config.workers, 1, limits.LANES_MAX),
        ("busy-poll-us", config.busy_poll_us, 0, limits.BUSY_POLL_US_MAX),
        ("max-inbound", config.max_inbound, 1, 65536),
        ("backoff-base-ms", config.backoff_base_ms, 1, 3_600_000),
        ("backoff-max-ms", config.backoff_max_ms, 1, 3_600_000),
    )
    for name, number, low, high in bounds:
        if not low <= number <= high:
            raise ConfigError(f"--{name} {number} is out of range: {low} to {high}")
    if config.backoff_base_ms > config.backoff_max_ms:
        raise ConfigError(
            f"--backoff-base-ms {config.backoff_base_ms} is above --backoff-max-ms {config.backoff_max_ms}"
        )
    _check_choice("aead", config.aead, AEAD_NAMES)
    _check_choice("log-level", config.log_level, LOG_LEVELS)
    _check_choice("log-format", config.log_format, LOG_FORMATS)
    for name in sorted(config.disabled_offloads):
        _check_choice("no-offload", name, OFFLOAD_NAMES)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"--{name} {value!r} is unknown; valid are {', '.join(choices)}")


def _check_listen(config: NodeConfig) -> None:
    listen = config.listen
    if listen is None:
        if not config.peers:
            raise ConfigError("nothing to do: give --listen MULTIADDR, --peer MULTIADDR/p2p/ID, or both")
        if config.routes:
            raise ConfigError("--route needs --listen: it announces the networks behind a listener to its dialers")
        return
    if not listen.is_numeric:
        raise ConfigError(f"--listen {listen}: a node listens on an address, not on a name; use /ip4/... or /ip6/...")
    if listen.peer_id is not None:
        raise ConfigError(f"--listen {listen}: leave out /p2p/...; a node listens under its own identity")
    if not config.tun_addresses:
        raise ConfigError("a listener needs its own address in the tunnel: give --tun-address, e.g. 10.9.0.1/24")
    told = {*(address.network for address in config.tun_addresses), *config.routes}
    if len(config.tun_addresses) > limits.ADDRESSES_MAX or len(told) > limits.ROUTES_MAX:
        raise ConfigError(
            f"a listener tells its dialers up to {limits.ADDRESSES_MAX} --tun-address and {limits.ROUTES_MAX} networks,"
            f" not {len(config.tun_addresses)} and {len(told)}: use fewer and wider --route"
        )
    for route in config.routes:
        if route.prefixlen == 0:
            raise ConfigError(
                f"--route {route}: a default route is not announced; give the dialers --allow-peer ID=CIDR,... instead"
            )


def _check_peers(config: NodeConfig) -> None:
    seen: set[PeerId] = set()
    for peer in config.peers:
        if peer.peer_id is None:
            raise ConfigError(
                f"--peer {peer} does not say who is there: add /p2p/ID, the peer_id in that node's listener_ready line"
            )
        if peer.peer_id in seen:
            raise ConfigError(f"--peer: {peer.peer_id} is given twice; one address for each peer")
        seen.add(peer.peer_id)
        if peer.port == 0:
            raise ConfigError(f"--peer {peer}: port 0 cannot be dialled")
        if config.listen is not None and not _family_fits(config.listen, peer):
            raise ConfigError(
                f"--peer {peer} cannot be reached from --listen {config.listen}: one socket serves both; "
                "listen on /ip6/:: for IPv4 and IPv6"
            )


def _family_fits(listen: Multiaddr, peer: Multiaddr) -> bool:
    """Whether a socket bound to ``listen`` can send to the peer. /ip6/:: is dual-stack, a given address is not."""
    version = {"ip4": 4, "dns4": 4, "ip6": 6, "dns6": 6}.get(peer.protocol)
    if version is None or (listen.protocol == "ip6" and listen.host == "::"):
        return True
    return version == (4 if listen.protocol == "ip4" else 6)


def _check_tun(config: NodeConfig) -> None:
    name = config.tun_name
    if not _TUN_NAME.fullmatch(name) or name in (".", ".."):
        raise ConfigError(f"--tun-name {name!r} is no interface name: up to 15 letters, digits, '_', '.' or '-'")
    for number, interface in enumerate(config.tun_addresses):
        address, network = interface.ip, interface.network
        if address.is_unspecified or address.is_multicast or address.is_loopback:
            raise ConfigError(f"--tun-address {interface}: not an address that a host can have in a tunnel")
        edge = network.max_prefixlen - network.prefixlen >= 2
        if edge and (
            address == network.network_address
            or (isinstance(address, IPv4Address) and address == network.broadcast_address)
        ):
            raise ConfigError(f"--tun-address {interface} is the network itself, or its broadcast address, not a host")
        if address.version == 6 and config.mtu < limits.MTU_MIN_IPV6:
            raise ConfigError(
                f"--mtu {config.mtu} is too small for --tun-address {interface}: IPv6 needs {limits.MTU_MIN_IPV6}"
            )
        if (other := overlapping(network, (earlier.network for earlier in config.tun_addresses[:number]))) is not None:
            raise ConfigError(f"--tun-address {interface}: its network overlaps {other} of another --tun-address")


def _check_networks(config: NodeConfig) -> None:
    owner: dict[Network, PeerId] = {}
    own = {ip_network(interface.ip) for interface in config.tun_addresses}
    for peer, networks in config.allow_peers.items():
        for network in networks:
            if network in own:
                raise ConfigError(f"--allow-peer {peer}: {network} is this node's own --tun-address")
            if network in owner:
                raise ConfigError(f"--allow-peer: {network} is given to both {owner[network]} and {peer}")
            owner[network] = peer
    for dialled in config.peers:
        if dialled.peer_id is None or not dialled.is_numeric:
            continue  # the addresses of a name are checked when it has been resolved
        networks = config.allow_peers.get(dialled.peer_id, ())
        _check_endpoint(dialled, networks, f"--allow-peer {dialled.peer_id}")
        _check_endpoint(dialled, (interface.network for interface in config.tun_addresses), "--tun-address")


def _check_endpoint(dialled: Multiaddr, networks: Iterable[Network], source: str) -> None:
    network = covering(networks, dialled.host)
    if network is not None:
        raise ConfigError(
            f"{source}: {network} covers the peer's own endpoint {dialled.host}, so the tunnel would swallow itself; "
            "use narrower networks that leave it out"
        )
