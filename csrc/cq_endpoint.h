/*
 * Where a peer is, shared by the workers that send there, those that hear it move, and the control thread.
 */
#ifndef CQ_ENDPOINT_H
#define CQ_ENDPOINT_H

#include <pthread.h>
#include <stdatomic.h>

#include "cq_io.h"

#define CQ_ENDPOINT_WORDS (sizeof(struct cq_endpoint) / 8)

/* An endpoint that one thread replaces while others read it: a sequence lock whose words are atomics. */
struct cq_shared_endpoint {
    pthread_mutex_t writer;
    _Atomic uint32_t sequence; /* odd while a writer is at work */
    _Atomic uint64_t words[CQ_ENDPOINT_WORDS];
};

void cq_endpoint_read(struct cq_shared_endpoint *shared, struct cq_endpoint *out); /* worker */
void cq_endpoint_write(struct cq_shared_endpoint *shared, const struct cq_endpoint *value);
/* worker: writes if it still holds what was read. Gives up, too, while another writer is at work: what made the worker
 * write, a record or a refused send, comes again. True if it wrote. */
bool cq_endpoint_replace(struct cq_shared_endpoint *shared, const struct cq_endpoint *read,
                         const struct cq_endpoint *value);

/* Where a peer is that was known to be at one endpoint and has now been heard from another. True if that is news. */
bool cq_endpoint_follow(const struct cq_endpoint *known, const struct cq_endpoint *heard, struct cq_endpoint *next);

#endif
