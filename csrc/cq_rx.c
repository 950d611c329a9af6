/*
 * The rx worker: UDP to TUN. A packet's way, which is also the order of this file:
 *
 *   1. receive One receive brings up to a batch of messages, each of which may be many datagrams that GRO merged. Where
 *              the node has several ports, their sockets take turns.
 *   2. part    A message is walked datagram by datagram: QUIC goes to the ring, anything else is a record.
 *   3. open    The receiver index names an epoch, which opens the record in place: replay window, tag, window again.
 *   4. hear    What is authentic counts: where the peer is, what it sent, that it has the key.
 *   5. check   A payload is walked packet by packet: its own length, and whether its source belongs to the peer. It is
 *              told of congestion that its record has met. A TCP SYN announces no larger segments than the way back
 *              takes. A probe of the path is acknowledged and a ping answered, by a tx worker: a receiver has no send
 *              lane.
 *   6. write   Consecutive packets of a flow are written to the TUN as one super-packet, from where they lie, at the
 *              latest before the buffers are used again.
 *
 * Sockets, TUN queue, batch, coalescer and the ring's producing end are the worker's own. One lock is taken, that of a
 * receive lane, in cq_epoch_open: another worker may hold it where GRO gave it records of this lane. The table cannot
 * change while it is announced: from a batch on until the worker sleeps, or begins a batch and finds a newer one. A
 * peer's endpoint is behind a sequence lock, whose writers give way to each other. Counters and events are atomics;
 * those of packets are added up before they touch them.
 */
#include "cq_rx.h"
#include "cq_coalesce.h"
#include "cq_io.h"
#include "cq_mss.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>

#define GRO_MESSAGES 8           /* of up to 64 KiB each: more would push one another out of the cache */
#define PLAIN_MESSAGES 64        /* without GRO, a message is one datagram */
#define PLAIN_MESSAGE_SIZE 4096u /* at least: a peer may have a larger MTU than we */
#define SUPER_SEGMENTS_MAX 64u   /* in a super-packet: as many as the kernel's own GRO merges of UDP */
#define ERROR_WAIT_MS 5          /* after a failed receive: what passes by itself needs no haste */

/* Counters of consecutive records of one peer, added up before they touch the shared ones. */
struct tally {
    struct cq_peer *peer;
    uint64_t packets, bytes;
};

struct cq_rx {
    struct cq_worker worker;
    int tun;
    int udp[CQ_GROUPS_MAX + 1]; /* its socket in each group, and perhaps one with a port of its own */
    size_t sockets, turn;       /* which is looked at next */
    uint64_t now_ns;
    struct cq_udp_batch *batch;
    struct cq_coalesce *coalesce;
    struct tally tally;
    struct cq_slot *heard; /* by a record of this message: all of a message comes by one path */
    enum cq_ecn ecn;       /* of this message's own headers */
    struct cq_ring ring;
};

/* What a stage calls of a later one. */
static void message(struct cq_rx *rx, const struct cq_udp_message *m);
static void record(struct cq_rx *rx, uint8_t *data, size_t n, const struct cq_endpoint *from);
static void hear(struct cq_rx *rx, struct cq_slot *slot, uint8_t lane, const struct cq_endpoint *from, bool newest);
static void settle(struct cq_rx *rx);
static void deliver(struct cq_rx *rx, struct cq_peer *peer, uint8_t *payload, size_t n, bool vouched);

/* ---- 1. receive ---- */

static void begin_batch(struct cq_rx *rx)
{
    cq_worker_begin(&rx->worker); /* after the receive: the newest keys are in it */
    rx->now_ns = cq_io_now_ns();
}

static void end_batch(struct cq_rx *rx)
{
    cq_coalesce_flush(rx->coalesce);
    settle(rx);
}

/* The descriptor is none of a socket any more. Anything else, a pending error or no memory, passes. */
static bool is_fatal(int error) { return error == EBADF || error == ENOTSOCK; }

/* Receives from the first socket, of those whose turn it is, that has something. What cq_io_receive returns; *group is
 * whose it is: a port of the worker's own is one more of the group that the node dials from. */
static int receive(struct cq_rx *rx, uint16_t *group)
{
    const struct cq_worker_options *o = &rx->worker.shared->options;
    int n = 0;
    for (size_t looks = 0; n == 0 && looks < rx->sockets; looks++) {
        const size_t socket = rx->turn;
        rx->turn = socket + 1 < rx->sockets ? socket + 1 : 0;
        *group = (uint16_t)(socket < o->groups ? socket : o->dial_group);
        n = cq_io_receive(rx->udp[socket], rx->batch);
    }
    return n;
}

void *cq_rx_run(void *arg)
{
    struct cq_rx *rx = arg;
    struct cq_worker_shared *shared = rx->worker.shared;
    uint64_t linger_until = 0;
    while (!atomic_load(&shared->stopping)) {
        uint16_t group = 0;
        int n = receive(rx, &group);
        if (n == 0 && !cq_io_linger(linger_until)) {
            cq_worker_rest(&rx->worker);
            n = cq_io_wait(rx->udp, rx->sockets, rx->worker.wake, -1);
        }
        if (n < 0 && !is_fatal(-n)) {
            cq_worker_rest(&rx->worker);
            n = cq_io_wait(NULL, 0, rx->worker.wake, ERROR_WAIT_MS);
        }
        if (n < 0) {
            cq_worker_fail(&rx->worker, "receiving on the UDP socket", -n);
            break;
        }
        if (n == 0)
            continue;
        begin_batch(rx);
        for (int i = 0; i < n; i++) {
            struct cq_udp_message m;
            cq_io_message(rx->batch, (unsigned)i, &m);
            m.from.group = group;
            message(rx, &m);
        }
        end_batch(rx);
        linger_until = cq_io_now_ns() + shared->options.busy_poll_ns;
    }
    cq_worker_rest(&rx->worker);
    return NULL;
}

void cq_rx_inject(struct cq_rx *rx, uint8_t *data, size_t length, const struct cq_endpoint *from)
{
    begin_batch(rx);
    rx->heard = NULL;
    rx->ecn = CQ_ECN_NOT_ECT; /* as QUIC is, with which it was merged */
    record(rx, data, length, from);
    end_batch(rx);
    cq_worker_rest(&rx->worker);
}

/* ---- 2. part ---- */

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
    rx->ecn = m->ecn;
    for (size_t at = 0; at < m->length; at += m->segment) {
        size_t n = m->length - at < m->segment ? m->length - at : m->segment;
        if (m->data[at] >= CQ_QUIC_FIRST_BYTE) /* GRO merges by addresses and length: QUIC can stand among records */
            to_control(rx, m->data + at, n, &m->from);
        else
            record(rx, m->data + at, n, &m->from);
    }
}

/* ---- 3. open ---- */

/* The epoch that a record is for, if its header is one that the peer may send; else NULL, and the drop is counted. */
static struct cq_slot *slot_of(struct cq_rx *rx, const struct cq_header *h)
{
    if (h->type != CQ_RECORD_TYPE || (h->flags & ~CQ_FLAGS_KNOWN) != 0 || h->lane >= CQ_LANES_MAX) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_HEADER, 1);
        return NULL;
    }
    struct cq_slot *slot = cq_table_find(rx->worker.table, h->index);
    if (slot == NULL) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_UNKNOWN_INDEX, 1);
        return NULL;
    }
    if (h->lane >= slot->epoch->rx_lanes) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_HEADER, 1);
        return NULL;
    }
    return slot;
}

static enum cq_drop reason_of(int error)
{
    return error == CQ_E_REPLAY ? CQ_DROP_RX_REPLAY : error == CQ_E_LIMIT ? CQ_DROP_RX_KEY_LIMIT : CQ_DROP_RX_AUTH;
}

/* A record that did not open says nothing about the peer, and something about the keys if there are very many. */
static void doubt(struct cq_rx *rx, struct cq_slot *slot, uint8_t lane)
{
    if (!atomic_load_explicit(&slot->epoch->attacked, memory_order_relaxed))
        return;
    cq_worker_raise_slot(&rx->worker, slot, CQ_EVENT_FORGED);
    cq_worker_raise_slot(&rx->worker, slot,
                         cq_epoch_is_worn(slot->epoch, lane) ? CQ_EVENT_KEY_EXPIRED : CQ_EVENT_ROTATE_DUE);
}

static void record(struct cq_rx *rx, uint8_t *data, size_t n, const struct cq_endpoint *from)
{
    if (n < CQ_OVERHEAD) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_SHORT, 1);
        return;
    }
    const struct cq_header h = cq_wire_read_header(data);
    struct cq_slot *slot = slot_of(rx, &h);
    if (slot == NULL)
        return;
    if (rx->now_ns >= slot->epoch->expires_ns) {
        cq_worker_raise_slot(&rx->worker, slot, CQ_EVENT_KEY_EXPIRED);
        cq_worker_drop(&rx->worker, CQ_DROP_RX_KEY_LIMIT, 1);
        return;
    }
    bool newest;
    int rc = cq_epoch_open(slot->epoch, &h, data, n, &newest);
    if (rc != CQ_OK) {
        cq_worker_drop(&rx->worker, reason_of(rc), 1);
        doubt(rx, slot, h.lane);
        return;
    }
    hear(rx, slot, h.lane, from, newest);
    deliver(rx, slot->peer, data + CQ_HEADER_SIZE, n - CQ_OVERHEAD, (h.flags & CQ_FLAG_VOUCHED) != 0);
}

/* ---- 4. hear ---- */

/* Whether a lane that has a port of its own was heard there, and not from elsewhere: the peer is where it was. */
static bool note_lane(struct cq_rx *rx, struct cq_peer *peer, uint8_t lane, const struct cq_endpoint *from)
{
    struct cq_endpoint known;
    struct cq_lane_ports *lanes = cq_table_lanes_of(peer);
    if (lanes == NULL || lane == 0)
        return false;
    const uint32_t number = cq_endpoint_read(&peer->endpoint, &known);
    if (!cq_endpoint_beside(&known, from))
        return false;
    return cq_lane_hear(lanes, lane, from->remote.port, number, rx->now_ns);
}

/* A record that raised the highest counter of its lane came by this path. */
static void note_path(struct cq_rx *rx, struct cq_slot *slot, uint8_t lane, const struct cq_endpoint *from)
{
    struct cq_endpoint known, next;
    if (from->remote.port == 0) /* nothing can be sent to port 0 */
        return;
    if (note_lane(rx, slot->peer, lane, from))
        return;
    if (cq_table_peer_of(rx->worker.table, slot->peer->handle)->promoted !=
        slot) { /* kept until the control thread promotes it */
        cq_endpoint_read(&slot->path, &known);
        (void)cq_endpoint_replace(&slot->path, &known, from);
        return;
    }
    cq_endpoint_read(&slot->peer->endpoint, &known);
    if (!cq_endpoint_follow(&known, from, &next) || !cq_endpoint_replace(&slot->peer->endpoint, &known, &next))
        return;
    if (cq_endpoint_moved(&known, &next))
        cq_worker_raise_peer(&rx->worker, slot->peer, CQ_EVENT_ENDPOINT_MOVED);
}

static void hear(struct cq_rx *rx, struct cq_slot *slot, uint8_t lane, const struct cq_endpoint *from, bool newest)
{
    if (rx->tally.peer != slot->peer) {
        settle(rx);
        rx->tally.peer = slot->peer;
    }
    if (newest && rx->heard != slot) {
        note_path(rx, slot, lane, from);
        rx->heard = slot;
    }
    if (!atomic_load_explicit(&slot->seen, memory_order_relaxed) && !atomic_exchange(&slot->seen, true))
        cq_worker_raise_slot(&rx->worker, slot, CQ_EVENT_FIRST_RECORD);
    if (atomic_load_explicit(&slot->epoch->soft_limit, memory_order_relaxed))
        cq_worker_raise_slot(&rx->worker, slot, CQ_EVENT_ROTATE_DUE);
}

/* Adds the tally to the counters of its peer. */
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

/* ---- 5. check ---- */

/* Of an in-band message with its header, or 0 if it is not whole. */
static size_t message_length(const uint8_t *p, size_t n)
{
    if (n < CQ_MESSAGE_HEADER_SIZE)
        return 0;
    size_t length = CQ_MESSAGE_HEADER_SIZE + (size_t)cq_get16(p + 1);
    return length <= n ? length : 0;
}

/* Answers where records for the peer go now: an answer that the asker did not get is no answer. */
static void answer(struct cq_rx *rx, const struct cq_peer *peer, struct cq_notice notice)
{
    struct cq_slot *active = cq_table_peer_of(rx->worker.table, peer->handle)->active;
    if (active != NULL)
        (void)cq_worker_notify(rx->worker.shared, active, notice);
}

/* An in-band message of n bytes, in a record of `size`. One that is shorter than its kind has to be says nothing; what
 * follows the fields that are known here is for later versions. */
static void in_band(struct cq_rx *rx, struct cq_peer *peer, const uint8_t *p, size_t n, size_t size)
{
    const uint8_t *body = p + CQ_MESSAGE_HEADER_SIZE;
    n -= CQ_MESSAGE_HEADER_SIZE;
    if (p[0] == CQ_MESSAGE_PATH_PROBE && n >= CQ_PATH_PROBE_LENGTH)
        answer(rx, peer, (struct cq_notice){.kind = CQ_NOTICE_ACK, .size = (uint32_t)size, .token = cq_get64(body)});
    else if (p[0] == CQ_MESSAGE_PING)
        answer(rx, peer, (struct cq_notice){.kind = CQ_NOTICE_EMPTY});
    else if (p[0] == CQ_MESSAGE_PATH_ACK && n >= CQ_PATH_ACK_LENGTH &&
             cq_path_acknowledge(&peer->path, cq_get64(body), cq_get16(body + 8), rx->now_ns))
        cq_worker_raise_peer(&rx->worker, peer, CQ_EVENT_PROBE_ACKED);
}

/* Whether a packet of n bytes may be a TCP SYN, as cheaply as can be. */
static bool may_be_syn(const uint8_t *p, size_t n)
{
    const bool four = p[0] >> 4 == 4;
    const uint8_t protocol = four ? p[9] : p[6];
    if (protocol != CQ_PROTOCOL_TCP)
        return !four && cq_packet_is_extension(protocol);
    const size_t flags = (four ? (size_t)(p[0] & 15) * 4 : 40) + CQ_TCP_FLAGS;
    return flags < n && (p[flags] & CQ_TCP_SYN) != 0;
}

/* What the sender's side announces binds the answers, which take the way back. */
static void clamp_mss(const struct cq_rx *rx, const struct cq_peer *peer, uint8_t *p, size_t n, bool vouched)
{
    struct cq_packet h;
    cq_packet_parse(&h, p, n);
    if (h.protocol == CQ_PROTOCOL_TCP && (p[h.transport + CQ_TCP_FLAGS] & CQ_TCP_SYN) != 0)
        cq_mss_clamp(p + h.transport, cq_mss_of(h.version, cq_worker_mtu_told(&rx->worker, peer)), !vouched);
}

/* The way has said something about congestion. False if the packet cannot say that to whom it is for, and ends here. */
static bool decapsulate(struct cq_rx *rx, uint8_t *p)
{
    const enum cq_decapsulated made = cq_ecn_decapsulate(p, rx->ecn);
    if (made == CQ_MARKED)
        cq_worker_mark(&rx->worker, 1);
    if (made == CQ_UNMARKABLE)
        cq_worker_drop(&rx->worker, CQ_DROP_RX_CONGESTION, 1);
    return made != CQ_UNMARKABLE;
}

static void packet(struct cq_rx *rx, const struct cq_route_table *routes, const struct cq_peer *peer, uint8_t *p,
                   size_t n, bool vouched)
{
    uint32_t owner = p[0] >> 4 == 4 ? cq_route_lookup4(routes, p + 12) : cq_route_lookup6(routes, p + 8);
    if (owner != peer->handle) {
        cq_worker_drop(&rx->worker, CQ_DROP_RX_SOURCE, 1);
        return;
    }
    if (rx->ecn != CQ_ECN_NOT_ECT && !decapsulate(rx, p))
        return;
    rx->tally.packets++;
    rx->tally.bytes += n;
    if (may_be_syn(p, n))
        clamp_mss(rx, peer, p, n, vouched);
    cq_coalesce_add(rx->coalesce, p, n, vouched);
}

static void deliver(struct cq_rx *rx, struct cq_peer *peer, uint8_t *payload, size_t n, bool vouched)
{
    const struct cq_route_table *routes = rx->worker.table->routes;
    const size_t size = n + CQ_OVERHEAD;
    while (n > 0 && payload[0] >> 4 != CQ_PAYLOAD_PADDING) {
        const bool is_message = payload[0] >> 4 == CQ_PAYLOAD_MESSAGE;
        const size_t length = is_message ? message_length(payload, n) : cq_packet_length(payload, n);
        if (length == 0) {
            cq_worker_drop(&rx->worker, CQ_DROP_RX_MALFORMED, 1);
            return;
        }
        if (is_message)
            in_band(rx, peer, payload, length, size);
        else
            packet(rx, routes, peer, payload, length, vouched);
        payload += length;
        n -= length;
    }
}

/* ---- 6. write ---- */

static enum cq_written write_packet(void *arg, const struct iovec *iov, int iovcnt, unsigned packets)
{
    struct cq_rx *rx = arg;
    ssize_t n;
    do
        n = writev(rx->tun, iov, iovcnt);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return CQ_WRITTEN;
    if (errno == EINVAL && packets > 1) /* some kernels take the offload and not the packet */
        return CQ_WRITE_REFUSED;
    cq_worker_drop(&rx->worker, CQ_DROP_RX_TUN_WRITE, packets);
    return CQ_WRITE_LOST;
}

/* ---- life ---- */

static struct cq_coalesce *coalesce_new(struct cq_rx *rx, const struct cq_worker_options *o)
{
    const bool merges = o->coalesce && o->vnet_hdr;
    const struct cq_coalesce_options c = {
        .tcp4 = merges && o->tso4,
        .tcp6 = merges && o->tso6,
        .uso = merges && o->uso,
        .vnet = o->vnet_hdr,
        .refused = &rx->worker.shared->merge_refused,
        .max_size = CQ_COALESCE_SIZE_MAX,
        .max_segments = SUPER_SEGMENTS_MAX,
    };
    return cq_coalesce_new(&c, write_packet, rx);
}

static struct cq_udp_batch *batch_new(const struct cq_worker_options *o)
{
    const size_t own = o->mtu + CQ_OVERHEAD;
    if (o->udp_gro)
        return cq_io_batch_new(GRO_MESSAGES, CQ_DATAGRAM_MAX);
    return cq_io_batch_new(PLAIN_MESSAGES, own > PLAIN_MESSAGE_SIZE ? own : PLAIN_MESSAGE_SIZE);
}

struct cq_rx *cq_rx_new(struct cq_worker_shared *shared, size_t index)
{
    const struct cq_worker_options *o = &shared->options;
    const bool threaded = index < o->workers;
    struct cq_rx *rx = aligned_alloc(_Alignof(struct cq_rx), sizeof *rx);
    if (rx == NULL)
        return NULL;
    memset(rx, 0, sizeof *rx);
    bool ok = cq_worker_init(&rx->worker, shared, index, o->workers + index);
    rx->tun = o->tun_fds[threaded ? index : 0];
    rx->sockets = threaded ? o->groups + cq_worker_has_port(o, index) : 0;
    for (size_t s = 0; s < rx->sockets; s++)
        rx->udp[s] = cq_worker_udp(o, s, index);
    rx->coalesce = coalesce_new(rx, o);
    ok = ok && rx->coalesce != NULL;
    if (threaded) {
        rx->batch = batch_new(o);
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

struct cq_ring *cq_rx_ring(struct cq_rx *rx) { return &rx->ring; }

struct cq_worker *cq_rx_worker(struct cq_rx *rx) { return &rx->worker; }
