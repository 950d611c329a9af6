"""What a node is told to do: ``NodeConfig``, whose fields are the table of all options.

To add an option, add a field: ``cryprq.config.options`` says what its row can have, and flag, environment, file,
``--check``, reload and the README (``scripts/make_settings.py``) follow. What several options must be together stands
in ``cryprq.config.checks``.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from cryprq.config import (
    allow_entries,
    checks,
    doubts,
    peer_entries,
    peer_words,
    psk_file,
    sources,
    successor_entries,
    values,
)
from cryprq.config.command_line import parser
from cryprq.config.options import choice, made_by, number, one_of, option, repeatable, switch, table
from cryprq.config.paths import (
    DEFAULT_IDENTITY,
    DEFAULT_TUN_NAME,
    RUNTIME_DIRECTORY,
    default_control_socket,
    default_identity,
    is_credential,
    state_directory,
)
from cryprq.config.peer_files import PeerFiles
from cryprq.config.peer_join import PeerJoin
from cryprq.dns import NameServerAddress, domain, server_fault
from cryprq.errors import ConfigError
from cryprq.multiaddr import Multiaddr
from cryprq.networks import Interface, Network
from cryprq.peer_id import PeerId
from cryprq.protocol.constants import (
    AEAD_NAMES,
    KEM_NAMES,
    KEMS_DEFAULT,
    LANES_MAX,
    MTU_MIN,
    MTU_SEALABLE_MAX,
    ROTATE_FLOOR_MAX,
    ROTATE_SECS_MAX,
    ROTATE_SECS_MIN,
)

AEAD_CHOICES: Final = ("auto", *AEAD_NAMES.values())
KEM_CHOICES: Final = tuple(KEM_NAMES.values())
ACCEPT_DNS_CHOICES: Final = ("auto", "all", "off")
LOG_FORMATS: Final = ("logfmt", "json")
OFFLOAD_NAMES: Final = ("vnet_hdr", "tso4", "tso6", "uso", "udp_segment", "udp_gro", "coalesce", "packing")
"""The same names as ``_fastpath.OFFLOADS``."""
REAUTH_SECS_MIN: Final = 10
REAUTH_SECS_MAX: Final = 604_800
"""A week."""
LEASE_DAYS_MAX: Final = 36_500
WORKERS_DEFAULT_MAX: Final = 4
BUSY_POLL_US_MAX: Final = 1000
INBOUND_MAX: Final = 65536
BACKOFF_MS_MAX: Final = 3_600_000


def _listed(names: Sequence[str], conjunction: str = "or") -> str:
    """The names as Markdown code: `a`, `b` or `c`."""
    quoted = [f"`{name}`" for name in names]
    return f" {conjunction} ".join([", ".join(quoted[:-1]), quoted[-1]])


def default_workers() -> int:
    """Workers per direction if nobody says: each is two threads, so one for every two CPUs that the process may use."""
    return max(1, min(WORKERS_DEFAULT_MAX, len(os.sched_getaffinity(0)) // 2))


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """Everything that a node needs to know. Immutable; ConfigError if the parts do not make a working node.

    A field has the name of its flag, in the plural where the flag may be repeated. Sizes are in bytes, times in what
    the name ends with. Values are checked wherever they come from; their types are for a type checker to check.
    """

    config_file: Path | None = option(
        "config",
        "FILE",
        env="CRYPRQ_CONFIG",
        help="TOML file with these names as keys",
        parse=Path,
        default=None,
        reload=True,
    )
    listen: tuple[Multiaddr, ...] = repeatable(
        "listen",
        "MULTIADDR",
        env="CRYPRQ_LISTEN",
        help="listen here: `/ip4/0.0.0.0/udp/9999/quic-v1`, or `/ip6/::/udp/9999/quic-v1` for IPv6 and IPv4",
        parse=Multiaddr.parse,
        check=checks.listen_fault,
        into=tuple,
    )
    peers: tuple[Multiaddr, ...] = repeatable(
        "peer",
        "MULTIADDR/p2p/ID",
        env="CRYPRQ_PEERS",
        help="dial this peer; `/ip4`, `/ip6`, `/dns`, `/dns4`, `/dns6`; again with the same ID: another address of it",
        parse=Multiaddr.parse,
        check=checks.peer_fault,
        into=tuple,
        reload=True,
    )
    allow_peers: Mapping[PeerId, tuple[Network, ...]] = repeatable(
        "allow-peer",
        "ID[=CIDR,...]",
        env="CRYPRQ_ALLOW_PEERS",
        help="this peer may connect, and owns these inner networks, or gets one address",
        default_text="nobody",
        parse=allow_entries.parse,
        show=allow_entries.show,
        split=allow_entries.split,
        into=allow_entries.collect,
        join=allow_entries.join,
        toml_entry=allow_entries.from_table,
        toml_columns={"networks": "allow-peer", "psk-file": "psk-file", "successor": "successor"},
        reload=True,
    )
    psk_files: Mapping[PeerId, Path] = repeatable(
        "psk-file",
        "ID=FILE",
        env="CRYPRQ_PSK_FILES",
        help="a key that this node and the peer have for each other, mixed into those of every session with it",
        parse=psk_file.parse,
        show=psk_file.show,
        split=psk_file.split,
        into=psk_file.collect,
        join=psk_file.join,
        toml_entry=psk_file.from_table,
        reload=True,
    )
    successors: Mapping[PeerId, PeerId] = repeatable(
        "successor",
        "OLD=NEW",
        env="CRYPRQ_SUCCESSORS",
        help="an allowed peer is about to have another ID: that may connect as well, and has its networks or address,"
        " and its pre-shared key",
        parse=successor_entries.parse,
        show=successor_entries.show,
        split=successor_entries.split,
        into=successor_entries.collect,
        join=successor_entries.join,
        toml_entry=successor_entries.from_table,
        reload=True,
    )
    peer_names: Mapping[PeerId, str] = repeatable(
        "peer-name",
        "NAME=ID",
        env="CRYPRQ_PEER_NAMES",
        help="what this peer is called wherever an ID is shown or can be given; letters, digits and hyphens",
        parse=peer_entries.parse_name,
        show=peer_entries.show_name,
        into=peer_entries.collect_names,
        join=peer_entries.join,
        reload=True,
    )
    peer_groups: Mapping[PeerId, tuple[str, ...]] = repeatable(
        "peer-groups",
        "ID=GROUP,...",
        env="CRYPRQ_PEER_GROUPS",
        help="groups that this peer is one of",
        parse=peer_entries.parse_groups,
        show=peer_entries.show_groups,
        split=peer_entries.split_groups,
        into=dict,
        join=peer_entries.join,
        reload=True,
    )
    peer_expires: Mapping[PeerId, float] = repeatable(
        "peer-expires",
        "ID=TIME",
        env="CRYPRQ_PEER_EXPIRES",
        help="from then on this peer may not connect and is cut off: `2027-01-31` or `2027-01-31T18:00:00Z`",
        parse=peer_entries.parse_expiry,
        show=peer_entries.show_expiry,
        into=dict,
        join=peer_entries.join,
        reload=True,
    )
    disabled_peers: frozenset[PeerId] = repeatable(
        "disable-peer",
        "ID",
        env="CRYPRQ_DISABLED_PEERS",
        help="this peer may not connect, and keeps its place and its address",
        parse=PeerId.parse,
        into=frozenset,
        join=frozenset.union,
        reload=True,
    )
    allow_peer_dir: Path | None = option(
        "allow-peer-dir",
        "DIR",
        env="CRYPRQ_ALLOW_PEER_DIR",
        help="a directory with a file `NAME.toml` for each of further peers, watched while the node runs",
        parse=Path,
        is_path=True,
        default=None,
        reload=True,
    )
    allow_any: bool = switch("allow-any", env=None, help="everybody may connect; for labs", reload=True)
    lease_days: int = number(
        "lease-days",
        env="CRYPRQ_LEASE_DAYS",
        help="days after which an address that a peer was given, and has not used, is free again; 0: never",
        low=0,
        high=LEASE_DAYS_MAX,
        default=30,
        reload=True,
    )
    identity: Path = option(
        "identity",
        "FILE",
        env="CRYPRQ_IDENTITY",
        help="the identity file, made at the first start",
        parse=Path,
        is_path=True,
        default=DEFAULT_IDENTITY,
        default_text=f"`$STATE_DIRECTORY/identity` or `{DEFAULT_IDENTITY}`",
    )
    invitation_file: Path | None = option(
        "invitation-file",
        "FILE",
        env="CRYPRQ_INVITATION_FILE",
        help="the invitation of a gateway that does not know this node yet; deleted when it has been used",
        parse=Path,
        is_path=True,
        default=None,
    )
    tun_name: str = option(
        "tun-name",
        "NAME",
        env="CRYPRQ_TUN_NAME",
        help="name of the TUN device",
        parse=str,
        check=checks.tun_name_fault,
        default=DEFAULT_TUN_NAME,
    )
    tun_addresses: tuple[Interface, ...] = repeatable(
        "tun-address",
        "CIDR",
        env="CRYPRQ_TUN_ADDRESS",
        help="this node's inner address, with the prefix length of the tunnel's network",
        default_text="assigned by the gateway; a listener needs one",
        absent="from the gateway",
        parse=values.interface,
        check=checks.tun_address_fault,
        into=tuple,
    )
    mtu: int = number(
        "mtu", env="CRYPRQ_MTU", help="MTU of the TUN device", low=MTU_MIN, high=MTU_SEALABLE_MAX, default=1420
    )
    rotate_secs: int = number(
        "rotate-secs",
        env="CRYPRQ_ROTATE_SECS",
        help="seconds between key rotations; both ends use the smaller one",
        low=ROTATE_SECS_MIN,
        high=ROTATE_SECS_MAX,
        default=300,
        reload=True,
    )
    rotate_min_secs: int = number(
        "rotate-min-secs",
        env="CRYPRQ_ROTATE_MIN_SECS",
        help="the least such interval that a peer can have here; at most `--rotate-secs`",
        low=ROTATE_SECS_MIN,
        high=ROTATE_FLOOR_MAX,
        default=ROTATE_SECS_MIN,
        reload=True,
    )
    reauth_secs: int = number(
        "reauth-secs",
        env="CRYPRQ_REAUTH_SECS",
        help="seconds after which the two ends of a tunnel prove again who they are, beside the tunnel that goes on",
        low=REAUTH_SECS_MIN,
        high=REAUTH_SECS_MAX,
        default=3600,
        reload=True,
    )
    routes: tuple[Network, ...] = repeatable(
        "route",
        "CIDR",
        env="CRYPRQ_ROUTES",
        help="a network behind this listener, told to dialers",
        parse=values.network,
        check=checks.route_fault,
        into=tuple,
        reload=True,
    )
    dns: tuple[NameServerAddress, ...] = repeatable(
        "dns",
        "ADDRESS",
        env="CRYPRQ_DNS",
        help="a name server in the tunnel, told to dialers",
        parse=values.name_server,
        check=server_fault,
        into=tuple,
        reload=True,
    )
    search: tuple[str, ...] = repeatable(
        "search",
        "DOMAIN",
        env="CRYPRQ_SEARCH",
        help="a domain that those name servers know, told to dialers",
        parse=domain,
        check=checks.search_fault,
        into=tuple,
        reload=True,
    )
    accept_dns: str = choice(
        "accept-dns",
        ACCEPT_DNS_CHOICES,
        env="CRYPRQ_ACCEPT_DNS",
        help="what to ask the name servers of a gateway: with a full tunnel everything, else names in its `--search`"
        " domains (`auto`); everything (`all`); nothing (`off`)",
        default="auto",
        reload=True,
    )
    on_change: Path | None = option(
        "on-change",
        "PROGRAM",
        env="CRYPRQ_ON_CHANGE",
        help="run this program, by its absolute path, when something changes, with a JSON object on standard input",
        parse=Path,
        check=checks.program_fault,
        default=None,
    )
    kill_switch: bool = switch(
        "kill-switch",
        env="CRYPRQ_KILL_SWITCH",
        help="packets for the peers' networks never leave outside the tunnel, also when the node is stopped or killed;"
        " `cryprq down` lifts that",
    )
    fwmark: int | None = option(
        "fwmark",
        "N",
        env="CRYPRQ_FWMARK",
        help="mark of the node's own UDP packets (`SO_MARK`), for routing rules and firewalls",
        parse=values.mark,
        check=checks.mark_fault,
        default=None,
        default_text="none; with `--route-table auto` one is chosen where it is needed",
        toml=(int, str),
    )
    dscp: int | Literal["inherit"] = option(
        "dscp",
        "N|inherit",
        env="CRYPRQ_DSCP",
        help="DSCP of the records' own headers, 0 to 63; `inherit`: that of the packet inside, which then can be seen"
        " on the way",
        parse=values.dscp,
        check=checks.dscp_fault,
        words=(values.INHERIT,),
        default=0,
        default_text="`0`",
        toml=(int, str),
    )
    no_ecn: bool = switch(
        "no-ecn",
        env="CRYPRQ_NO_ECN",
        help="routers on the way cannot tell the flows in the tunnel of congestion (RFC 6040); for those that drop or"
        " bleach what is ECN-capable",
    )
    lane_ports: bool = switch(
        "lane-ports",
        env="CRYPRQ_LANE_PORTS",
        help="with several `--workers`, dial from a port for each, so that networks which spread flows by their ports"
        " (RSS, ECMP, LAG, limits of clouds for one flow) see several",
    )
    route_table: int | str = option(
        "route-table",
        "auto|main|N|off",
        env="CRYPRQ_ROUTE_TABLE",
        help="where the routes to the peers' networks go: `auto` gives default routes a table and rules of their own,"
        " `off` leaves routes to a routing daemon",
        parse=values.route_table,
        check=checks.route_table_fault,
        words=checks.ROUTE_TABLES,
        default="auto",
        toml=(str, int),
    )
    metrics_addr: tuple[str, int] | None = option(
        "metrics-addr",
        "HOST:PORT",
        env="CRYPRQ_METRICS_ADDR",
        help="serve `/metrics` and `/healthz` here",
        parse=values.host_port,
        show=values.show_host_port,
        default=None,
        absent="off",
    )
    aead: str = choice(
        "aead",
        AEAD_CHOICES,
        env="CRYPRQ_AEAD",
        help="cipher of the data",
        default="auto",
        default_text="`auto`: AES where the CPU has it",
    )
    kems: tuple[str, ...] = repeatable(
        "kem",
        "NAME",
        env="CRYPRQ_KEM",
        help=f"key agreement: the first is what this node dials with, all are accepted; {_listed(KEM_CHOICES)}",
        default_text=f"{_listed([KEM_NAMES[kem] for kem in KEMS_DEFAULT], 'and')}",
        absent=",".join(KEM_NAMES[kem] for kem in KEMS_DEFAULT),
        parse=str.lower,
        check=one_of(KEM_CHOICES),
        words=KEM_CHOICES,
        into=lambda names: tuple(dict.fromkeys(names)),
    )
    workers: int = number(
        "workers",
        env="CRYPRQ_WORKERS",
        help="threads per direction, each with a TUN queue and a socket of its own",
        low=1,
        high=LANES_MAX,
        default=made_by(default_workers),
        default_text=f"half the CPUs, 1 to {WORKERS_DEFAULT_MAX}",
    )
    busy_poll_us: int = number(
        "busy-poll-us",
        env="CRYPRQ_BUSY_POLL_US",
        help="microseconds for which a worker without packets looks for more before it sleeps: 0 saves power, more"
        " saves round-trip time",
        low=0,
        high=BUSY_POLL_US_MAX,
        default=50,
    )
    max_inbound: int = number(
        "max-inbound",
        env="CRYPRQ_MAX_INBOUND",
        help="handshakes that may be pending at once",
        low=1,
        high=INBOUND_MAX,
        default=64,
    )
    backoff_base_ms: int = number(
        "backoff-base-ms",
        env="CRYPRQ_BACKOFF_BASE_MS",
        help="milliseconds to wait after a failure, doubled after each further one",
        low=1,
        high=BACKOFF_MS_MAX,
        default=500,
    )
    backoff_max_ms: int = number(
        "backoff-max-ms",
        env="CRYPRQ_BACKOFF_MAX_MS",
        help="milliseconds that such a wait grows to",
        low=1,
        high=BACKOFF_MS_MAX,
        default=30_000,
    )
    log_level: str = choice(
        "log-level",
        values.LOG_LEVELS,
        env="CRYPRQ_LOG",
        else_env=("RUST_LOG", values.rust_log_level),
        help="the least that is logged",
        parse=values.log_level,
        default="info",
        reload=True,
    )
    log_format: str = choice(
        "log-format", LOG_FORMATS, env="CRYPRQ_LOG_FORMAT", help="form of the log's lines", default="logfmt"
    )
    control_socket: Path = option(
        "control-socket",
        "PATH",
        env="CRYPRQ_CONTROL_SOCKET",
        help="the Unix socket that `cryprq` talks to",
        parse=Path,
        check=checks.socket_path_fault,
        is_path=True,
        default=Path(),
        default_text=f"`<tun-name>.sock` in `$RUNTIME_DIRECTORY` or `{RUNTIME_DIRECTORY}`",
    )
    """Empty means ``/run/cryprq/<tun_name>.sock``."""
    disabled_offloads: frozenset[str] = repeatable(
        "no-offload",
        "NAME",
        env="CRYPRQ_NO_OFFLOAD",
        help=f"do without {_listed(OFFLOAD_NAMES)}",
        default_text="use all that work here",
        parse=str,
        check=one_of(OFFLOAD_NAMES),
        words=OFFLOAD_NAMES,
        into=frozenset,
    )
    lease_dir: Path | None = None
    """Where the registry lies; None: beside the identity. No option: an identity that is a systemd credential has
    nothing beside it, and the registry is in the state directory then."""
    qlog_dir: Path | None = None
    """Where each control connection leaves a qlog file, for debugging. No option: CRYPRQ_QLOG_DIR."""
    rotate_records: int = 2**26
    """Records under one key after which it is rotated early. No option: tests make it small."""

    peer_faults: tuple[str, ...] = field(default=(), compare=False)
    """What is wrong with files of ``allow_peer_dir``, a line each, which are not in force as they are; no setting."""
    doubts: tuple[str, ...] = field(default=(), compare=False)
    """What is odd about how ``load`` was given all this; no setting."""

    @classmethod
    def load(cls, argv: Sequence[str], environ: Mapping[str, str], peer_files: PeerFiles | None = None) -> Self:
        """The configuration that flags, environment and file give together. Called again on SIGHUP with the same
        arguments; ``peer_files`` remembers what the files of ``--allow-peer-dir`` said the last time.

        The allowlist is what all three allow; for everything else the strongest source that gives it counts.
        ConfigError, one line that names flag, variable or key; MachineError if the file cannot be read.
        """
        rows = table(cls)
        arguments = parser(cls).parse_args(argv)
        given = sources.collect(rows.values(), arguments, environ)
        files = PeerFiles() if peer_files is None else peer_files
        if "allow-peer-dir" in given:
            files.read(rows["allow_peer_dir"].read(given["allow-peer-dir"]))
        words = peer_words.Words([given, *files.said()])
        given = words.resolved(given)
        found: dict[str, Any] = {name: row.read(given[row.name]) for name, row in rows.items() if row.name in given}
        tun_name = found.get("tun_name", DEFAULT_TUN_NAME)
        found.setdefault("identity", default_identity(environ))
        found.setdefault("control_socket", default_control_socket(environ, tun_name))
        if is_credential(found["identity"], environ):
            found["lease_dir"] = state_directory(environ)
        if qlog_dir := environ.get("CRYPRQ_QLOG_DIR"):
            found["qlog_dir"] = Path(qlog_dir)
        joined = PeerJoin(cls, found, words)
        faults = files.take(joined.accept) if "allow-peer-dir" in given else ()
        found = joined.found
        odd = (*doubts.of_sources(rows.values(), arguments, environ, given), *doubts.of_peers(found))
        try:
            return cls(**found, peer_faults=faults, doubts=odd)
        except ConfigError as error:
            # What nobody reads may be what is missing.
            unread = [doubt for doubt in odd if "did you mean" in doubt]
            raise ConfigError("; ".join((str(error), *unread))) from None

    def __post_init__(self) -> None:
        allowed = successor_entries.inherit(self.allow_peers, self.successors)
        psk_files = successor_entries.inherit_keys(self.psk_files, self.successors)
        object.__setattr__(self, "allow_peers", MappingProxyType(dict(allowed)))
        object.__setattr__(self, "psk_files", MappingProxyType(dict(psk_files)))
        for name in ("successors", "peer_names", "peer_groups", "peer_expires"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        given: object = self.listen
        if isinstance(given, Multiaddr):  # by a program that was written when there was but one
            object.__setattr__(self, "listen", (given,))
        if self.control_socket == Path():
            object.__setattr__(self, "control_socket", default_control_socket({}, self.tun_name))
        self.validate()

    def validate(self) -> None:
        """ConfigError for the first thing that is wrong, MachineError for what the machine lacks."""
        for name, row in table(self).items():
            row.validate(getattr(self, name))
        checks.check_purpose(self.listen, self.peers, self.routes, self.dns, self.search)
        checks.check_listen(self.listen)
        if self.listen:
            checks.check_announced(self.tun_addresses, self.routes)
            checks.check_dns(self.dns, self.search)
        checks.check_peers(self.listen, self.peers)
        checks.check_addresses(self.tun_addresses, self.mtu)
        peer_entries.collect_names(tuple(self.peer_names.items()))  # several sources may have named them
        checks.check_owners(self.allow_peers, self.tun_addresses)
        checks.check_endpoints(self.peers, self.allow_peers, self.tun_addresses, self.route_table)
        checks.check_kems(self.kems)
        checks.check_rotation(self.rotate_secs, self.rotate_min_secs)
        checks.check_backoff(self.backoff_base_ms, self.backoff_max_ms)

    def describe(self) -> str:
        """The effective configuration, one ``name = value`` a line, names as in the file (for ``--check``)."""
        return "\n".join(line for name, row in table(self).items() for line in row.lines(getattr(self, name)))
