/*
 * The data plane: pairs of worker threads between TUN queues and UDP sockets.
 *
 *   tx worker (cq_tx.c):  TUN -> peer by destination -> split or pack -> seal -> UDP_SEGMENT send
 *   rx worker (cq_rx.c):  recvmmsg with UDP_GRO -> index -> open in place -> checks -> coalesce -> TUN write
 *
 * Worker i of either kind owns TUN queue i, data socket i and send lane i. Changes of peers, keys and routes go through
 * cq_table.h and belong to one control thread; what happens in the workers is reported as flag bits and an eventfd.
 */
#ifndef CQ_PLANE_H
#define CQ_PLANE_H

#include "cq_table.h"

#define CQ_TUN_READ_MAX 65536u
#define CQ_RING_ENTRIES 256u /* QUIC datagrams that wait for the control thread, per worker */
#define CQ_RING_DATAGRAM 2048u

enum cq_drop {
    /* tx: packets from the TUN */
    CQ_DROP_TX_MALFORMED,
    CQ_DROP_TX_NO_ROUTE,
    CQ_DROP_TX_NO_KEY,
    CQ_DROP_TX_NO_ENDPOINT,
    CQ_DROP_TX_TOO_BIG,
    CQ_DROP_TX_SEND_ERROR,
    CQ_DROP_TX_CRYPTO,
    /* rx: datagrams, records or packets from the network */
    CQ_DROP_RX_SHORT,
    CQ_DROP_RX_HEADER,
    CQ_DROP_RX_UNKNOWN_INDEX,
    CQ_DROP_RX_REPLAY,
    CQ_DROP_RX_AUTH,
    CQ_DROP_RX_KEY_LIMIT,
    CQ_DROP_RX_MALFORMED,
    CQ_DROP_RX_SOURCE,
    CQ_DROP_RX_TUN_WRITE,
    CQ_DROP_RX_TRUNCATED,
    CQ_DROP_RX_CONTROL_QUEUE,
    CQ_DROP_COUNT
};

struct cq_drop_name {
    const char *direction, *reason;
};
extern const struct cq_drop_name cq_plane_drop_names[CQ_DROP_COUNT];

struct cq_drops {
    _Atomic uint64_t count[CQ_DROP_COUNT];
};

struct cq_plane_options {
    size_t workers;
    const int *tun_fds, *udp_fds; /* one of each per worker; they stay the caller's */
    int family;                   /* of the UDP sockets: AF_INET, or AF_INET6 (dual-stack) */
    size_t mtu;
    bool vnet_hdr, tso4, tso6, uso, udp_segment, udp_gro, coalesce, packing;
    unsigned max_segments; /* of one UDP_SEGMENT send; 0: what the kernel takes */
    uint64_t busy_poll_ns; /* how long a worker looks for more before it sleeps */
};

/* A QUIC datagram that GRO delivered to a data socket, on its way to the control thread. */
struct cq_ring_entry {
    struct cq_endpoint from;
    uint32_t length;
    uint8_t data[CQ_RING_DATAGRAM];
};

struct cq_ring { /* one producer (the worker), one consumer (the control thread) */
    _Alignas(64) _Atomic uint32_t head; /* next to write */
    _Alignas(64) _Atomic uint32_t tail; /* next to read */
    struct cq_ring_entry *entries;
};

struct cq_tx;
struct cq_rx;

struct cq_plane {
    struct cq_plane_options options;
    struct cq_tables tables; /* hazards: tx workers first, then rx workers, then the control thread */
    struct cq_tx **tx;
    struct cq_rx **rx;       /* workers + 1: the last one serves cq_plane_inject */
    pthread_t *threads;
    size_t threads_running;
    int event_fd;
    _Atomic bool stopping;
    _Atomic bool empties_wanted;
    _Atomic bool segment_refused; /* EIO: no path of these sockets takes UDP_SEGMENT */
    _Atomic int failure;          /* errno of a worker that gave up, 0 for none */
    _Atomic(const char *) failure_what;
};

struct cq_plane_event {
    uint32_t peer, rx_index, flags;
};

/* NULL with errno set. */
struct cq_plane *cq_plane_new(const struct cq_plane_options *options);
int cq_plane_start(struct cq_plane *plane); /* 0 or -errno */
void cq_plane_stop(struct cq_plane *plane); /* idempotent; joins the workers */
void cq_plane_free(struct cq_plane *plane); /* stops, wipes every key; NULL is fine */

/* Control thread: asks for an empty record under an epoch. CQ_E_ARGUMENT if it is unknown. */
int cq_plane_send_empty(struct cq_plane *plane, uint32_t rx_index);

/* Control thread: up to max events since the last call; call again while it returns max. */
size_t cq_plane_events(struct cq_plane *plane, struct cq_plane_event *events, size_t max);
void cq_plane_clear_event_fd(struct cq_plane *plane);

/* Control thread: the oldest waiting QUIC datagram of a worker, or NULL; it stays valid until pop. */
const struct cq_ring_entry *cq_plane_ring_peek(struct cq_plane *plane, size_t worker);
void cq_plane_ring_pop(struct cq_plane *plane, size_t worker);

/* Control thread: a datagram with a data record that arrived on the control socket. data is overwritten. */
void cq_plane_inject(struct cq_plane *plane, uint8_t *data, size_t length, const struct cq_endpoint *from);

uint64_t cq_plane_drop_count(struct cq_plane *plane, enum cq_drop drop);

/* ---- between cq_plane.c, cq_tx.c and cq_rx.c ---- */

struct cq_tx *cq_tx_new(struct cq_plane *plane, size_t worker);
void cq_tx_free(struct cq_tx *tx);
void cq_tx_wake(struct cq_tx *tx);
void *cq_tx_run(void *tx);
struct cq_drops *cq_tx_drops(struct cq_tx *tx);

struct cq_rx *cq_rx_new(struct cq_plane *plane, size_t worker); /* worker == options.workers: for inject, no buffers */
void cq_rx_free(struct cq_rx *rx);
void cq_rx_wake(struct cq_rx *rx);
void *cq_rx_run(void *rx);
struct cq_drops *cq_rx_drops(struct cq_rx *rx);
struct cq_ring *cq_rx_ring(struct cq_rx *rx);
void cq_rx_inject(struct cq_rx *rx, uint8_t *data, size_t length, const struct cq_endpoint *from);

void cq_plane_fail(struct cq_plane *plane, const char *what, int error); /* a worker cannot go on */
void cq_plane_raise_slot(struct cq_plane *plane, struct cq_slot *slot, uint32_t event);
void cq_plane_raise_peer(struct cq_plane *plane, struct cq_peer *peer, uint32_t event);

static inline void cq_drops_add(struct cq_drops *d, enum cq_drop reason, uint64_t n)
{
    atomic_fetch_add_explicit(&d->count[reason], n, memory_order_relaxed);
}

#endif
