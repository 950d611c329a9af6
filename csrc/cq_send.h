/*
 * Sending a batch of records to one peer in whatever way its path takes: as one UDP_SEGMENT send, singly where the
 * kernel refuses that, from another source address where the pinned one has gone. No batch is lost to a refusal.
 */
#ifndef CQ_SEND_H
#define CQ_SEND_H

#include "cq_table.h"

#define CQ_SEND_RECORDS_MAX 128u /* in one batch: UDP_MAX_SEGMENTS of Linux 6.9 and later */

/* What is inside a record. */
struct cq_load {
    uint32_t packets, bytes; /* inner packets */
};

/* Records of `segment` bytes each, the last one perhaps shorter, back to back. */
struct cq_batch {
    const uint8_t *wire;
    size_t length, segment;
    const struct cq_load *loads; /* one per record */
};

struct cq_sender {
    int fd, family;                /* of the UDP socket: AF_INET, or AF_INET6 (dual-stack) */
    bool segment;                  /* UDP_SEGMENT is to be used */
    _Atomic bool *segment_refused; /* set on EIO: no path of these sockets takes it */
    const _Atomic bool *stopping;  /* ends any wait */
    uint64_t now_ns;               /* CLOCK_BOOTTIME; kept fresh after a wait */
    uint64_t patient_until_ns;     /* 0: no send of this burst has waited yet */
};

/* A burst begins: it may wait for room in the socket's buffer for one second in all. */
void cq_send_begin(struct cq_sender *s, uint64_t now_ns);

struct cq_lost {
    unsigned records;
    uint64_t packets, bytes;
};

/* Sends a batch and returns what did not leave. */
struct cq_lost cq_send_batch(struct cq_sender *s, struct cq_peer *peer, const struct cq_batch *batch);

#endif
