/*
 * The tx worker: TUN -> peer by destination -> split or pack -> seal -> UDP_SEGMENT send.
 */
#ifndef CQ_TX_H
#define CQ_TX_H

#include "cq_answer.h"
#include "cq_worker.h"

struct cq_tx;

/* NULL with errno set. */
struct cq_tx *cq_tx_new(struct cq_worker_shared *shared, size_t index);

/* Wipes what packets it holds. NULL is fine. */
void cq_tx_free(struct cq_tx *tx);

struct cq_worker *cq_tx_worker(struct cq_tx *tx);
const struct cq_answers *cq_tx_answers(const struct cq_tx *tx);

/* Its thread, until the workers are to stop. */
void *cq_tx_run(void *tx);

#endif
