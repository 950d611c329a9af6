/*
 * Which packets of a peer go on: those that a rule about it allows, and those of flows that this side has begun, with the
 * ICMP errors about either.
 *
 * What this side sends is not limited, it is remembered. Flows of TCP are, from their SYN on, even while there are no
 * rules: whoever makes some does not cut what runs. A guard is a worker's own; the table of flows is shared.
 */
#ifndef CQ_GUARD_H
#define CQ_GUARD_H

#include "cq_access.h"
#include "cq_flow.h"
#include "cq_route.h"

/* What a peer is held to. Two that are not the same have different serials, for the life of a data plane. */
struct cq_rules {
    struct cq_access *access;
    uint64_t serial;
};

#define CQ_GUARD_SEEN 64u

struct cq_guard {
    struct cq_flows *flows;
    uint32_t now; /* coarse time in seconds; the worker sets it before a batch */
    /* Flows of which a packet has just passed: most are answered by a comparison. */
    struct cq_guard_seen {
        struct cq_flow_key key;
        uint64_t serial;   /* of the rules that it was allowed by, or under; 0: a place without a flow */
        uint32_t until;    /* the last second in which that counts */
        uint16_t peer;     /* the low bits of the handle, of which there are no others */
        uint8_t any_flags; /* also for segments that begin or end a connection */
    } seen[CQ_GUARD_SEEN];
    /* And the last of them, as its headers have it: a flow's packets come in a row. */
    struct cq_guard_last {
        uint8_t ends[36]; /* addresses and ports */
        uint8_t version, protocol;
        uint16_t peer;
        uint32_t until;
        uint64_t serial;
    } last;
};

/* What was refused, for who asks. */
struct cq_guard_refusal {
    uint16_t protocol; /* as in cq_flow.h */
    uint16_t port;
    uint8_t family;
    uint8_t to[16];
};

/* rx: whether a packet of the peer goes on. n is cq_packet_length's answer. */
bool cq_guard_admits(struct cq_guard *g, const struct cq_rules *rules, const struct cq_route_table *routes,
                     uint32_t peer, const uint8_t *p, size_t n, struct cq_guard_refusal *refusal);

/* tx: this side sends that packet, or super-packet, to the peer. Without rules (guarded is false) only what opens a TCP
 * connection need be told. */
void cq_guard_sends(struct cq_guard *g, bool guarded, uint32_t peer, const uint8_t *p, size_t n);

#endif
