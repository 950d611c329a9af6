/*
 * The packets that wait until there is room in the socket of their peer: FQ-CoDel (RFC 8290).
 *
 * Each flow has a queue of its own and they take turns by bytes, a flow that has just begun before the others, so that
 * nobody waits behind somebody else's bulk. A flow whose packets have all waited too long for a while loses one now and
 * then, ever more often (CoDel, RFC 8289), or has it marked where it can be told so (RFC 3168): its sender slows down
 * before the queue is long. A super-packet counts by its bytes, and is dropped or marked as a whole.
 *
 * Of one tx worker: no lock, no I/O, and the clock is the caller's. What it holds is users' plaintext, and is wiped.
 */
#ifndef CQ_QUEUE_H
#define CQ_QUEUE_H

#include <stdbool.h>

#include "cq_vnet.h"
#include "cq_wire.h"

/* RFC 8290, 4.1: 5 and 100 ms suit paths of any length over the Internet. */
#define CQ_QUEUE_TARGET_NS ((uint64_t)5000000)
#define CQ_QUEUE_INTERVAL_NS ((uint64_t)100000000)
#define CQ_QUEUE_QUANTUM 1514 /* bytes of a turn: an Ethernet frame */
#define CQ_QUEUE_FLOWS 256u   /* hashed: of 8 flows, one in ten shares its queue with another */

#define CQ_QUEUE_MAX ((size_t)8 << 20)      /* bytes for one peer: 6 ms at 10 Gbit/s */
#define CQ_QUEUE_ALL_MAX ((size_t)32 << 20) /* for all peers of a worker */

#define CQ_QUEUE_BLOCK 65536u      /* what a packet is read into */
#define CQ_QUEUE_BLOCK_FROM 16384u /* packets of this many bytes keep the block, smaller ones are copied out of it */
#define CQ_QUEUE_SPARES 8u         /* blocks that are kept for the next ones */

/* A packet that waits. Its bytes are behind it, or in a block. */
struct cq_waiting {
    struct cq_waiting *next;
    uint64_t since_ns;
    uint8_t *block; /* NULL: they are behind it */
    size_t length;
    uint32_t packets; /* that come out of it */
    struct cq_vnet vnet;
    uint8_t bytes[];
};

static inline uint8_t *cq_waiting_data(struct cq_waiting *p) { return p->block != NULL ? p->block : p->bytes; }

/* What the queues of a worker have in common. */
struct cq_queue_pool {
    uint64_t seed; /* of the hash of flows: nobody can tell which of them share a queue */
    size_t bytes;  /* that wait in all queues */
    uint8_t *spares[CQ_QUEUE_SPARES];
    unsigned spare_count;
    /* Packets, which the owner counts and clears: given up since they had waited too long, or since there was no room;
     * marked instead. */
    uint64_t late, full, marked;
};

struct cq_queue;

void cq_queue_pool_free(struct cq_queue_pool *pool); /* when there is no queue left */

struct cq_queue *cq_queue_new(struct cq_queue_pool *pool); /* NULL when memory is short */
void cq_queue_free(struct cq_queue *q);                    /* with all that waits in it; NULL is fine */

size_t cq_queue_length(const struct cq_queue *q);    /* where a super-packet is one; 0 for NULL */
uint64_t cq_queue_packets(const struct cq_queue *q); /* that come out of what waits; 0 for NULL */

/* A block that a packet can be read into; NULL when memory is short. */
uint8_t *cq_queue_block(struct cq_queue_pool *pool);
void cq_queue_give_block(struct cq_queue_pool *pool, uint8_t *block);

/* The first `length` bytes of *block as something that waits: copied, or with the block itself, which is then replaced by
 * another one. keep: with the block whatever the length. NULL, with nothing changed, when memory is short. */
struct cq_waiting *cq_waiting_new(struct cq_queue_pool *pool, uint8_t **block, size_t length,
                                  const struct cq_vnet *vnet, unsigned packets, bool keep);
void cq_waiting_free(struct cq_queue_pool *pool, struct cq_waiting *p); /* wipes it; NULL is fine */

/* The flow of a packet: of its addresses, and of its ports where it has a transport header (l4_offset, else 0). */
uint32_t cq_queue_flow(const struct cq_queue_pool *pool, const uint8_t *packet, size_t l4_offset);

/* Puts a packet at the end of its flow, and takes it over. Where that is too much, the flow with the most bytes loses
 * from its head. */
void cq_queue_put(struct cq_queue *q, uint32_t flow, struct cq_waiting *p, uint64_t now_ns);

/* The packet whose turn it is, which is the caller's then; NULL if none is left. */
struct cq_waiting *cq_queue_take(struct cq_queue *q, uint64_t now_ns);

#endif
