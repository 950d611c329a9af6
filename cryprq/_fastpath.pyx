# cython: language_level=3, embedsignature=True
"""The compiled data plane: checks arguments, calls csrc/ without the GIL, maps codes to exceptions.

Documentation of the names is in ``_fastpath.pyi``.
"""

import os
import socket
from collections import namedtuple
from ipaddress import ip_network
from operator import index

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AsString
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from cryprq._csrc cimport *

from cryprq.address import Address, Local

SUITE_AES_256_GCM = CQ_SUITE_AES_256_GCM
SUITE_CHACHA20_POLY1305 = CQ_SUITE_CHACHA20_POLY1305
LANE_SECRET_SIZE = CQ_LANE_SECRET_SIZE
LANES_MAX = CQ_LANES_MAX
OFFLOADS = ("vnet_hdr", "tso4", "tso6", "uso", "udp_segment", "udp_gro", "coalesce", "packing")

EVENT_FIRST_RECORD = CQ_EVENT_FIRST_RECORD
EVENT_ROTATE_DUE = CQ_EVENT_ROTATE_DUE
EVENT_ENDPOINT_MOVED = CQ_EVENT_ENDPOINT_MOVED
EVENT_KEY_EXPIRED = CQ_EVENT_KEY_EXPIRED
EVENT_PROBE_ACKED = CQ_EVENT_PROBE_ACKED
EVENT_RECORD_REFUSED = CQ_EVENT_RECORD_REFUSED
EVENT_FORGED = CQ_EVENT_FORGED

Event = namedtuple("Event", "peer rx_index flags")
Datagram = namedtuple("Datagram", "data remote local")
PeerStats = namedtuple(
    "PeerStats",
    "rx_packets rx_bytes tx_packets tx_bytes last_rx_ns last_tx_ns last_tx_data_ns last_tx_large_ns round_trip_ns",
    defaults=(0, 0),
)

cdef extern from "<sys/inotify.h>" nogil:
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char *path, uint32_t mask)
    int IN_NONBLOCK
    int IN_CLOEXEC


def watch_directory(path, mask):
    """An inotify descriptor that watches a directory."""
    cdef bytes encoded = os.fsencode(path)
    cdef int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
    if fd < 0 or inotify_add_watch(fd, encoded, mask) < 0:
        error = errno
        if fd >= 0:
            os.close(fd)
        raise OSError(error, os.strerror(error), os.fspath(path))
    return fd


cdef enum:
    EVENTS_MAX = 64  # told by one call of C, on the stack

cdef bytes MAPPED = b"\0" * 10 + b"\xff\xff"


class PlaneError(Exception):
    """The data plane refused a call or a system call failed; the message is one clear line."""


def cpu_has_aes():
    """Whether this CPU has AES instructions."""
    return cq_aead_cpu_has_aes() != 0


cdef check(int rc, str what):
    if rc == CQ_OK:
        return
    if rc == CQ_E_MEMORY:
        raise MemoryError(f"no memory to {what}")
    if rc == CQ_E_ARGUMENT:
        raise ValueError(f"cannot {what}: unknown, out of range or in use")
    raise PlaneError(f"cannot {what}: libcrypto refused the key")


cdef bounded(value, str what, low, high):
    """An integer for C. ValueError where Cython's own conversion would be an OverflowError, or silent."""
    number = index(value)
    if not low <= number <= high:
        raise ValueError(f"{what} {number} is not in {low}..{high}")
    return number


cdef uint32_t known(value) except? 0xffffffff:
    """A handle or a receive index. One that cannot be is unknown, like one that is not."""
    number = index(value)
    if not 0 <= number <= 0xffffffff:
        raise KeyError(value)
    return number


# ---- descriptors ----

cdef int udp_family(fd) except -1:
    try:
        probe = socket.socket(fileno=fd)
    except OSError as error:
        raise ValueError(f"descriptor {fd} is no socket: {error.strerror}") from error
    try:
        if probe.type != socket.SOCK_DGRAM or probe.family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError(f"descriptor {fd} is no UDP socket")
        return probe.family
    finally:
        probe.detach()


cdef check_tun(fd):
    try:
        blocking = os.get_blocking(fd)
    except (OSError, OverflowError) as error:
        raise ValueError(f"descriptor {fd} is no TUN queue: {error}") from error
    if blocking:  # a worker that is stuck in a read would hold on to its keys, and never stop
        raise ValueError(f"descriptor {fd} must be non-blocking")


# ---- secrets ----

def wipe(*buffers):
    """Overwrites each buffer, and what computations have left on the stack and in registers."""
    for buffer in buffers:
        if isinstance(buffer, bytearray):
            cq_wipe(PyByteArray_AsString(buffer), len(buffer))
        elif isinstance(buffer, bytes):
            if len(buffer) > 1:  # Python keeps one object for each of the shorter ones
                cq_wipe(PyBytes_AsString(buffer), len(buffer))
        elif buffer is not None:
            raise TypeError(f"cannot wipe a {type(buffer).__name__}")
    cq_scrub_deep()


cdef size_t hold_lanes(secrets, str what, Py_buffer *view) except 0:
    """How many lanes the secrets are for. The buffer cannot be resized until ``wipe_secrets`` lets go of it."""
    if not isinstance(secrets, bytearray):
        raise TypeError(f"{what} must be a bytearray")
    PyObject_GetBuffer(secrets, view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    lanes, rest = divmod(view.len, CQ_LANE_SECRET_SIZE)
    if rest or not 1 <= lanes <= CQ_LANES_MAX:
        raise ValueError(f"{what} must hold 1..{CQ_LANES_MAX} times {CQ_LANE_SECRET_SIZE} bytes")
    return lanes


cdef wipe_secrets(secrets, Py_buffer *view):
    PyBuffer_Release(view)  # nothing if it holds none
    if isinstance(secrets, bytearray):
        cq_wipe(PyByteArray_AsString(secrets), len(secrets))


# ---- addresses ----

cdef bytes pack_host(host):
    """The 16 bytes of a numeric host, IPv4 mapped."""
    try:
        if ":" in host:
            return socket.inet_pton(socket.AF_INET6, host)
        return MAPPED + socket.inet_pton(socket.AF_INET, host)
    except OSError:
        raise ValueError(f"{host!r} is no numeric IP address") from None


cdef tuple pack_network(cidr):
    """IP version, prefix length and the address's bytes, of a network or its text. ValueError for what is none."""
    network = ip_network(cidr, strict=False) if isinstance(cidr, str) else cidr
    return network.version, network.prefixlen, network.network_address.packed


cdef bint is_link_local(const uint8_t *host):
    return host[0] == 0xfe and (host[1] & 0xc0) == 0x80


cdef str unpack_host(const uint8_t *host):
    cdef bytes raw = PyBytes_FromStringAndSize(<const char *>host, 16)
    if raw.startswith(MAPPED):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


cdef int fill_endpoint(cq_endpoint *out, remote, local) except -1:
    host, port, scope = remote
    cdef bytes raw = pack_host(host)
    cdef bytes raw_local
    memset(out, 0, sizeof(cq_endpoint))
    memcpy(out.remote.host, <const char *>raw, 16)
    out.remote.family = 4 if raw.startswith(MAPPED) else 6
    out.remote.port = bounded(port, "port", 0, 65535)
    scope = bounded(scope, "scope", 0, 0xffffffff)
    if is_link_local(out.remote.host):
        out.remote.scope = scope
    local_host, group = local
    out.group = bounded(group, "socket group", 0, CQ_GROUPS_MAX - 1)
    if local_host is not None:
        raw_local = pack_host(local_host)
        if raw_local.startswith(MAPPED) != raw.startswith(MAPPED):
            raise ValueError(f"{local_host} and {host} are of different families")
        memcpy(out.local, <const char *>raw_local, 16)
        out.source = CQ_SOURCE_PINNED
        if is_link_local(out.local):
            out.local_scope = scope
    return 0


cdef read_endpoint(const cq_endpoint *endpoint):
    if endpoint.remote.family == 0:
        return None
    remote = Address(unpack_host(endpoint.remote.host), endpoint.remote.port, endpoint.remote.scope)
    host = unpack_host(endpoint.local) if endpoint.source == CQ_SOURCE_PINNED else None
    return remote, Local(host, endpoint.group)


# ---- what the parts cost ----

cdef dict BENCHES = {
    "seal": CQ_BENCH_SEAL,
    "open": CQ_BENCH_OPEN,
    "replay": CQ_BENCH_REPLAY,
    "route4": CQ_BENCH_ROUTE4,
    "route6": CQ_BENCH_ROUTE6,
    "split": CQ_BENCH_SPLIT,
    "coalesce": CQ_BENCH_COALESCE,
}


cdef cq_aead_ops *find_backend(name) except NULL:
    for suite in (SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305):
        for index, known in enumerate(aead_backends(suite)):
            if known == name:
                return cq_aead_backends(suite, index)
    raise ValueError(f"this machine has no AEAD back end {name!r}")


def aead_backends(suite):
    """Names of the back ends that this CPU can run for a suite, the fastest first."""
    cdef cq_aead_ops *ops
    names = []
    while True:
        ops = cq_aead_backends(suite, len(names))
        if ops is NULL:
            return tuple(names)
        names.append(ops.name.decode())


def measure(op, *, size=1420, unsigned count=10000, backend=None):
    """Nanoseconds per operation of one part of the data plane."""
    cdef cq_aead_ops *ops = NULL
    cdef size_t n = size
    cdef double ns = 0
    cdef int rc
    if op not in BENCHES:
        raise ValueError(f"unknown operation {op!r}")
    cdef cq_bench_op what = BENCHES[op]
    if backend is not None:
        ops = find_backend(backend)
    with nogil:
        rc = cq_bench_run(what, ops, n, count, &ns)
    check(rc, f"measure {op} of {size}")
    return ns


cdef class Plane:
    """The data plane: worker threads between TUN queues and UDP sockets."""

    cdef cq_plane *plane
    cdef dict owners  # peers by network, as pack_network has it
    cdef dict routes  # the networks of each peer that has some

    def __cinit__(self, tun_fds, udp_groups, *, mtu, offloads, busy_poll_us=0, dscp=0, lane_fds=(), dial_group=0):
        cdef cq_worker_options o
        cdef int tun[CQ_LANES_MAX]
        cdef int udp[(CQ_GROUPS_MAX + 1) * CQ_LANES_MAX]
        offloads = frozenset(offloads)
        tun_fds, udp_groups = list(tun_fds), [list(group) for group in udp_groups]
        unknown = offloads - set(OFFLOADS)
        if unknown:
            raise ValueError(f"unknown offload {sorted(unknown)[0]!r}")
        if not 1 <= len(udp_groups) <= CQ_GROUPS_MAX:
            raise ValueError(f"the data plane needs 1..{CQ_GROUPS_MAX} groups of sockets")
        if not 1 <= len(tun_fds) <= CQ_LANES_MAX or any(len(group) != len(tun_fds) for group in udp_groups):
            raise ValueError(f"the data plane needs 1..{CQ_LANES_MAX} TUN queues and as many sockets in each group")
        if cq_aead_select(SUITE_AES_256_GCM) is NULL:
            known = ", ".join(name.partition("-")[0] for name in aead_backends(SUITE_AES_256_GCM))
            raise PlaneError(f"CRYPRQ_AEAD_BACKEND names no back end of this CPU; it has {known}")
        memset(&o, 0, sizeof(o))
        for i, fd in enumerate(tun_fds):
            check_tun(fd)
            tun[i] = fd
        for number, group in enumerate(udp_groups):
            families = {udp_family(fd) for fd in group}
            if len(families) != 1:
                raise ValueError("the UDP sockets of a group are of different families")
            o.families[number] = families.pop()
            for i, fd in enumerate(group):
                udp[number * len(tun_fds) + i] = fd
        o.workers = len(tun_fds)
        o.groups = len(udp_groups)
        o.lane_ports = bool(lane_fds)
        o.dial_group = bounded(dial_group, "socket group", 0, o.groups - 1)
        if lane_fds and len(lane_fds) + 1 != len(tun_fds):
            raise ValueError("every worker but the first needs a socket with a port of its own, or none")
        for i, fd in enumerate(lane_fds, 1):
            if udp_family(fd) != o.families[o.dial_group]:
                raise ValueError("the sockets of the lanes are of another family than those of their group")
            udp[o.groups * o.workers + i] = fd
        udp[o.groups * o.workers] = -1
        o.tun_fds = tun
        o.udp_fds = udp
        o.mtu = bounded(mtu, "MTU", CQ_MTU_MIN, CQ_MTU_MAX)
        o.dscp_inherit = dscp == "inherit"
        o.outer_class = 0 if o.dscp_inherit else bounded(dscp, "DSCP", 0, 63) << 2
        o.vnet_hdr = "vnet_hdr" in offloads
        o.tso4 = "tso4" in offloads
        o.tso6 = "tso6" in offloads
        o.uso = "uso" in offloads
        o.udp_segment = "udp_segment" in offloads
        o.udp_gro = "udp_gro" in offloads
        o.coalesce = "coalesce" in offloads
        o.packing = "packing" in offloads
        o.busy_poll_ns = 1000 * <uint64_t>bounded(busy_poll_us, "busy polling in microseconds", 0, CQ_BUSY_POLL_US_MAX)
        self.owners = {}
        self.routes = {}
        self.plane = cq_plane_new(&o)
        if self.plane is NULL:
            raise PlaneError(f"cannot set up the data plane: {os.strerror(errno)}")

    def __dealloc__(self):
        cdef cq_plane *plane = self.plane
        self.plane = NULL
        with nogil:
            cq_plane_free(plane)

    cdef cq_plane *live(self) except NULL:
        if self.plane is NULL:
            raise PlaneError("the data plane was stopped")
        return self.plane

    cdef cq_peer *peer(self, handle) except NULL:
        cdef cq_peer *peer = cq_table_peer(&self.live().shared.tables, known(handle))
        if peer is NULL:
            raise KeyError(handle)
        return peer

    cdef cq_slot *slot(self, rx_index) except NULL:
        cdef cq_slot *slot = cq_table_find(self.live().shared.tables.current, known(rx_index))
        if slot is NULL:
            raise KeyError(rx_index)
        return slot

    @property
    def event_fd(self):
        """Readable when ``events`` or ``quic_datagrams`` has something."""
        return self.live().shared.event_fd

    def start(self):
        """Starts the workers."""
        cdef int rc = cq_plane_start(self.live())
        if rc != 0:
            raise PlaneError(f"cannot start the worker threads: {os.strerror(-rc)}")

    def stop(self):
        """Ends and joins the workers and wipes every key. Idempotent."""
        cdef cq_plane *plane = self.plane
        self.plane = NULL
        with nogil:
            cq_plane_free(plane)

    def failure(self):
        """Why a worker has died, or None while all run."""
        if self.plane is NULL:
            return "the data plane was stopped"
        cdef int error = self.plane.shared.failure
        if error == 0:
            return None
        cdef const char *what = self.plane.shared.failure_what
        name = what.decode() if what is not NULL else "a worker"
        return f"{name}: {os.strerror(error)}"

    # ---- peers and routes ----

    def add_peer(self):
        """A handle for a new peer, without routes, keys or endpoint."""
        cdef uint32_t handle
        check(cq_table_add_peer(&self.live().shared.tables, &handle), "add a peer")
        self.peer(handle).keyless_ns = cq_io_now_ns()
        return handle

    def remove_peer(self, peer):
        """Forgets its routes, wipes its epochs and forgets its counters."""
        self.peer(peer)
        if peer in self.routes:
            self.apply_routes(dict.fromkeys(self.routes[peer]), False)
        check(cq_table_remove_peer(&self.plane.shared.tables, peer), "remove a peer")

    def set_routes(self, routes):
        """Replaces all allowed IPs."""
        owners = {}
        for cidr, owner in routes:
            self.peer(owner)
            if owners.setdefault(pack_network(cidr), owner) != owner:
                raise ValueError(f"cannot set routes: {cidr} is listed for two peers")
        self.apply_routes(owners, True)

    def change_routes(self, changes):
        """Whose each of these networks is from now on."""
        owners = {}
        for cidr, owner in changes:
            if owner is not None:
                self.peer(owner)
            owners[pack_network(cidr)] = owner
        self.apply_routes(owners, False)

    cdef apply_routes(self, dict owners, bint whole):
        """Owners by network, None for nobody; ``whole``: and of no other network."""
        cdef cq_tables *tables = &self.live().shared.tables
        cdef cq_route_entry *entries
        cdef int rc
        cdef bytes raw
        entries = <cq_route_entry *>calloc(len(owners) + 1, sizeof(cq_route_entry))
        if entries is NULL:
            raise MemoryError("no memory to set routes")
        try:
            for i, ((family, prefix, raw), owner) in enumerate(owners.items()):
                entries[i].family = family
                entries[i].prefix = prefix
                entries[i].value = CQ_ROUTE_NONE if owner is None else owner
                memcpy(entries[i].addr, <const char *>raw, len(raw))
            if whole:
                rc = cq_table_set_routes(tables, entries, len(owners))
            else:
                rc = cq_table_change_routes(tables, entries, len(owners))
        finally:
            free(entries)
        check(rc, "set routes")
        if whole:
            self.owners = {}
            self.routes = {}
        for network, owner in owners.items():
            before = self.owners.pop(network, None)
            if before is not None:
                self.routes[before].discard(network)
                if not self.routes[before]:
                    del self.routes[before]
            if owner is not None:
                self.owners[network] = owner
                self.routes.setdefault(owner, set()).add(network)

    cdef int fill(self, cq_endpoint *out, remote, local) except -1:
        fill_endpoint(out, remote, local)
        if out.group >= self.live().shared.options.groups:
            raise ValueError(f"there is no socket group {out.group}")
        return 0

    def set_endpoint(self, peer, remote, local=Local()):
        """Where records for the peer go, and by what of this node."""
        cdef cq_endpoint endpoint
        self.fill(&endpoint, remote, local)
        if endpoint.remote.port == 0:
            raise ValueError("nothing can be sent to port 0")
        cq_endpoint_write(&self.peer(peer).endpoint, &endpoint)

    def endpoint(self, peer):
        """The peer's address and our end, or None."""
        cdef cq_endpoint endpoint
        cq_endpoint_read(&self.peer(peer).endpoint, &endpoint)
        return read_endpoint(&endpoint)

    # ---- the path to a peer ----

    def set_whole_max(self, peer, size):
        """The largest record for the peer that is never fragmented."""
        cdef cq_peer *p = self.peer(peer)
        p.path.whole_max = bounded(size, "size", 0, 0xffff)
        p.segment_off_until_ns = 0  # what was refused may have been too large for the path from before

    def acknowledged(self, peer):
        """Tokens of the probes that the peer has acknowledged since the last call."""
        cdef cq_peer *p = self.peer(peer)
        cdef uint64_t token
        tokens = []
        while (token := cq_path_take(&p.path)) != 0:
            tokens.append(token)
        return tokens

    def set_peer_mtu(self, peer, mtu, told=None):
        """The largest inner packet for the peer, and what senders are told of it."""
        cdef cq_peer *p = self.peer(peer)
        told = bounded(mtu if told is None else told, "MTU", CQ_MTU_MIN, CQ_MTU_MAX)
        p.mtu = bounded(mtu, "MTU", CQ_MTU_MIN, CQ_MTU_MAX)
        p.mtu_told = told

    def set_ecn(self, peer, minds):
        """Whether the peer minds the ECN field of the records that it is sent."""
        self.peer(peer).ecn = bool(minds)

    def set_lanes(self, peer, *, apart, spread):
        """Whether the peer takes our lanes from ports of their own, and whether its lanes have such."""
        cdef cq_peer *p = self.peer(peer)
        check(cq_table_spread_lanes(p, bool(spread)), "note the ports of lanes")
        p.lanes_apart = bool(apart)

    def lane_ports(self, peer):
        """By lane, the port that it is sent to, where that is not the endpoint's."""
        cdef cq_peer *p = self.peer(peer)
        cdef cq_endpoint endpoint
        cdef uint32_t number = cq_endpoint_read(&p.endpoint, &endpoint)
        cdef cq_lane_ports *lanes = cq_table_lanes_of(p)
        cdef uint64_t now_ns = cq_io_now_ns()
        if lanes is NULL:
            return {}
        ports = {lane: cq_lane_port(lanes, lane, number, now_ns) for lane in range(1, CQ_LANES_MAX)}
        return {lane: port for lane, port in ports.items() if port not in (0, endpoint.remote.port)}

    def set_lost(self, peer, last_rx_ns):
        """The peer is taken for gone, unless it has been heard after that time."""
        self.peer(peer).lost_ns = bounded(last_rx_ns, "last_rx_ns", 0, (1 << 64) - 1)

    def peer_mtu(self, peer):
        """The largest inner packet that is sent to the peer."""
        return min(self.peer(peer).mtu, self.plane.shared.options.mtu)

    # ---- epochs ----

    def install(
        self, peer, *, number, suite, rx_index, tx_index, tx_secrets, rx_secrets, lifetime,
        records_soft=CQ_RECORDS_SOFT, blocks_soft=CQ_BLOCKS_SOFT, forged_hard=None,
    ):
        """Adds an epoch, receive-only; both secrets are zero afterwards."""
        cdef cq_epoch_params p
        cdef cq_epoch *epoch
        cdef Py_buffer tx
        cdef Py_buffer rx
        cdef uint32_t handle
        cdef double seconds
        cdef int rc = CQ_E_ARGUMENT
        memset(&p, 0, sizeof(p))
        memset(&tx, 0, sizeof(tx))
        memset(&rx, 0, sizeof(rx))
        try:  # no argument has a C type: a conversion that fails must not keep the secrets from being wiped
            self.peer(peer)
            handle = known(peer)
            p.tx_lanes = hold_lanes(tx_secrets, "tx_secrets", &tx)
            p.rx_lanes = hold_lanes(rx_secrets, "rx_secrets", &rx)
            p.tx_secrets = <const uint8_t *>tx.buf
            p.rx_secrets = <const uint8_t *>rx.buf
            p.rx_index = bounded(rx_index, "rx_index", 1, 0xffffffff)
            p.tx_index = bounded(tx_index, "tx_index", 1, 0xffffffff)
            p.number = bounded(number, "number", 0, 0xffffffff)
            p.suite = bounded(suite, "suite", 0, 255)
            seconds = lifetime
            if not 0 < seconds < 1e9:
                raise ValueError("lifetime must be positive")
            p.expires_ns = cq_io_now_ns() + <uint64_t>(seconds * 1e9)
            p.limits = cq_epoch_default_limits()
            p.limits.records_soft = min(bounded(records_soft, "records_soft", 0, 1 << 64), p.limits.records_soft)
            p.limits.blocks_soft = min(bounded(blocks_soft, "blocks_soft", 0, 1 << 64), p.limits.blocks_soft)
            if forged_hard is not None:
                p.limits.forged_hard = bounded(forged_hard, "forged_hard", 1, 1 << 63)
            epoch = cq_epoch_new(&p, &rc)
            if epoch is NULL:
                check(rc, f"key epoch {number}")
            rc = cq_table_install(&self.live().shared.tables, handle, epoch)
            if rc != CQ_OK:
                cq_epoch_free(epoch)
                check(rc, f"install receive index {rx_index}")
        finally:
            wipe_secrets(tx_secrets, &tx)
            wipe_secrets(rx_secrets, &rx)

    def activate(self, rx_index):
        """From now on records for the epoch's peer are sealed under this epoch."""
        self.slot(rx_index)
        check(cq_table_activate(&self.plane.shared.tables, rx_index), "activate an epoch")

    def promote(self, rx_index):
        """Makes it the newest promoted receive epoch of its peer."""
        self.slot(rx_index)
        check(cq_table_promote(&self.plane.shared.tables, rx_index), "promote an epoch")

    def remove(self, rx_index):
        """Wipes an epoch."""
        cdef cq_peer *peer = self.slot(rx_index).peer
        check(cq_table_remove(&self.plane.shared.tables, rx_index), "remove an epoch")
        peer.keyless_ns = cq_io_now_ns()

    def has(self, rx_index):
        """Whether an epoch is installed."""
        try:
            self.slot(rx_index)
        except KeyError:
            return False
        return True

    def send_empty(self, rx_index):
        """A worker sends an empty record under that epoch."""
        self.slot(rx_index)
        check(cq_plane_send_empty(self.plane, rx_index), "send an empty record")

    def send_ping(self, rx_index):
        """A worker seals a record under that epoch that its peer is to answer."""
        self.slot(rx_index)
        check(cq_plane_send_ping(self.plane, rx_index), "send a ping")

    def send_probe(self, rx_index, token, size):
        """A worker sends a probe of the path under that epoch."""
        self.slot(rx_index)
        check(
            cq_plane_send_probe(
                self.plane, rx_index, bounded(token, "token", 0, 0xffffffffffffffff), bounded(size, "size", 0, 0xffff)
            ),
            f"send a probe of {size} bytes",
        )

    def sockets_replaced(self):
        """The descriptors of the UDP sockets are other sockets now."""
        cq_plane_sockets_replaced(self.live())

    # ---- what the workers report ----

    def events(self):
        """What happened since the last call."""
        cdef cq_plane_event events[EVENTS_MAX]
        cdef size_t n = EVENTS_MAX
        cdef size_t i
        cdef list out = []
        cq_plane_clear_event_fd(self.live())
        while n == EVENTS_MAX:
            n = cq_plane_events(self.plane, events, EVENTS_MAX)
            for i in range(n):
                out.append(Event(events[i].peer, events[i].rx_index, events[i].flags))
        return out

    def quic_datagrams(self):
        """QUIC datagrams that arrived on data sockets since the last call."""
        cdef cq_plane *plane = self.live()
        cdef size_t worker
        cdef const cq_ring_entry *entry
        cdef list out = []
        for worker in range(plane.shared.options.workers):
            for _ in range(CQ_RING_ENTRIES):  # a worker may fill its ring faster than we empty it
                entry = cq_plane_ring_peek(plane, worker)
                if entry is NULL:
                    break
                remote, local = read_endpoint(&entry.from_)
                out.append(Datagram(PyBytes_FromStringAndSize(<const char *>entry.data, entry.length), remote, local))
                cq_plane_ring_pop(plane, worker)
            else:
                cq_io_wake(plane.shared.event_fd)
        return out

    def inject(self, data, remote, local):
        """A data record that arrived on the control plane's socket."""
        cdef cq_plane *plane = self.live()
        cdef cq_endpoint endpoint
        cdef bytearray copy = bytearray(memoryview(data))  # it is opened in place
        self.fill(&endpoint, remote, local)
        cq_plane_inject(plane, <uint8_t *>PyByteArray_AsString(copy), len(copy), &endpoint)
        cq_wipe(PyByteArray_AsString(copy), len(copy))

    # ---- counters ----

    def peer_stats(self, peer):
        """Counters and times of one peer."""
        cdef cq_peer *p = self.peer(peer)
        cq_table_reclaim(&self.plane.shared.tables)
        return PeerStats(
            p.rx_packets, p.rx_bytes, p.tx_packets, p.tx_bytes, p.last_rx_ns, p.last_tx_ns, p.last_tx_data_ns,
            p.path.last_large_ns, p.path.round_trip_ns,
        )

    def epoch_records(self, rx_index):
        """Records sealed and opened under an epoch."""
        cdef cq_epoch *epoch = self.slot(rx_index).epoch
        cdef uint64_t sealed = 0
        cdef uint64_t opened = 0
        cdef size_t i
        for i in range(epoch.tx_lanes):
            sealed += epoch.tx[i].counter
        for i in range(epoch.rx_lanes):
            opened += epoch.rx[i].records
        return sealed, opened

    def epoch_arrivals(self, rx_index):
        """Records that have arrived under an epoch, and that are lost."""
        cdef uint64_t lost = 0
        cdef uint64_t arrived = cq_epoch_arrived(self.slot(rx_index).epoch, &lost)
        return arrived, lost

    def drops(self):
        """Packets or records dropped, by (direction, reason)."""
        cdef int i
        self.live()
        return {
            (cq_drop_names[i].direction.decode(), cq_drop_names[i].reason.decode()):
                cq_plane_drop_count(self.plane, <cq_drop>i)
            for i in range(CQ_DROP_COUNT)
        }

    def marks(self):
        """Packets that were told of congestion, by where it was met."""
        cdef cq_plane *plane = self.live()
        return {"queue": cq_plane_marks_of_queues(plane), "path": cq_plane_marks_of_paths(plane)}

    def answers(self):
        """What became of ICMP answers to packets from the TUN, by (reason, result)."""
        cdef int reason, result
        self.live()
        return {
            (cq_answer_reasons[reason].decode(), cq_answer_results[result].decode()):
                cq_plane_answer_count(self.plane, <cq_icmp_reason>reason, <cq_answer_result>result)
            for reason in range(CQ_ICMP_REASONS)
            for result in range(CQ_ANSWER_RESULTS)
        }

    def segment_refused(self):
        """The socket groups for which UDP_SEGMENT was turned off, since a path refused it."""
        cdef cq_plane *plane = self.live()
        return tuple(group for group in range(plane.shared.options.groups) if plane.shared.segment_refused[group])

    def merges_refused(self):
        """What the TUN took the offload for and then refused to be written as super-packets."""
        cdef uint32_t kinds = self.live().shared.merge_refused
        names = (("tso4", CQ_GSO_TCPV4), ("tso6", CQ_GSO_TCPV6), ("uso", CQ_GSO_UDP_L4))
        return tuple(name for name, kind in names if kinds >> kind & 1)

    def live_epochs(self):
        """Epochs whose keys are still in memory."""
        cq_table_reclaim(&self.live().shared.tables)
        return self.plane.shared.tables.live_epochs
