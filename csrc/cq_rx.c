/*
 * The rx worker: UDP to TUN.
 *
 * One receive brings up to a batch of GRO messages. Every record in it is opened in place; the packets inside stay
 * where they are, and consecutive ones of a flow are written to the TUN as one super-packet before the buffers are
 * used again.
 */
#include "cq_plane.h"
#include "cq_coalesce.h"
#include "cq_io.h"
#include "cq_packet.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#define GRO_MESSAGES 8 /* of up to 64 KiB each: more would push one another out of the cache */
#define PLAIN_MESSAGES 64
#define PLAIN_MESSAGE_SIZE 4096u
#define ERROR_WAIT_MS 5 /* after a failed receive */

/* Counters of consecutive records of one peer, added up before they touch the shared ones. */
struct tally {
    struct cq_peer *peer;
    uint64_t packets, bytes;
};

struct cq_rx {
    struct cq_plane *plane;
    size_t worker;
    int tun, udp, wake;
    uint64_t now_ns;
    struct cq_table *table;
    struct cq_udp_batch *batch;
    struct cq_coalesce *coalesce;
    struct tally tally;
    struct cq_slot *heard; /* by a record of this message: all of a message comes by one path */
    struct cq_ring ring;
    struct cq_drops drops;
};

/* ---- to the TUN ---- */

static void write_packet(void *arg, const struct iovec *iov, int iovcnt, unsigned packets)
{
    struct cq_rx *rx = arg;
    ssize_t n;
    do
        n = writev(rx->tun, iov, iovcnt);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        cq_drops_add(&rx->drops, CQ_DROP_RX_TUN_WRITE, packets);
}

/* ---- accounting ---- */

static void settle(struct cq_rx *rx)
{
    struct cq_peer *peer = rx->tally.peer;
    if (peer == NULL)
        return;
    atomic_store_explicit(&peer->last_rx_ns, rx->now_ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&peer->rx_packets, rx->tally.packets, memory_order_relaxed);
    atomic_fetch_add_explicit(&peer->rx_bytes, rx->tally.bytes, memory_order_relaxed);
    rx->tally = (struct tally){0};
}

/* A record that raised the highest counter of its lane came by this path. */
static void note_path(struct cq_rx *rx, struct cq_slot *slot, const struct cq_endpoint *from)
{
    struct cq_endpoint known, next;
    if (from->remote.port == 0) /* nothing can be sent to port 0 */
        return;
    if (rx->table->peers[slot->peer->handle].promoted != slot) { /* kept until the control thread promotes it */
        cq_endpoint_read(&slot->path, &known);
        (void)cq_endpoint_replace(&slot->path, &known, from);
        return;
    }
    cq_endpoint_read(&slot->peer->endpoint, &known);
    if (!cq_endpoint_follow(&known, from, &next) || !cq_endpoint_replace(&slot->peer->endpoint, &known, &next))
        return;
    if (memcmp(&known.remote, &next.remote, sizeof known.remote) != 0)
        cq_plane_raise_peer(rx->plane, slot->peer, CQ_EVENT_ENDPOINT_MOVED);
}

/* ---- one record ---- */

static void deliver(struct cq_rx *rx, struct cq_slot *slot, uint8_t *payload, size_t n, bool vouched)
{
    const uint32_t handle = slot->peer->handle;
    const struct cq_route_table *routes = rx->table->routes->table;
    while (n > 0 && payload[0] >> 4 != 0) { /* a first nibble of 0 is padding */
        uint8_t version = payload[0] >> 4;
        size_t length;
        if (version == 1) { /* an in-band message: type, length; unknown types are skipped */
            if (n < 3 || (length = 3u + cq_get16(payload + 1)) > n) {
                cq_drops_add(&rx->drops, CQ_DROP_RX_MALFORMED, 1);
                return;
            }
        } else {
            length = cq_packet_length(payload, n);
            if (length == 0) {
                cq_drops_add(&rx->drops, CQ_DROP_RX_MALFORMED, 1);
                return;
            }
            uint32_t owner = version == 4 ? cq_route_lookup4(routes, payload + 12)
                                          : cq_route_lookup6(routes, payload + 8);
            if (owner == handle) {
                rx->tally.packets++;
                rx->tally.bytes += length;
                cq_coalesce_add(rx->coalesce, payload, length, vouched);
            } else {
                cq_drops_add(&rx->drops, CQ_DROP_RX_SOURCE, 1);
            }
        }
        payload += length;
        n -= length;
    }
}

static void record(struct cq_rx *rx, uint8_t *data, size_t n, const struct cq_endpoint *from)
{
    if (n < CQ_OVERHEAD) {
        cq_drops_add(&rx->drops, CQ_DROP_RX_SHORT, 1);
        return;
    }
    struct cq_header h = cq_wire_read_header(data);
    if (h.type != CQ_RECORD_TYPE || (h.flags & ~CQ_FLAGS_KNOWN) != 0 || h.lane >= CQ_LANES_MAX) {
        cq_drops_add(&rx->drops, CQ_DROP_RX_HEADER, 1);
        return;
    }
    struct cq_slot *slot = cq_table_find(rx->table, h.index);
    if (slot == NULL) {
        cq_drops_add(&rx->drops, CQ_DROP_RX_UNKNOWN_INDEX, 1);
        return;
    }
    if (h.lane >= slot->epoch->rx_lanes) {
        cq_drops_add(&rx->drops, CQ_DROP_RX_HEADER, 1);
        return;
    }
    bool newest = false;
    int rc = rx->now_ns >= slot->epoch->expires_ns ? CQ_E_LIMIT
                                                   : cq_epoch_open(slot->epoch, &h, data, n, &newest);
    if (rc != CQ_OK) {
        if (rc == CQ_E_LIMIT && rx->now_ns >= slot->epoch->expires_ns)
            cq_plane_raise_slot(rx->plane, slot, CQ_EVENT_KEY_EXPIRED);
        cq_drops_add(&rx->drops,
                     rc == CQ_E_REPLAY  ? CQ_DROP_RX_REPLAY
                     : rc == CQ_E_LIMIT ? CQ_DROP_RX_KEY_LIMIT
                                        : CQ_DROP_RX_AUTH,
                     1);
        return;
    }
    if (rx->tally.peer != slot->peer) {
        settle(rx);
        rx->tally.peer = slot->peer;
    }
    if (newest && rx->heard != slot) {
        note_path(rx, slot, from);
        rx->heard = slot;
    }
    if (!atomic_load_explicit(&slot->seen, memory_order_relaxed) && !atomic_exchange(&slot->seen, true))
        cq_plane_raise_slot(rx->plane, slot, CQ_EVENT_FIRST_RECORD);
    if (atomic_load_explicit(&slot->epoch->soft_limit, memory_order_relaxed))
        cq_plane_raise_slot(rx->plane, slot, CQ_EVENT_ROTATE_DUE);
    deliver(rx, slot, data + CQ_HEADER_SIZE, n - CQ_OVERHEAD, (h.flags & CQ_FLAG_VOUCHED) != 0);
}

/* ---- one datagram ---- */

static void to_control(struct cq_rx *rx, const uint8_t *data, size_t n, const struct cq_endpoint *from)
{
    struct cq_ring *ring = &rx->ring;
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    if (ring->entries == NULL || n > CQ_RING_DATAGRAM || head - tail >= CQ_RING_ENTRIES) {
        cq_drops_add(&rx->drops, CQ_DROP_RX_CONTROL_QUEUE, 1);
        return;
    }
    struct cq_ring_entry *e = &ring->entries[head % CQ_RING_ENTRIES];
    e->from = *from;
    e->length = (uint32_t)n;
    memcpy(e->data, data, n);
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
    cq_io_wake(rx->plane->event_fd);
}

static void message(struct cq_rx *rx, const struct cq_udp_message *m)
{
    if (m->truncated) {
        cq_drops_add(&rx->drops, CQ_DROP_RX_TRUNCATED, 1);
        return;
    }
    if (m->length == 0) {
        cq_drops_add(&rx->drops, CQ_DROP_RX_SHORT, 1);
        return;
    }
    rx->heard = NULL;
    for (size_t at = 0; at < m->length; at += m->segment) {
        size_t n = m->length - at < m->segment ? m->length - at : m->segment;
        if (m->data[at] >= 0x40) /* GRO merges by addresses and length: QUIC can stand among records */
            to_control(rx, m->data + at, n, &m->from);
        else
            record(rx, m->data + at, n, &m->from);
    }
}

/* ---- the loop ---- */

/* Errors that say that the descriptor is not what it should be. */
static bool is_fatal(int error)
{
    return error == EBADF || error == ENOTSOCK || error == EINVAL || error == EFAULT || error == EOPNOTSUPP;
}

void *cq_rx_run(void *arg)
{
    struct cq_rx *rx = arg;
    struct cq_plane *plane = rx->plane;
    const size_t hazard = plane->options.workers + rx->worker;
    uint64_t linger_until = 0;
    while (!atomic_load(&plane->stopping)) {
        int n = cq_io_receive(rx->udp, rx->batch);
        if (n == 0 && !cq_io_linger(linger_until))
            n = cq_io_wait(rx->udp, rx->wake, -1);
        if (n < 0 && !is_fatal(-n)) /* a pending error of the socket, or no memory: it passes */
            n = cq_io_wait(rx->wake, rx->wake, ERROR_WAIT_MS);
        if (n < 0) {
            cq_plane_fail(plane, "receiving on the UDP socket", -n);
            break;
        }
        if (n == 0)
            continue;
        rx->table = cq_table_acquire(&plane->tables, hazard); /* after the receive: the newest keys are in it */
        rx->now_ns = cq_io_now_ns();
        for (int i = 0; i < n; i++) {
            struct cq_udp_message m;
            cq_io_message(rx->batch, (unsigned)i, &m);
            message(rx, &m);
        }
        cq_coalesce_flush(rx->coalesce);
        settle(rx);
        cq_table_release(&plane->tables, hazard);
        rx->table = NULL;
        linger_until = cq_io_now_ns() + plane->options.busy_poll_ns;
    }
    return NULL;
}

void cq_rx_inject(struct cq_rx *rx, uint8_t *data, size_t length, const struct cq_endpoint *from)
{
    const size_t hazard = rx->plane->options.workers + rx->worker;
    rx->table = cq_table_acquire(&rx->plane->tables, hazard);
    rx->now_ns = cq_io_now_ns();
    rx->heard = NULL;
    record(rx, data, length, from);
    cq_coalesce_flush(rx->coalesce);
    settle(rx);
    cq_table_release(&rx->plane->tables, hazard);
    rx->table = NULL;
}

/* ---- life ---- */

struct cq_rx *cq_rx_new(struct cq_plane *plane, size_t worker)
{
    const struct cq_plane_options *o = &plane->options;
    const bool threaded = worker < o->workers;
    struct cq_coalesce_options c = {
        .tcp4 = o->coalesce && o->vnet_hdr && o->tso4,
        .tcp6 = o->coalesce && o->vnet_hdr && o->tso6,
        .uso = o->coalesce && o->vnet_hdr && o->uso,
        .vnet = o->vnet_hdr,
        .max_size = 65535,
        .max_segments = 64,
    };
    struct cq_rx *rx = aligned_alloc(_Alignof(struct cq_rx), sizeof *rx);
    if (rx == NULL)
        return NULL;
    memset(rx, 0, sizeof *rx);
    rx->plane = plane;
    rx->worker = worker;
    rx->tun = o->tun_fds[threaded ? worker : 0];
    rx->udp = threaded ? o->udp_fds[worker] : -1;
    rx->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    rx->coalesce = cq_coalesce_new(&c, write_packet, rx);
    bool ok = rx->wake >= 0 && rx->coalesce != NULL;
    if (threaded) {
        size_t plain = o->mtu + CQ_OVERHEAD > PLAIN_MESSAGE_SIZE ? o->mtu + CQ_OVERHEAD : PLAIN_MESSAGE_SIZE;
        rx->batch = o->udp_gro ? cq_io_batch_new(GRO_MESSAGES, CQ_DATAGRAM_MAX)
                               : cq_io_batch_new(PLAIN_MESSAGES, plain);
        rx->ring.entries = calloc(CQ_RING_ENTRIES, sizeof *rx->ring.entries);
        ok = ok && rx->batch != NULL && rx->ring.entries != NULL;
    }
    if (!ok) {
        cq_rx_free(rx);
        return NULL;
    }
    return rx;
}

void cq_rx_free(struct cq_rx *rx)
{
    if (rx == NULL)
        return;
    cq_io_batch_free(rx->batch);
    cq_coalesce_free(rx->coalesce);
    free(rx->ring.entries);
    if (rx->wake >= 0)
        close(rx->wake);
    free(rx);
}

void cq_rx_wake(struct cq_rx *rx) { cq_io_wake(rx->wake); }

struct cq_drops *cq_rx_drops(struct cq_rx *rx) { return &rx->drops; }

struct cq_ring *cq_rx_ring(struct cq_rx *rx) { return &rx->ring; }
