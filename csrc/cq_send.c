#include "cq_send.h"
#include "cq_io.h"

#include <errno.h>

#define SECOND_NS ((uint64_t)1000000000)
#define SEGMENT_RETRY_NS (600 * SECOND_NS) /* for so long a path's refusal of UDP_SEGMENT is remembered */
#define PATIENCE_NS SECOND_NS              /* of one burst: the worker holds its table, and keys with it, meanwhile */
#define PAUSE_MS 1                         /* for memory: nothing tells when there is some */

void cq_send_begin(struct cq_sender *s, uint64_t now_ns)
{
    s->now_ns = now_ns;
    s->patient_until_ns = 0;
}

/* ---- what the kernel's refusals mean ---- */

static bool may_segment(const struct cq_sender *s, const struct cq_send_socket *from, struct cq_peer *peer)
{
    return s->segment && !atomic_load_explicit(from->segment_refused, memory_order_relaxed) &&
           s->now_ns >= atomic_load_explicit(&peer->segment_off_until_ns, memory_order_relaxed);
}

static void remember_refusal(const struct cq_sender *s, struct cq_peer *peer)
{
    atomic_store_explicit(&peer->segment_off_until_ns, s->now_ns + SEGMENT_RETRY_NS, memory_order_relaxed);
}

static bool blames_source(int error) { return error == EINVAL || error == ENETUNREACH || error == EADDRNOTAVAIL; }

static bool is_shortage(int error) { return error == ENOBUFS || error == ENOMEM; }

/* Waits for what passes by itself. False if it does not, or has been waited for long enough. */
static bool wait_for_memory(struct cq_sender *s, int error)
{
    if (!is_shortage(error))
        return false;
    if (s->patient_until_ns == 0)
        s->patient_until_ns = s->now_ns + PATIENCE_NS;
    if (s->now_ns >= s->patient_until_ns || atomic_load_explicit(s->stopping, memory_order_relaxed))
        return false;
    cq_io_pause(PAUSE_MS);
    s->now_ns = cq_io_now_ns();
    return true;
}

/* Whether what is sent from now on may be fragmented is an option of the socket: it is set when it changes, which it does
 * where peers whose paths are known and others take turns. */
static void set_whole(struct cq_send_socket *socket, const struct cq_endpoint *to, bool whole)
{
    bool *now = to->remote.family == 4 ? &socket->whole4 : &socket->whole6;
    if (*now == whole)
        return;
    cq_io_set_whole(socket->fd, to->remote.family, whole);
    *now = whole;
}

/* ---- a batch ---- */

/* From one record on, count of them. */
static void lose(struct cq_lost *lost, const struct cq_load *loads, unsigned count)
{
    lost->records += count;
    for (unsigned i = 0; i < count; i++) {
        lost->packets += loads[i].packets;
        lost->bytes += loads[i].bytes;
    }
}

/* Where to on this lane: the endpoint, or the port there that the peer has for it, in `other`. */
static const struct cq_endpoint *place(const struct cq_sender *s, struct cq_peer *peer, const struct cq_endpoint *to,
                                       uint32_t number, struct cq_endpoint *other)
{
    struct cq_lane_ports *lanes = cq_table_lanes_of(peer);
    const uint16_t port = lanes != NULL ? cq_lane_port(lanes, s->lane, number, s->now_ns) : 0;
    if (port == 0)
        return to;
    *other = *to;
    other->remote.port = port;
    return other;
}

struct cq_lost cq_send_batch(struct cq_sender *s, struct cq_send_socket *from, struct cq_peer *peer,
                             const struct cq_batch *b)
{
    struct cq_lost lost = {0};
    struct cq_endpoint known, to, other;
    size_t offset = 0;
    unsigned record = 0;
    /* EINVAL for a batch may mean its source, or UDP_SEGMENT (older kernels say so of a path MTU below the records,
     * too): then the first datagram tells which, sent singly from the same source. */
    bool trial = false;
    bool whole = b->probe || b->segment <= atomic_load_explicit(&peer->path.whole_max, memory_order_relaxed);
    const uint32_t number = cq_endpoint_read(&peer->endpoint, &known);
    to = known;
    set_whole(from, &to, whole);
    while (offset < b->length) {
        const uint8_t *wire = b->wire + offset;
        size_t left = b->length - offset;
        unsigned count = (unsigned)((left + b->segment - 1) / b->segment), sent;
        bool pinned = to.source == CQ_SOURCE_PINNED, segment = count > 1 && !trial && may_segment(s, from, peer);
        const struct cq_endpoint *at = place(s, peer, &to, number, &other);
        int error = 0;
        if (segment) {
            error = -cq_io_send(from->fd, from->family, at, b->class, wire, left, b->segment);
            sent = error == 0 ? count : 0;
        } else {
            sent = cq_io_send_each(from->fd, from->family, at, b->class, wire, left, b->segment, &error);
        }
        if (sent > 0) {
            if (trial)
                remember_refusal(s, peer);
            if (to.source != known.source) /* without the source it works: the source was it */
                (void)cq_endpoint_replace(&peer->endpoint, &known, &to);
            trial = false;
            known = to;
            record += sent;
            offset += sent * b->segment;
        } else if (segment && error == EINVAL && pinned) {
            trial = true;
        } else if (pinned && blames_source(error)) { /* the address has gone, or cannot reach the peer */
            to.source = CQ_SOURCE_FORGOTTEN;
            trial = false;
        } else if (whole && error == EMSGSIZE && !b->probe) { /* the link has become smaller than the path was */
            whole = false;
            lost.refused = true;
            set_whole(from, &to, whole);
        } else if (segment && error == EIO) { /* the device cannot make the checksums; it will not learn to */
            atomic_store_explicit(from->segment_refused, true, memory_order_relaxed);
        } else if (segment && (error == EMSGSIZE || error == EINVAL)) { /* a small path MTU, or a broken route */
            remember_refusal(s, peer);
        } else if (error == EAGAIN) {
            lost.waiting = (unsigned)((left + b->segment - 1) / b->segment);
            break;
        } else if (!wait_for_memory(s, error)) {
            /* What the kernel has against a batch it has against all of it, and so it is with a shortage; another refusal
             * of one datagram says nothing of the next. */
            if (!segment && !is_shortage(error))
                count = 1;
            lose(&lost, &b->loads[record], count);
            record += count;
            offset += count * b->segment;
        }
    }
    return lost;
}
