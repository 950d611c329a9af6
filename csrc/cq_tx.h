/*
 * The tx worker: TUN -> peer by destination -> split or pack -> seal -> UDP_SEGMENT send.
 */
#ifndef CQ_TX_H
#define CQ_TX_H

#include "cq_worker.h"

struct cq_tx;

struct cq_tx *cq_tx_new(struct cq_worker_shared *shared, size_t index); /* NULL with errno set */
void cq_tx_free(struct cq_tx *tx); /* wipes what packets it holds; NULL is fine */

struct cq_worker *cq_tx_worker(struct cq_tx *tx);

void *cq_tx_run(void *tx); /* its thread, until the workers are to stop */

#endif
