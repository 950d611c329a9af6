/*
 * The rx worker: UDP to TUN.
 *
 * One receive brings up to a batch of GRO messages. Every record in it is opened in place; the packets inside stay
 * where they are, and consecutive ones of a flow are written to the TUN as one super-packet before the buffers are
 * used again.
 */
#include "cq_rx.h"
#include "cq_coalesce.h"
#include "cq_io.h"
#include "cq_packet.h"

#include <errno.h>
#include <stdlib.h>
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
    struct cq_worker worker;
    int tun, udp;
    uint64_t now_ns;
    struct cq_udp_batch *batch;
    struct cq_coalesce *coalesce;
    struct tally tally;
    struct cq_slot *heard; /* by a record of this message: all of a message comes by one path */
    struct cq_ring ring;
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
        cq_worker_drop(&rx->worker, CQ_DROP_RX_TUN_WRITE, packets);
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
    if (rx->worker.table->peers[slot->peer->handle].promoted != slot) { /* kept until the control thread promotes it */
        cq_endpoint_read(&slot->path, &known);
        (void)cq_endpoint_replace(&slot->path, &known, from);
        return;
    }
    cq_endpoint_read(&slot->peer->endpoint, &known);
    if (!cq_endpoint_follow(&known, from, &next) || !cq_endpoint_replace(&slot->peer->endpoint, &known, &next))
        return;
    if (memcmp(&known.remote, &next.remote, sizeof known.remote) != 0)
        cq_worker_raise_peer(&rx->worker, slot->peer, CQ_EVENT_ENDPOINT_MOVED);
}

/* ---- one record ---- */

static void deliver(struct cq_rx *rx, struct cq_slot *slot, uint8_t *payload, size_t n, bool vouched)
{
    const uint32_t handle = slot->peer->handle;
    const struct cq_route_table *routes = rx->worker.table->routes->table;
    while (n > 0 && payload[0] >> 4 != 0) { /* a first nibble of 0 is padding */
        uint8_t version = payload[0] >> 4;
        size_t length;
        if (version == 1) { /* an in-band message: type, length; unknown types are skipped */
            if (n < 3 || (length = 3u + cq_get16(payload + 1)) > n) {
                cq_worker_drop(&rx->worker, CQ_DROP_RX_MALFORMED, 1);
                return;
            }
        } else {
            length = cq_packet_length(payload, n);
            if (length == 0) {
                cq_worker_drop(&rx->worker, CQ_DROP_RX_MALFORMED, 1);
                return;
            }
            uint32_t owner = version == 4 ? cq_route_lookup4(routes, payload + 12)
                                          : cq_route_lookup6(routes, payload + 8);
            if (owner == handle) {
                rx->tally.packets++;
                rx->tally.bytes += length;
                cq_coalesce_add(rx->coalesce, payload, length, vouched);
            } else {
                cq_worker_drop(&rx->worker, CQ_DROP_RX_SOURCE, 1);
            }
        }
        payload += length;
        n -= length;
    }
}

static void record(struct cq_rx *rx, uint8_t *data, size_t n, const struct cq_endpoint *from)
{
    if (n < CQ_OVERHEAD) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_SHORT, 1);
        return;
    }
    struct cq_header h = cq_wire_read_header(data);
    if (h.type != CQ_RECORD_TYPE || (h.flags & ~CQ_FLAGS_KNOWN) != 0 || h.lane >= CQ_LANES_MAX) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_HEADER, 1);
        return;
    }
    struct cq_slot *slot = cq_table_find(rx->worker.table, h.index);
    if (slot == NULL) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_UNKNOWN_INDEX, 1);
        return;
    }
    if (h.lane >= slot->epoch->rx_lanes) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_HEADER, 1);
        return;
    }
    bool newest = false;
    int rc = rx->now_ns >= slot->epoch->expires_ns ? CQ_E_LIMIT
                                                   : cq_epoch_open(slot->epoch, &h, data, n, &newest);
    if (rc != CQ_OK) {
        if (rc == CQ_E_LIMIT && rx->now_ns >= slot->epoch->expires_ns)
            cq_worker_raise_slot(&rx->worker, slot, CQ_EVENT_KEY_EXPIRED);
        cq_worker_drop(&rx->worker,
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
        cq_worker_raise_slot(&rx->worker, slot, CQ_EVENT_FIRST_RECORD);
    if (atomic_load_explicit(&slot->epoch->soft_limit, memory_order_relaxed))
        cq_worker_raise_slot(&rx->worker, slot, CQ_EVENT_ROTATE_DUE);
    deliver(rx, slot, data + CQ_HEADER_SIZE, n - CQ_OVERHEAD, (h.flags & CQ_FLAG_VOUCHED) != 0);
}

/* ---- one datagram ---- */

static void to_control(struct cq_rx *rx, const uint8_t *data, size_t n, const struct cq_endpoint *from)
{
    if (cq_ring_push(&rx->ring, from, data, n))
        cq_io_wake(rx->worker.shared->event_fd);
    else
        cq_worker_drop(&rx->worker, CQ_DROP_RX_CONTROL_QUEUE, 1);
}

static void message(struct cq_rx *rx, const struct cq_udp_message *m)
{
    if (m->truncated) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_TRUNCATED, 1);
        return;
    }
    if (m->length == 0) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_SHORT, 1);
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

/* The descriptor is none of a socket any more. Anything else, a pending error or no memory, passes. */
static bool is_fatal(int error) { return error == EBADF || error == ENOTSOCK; }

void *cq_rx_run(void *arg)
{
    struct cq_rx *rx = arg;
    struct cq_worker_shared *shared = rx->worker.shared;
    uint64_t linger_until = 0;
    while (!atomic_load(&shared->stopping)) {
        int n = cq_io_receive(rx->udp, rx->batch);
        if (n == 0 && !cq_io_linger(linger_until))
            n = cq_io_wait(rx->udp, rx->worker.wake, -1);
        if (n < 0 && !is_fatal(-n))
            n = cq_io_wait(rx->worker.wake, rx->worker.wake, ERROR_WAIT_MS);
        if (n < 0) {
            cq_worker_fail(&rx->worker, "receiving on the UDP socket", -n);
            break;
        }
        if (n == 0)
            continue;
        cq_worker_begin(&rx->worker); /* after the receive: the newest keys are in it */
        rx->now_ns = cq_io_now_ns();
        for (int i = 0; i < n; i++) {
            struct cq_udp_message m;
            cq_io_message(rx->batch, (unsigned)i, &m);
            message(rx, &m);
        }
        cq_coalesce_flush(rx->coalesce);
        settle(rx);
        cq_worker_end(&rx->worker);
        linger_until = cq_io_now_ns() + shared->options.busy_poll_ns;
    }
    return NULL;
}

void cq_rx_inject(struct cq_rx *rx, uint8_t *data, size_t length, const struct cq_endpoint *from)
{
    cq_worker_begin(&rx->worker);
    rx->now_ns = cq_io_now_ns();
    rx->heard = NULL;
    record(rx, data, length, from);
    cq_coalesce_flush(rx->coalesce);
    settle(rx);
    cq_worker_end(&rx->worker);
}

/* ---- life ---- */

struct cq_rx *cq_rx_new(struct cq_worker_shared *shared, size_t index)
{
    const struct cq_worker_options *o = &shared->options;
    const bool threaded = index < o->workers;
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
    bool ok = cq_worker_init(&rx->worker, shared, index, o->workers + index);
    rx->tun = o->tun_fds[threaded ? index : 0];
    rx->udp = threaded ? o->udp_fds[index] : -1;
    rx->coalesce = cq_coalesce_new(&c, write_packet, rx);
    ok = ok && rx->coalesce != NULL;
    if (threaded) {
        size_t plain = o->mtu + CQ_OVERHEAD > PLAIN_MESSAGE_SIZE ? o->mtu + CQ_OVERHEAD : PLAIN_MESSAGE_SIZE;
        rx->batch = o->udp_gro ? cq_io_batch_new(GRO_MESSAGES, CQ_DATAGRAM_MAX)
                               : cq_io_batch_new(PLAIN_MESSAGES, plain);
        ok = cq_ring_init(&rx->ring) && rx->batch != NULL && ok;
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
    cq_ring_free(&rx->ring);
    cq_worker_close(&rx->worker);
    free(rx);
}

struct cq_worker *cq_rx_worker(struct cq_rx *rx) { return &rx->worker; }

struct cq_ring *cq_rx_ring(struct cq_rx *rx) { return &rx->ring; }
