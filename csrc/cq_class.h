/*
 * The byte of an IP header that says how its packet is to be treated, and what has become of it: the traffic class, which
 * is the DSCP (RFC 2474) and, in the two lowest bits, the ECN field (RFC 3168).
 *
 * A tunnel has two of them, of the packet inside and of the record around it. How the latter is made, and what it changes
 * of the former at the other end, is RFC 6040.
 */
#ifndef CQ_CLASS_H
#define CQ_CLASS_H

#include <stdbool.h>

#include "cq_wire.h"

#define CQ_CLASS_ECN 0x03u /* of the byte */
#define CQ_CLASS_DSCP 0xfcu

/* The ECN field (RFC 3168, 5): whether the transport can be told of congestion by a mark, and the mark. */
enum cq_ecn { CQ_ECN_NOT_ECT = 0, CQ_ECN_ECT1 = 1, CQ_ECN_ECT0 = 2, CQ_ECN_CE = 3 };

/* What a tunnel makes of the two fields of a packet that leaves it. */
enum cq_decapsulated {
    CQ_DECAPSULATED, /* as it was, or with the outer ECT(1) */
    CQ_MARKED,       /* says now that it has met congestion */
    CQ_UNMARKABLE,   /* is to be dropped: it has met congestion, and its sender would not be told so by a mark */
};

/* All of these take an IP packet whose first 20 bytes are there. */

static inline uint8_t cq_class_of(const uint8_t *p)
{
    return p[0] >> 4 == 4 ? p[1] : (uint8_t)(p[0] << 4 | p[1] >> 4); /* IPv6 has it across two bytes */
}

static inline enum cq_ecn cq_ecn_of(const uint8_t *p) { return (enum cq_ecn)(cq_class_of(p) & CQ_CLASS_ECN); }

/* Writes the ECN field, and updates the checksum of an IPv4 header: one that was wrong stays wrong (RFC 1624). */
void cq_ecn_put(uint8_t *p, enum cq_ecn field);

/* Says that the packet has met congestion. False, with nothing changed, if its sender has not said that it understands
 * that. */
bool cq_ecn_mark(uint8_t *p);

/* A packet came in a record whose own header has `outer` (RFC 6040, 4.2). */
enum cq_decapsulated cq_ecn_decapsulate(uint8_t *p, enum cq_ecn outer);

#endif
