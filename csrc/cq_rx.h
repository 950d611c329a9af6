/*
 * The rx worker: recvmmsg with UDP_GRO -> index -> open in place -> checks -> coalesce -> TUN write.
 */
#ifndef CQ_RX_H
#define CQ_RX_H

#include "cq_ring.h"
#include "cq_worker.h"

struct cq_rx;

/* NULL with errno set. index == options.workers makes the one for cq_rx_inject, which has no socket. */
struct cq_rx *cq_rx_new(struct cq_worker_shared *shared, size_t index);

/* Wipes what packets it holds. NULL is fine. */
void cq_rx_free(struct cq_rx *rx);

struct cq_worker *cq_rx_worker(struct cq_rx *rx);

/* QUIC datagrams that came to its socket. Consumer: the control thread. */
struct cq_ring *cq_rx_ring(struct cq_rx *rx);

/* Its thread, until the workers are to stop. */
void *cq_rx_run(void *rx);

/* Control thread: one datagram with a data record that arrived elsewhere. data is overwritten. */
void cq_rx_inject(struct cq_rx *rx, uint8_t *data, size_t length, const struct cq_endpoint *from);

#endif
