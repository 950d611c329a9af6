"""The UDP sockets of one port: socket 0 for QUIC, sockets 1..N for the lanes of the data plane.

The kernel splits the traffic (protocol, section 2): all sockets form one SO_REUSEPORT group, and a classic BPF program
picks the member by the first bytes of the payload. The program's result is an index in the order in which the sockets
joined the group, and closing one moves the last into its place: the group is opened and closed as a whole. It moves to
another port as a whole, too, under the descriptors that it has.
"""

import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from cryprq.errors import MachineError
from cryprq.protocol.constants import QUIC_FIRST_BYTE

if TYPE_CHECKING:
    from cryprq.multiaddr import Multiaddr

BUFFER_SIZE: Final = 8 << 20
"""Bytes of socket buffer to ask for: 20 ms at 3 Gbit/s, so that a worker may be off the CPU for a while."""

_FIRST_HOP_LIMIT: Final = 65
_ANY: Final = ("0.0.0.0", "::")

# <asm-generic/socket.h>, <linux/in.h>, <linux/in6.h>, <linux/udp.h>: what the socket module has no names for
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_ATTACH_REUSEPORT_CBPF = 32, 33, 51
_IP_PKTINFO, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT = 8, 10, 0
_IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_WANT, _IPV6_DONTFRAG = 23, 1, 62
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104

# <linux/bpf_common.h>
_BPF_LD_B_ABS, _BPF_LD_H_ABS, _BPF_JGE_K, _BPF_RET_K, _BPF_RET_A = 0x30, 0x28, 0x35, 0x06, 0x16
_BPF_MOD_K, _BPF_ADD_K, _BPF_ADD_X, _BPF_TAX = 0x94, 0x04, 0x0C, 0x07

_TEST_TIMEOUT_SECS = 0.25
_TEST_SEGMENT, _TEST_TAIL, _TEST_SEGMENTS = 1000, 123, 16


@dataclass
class SocketGroup:
    """The open sockets of one port; a context manager that closes them together."""

    control: socket.socket
    """Socket 0: gets QUIC. Nonblocking, for an event loop."""
    data: list[socket.socket]
    """Sockets 1..N, one per lane, blocking: the data plane passes MSG_DONTWAIT where it does not want to wait."""
    family: socket.AddressFamily
    """AF_INET6 also for a dual-stack port."""
    port: int
    host: str | None
    """The one address that they are bound to; None: any of this host."""
    rcvbuf: int
    """Bytes of receive buffer that the kernel granted to each socket, at most ``BUFFER_SIZE``."""
    mark: int = 0
    """What all that they send is marked with (SO_MARK), 0 for nothing."""
    offloads: dict[str, str] = field(default_factory=dict)
    """State by name: ``udp_segment`` and ``udp_gro`` are ``on``, ``off`` or ``unavailable: reason``."""
    movable: bool = False
    """Whether the port is one that the kernel chose: nobody else knows it."""
    lanes: list[socket.socket] = field(default_factory=list)
    """Of lanes 1 and up, a socket more each, on a port of its own: none, or one for each of them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def set_mark(self, mark: int) -> None:
        """Marks what all of them send from now on (SO_MARK), for routing rules and firewalls. MachineError."""
        try:
            for member in (self.control, *self.data, *self.lanes):
                member.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            self.mark = mark
        except OSError as error:
            raise MachineError(f"cannot mark the UDP sockets with {mark:#x}: {error.strerror}") from error

    def move(self) -> None:
        """Goes over to another port that the kernel chooses. Every descriptor stays what it is called and is another
        socket from then on; whoever waits for one waits in vain until woken, and what has arrived at the old port is
        lost. MachineError, with nothing changed; RuntimeError for a port that was chosen."""
        if not self.movable:
            raise RuntimeError("others know this port")
        try:
            control = _bind(self.family, "::" if self.family == socket.AF_INET6 else "0.0.0.0", 0)
        except OSError as error:
            raise MachineError(f"cannot open another UDP port: {error.strerror}") from error
        other = _join(control, len(self.data), self.offloads)
        try:
            if self.lanes:
                other.open_lanes()
            if self.mark:
                other.set_mark(self.mark)
            ours, theirs = ((group.control, *group.data, *group.lanes) for group in (self, other))
            for old, new in zip(ours, theirs, strict=True):
                _copy_fragmentation(old, new)
                os.dup2(new.fileno(), old.fileno(), inheritable=False)
        finally:
            other.close()
        self.port, self.rcvbuf = other.port, other.rcvbuf

    def open_lanes(self) -> None:
        """Gives every lane but the first a port of its own, which the kernel chooses. MachineError, with none left."""
        host = self.control.getsockname()[0]
        try:
            for lane in range(1, len(self.data)):
                member = _bind(self.family, host, 0)
                self.lanes.append(member)
                _set_options(member, udp_gro=self.offloads["udp_gro"] == "on")
                _set_hop_limit(member, _FIRST_HOP_LIMIT + lane)
                _share_port(member)
        except OSError as error:
            _close(self.lanes)
            self.lanes.clear()
            raise MachineError(f"cannot open a UDP port for each lane: {error.strerror}") from error

    @property
    def lane_ports(self) -> tuple[int, ...]:
        """Of lanes 1 and up, if they have such."""
        return tuple(member.getsockname()[1] for member in self.lanes)

    def close(self) -> None:
        """Closes every socket. Idempotent."""
        for member in (self.control, *self.data, *self.lanes):
            member.close()


def open_group(
    listen: "Multiaddr | None",
    lanes: int,
    *,
    udp_gro: bool = True,
    udp_segment: bool = True,
    offloads: dict[str, str] | None = None,
) -> SocketGroup:
    """Binds the port of ``listen`` with socket 0 and ``lanes`` data sockets.

    ``/ip6/::`` is dual-stack, any other ``/ip6`` and ``/ip4`` are what they say. Without ``listen`` (a pure dialer) it
    is an ephemeral dual-stack port, or IPv4 where IPv6 is off. Offloads that are wanted are tried on loopback first,
    unless their states are known (``offloads``).
    Raises MachineError, for instance for a port in use.
    """
    control = _bind_control(listen)
    try:
        states = offloads or probe_offloads(udp_gro=udp_gro, udp_segment=udp_segment)
    except BaseException:
        control.close()
        raise
    group = _join(control, lanes, states)
    group.movable = listen is None
    return group


def _join(control: socket.socket, lanes: int, states: dict[str, str]) -> SocketGroup:
    """The group of a bound socket 0, which it closes if it fails. MachineError."""
    members = [control]
    try:
        family, (host, port) = control.family, control.getsockname()[:2]
        _set_options(control, udp_gro=states["udp_gro"] == "on")
        # Only now: the bind above had to fail if anybody, even we, held the port.
        control.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for lane in range(lanes):
            member = socket.socket(family, socket.SOCK_DGRAM)
            members.append(member)
            if family == socket.AF_INET6:
                only = control.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
                member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
            _set_options(member, udp_gro=states["udp_gro"] == "on")
            _set_hop_limit(member, _FIRST_HOP_LIMIT + lane)
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            member.bind(control.getsockname())
            if lane == 0:
                _attach(control, steering_program(lanes))  # as early as there is a group
        control.setblocking(False)
        rcvbuf = min(member.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 for member in members)
    except OSError as error:
        _close(members)
        raise MachineError(f"cannot set up the UDP sockets: {error.strerror}") from error
    except BaseException:
        _close(members)
        raise
    return SocketGroup(control, members[1:], family, port, None if host in _ANY else host, rcvbuf, offloads=states)


def _copy_fragmentation(old: socket.socket, new: socket.socket) -> None:
    """Whether what the socket sends may be fragmented is the one thing that its worker may have changed."""
    options = [(socket.IPPROTO_IP, _IP_MTU_DISCOVER)]
    if old.family == socket.AF_INET6:
        options += [(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER), (socket.IPPROTO_IPV6, _IPV6_DONTFRAG)]
    for level, option in options:
        new.setsockopt(level, option, old.getsockopt(level, option))


def _set_hop_limit(member: socket.socket, hops: int) -> None:
    """Sets the TTL of what a lane sends, a little more than the 64 of QUIC packets.

    All lanes and QUIC share one address and port, so the receiver's GRO would put the end of one lane and the beginning
    of another into one batch, and two workers would write packets of one flow to the TUN at the same time. GRO merges
    only packets of one TTL.
    """
    if member.family == socket.AF_INET6:
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
    member.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)  # of a dual-stack socket's IPv4 packets as well


def _close(members: list[socket.socket]) -> None:
    for member in members:
        member.close()


def _bind_control(listen: "Multiaddr | None") -> socket.socket:
    if listen is None:
        try:
            return _bind(socket.AF_INET6, "::", 0)
        except OSError:
            listen_host, port, family = "0.0.0.0", 0, socket.AF_INET
    else:
        listen_host, port = listen.host, listen.port
        family = socket.AF_INET6 if listen.protocol == "ip6" else socket.AF_INET
    try:
        return _bind(family, listen_host, port)
    except OSError as error:
        raise MachineError(_bind_hint(error, listen_host, port)) from error


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_hint(error: OSError, host: str, port: int) -> str:
    where = f"UDP port {port} on {host}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use: stop who holds it (see: ss -ulnp 'sport = :{port}') or --listen on another port"
    if error.errno == errno.EACCES:
        return f"no right to bind {where}: take a port above 1023, or grant CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot bind {where}: this machine does not have that address (see: ip address)"
    if error.errno == errno.EAFNOSUPPORT:
        return f"cannot bind {where}: IPv6 is off here; --listen on /ip4/0.0.0.0/udp/{port}/quic-v1"
    return f"cannot bind {where}: {error.strerror}"


def _set_options(sock: socket.socket, *, udp_gro: bool) -> None:
    """What every member of the group has: offloads, the address that a datagram came to, what the way there has made of
    its ECN field, and big buffers."""
    # Every member, socket 0 too: GRO may merge a QUIC packet and records before the program sees them.
    if udp_gro:
        sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
    sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    # Records may be fragmented until the path is known (cq_send.c sets these for each peer then). QUIC's datagrams, of
    # at most 1280 bytes, always may: a handshake has to get through whatever the path is like, and QUIC has no probes
    # here to find out that one with DF does not.
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_WANT)
    for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, BUFFER_SIZE)  # past net.core.rmem_max, needs CAP_NET_ADMIN
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_SIZE)


def steering_program(lanes: int) -> list[tuple[int, int, int, int]]:
    """The classic BPF program as (code, jt, jf, k): QUIC to 0, a record to 1 + (lane + upper half of its receiver
    index) % lanes. By the lane the records of one peer are spread, by the index those of peers that have few lanes:
    this node has chosen it, with that in mind (``cryprq.peers.indices``). Offset 0 is the payload's first byte; a load
    past the end of a short datagram ends the program with 0, so what is no record goes to QUIC."""
    return [
        (_BPF_LD_B_ABS, 0, 0, 0),
        (_BPF_JGE_K, 7, 0, QUIC_FIRST_BYTE),
        (_BPF_LD_B_ABS, 0, 0, 1),
        (_BPF_TAX, 0, 0, 0),
        (_BPF_LD_H_ABS, 0, 0, 4),
        (_BPF_ADD_X, 0, 0, 0),
        (_BPF_MOD_K, 0, 0, lanes),
        (_BPF_ADD_K, 0, 0, 1),
        (_BPF_RET_A, 0, 0, 0),
        (_BPF_RET_K, 0, 0, 0),
    ]


def _share_port(sock: socket.socket) -> None:
    """Peers may get sockets of their own at this port, too (csrc/cq_twin.c), which are sent nothing.

    Only what was bound before it could be shared is on a port of its own for sure: the kernel chooses a port for a
    socket with SO_REUSEPORT among those of other such sockets, too. It takes a second socket to make them a group,
    which a program can be attached to.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with socket.socket(sock.family, socket.SOCK_DGRAM) as second:
        if sock.family == socket.AF_INET6:
            only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second.bind(sock.getsockname())
        _attach(sock, [(_BPF_RET_K, 0, 0, 0)])


def _attach(sock: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    """Lets it choose among the sockets that share the port of ``sock``."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    memory = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: unsigned short len; struct sock_filter *filter;
    fprog = struct.pack("@HP", len(code) // 8, ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, fprog)


# ---- self-test of the offloads ----


def probe_offloads(*, udp_gro: bool = True, udp_segment: bool = True) -> dict[str, str]:
    """Tries the wanted UDP offloads on a pair of loopback sockets and says for each: ``on``, ``off`` (not wanted) or
    ``unavailable: reason``. No datagram leaves the machine. Takes about a millisecond, under a second when datagrams
    get lost.

    Where loopback itself carries nothing (it is down, or filtered), what the kernel accepts counts as on: the data
    plane still falls back while it runs.
    """
    states = {"udp_segment": "off", "udp_gro": "off"}
    for name, option, wanted in (("udp_segment", _UDP_SEGMENT, udp_segment), ("udp_gro", _UDP_GRO, udp_gro)):
        if wanted:
            states[name] = _probe_option(option)
    if "on" not in states.values() or _loopback_trial(segment=False, gro=False) is not None:
        return states
    if states["udp_segment"] == "on" and (fault := _loopback_trial(segment=True, gro=False)):
        states["udp_segment"] = f"unavailable: self-test: {fault}"
    if states["udp_gro"] == "on" and (fault := _loopback_trial(segment=states["udp_segment"] == "on", gro=True)):
        states["udp_gro"] = f"unavailable: self-test: {fault}"
    return states


def _probe_option(option: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(_SOL_UDP, option, 1)
        except OSError as error:
            return f"unavailable: {error.strerror}"
    return "on"


def _loopback_trial(*, segment: bool, gro: bool) -> str | None:
    """Sends one batch to ourselves, by UDP_SEGMENT or singly, and returns what is wrong with what arrives."""
    expected = [os.urandom(_TEST_SEGMENT) for _ in range(_TEST_SEGMENTS - 1)] + [os.urandom(_TEST_TAIL)]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        try:
            for sock in (sender, receiver):
                sock.settimeout(_TEST_TIMEOUT_SECS)
                sock.bind(("127.0.0.1", 0))
            sender.connect(receiver.getsockname())
            receiver.connect(sender.getsockname())  # nobody else can put a word in
            if gro:
                receiver.setsockopt(_SOL_UDP, _UDP_GRO, 1)
            if segment:
                size = struct.pack("=H", _TEST_SEGMENT)
                sender.sendmsg([b"".join(expected)], [(_SOL_UDP, _UDP_SEGMENT, size)])
            else:
                for payload in expected:
                    sender.send(payload)
            arrived: list[bytes] = []
            while len(arrived) < len(expected):
                arrived += _receive_segments(receiver)
        except TimeoutError:
            return "segments were lost"
        except OSError as error:
            return error.strerror
    return None if arrived == expected else "segments arrived changed"


def _receive_segments(sock: socket.socket) -> list[bytes]:
    """One read, cut at the segment size that UDP_GRO reports."""
    data, ancillary, _flags, _address = sock.recvmsg(65535, socket.CMSG_SPACE(4))
    size = len(data)
    for level, kind, value in ancillary:
        if (level, kind) == (_SOL_UDP, _UDP_GRO) and len(value) >= 4:
            (size,) = struct.unpack_from("=i", value)
    if size <= 0:
        return [data]
    return [data[start : start + size] for start in range(0, len(data), size)]
