/*
 * Sending a batch of records to one peer in whatever way its path takes: as one UDP_SEGMENT send, singly where the
 * kernel refuses that, from another source address where the pinned one has gone. No batch is lost to a refusal.
 * It leaves by the socket group that the peer's records come in by.
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
    bool probe;                  /* goes whole or not at all */
    uint8_t class;               /* the traffic class of their own headers */
};

/* A UDP socket to send from. */
struct cq_send_socket {
    int fd, family;                /* AF_INET, or AF_INET6 (dual-stack) */
    _Atomic bool *segment_refused; /* set on EIO: no path of this socket takes UDP_SEGMENT */
    bool whole4, whole6;           /* what it sends over IPv4 and IPv6 is not fragmented; at first it may be */
};

struct cq_sender {
    bool segment;                 /* UDP_SEGMENT is to be used */
    size_t lane;                  /* that it sends on */
    const _Atomic bool *stopping; /* ends any wait */
    uint64_t now_ns;              /* CLOCK_BOOTTIME; kept fresh after a wait */
    uint64_t patient_until_ns;    /* 0: no send of this burst has waited yet */
};

/* A burst begins: it may wait for memory for one second in all. */
void cq_send_begin(struct cq_sender *s, uint64_t now_ns);

struct cq_lost {
    unsigned records;
    uint64_t packets, bytes;
    unsigned waiting; /* the last so many records are not lost: the socket has no room for them yet */
    bool refused;     /* nothing is lost, but the records were too large for the link, and left in fragments */
};

/* Sends a batch from a socket and returns what did not leave; it does not wait for room in the socket. Records that the
 * peer's path is known to carry leave with the Don't Fragment bit (RFC 8899, section 3: without it nothing would be known
 * for long), larger ones may be fragmented. */
struct cq_lost cq_send_batch(struct cq_sender *s, struct cq_send_socket *from, struct cq_peer *peer,
                             const struct cq_batch *batch);

#endif
