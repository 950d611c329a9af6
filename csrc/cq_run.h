/*
 * What a tx worker has for each of the peers that it sends to: the records that are sealed for it, a socket, and what
 * waits until that has room.
 */
#ifndef CQ_RUN_H
#define CQ_RUN_H

#include "cq_io.h"
#include "cq_queue.h"
#include "cq_send.h"
#include "cq_split.h"
#include "cq_worker.h"

#define CQ_RUNS CQ_IO_FULL_MAX /* peers that have a socket, and that one burst can address without extra sends */

/* Sealed records for one peer: one send. */
struct cq_records {
    uint8_t *wire;
    size_t length;
    size_t segment;          /* size of every record but the last */
    unsigned count;          /* sealed records */
    bool ended;              /* the last one is short: nothing may follow */
    bool probe;              /* its only record asks what the path carries */
    uint8_t class;           /* the traffic class of every record's own header */
    uint64_t packets, bytes; /* of the inner packets in it */
    struct cq_load loads[CQ_SEND_RECORDS_MAX];
};

/* A super-packet of which a part is sealed. */
struct cq_rest {
    struct cq_waiting *packet; /* NULL: there is none */
    struct cq_split split;
    size_t mtu; /* of what comes out of it, at most */
};

/* What the worker has for a peer. */
struct cq_run {
    const struct cq_peer *peer; /* NULL: free. Only to be compared: the peer may have gone */
    uint32_t handle;
    struct cq_slot *slot; /* in a burst, once it is known; else NULL */
    uint64_t age;
    size_t mtu;    /* of the peer, as it was when the burst began: what a record carries at most */
    uint8_t class; /* the traffic class of the records to come */
    struct cq_send_socket own;
    uint32_t generation, number; /* of the socket that it is a twin of */
    struct cq_records ready, held;
    bool full; /* `held` has records that the socket had no room for */
    struct cq_rest rest;
    struct cq_queue *queue; /* NULL as long as nothing had to wait */
    /* the open record: small packets that are not sealed yet */
    uint8_t *open;
    size_t open_length;
    unsigned open_packets;
    bool open_transport, open_vouched; /* holds TCP/UDP packets, and of which kind */
};

/* All runs of a worker. */
struct cq_runs {
    struct cq_worker *worker;
    struct cq_sender sender;
    /* The worker's own, by group, and that with a port of its own: for peers that cannot have one. */
    struct cq_send_socket shared[CQ_GROUPS_MAX + 1];
    unsigned records_max; /* in one send */
    bool waiting;         /* some run has something that waits */
    uint64_t ticks;
    struct cq_queue_pool pool;
    struct cq_run runs[CQ_RUNS];
};

/* False when memory is short; either way free takes it down. */
bool cq_runs_init(struct cq_runs *all, struct cq_worker *worker);
void cq_runs_free(struct cq_runs *all, size_t mtu); /* wipes what packets it holds */

struct cq_run *cq_run_of(struct cq_runs *all, const struct cq_peer *peer); /* NULL: the peer has none */

/* The run of a slot's peer, in which records are sealed by the slot from now on. Another peer may lose its own for it. */
struct cq_run *cq_run_for(struct cq_runs *all, struct cq_slot *slot);

/* Whether what is there for a peer waits, and what comes later has to. */
static inline bool cq_run_waits(const struct cq_run *run)
{
    return run->full || run->rest.packet != NULL || cq_queue_length(run->queue) > 0;
}

/* Records are sealed for this traffic class of their own headers from now on. One header speaks for all that is in its
 * record, and one send has one header for all of its records, so neither is shared by packets of two classes. */
void cq_run_set_class(struct cq_runs *all, struct cq_run *run, uint8_t class);

/* Adds a packet to a run: to its open record, or as a record of its own. */
void cq_run_add(struct cq_runs *all, struct cq_run *run, const uint8_t *packet, size_t n, bool transport, bool vouched);

/* Seals one record to the end of the run, with n bytes that carry so many packets, of so many bytes; first sends the run
 * if the record does not fit in. */
void cq_run_seal(struct cq_runs *all, struct cq_run *run, const uint8_t *payload, size_t n, bool vouched,
                 unsigned packets, size_t bytes);

/* Sends all that there is for a peer, or holds it where there is no room; the slot is forgotten. */
void cq_run_flush(struct cq_runs *all, struct cq_run *run);

/* Sends what was held. False if there still is no room for all of it. */
bool cq_run_resume(struct cq_runs *all, struct cq_run *run);

/* All that waits for a peer is lost, and the buffer of its socket is nobody's any more. */
void cq_run_give_up(struct cq_runs *all, struct cq_run *run);

/* The peer's own socket beside one of the worker's, so that a buffer which is full is nobody else's; the worker's, where
 * there can be none. */
struct cq_send_socket *cq_run_socket(struct cq_runs *all, struct cq_run *run, uint32_t number);

#endif
