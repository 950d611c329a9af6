/*
 * The data plane: pairs of worker threads between TUN queues and UDP sockets, and what the control thread asks of them.
 *
 * Changes of peers, keys and routes go through cq_table.h. They, and all functions here, belong to one control thread.
 */
#ifndef CQ_PLANE_H
#define CQ_PLANE_H

#include "cq_rx.h"
#include "cq_tx.h"

struct cq_plane {
    struct cq_worker_shared shared;
    struct cq_tx **tx;
    struct cq_rx **rx; /* workers + 1: the last one serves cq_plane_inject */
    pthread_t *threads;
    size_t threads_running;
};

struct cq_plane_event {
    uint32_t peer, rx_index, flags;
};

/* NULL with errno set. */
struct cq_plane *cq_plane_new(const struct cq_worker_options *options);
int cq_plane_start(struct cq_plane *plane); /* 0 or -errno */
void cq_plane_stop(struct cq_plane *plane); /* idempotent; joins the workers */
void cq_plane_free(struct cq_plane *plane); /* stops, wipes every key; NULL is fine */

/* Asks for an empty record under an epoch. CQ_E_ARGUMENT if it is unknown. */
int cq_plane_send_empty(struct cq_plane *plane, uint32_t rx_index);

/* The same for a record that the peer answers with an empty one. */
int cq_plane_send_ping(struct cq_plane *plane, uint32_t rx_index);

/* Asks for a probe of the path to the epoch's peer: a record of `size` bytes that must not be fragmented. The token is
 * not 0 and its lowest bit is clear. CQ_E_ARGUMENT if that is not so, for an unknown epoch, and for a size that is none
 * of a probe or of which this plane makes no record. */
int cq_plane_send_probe(struct cq_plane *plane, uint32_t rx_index, uint64_t token, uint32_t size);

/* Other sockets have the descriptors now, or the sockets have another mark: receivers look at them anew, and senders make
 * theirs anew. */
void cq_plane_sockets_replaced(struct cq_plane *plane);

/* Up to max events since the last call; call again while it returns max. */
size_t cq_plane_events(struct cq_plane *plane, struct cq_plane_event *events, size_t max);
void cq_plane_clear_event_fd(struct cq_plane *plane);

/* The oldest waiting QUIC datagram of a worker, or NULL; it stays valid until pop. */
const struct cq_ring_entry *cq_plane_ring_peek(struct cq_plane *plane, size_t worker);
void cq_plane_ring_pop(struct cq_plane *plane, size_t worker);

/* A datagram with a data record that arrived on socket 0, the control plane's. data is overwritten. */
void cq_plane_inject(struct cq_plane *plane, uint8_t *data, size_t length, const struct cq_endpoint *from);

uint64_t cq_plane_drop_count(struct cq_plane *plane, enum cq_drop drop);
/* Packets that were told of congestion: by our own queues, or since their records had met it on the way. */
uint64_t cq_plane_marks_of_queues(struct cq_plane *plane);
uint64_t cq_plane_marks_of_paths(struct cq_plane *plane);
uint64_t cq_plane_answer_count(struct cq_plane *plane, enum cq_icmp_reason reason, enum cq_answer_result result);

#endif
