# cython: language_level=3, embedsignature=True
"""The compiled data plane: checks arguments, calls csrc/ without the GIL, maps codes to exceptions.

Documentation of the names is in ``_fastpath.pyi``.
"""

import os
import socket
from collections import namedtuple
from ipaddress import ip_network

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from cryprq._csrc cimport *

from cryprq.address import Address

SUITE_AES_256_GCM = 1
SUITE_CHACHA20_POLY1305 = 2
LANE_SECRET_SIZE = CQ_LANE_SECRET_SIZE
LANES_MAX = CQ_LANES_MAX
OFFLOADS = ("vnet_hdr", "tso4", "tso6", "uso", "udp_segment", "udp_gro", "coalesce", "packing")

EVENT_FIRST_RECORD = 1
EVENT_ROTATE_DUE = 2
EVENT_ENDPOINT_MOVED = 4
EVENT_KEY_EXPIRED = 8

Event = namedtuple("Event", "peer rx_index flags")
Datagram = namedtuple("Datagram", "data remote local")
PeerStats = namedtuple(
    "PeerStats", "rx_packets rx_bytes tx_packets tx_bytes last_rx_ns last_tx_ns last_tx_data_ns"
)

cdef enum:
    EVENTS_MAX = 64

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


cdef bytes pack_host(host):
    """The 16 bytes of a numeric host, IPv4 mapped."""
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host)
    return MAPPED + socket.inet_pton(socket.AF_INET, host)


cdef str unpack_host(const uint8_t *host):
    cdef bytes raw = PyBytes_FromStringAndSize(<const char *>host, 16)
    if raw.startswith(MAPPED):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


cdef int fill_endpoint(cq_endpoint *out, remote, local) except -1:
    host, port, scope = remote
    cdef bytes raw = pack_host(host)
    memset(out, 0, sizeof(cq_endpoint))
    memcpy(out.remote.host, <const char *>raw, 16)
    out.remote.family = 6 if ":" in host else 4
    out.remote.port = port
    out.remote.scope = scope
    if local is not None:
        raw = pack_host(local)
        memcpy(out.local, <const char *>raw, 16)
        out.has_local = 1
        if out.local[0] == 0xfe and (out.local[1] & 0xc0) == 0x80:
            out.local_scope = scope
    return 0


cdef read_endpoint(const cq_endpoint *endpoint):
    if endpoint.remote.family == 0:
        return None
    remote = Address(unpack_host(endpoint.remote.host), endpoint.remote.port, endpoint.remote.scope)
    return remote, (unpack_host(endpoint.local) if endpoint.has_local else None)


cdef class Plane:
    """The data plane: worker threads between TUN queues and UDP sockets."""

    cdef cq_plane *plane
    cdef list routes

    def __cinit__(self, tun_fds, udp_fds, *, mtu, offloads):
        cdef cq_plane_options o
        cdef int tun[CQ_LANES_MAX]
        cdef int udp[CQ_LANES_MAX]
        unknown = set(offloads) - set(OFFLOADS)
        if unknown:
            raise ValueError(f"unknown offload {sorted(unknown)[0]!r}")
        if not 1 <= len(tun_fds) == len(udp_fds) <= CQ_LANES_MAX:
            raise ValueError(f"the data plane needs 1..{CQ_LANES_MAX} TUN queues and as many sockets")
        memset(&o, 0, sizeof(o))
        for i, fd in enumerate(tun_fds):
            tun[i] = fd
        for i, fd in enumerate(udp_fds):
            udp[i] = fd
        with socket.socket(fileno=os.dup(udp_fds[0])) as probe:
            o.family = probe.family
        o.workers = len(tun_fds)
        o.tun_fds = tun
        o.udp_fds = udp
        o.mtu = mtu
        o.vnet_hdr = "vnet_hdr" in offloads
        o.tso4 = "tso4" in offloads
        o.tso6 = "tso6" in offloads
        o.uso = "uso" in offloads
        o.udp_segment = "udp_segment" in offloads
        o.udp_gro = "udp_gro" in offloads
        o.coalesce = "coalesce" in offloads
        o.packing = "packing" in offloads
        self.routes = []
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

    cdef cq_peer *peer(self, uint32_t handle) except NULL:
        cdef cq_peer *peer = cq_table_peer(&self.live().tables, handle)
        if peer is NULL:
            raise KeyError(handle)
        return peer

    cdef cq_slot *slot(self, uint32_t rx_index) except NULL:
        cdef cq_slot *slot = cq_table_find(self.live().tables.current, rx_index)
        if slot is NULL:
            raise KeyError(rx_index)
        return slot

    @property
    def event_fd(self):
        """Readable when ``events`` or ``quic_datagrams`` has something."""
        return self.live().event_fd

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
        cdef int error = self.plane.failure
        if error == 0:
            return None
        cdef const char *what = self.plane.failure_what
        name = what.decode() if what is not NULL else "a worker"
        return f"{name}: {os.strerror(error)}"

    # ---- peers and routes ----

    def add_peer(self):
        """A handle for a new peer, without routes, keys or endpoint."""
        cdef uint32_t handle
        check(cq_table_add_peer(&self.live().tables, &handle), "add a peer")
        return handle

    def remove_peer(self, uint32_t peer):
        """Forgets its routes, wipes its epochs and forgets its counters."""
        self.peer(peer)
        if any(owner == peer for _, owner in self.routes):
            self.set_routes([route for route in self.routes if route[1] != peer])
        check(cq_table_remove_peer(&self.plane.tables, peer), "remove a peer")

    def set_routes(self, routes):
        """Replaces all allowed IPs."""
        cdef cq_route_entry *entries
        cdef int rc
        cdef bytes raw
        self.live()
        routes = list(routes)
        parsed = []
        for cidr, owner in routes:
            network = ip_network(cidr, strict=False)
            self.peer(owner)
            parsed.append((network, owner))
        entries = <cq_route_entry *>calloc(len(parsed) + 1, sizeof(cq_route_entry))
        if entries is NULL:
            raise MemoryError("no memory to set routes")
        try:
            for i, (network, owner) in enumerate(parsed):
                raw = network.network_address.packed
                entries[i].family = network.version
                entries[i].prefix = network.prefixlen
                entries[i].value = owner
                memcpy(entries[i].addr, <const char *>raw, len(raw))
            rc = cq_table_set_routes(&self.plane.tables, entries, len(parsed))
        finally:
            free(entries)
        check(rc, "set routes (is a network listed for two peers?)")
        self.routes = routes

    def set_endpoint(self, uint32_t peer, remote, local=None):
        """Where records for the peer go, and from which local address."""
        cdef cq_endpoint endpoint
        fill_endpoint(&endpoint, remote, local)
        cq_endpoint_write(&self.peer(peer).endpoint, &endpoint)

    def endpoint(self, uint32_t peer):
        """The peer's address and the local one, or None."""
        cdef cq_endpoint endpoint
        cq_endpoint_read(&self.peer(peer).endpoint, &endpoint)
        return read_endpoint(&endpoint)

    # ---- epochs ----

    def install(
        self, uint32_t peer, *, uint32_t number, uint8_t suite, uint32_t rx_index, uint32_t tx_index,
        bytearray tx_secrets not None, bytearray rx_secrets not None, double lifetime,
        uint64_t records_soft=1 << 26, uint64_t blocks_soft=<uint64_t>1 << 34,
    ):
        """Adds an epoch, receive-only; both secrets are zero afterwards."""
        cdef cq_epoch_params p
        cdef cq_epoch *epoch
        cdef int rc = CQ_E_ARGUMENT
        cdef char *tx = tx_secrets
        cdef char *rx = rx_secrets
        try:
            self.peer(peer)
            for name, secrets in (("tx", tx_secrets), ("rx", rx_secrets)):
                lanes, rest = divmod(len(secrets), CQ_LANE_SECRET_SIZE)
                if rest or not 1 <= lanes <= CQ_LANES_MAX:
                    raise ValueError(f"{name}_secrets must hold 1..{CQ_LANES_MAX} times {CQ_LANE_SECRET_SIZE} bytes")
            if not 0 < lifetime < 1e9:
                raise ValueError("lifetime must be positive")
            memset(&p, 0, sizeof(p))
            p.rx_index = rx_index
            p.tx_index = tx_index
            p.number = number
            p.suite = suite
            p.tx_lanes = len(tx_secrets) // CQ_LANE_SECRET_SIZE
            p.rx_lanes = len(rx_secrets) // CQ_LANE_SECRET_SIZE
            p.tx_secrets = <const uint8_t *>tx
            p.rx_secrets = <const uint8_t *>rx
            p.expires_ns = cq_io_now_ns() + <uint64_t>(lifetime * 1e9)
            p.limits = cq_session_default_limits()
            p.limits.records_soft = min(records_soft, p.limits.records_soft)
            p.limits.blocks_soft = min(blocks_soft, p.limits.blocks_soft)
            epoch = cq_session_new(&p, &rc)
            if epoch is NULL:
                check(rc, f"key epoch {number}")
            rc = cq_table_install(&self.plane.tables, peer, epoch)
            if rc != CQ_OK:
                cq_session_free(epoch)
                check(rc, f"install receive index {rx_index}")
        finally:
            cq_wipe(tx, len(tx_secrets))
            cq_wipe(rx, len(rx_secrets))

    def activate(self, uint32_t rx_index):
        """From now on records for the epoch's peer are sealed under this epoch."""
        self.slot(rx_index)
        check(cq_table_activate(&self.plane.tables, rx_index), "activate an epoch")

    def promote(self, uint32_t rx_index):
        """Makes it the newest promoted receive epoch of its peer."""
        self.slot(rx_index)
        check(cq_table_promote(&self.plane.tables, rx_index), "promote an epoch")

    def remove(self, uint32_t rx_index):
        """Wipes an epoch."""
        self.slot(rx_index)
        check(cq_table_remove(&self.plane.tables, rx_index), "remove an epoch")

    def has(self, uint32_t rx_index):
        """Whether an epoch is installed."""
        return cq_table_find(self.live().tables.current, rx_index) is not NULL

    def send_empty(self, uint32_t rx_index):
        """A worker sends an empty record under that epoch."""
        self.slot(rx_index)
        check(cq_plane_send_empty(self.plane, rx_index), "send an empty record")

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
        cdef size_t worker
        cdef const cq_ring_entry *entry
        cdef list out = []
        while True:
            entry = cq_plane_ring_peek(self.live(), &worker)
            if entry is NULL:
                return out
            remote, local = read_endpoint(&entry.from_)
            out.append(Datagram(PyBytes_FromStringAndSize(<const char *>entry.data, entry.length), remote, local))
            cq_plane_ring_pop(self.plane, worker)

    def inject(self, data, remote, local):
        """A data record that arrived on the control plane's socket."""
        cdef cq_endpoint endpoint
        cdef bytearray copy = bytearray(data)  # it is opened in place
        cdef char *raw = copy
        cdef size_t n = len(copy)
        fill_endpoint(&endpoint, remote, local)
        if n:
            cq_plane_inject(self.live(), <uint8_t *>raw, n, &endpoint)

    # ---- counters ----

    def peer_stats(self, uint32_t peer):
        """Counters and times of one peer."""
        cdef cq_peer *p = self.peer(peer)
        cq_table_reclaim(&self.plane.tables)
        return PeerStats(
            p.rx_packets, p.rx_bytes, p.tx_packets, p.tx_bytes, p.last_rx_ns, p.last_tx_ns, p.last_tx_data_ns
        )

    def epoch_records(self, uint32_t rx_index):
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

    def drops(self):
        """Packets or records dropped, by (direction, reason)."""
        cdef int i
        self.live()
        return {
            (cq_plane_drop_names[i].direction.decode(), cq_plane_drop_names[i].reason.decode()):
                cq_plane_drop_count(self.plane, <cq_drop>i)
            for i in range(CQ_DROP_COUNT)
        }

    def udp_segment_active(self):
        """False once a path refused UDP_SEGMENT and it was turned off for the sockets."""
        return not self.live().segment_refused

    def live_epochs(self):
        """Epochs whose keys are still in memory."""
        cq_table_reclaim(&self.live().tables)
        return self.plane.tables.live_epochs
