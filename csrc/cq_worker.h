/*
 * What the workers of a data plane have in common: what all of them share, what each has of its own whichever way its
 * packets go, and how they tell the control thread what happened.
 *
 * Worker i of either direction owns TUN queue i, data socket i of each socket group, and send lane i.
 */
#ifndef CQ_WORKER_H
#define CQ_WORKER_H

#include "cq_drop.h"
#include "cq_table.h"

/* ---- what workers tell ---- */

/* Bits of an epoch's or a peer's events, and an eventfd that says that there are some: so none is lost, however many. */
enum cq_event {
    CQ_EVENT_FIRST_RECORD = 1,
    CQ_EVENT_ROTATE_DUE = 2,
    CQ_EVENT_ENDPOINT_MOVED = 4,
    CQ_EVENT_KEY_EXPIRED = 8,
    CQ_EVENT_PROBE_ACKED = 16,    /* the peer has acknowledged a probe of the path */
    CQ_EVENT_RECORD_REFUSED = 32, /* a record was too large for the link, and left in fragments */
    CQ_EVENT_FORGED = 64,         /* so many records did not open that the keys should be others */
};

/* ---- what all workers share ---- */

#define CQ_BUSY_POLL_US_MAX 1000u /* no wake-up takes longer: to look on any longer only burns a CPU */

struct cq_worker_options {
    size_t workers;
    const int *tun_fds;          /* one per worker; all descriptors stay the caller's */
    size_t groups;               /* of UDP sockets: each has a port of its own */
    const int *udp_fds;          /* group after group, one per worker in each; then, with lane_ports, one more each */
    int families[CQ_GROUPS_MAX]; /* of a group's sockets: AF_INET, or AF_INET6 (dual-stack) */
    bool lane_ports;             /* those have ports of their own, for peers that it dials; lane 0 keeps the group's */
    size_t dial_group;           /* which it dials from */
    size_t mtu;
    uint8_t class;     /* the traffic class of what all records' own headers have */
    bool dscp_inherit; /* and the DSCP of what is inside */
    bool vnet_hdr, tso4, tso6, uso, udp_segment, udp_gro, coalesce, packing;
    uint64_t busy_poll_ns; /* how long a worker looks for more before it sleeps */
};

struct cq_worker_shared {
    struct cq_worker_options options;
    struct cq_tables tables; /* hazards: tx workers first, then rx workers, then the control thread */
    int event_fd;
    _Atomic bool stopping;
    _Atomic bool notices_wanted;
    /* From 1 on; another one: other sockets, or options, are behind the descriptors. */
    _Atomic uint32_t sockets_generation;
    int notice_fd;                               /* wakes the worker that sends them; -1: there is none yet */
    _Atomic bool segment_refused[CQ_GROUPS_MAX]; /* EIO: no path of the group's sockets takes UDP_SEGMENT */
    _Atomic uint32_t merge_refused;              /* bits 1 << gso_type: the TUN takes no such super-packets */
    _Atomic int failure;                         /* errno of a worker that gave up, 0 for none */
    _Atomic(const char *) failure_what;
};

/* 0 or -errno. Either way free takes it down, when no worker is left. */
int cq_worker_shared_init(struct cq_worker_shared *shared, const struct cq_worker_options *options);
void cq_worker_shared_free(struct cq_worker_shared *shared);

/* The UDP socket of a worker in a group; with group o->groups, the one whose port is its own. */
static inline int cq_worker_udp(const struct cq_worker_options *o, size_t group, size_t worker)
{
    return o->udp_fds[group * o->workers + worker];
}

/* Whether a worker has such a socket. */
static inline bool cq_worker_has_port(const struct cq_worker_options *o, size_t worker)
{
    return o->lane_ports && worker > 0;
}

/* Control thread: the bits that are news since the last call. */
uint32_t cq_worker_take_events(_Atomic uint32_t *flags);

/* ---- what each has ---- */

struct cq_worker {
    struct cq_worker_shared *shared;
    size_t index;
    size_t hazard;          /* its place among those that announce their table */
    int wake;               /* an eventfd that ends a wait */
    struct cq_table *table; /* announced, or NULL */
    _Atomic uint64_t drops[CQ_DROP_COUNT];
    _Atomic uint64_t marks; /* packets that it has told of congestion (ECN) */
};

/* Takes a zeroed worker; false with errno set. Either way close takes it down. */
bool cq_worker_init(struct cq_worker *w, struct cq_worker_shared *shared, size_t index, size_t hazard);
void cq_worker_close(struct cq_worker *w);

void cq_worker_wake(struct cq_worker *w); /* any thread */

/* Before a batch, in which w->table is the newest that there was at its beginning. It stays announced until the worker
 * rests, or begins a batch and finds a newer one. */
void cq_worker_begin(struct cq_worker *w);

/* Before it sleeps or ends. Both this and leaving a table for a newer one scrub the stack and the registers before the
 * announcement is withdrawn: when the keys of a table are wiped, no worker has a trace of them left. */
void cq_worker_rest(struct cq_worker *w);

static inline void cq_worker_drop(struct cq_worker *w, enum cq_drop reason, uint64_t n)
{
    atomic_fetch_add_explicit(&w->drops[reason], n, memory_order_relaxed);
}

static inline void cq_worker_mark(struct cq_worker *w, uint64_t n)
{
    atomic_fetch_add_explicit(&w->marks, n, memory_order_relaxed);
}

/* Any thread: has a notice sent under an epoch. False if too many wait, each of which is a record of that epoch too. */
bool cq_worker_notify(struct cq_worker_shared *shared, struct cq_slot *slot, struct cq_notice notice);

/* The largest inner packet for a peer: of its own MTU and the tunnel's, the smaller. */
static inline size_t cq_worker_mtu(const struct cq_worker *w, const struct cq_peer *peer)
{
    size_t own = w->shared->options.mtu, its = atomic_load_explicit(&peer->mtu, memory_order_relaxed);
    return its < own ? its : own;
}

/* What senders are told that the peer takes: no less, and more while that is still being found out. */
static inline size_t cq_worker_mtu_told(const struct cq_worker *w, const struct cq_peer *peer)
{
    size_t own = w->shared->options.mtu, known = cq_worker_mtu(w, peer),
           told = atomic_load_explicit(&peer->mtu_told, memory_order_relaxed);
    told = told < own ? told : own;
    return told > known ? told : known;
}

void cq_worker_raise_slot(struct cq_worker *w, struct cq_slot *slot, enum cq_event event);
void cq_worker_raise_peer(struct cq_worker *w, struct cq_peer *peer, enum cq_event event);

void cq_worker_fail(struct cq_worker *w, const char *what, int error); /* it cannot go on */

#endif
