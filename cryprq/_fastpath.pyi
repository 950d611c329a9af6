"""Types of the compiled data plane. Python talks to it per event, never per packet; it is private to the package."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from cryprq.address import Address, Local
from cryprq.networks import Network

SUITE_AES_256_GCM: Final = 1
SUITE_CHACHA20_POLY1305: Final = 2
LANE_SECRET_SIZE: Final = 44
LANES_MAX: Final = 64
OFFLOADS: Final[tuple[str, ...]]
"""Names that ``--no-offload`` takes: vnet_hdr, tso4, tso6, uso, udp_segment, udp_gro, coalesce, packing."""

EVENT_FIRST_RECORD: Final = 1  # the first valid record of a receive epoch arrived
EVENT_ROTATE_DUE: Final = 2  # a key passed a soft limit (records or blocks)
EVENT_ENDPOINT_MOVED: Final = 4  # an authenticated record came from another address
EVENT_KEY_EXPIRED: Final = 8  # a key reached a hard limit or its age; it seals and opens nothing more
EVENT_PROBE_ACKED: Final = 16  # the peer has acknowledged a probe of the path
EVENT_RECORD_REFUSED: Final = 32  # a record that was to stay whole was too large for the link; it left in fragments
EVENT_FORGED: Final = 64  # half as many records as may did not open under an epoch's keys

class PlaneError(Exception):
    """The data plane refused a call or a system call failed; the message is one clear line."""

class Event(NamedTuple):
    peer: int
    rx_index: int
    """The epoch that the event is about; 0 for ``EVENT_ENDPOINT_MOVED``, ``EVENT_PROBE_ACKED`` and
    ``EVENT_RECORD_REFUSED``, which are about the peer."""
    flags: int

class Datagram(NamedTuple):
    """One QUIC datagram that arrived on a data socket."""

    data: bytes
    remote: Address
    local: Local
    """The address that it was sent to, to answer from (IP_PKTINFO)."""

class PeerStats(NamedTuple):
    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    """Packets and bytes are those of the inner IP packets; of tx, those that left."""
    last_rx_ns: int
    """CLOCK_BOOTTIME of the last authenticated record, 0 for never."""
    last_tx_ns: int
    """CLOCK_BOOTTIME when a record was last sent, or tried to be; 0 for never."""
    last_tx_data_ns: int
    """Likewise, of the last record that carried a packet: empty records and probes do not count."""
    last_tx_large_ns: int = 0
    """Likewise, of the last one of them whose record had more than 1200 bytes, which says something of the path."""
    round_trip_ns: int = 0
    """From here to the peer's data plane and back, of the newest probe that was acknowledged; 0: none was."""

def wipe(*buffers: bytearray | bytes | None) -> None:
    """Overwrites each buffer with zeros, in place, and what computations that have returned left on this thread's stack
    and in its registers. None is skipped. ``bytes`` only as a library has just made them, for nobody but the caller:
    whoever else has the object would see it change."""

def watch_directory(path: Path, mask: int) -> int:
    """A descriptor, non-blocking, that says what happens in a directory (inotify(7)); the caller closes it. Here since
    the standard library has none. OSError."""

class Plane:
    """The data plane: worker threads between TUN queues and UDP sockets.

    All methods may be called from one thread (the event loop's); none blocks for longer than a swap of the table.
    Descriptors stay the caller's: the plane never closes them.
    """

    event_fd: int
    """Readable when ``events`` or ``quic_datagrams`` has something."""

    def __init__(
        self,
        tun_fds: Sequence[int],
        udp_groups: Sequence[Sequence[int]],
        *,
        mtu: int,
        offloads: Iterable[str],
        busy_poll_us: int = 0,
        dscp: int | Literal["inherit"] = 0,
        lane_fds: Sequence[int] = (),
        dial_group: int = 0,
    ) -> None:
        """One worker pair per TUN queue (1..64), and in each socket group (1..9) one data socket for each of them;
        threads not yet started. ``tun_fds`` are non-blocking; a group is a reuseport group's sockets 1.., bound and of
        one family; ``offloads`` are the names to use (those that were probed and not switched off). A worker that runs
        out of packets looks for more for ``busy_poll_us`` (0..1000) microseconds before it sleeps, and lets other
        threads run in between. ``dscp`` is that of the records' own headers, 0..63 or that of the packets inside
        (``inherit``). ``lane_fds`` are the sockets that every worker but the first has besides, each on a port of its
        own, beside the group ``dial_group`` (``set_lanes``). ValueError for what is none of that, or an ``mtu`` outside
        576..65,455; PlaneError if the system has no descriptors or memory."""

    def start(self) -> None: ...
    def stop(self) -> None:
        """Ends and joins the workers and wipes every key. Idempotent."""

    def failure(self) -> str | None:
        """Why a worker has died, or None while all run."""

    def add_peer(self) -> int:
        """A handle for a new peer, without routes, keys or endpoint."""

    def remove_peer(self, peer: int) -> None:
        """Forgets its routes, wipes its epochs and forgets its counters. KeyError if unknown."""

    def set_routes(self, routes: Sequence[tuple[str, int]]) -> None:
        """Replaces all allowed IPs: ``(cidr, peer)``. ValueError for a bad or doubly owned CIDR (nothing changes)."""

    def change_routes(self, changes: Sequence[tuple[str | Network, int | None]]) -> None:
        """Whose each of these networks is from now on, None for nobody's; others stay as they are, and cost nothing.
        KeyError for an unknown peer, ValueError for a bad CIDR (nothing changes)."""

    def set_endpoint(self, peer: int, remote: Address, local: Local = ...) -> None:
        """Where records for the peer go, and by what of this node.

        Records leave by the socket group that the peer's newest record came in by. With a ``local.host`` (a listener)
        they leave from the address that it was sent to, whenever that changes; without it (a dialer, who may roam) the
        kernel chooses, always. ValueError for a host that is not numeric, a port of 0, addresses of two families, or a
        group that there is not."""

    def endpoint(self, peer: int) -> tuple[Address, Local] | None:
        """Where the peer is now, and our end: its host is None where the kernel chooses, be it that the pinned one was
        refused. None before ``set_endpoint``."""

    def set_peer_mtu(self, peer: int, mtu: int, told: int | None = None) -> None:
        """The largest inner packet for the peer from the next burst on, 576..65,455 bytes; more than the tunnel's MTU,
        which is the limit at first, is as much as that. Records are no larger than such a packet makes them.

        ``told`` is more while it is being found out whether more fits: no sender is told less. TCP is cut to ``mtu``
        meanwhile, and another packet between the two that must stay whole leaves in a record of its size.
        ValueError; KeyError."""

    def peer_mtu(self, peer: int) -> int:
        """The largest inner packet that is sent to the peer. KeyError."""

    def set_ecn(self, peer: int, minds: bool) -> None:
        """Whether the peer minds the ECN field of the records that it is sent. They then have that of the packets
        inside, of which those in one record all have the same; otherwise, as at first, they are Not-ECT. KeyError."""

    def set_lanes(self, peer: int, *, apart: bool, spread: bool) -> None:
        """``apart``: the peer takes what each of our lanes sends from a port of its own, if we have such; ``spread``:
        each of its lanes has a port, so what is sent on a lane goes where that lane was last heard, as long as it was
        so in the last 25 seconds and the peer has not moved since. At first, neither. KeyError."""

    def lane_ports(self, peer: int) -> dict[int, int]:
        """By lane, the port that it is sent to, where that is not the endpoint's. KeyError."""

    def set_lost(self, peer: int, last_rx_ns: int) -> None:
        """The peer, which was last heard at that time (``PeerStats``), is taken for gone: until an authentic record of
        it arrives, senders of packets for it are told that it is unreachable. The packets leave all the same, since an
        answer to them shows that it is back. KeyError; ValueError beyond 64 bits."""

    def install(
        self,
        peer: int,
        *,
        number: int,
        suite: int,
        rx_index: int,
        tx_index: int,
        tx_secrets: bytearray,
        rx_secrets: bytearray,
        lifetime: float,
        records_soft: int = 2**26,
        blocks_soft: int = 2**34,
        forged_hard: int | None = None,
    ) -> None:
        """Adds an epoch, receive-only. Secrets are lanes * 44 bytes, key (32) || iv (12) per lane; both buffers are
        zero when this returns or raises. ``lifetime`` is in seconds from now, by CLOCK_BOOTTIME. ``forged_hard``:
        so many records may fail to open (for tests; None and most: the cipher's own limit). ValueError or
        TypeError for a bad argument, ValueError for an index in use, KeyError for an unknown peer."""

    def activate(self, rx_index: int) -> None:
        """From now on records for the epoch's peer are sealed under this epoch. KeyError if unknown."""

    def promote(self, rx_index: int) -> None:
        """Makes it the newest promoted receive epoch of its peer: the one whose records may move the endpoint."""

    def remove(self, rx_index: int) -> None:
        """Wipes an epoch. If it was the active one, packets for the peer are dropped as no_key, and their senders told
        that it is unreachable, if that lasts longer than a second. KeyError."""

    def has(self, rx_index: int) -> bool: ...
    def send_empty(self, rx_index: int) -> None:
        """A worker seals an empty record (a keepalive) under that epoch and sends it to the peer's endpoint."""

    def send_ping(self, rx_index: int) -> None:
        """The same for a record that the peer's plane answers with an empty one."""

    def send_probe(self, rx_index: int, token: int, size: int) -> None:
        """A worker sends a record of ``size`` bytes (43 up to the tunnel's MTU + 32) under that epoch, which asks the
        peer to acknowledge ``token`` and leaves whole or not at all. The token has 64 bits, is not 0, and its lowest
        bit is clear. The 16 newest probes of a peer are known when the answer comes. ValueError; KeyError."""

    def set_whole_max(self, peer: int, size: int) -> None:
        """The largest record for the peer, in bytes, that leaves with the Don't Fragment bit; 0, as at first, lets all
        be fragmented. KeyError; ValueError beyond 65,535."""

    def acknowledged(self, peer: int) -> list[int]:
        """Tokens of the probes that the peer has acknowledged, as large as they were, since the last call."""

    def sockets_replaced(self) -> None:
        """The descriptors of a group are other sockets now, of the same family: receivers that wait, wait for
        those."""

    def events(self) -> list[Event]:
        """What happened since the last call, at most one entry per epoch, flags joined. Clears ``event_fd``."""

    def quic_datagrams(self) -> list[Datagram]:
        """QUIC datagrams that arrived on data sockets since the last call, at most 256 per worker; ``event_fd`` stays
        readable while there may be more."""

    def inject(self, data: bytes, remote: Address, local: Local) -> None:
        """A data record that arrived on the control plane's socket."""

    def peer_stats(self, peer: int) -> PeerStats: ...
    def epoch_records(self, rx_index: int) -> tuple[int, int]:
        """Records sealed and opened under an epoch."""

    def epoch_arrivals(self, rx_index: int) -> tuple[int, int]:
        """Records that have arrived under an epoch, and those that the peer had sent before the last of them and that
        have not. KeyError."""

    def drops(self) -> dict[tuple[str, str], int]:
        """Packets or records dropped by (direction, reason); every reason is there from the start, at 0."""

    def marks(self) -> dict[str, int]:
        """Packets that were told of congestion (ECN), by where it was met: ``queue``, one of this node's own; ``path``,
        the way of the records in which they came. Both are there from the start, at 0."""

    def answers(self) -> dict[tuple[str, str], int]:
        """ICMP errors about packets from the TUN by (reason, result); all are there from the start, at 0. Reasons:
        too_big, no_route, unreachable. Results: sent, limited (by rate, or in the first second without a key), barred
        (what nobody may answer), failed (the TUN did not take it)."""

    def segment_refused(self) -> tuple[int, ...]:
        """The numbers of the socket groups for which UDP_SEGMENT was turned off, since a path refused it."""

    def merges_refused(self) -> tuple[str, ...]:
        """Of ``tso4``, ``tso6`` and ``uso``, those whose super-packets the TUN refused when they were written; packets
        are written singly since."""

    def live_epochs(self) -> int:
        """Epochs whose keys are still in memory, those that wait for a worker to let go included."""

def cpu_has_aes() -> bool: ...
def aead_backends(suite: int) -> tuple[str, ...]:
    """Names of the back ends that this CPU can run for a suite, the fastest first."""

def measure(op: str, *, size: int = 1420, count: int = 10_000, backend: str | None = None) -> float:
    """Nanoseconds per operation, over ``count`` of them: ``seal`` and ``open`` (one record of ``size`` bytes, by a
    back end), ``replay``, ``route4`` and ``route6`` (among ``size`` prefixes), ``split`` and ``coalesce`` (one packet
    of ``size`` bytes of a super-packet). ValueError for an unknown name or an impossible size."""
