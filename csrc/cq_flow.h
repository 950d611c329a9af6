/*
 * Flows: what of a packet says which one it belongs to, and a bounded table of those that there are.
 *
 * The table is for stateful rules (cq_guard.h): a packet of a peer may be the answer to one of this side. It has an
 * entry of 16 bytes for each flow, which holds no key but 76 bits of a keyed hash of it, so that an entry is two atomic
 * words and nobody takes a lock. Who does not know the hash's key finds no second flow with the same bits.
 *
 * An entry has an owner, the peer at the far end. In a full set of places the owner with the most of them loses the one
 * that was not used for longest: a peer's flows push out its own, and not those of others.
 */
#ifndef CQ_FLOW_H
#define CQ_FLOW_H

#include <stdatomic.h>

#include "cq_packet.h"

#define CQ_PROTOCOL_ICMP 1u
#define CQ_PROTOCOL_ICMP6 58u

/* In the place of a protocol: headers that are cut off, chained too deeply, or that hide where the packet really goes. */
#define CQ_FLOW_UNREADABLE 256u

/* ---- of a packet ---- */

enum cq_flow_part { CQ_FLOW_WHOLE, CQ_FLOW_FIRST, CQ_FLOW_LATER }; /* or which fragment of one */

struct cq_flow_packet {
    uint8_t version;
    enum cq_flow_part part;
    uint16_t protocol;            /* or CQ_FLOW_UNREADABLE; of a later fragment, what its own header says */
    uint16_t source, destination; /* ports of TCP and UDP; both are the identifier of an ICMP echo; else 0 */
    uint32_t id;                  /* of the fragmented packet */
    uint8_t type;                 /* of ICMP */
    uint8_t flags;                /* of TCP; 0 in a quotation */
    const uint8_t *from, *to;     /* 4 or 16 bytes */
    const uint8_t *quoted;        /* what an ICMP error is about, as far as there is some of it; else NULL */
    size_t quoted_length;
};

/* Reads a packet whose length n is cq_packet_length's answer. */
void cq_flow_read(struct cq_flow_packet *f, const uint8_t *p, size_t n);

/* Reads the beginning of a packet, of n bytes, that an ICMP error quotes. False if that is no IP header. */
bool cq_flow_read_quoted(struct cq_flow_packet *f, const uint8_t *p, size_t n);

static inline bool cq_flow_has_ports(const struct cq_flow_packet *f)
{
    return f->protocol == CQ_PROTOCOL_TCP || f->protocol == CQ_PROTOCOL_UDP;
}

struct cq_flow_key {
    uint64_t words[5]; /* the address of this side, of the far one, then ports, protocol and IP version */
};

/* The same for both directions of a flow; out: the packet is one that this side sends. */
void cq_flow_key(struct cq_flow_key *key, const struct cq_flow_packet *f, bool out);

/* The one of a fragmented packet, which later fragments of it have as well. */
void cq_flow_key_fragments(struct cq_flow_key *key, const struct cq_flow_packet *f);

static inline bool cq_flow_same(const struct cq_flow_key *a, const struct cq_flow_key *b)
{
    uint64_t differ = 0;
    for (unsigned i = 0; i < 5; i++)
        differ |= a->words[i] ^ b->words[i];
    return differ == 0;
}

/* ---- those that there are ---- */

/* What is known of a flow, which says for how long it lives without a packet (cq_flow.c). */
enum cq_flow_kind {
    CQ_FLOW_NONE,
    CQ_FLOW_TCP_BEGUN,   /* by a SYN of this side, without an answer yet */
    CQ_FLOW_TCP_OPEN,    /* begun by this side, and answered */
    CQ_FLOW_TCP_CLOSING, /* there was a FIN or a RST */
    CQ_FLOW_BEGUN,       /* no TCP: by this side, without an answer yet */
    CQ_FLOW_ANSWERED,
    CQ_FLOW_HEARD,     /* begun by the peer: what this side sends in it makes it none of its own */
    CQ_FLOW_FRAGMENTS, /* of a packet of the peer whose first one was let in */
    CQ_FLOW_BUSY,      /* a place that somebody is just taking */
};

#define CQ_FLOW_SETS 16384u
#define CQ_FLOW_WAYS 8u

struct cq_flows;

/* NULL when memory is short. The seed is secret and random; now is the coarse time, in seconds, as everywhere here. */
struct cq_flows *cq_flows_new(const uint64_t seed[2], uint32_t now);
void cq_flows_free(struct cq_flows *flows); /* NULL is fine */

/* Seconds since there is a table. */
uint32_t cq_flows_age(const struct cq_flows *flows, uint32_t now);

/* All below: any thread. */

/* What there is of a flow; CQ_FLOW_NONE also for one whose time is over. */
enum cq_flow_kind cq_flows_find(struct cq_flows *flows, const struct cq_flow_key *key, uint32_t now);

/* A packet of it has just passed, and it is of that kind now. It is a new one, unless it is there. */
void cq_flows_put(struct cq_flows *flows, const struct cq_flow_key *key, uint32_t now, uint32_t owner,
                  enum cq_flow_kind kind);

#endif
