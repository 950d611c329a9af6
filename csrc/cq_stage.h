/*
 * The packets for peers that have no key yet, or none at the moment: a handshake takes a few round trips, and what was sent
 * meanwhile leaves when it is done. As wireguard-go's staged queue, but bounded by bytes and by age as well.
 *
 * Of one tx worker: no lock, no I/O, and the clock is the caller's. What it holds is users' plaintext, and is wiped.
 */
#ifndef CQ_STAGE_H
#define CQ_STAGE_H

#include "cq_queue.h"

#define CQ_STAGE_PEERS 32u   /* that a worker has packets for at the same time */
#define CQ_STAGE_PACKETS 64u /* for one peer, where a super-packet is one: */
#define CQ_STAGE_BYTES ((size_t)256 << 10)
#define CQ_STAGE_NS ((uint64_t)3000000000) /* a packet waits for at most so long: a dial is given up then */

struct cq_peer;

struct cq_stage {
    struct cq_staged {
        const struct cq_peer *peer; /* NULL: free. Only to be compared: the peer may have gone */
        uint32_t handle;
        unsigned count;
        size_t bytes;
        struct cq_waiting *first, *last;
    } peers[CQ_STAGE_PEERS];
    unsigned used; /* of them */
};

/* Whether there is room for one more packet of so many bytes for that peer. */
bool cq_stage_has_room(const struct cq_stage *stage, const struct cq_peer *peer, size_t length);

/* Takes a packet over, for which there is room. */
void cq_stage_put(struct cq_stage *stage, const struct cq_peer *peer, uint32_t handle, struct cq_waiting *p,
                  uint64_t now_ns);

/* The packet that was put first for that peer, which is the caller's then; NULL if none is left. With the last one its
 * entry is free. */
struct cq_waiting *cq_stage_take(struct cq_stage *stage, struct cq_staged *of);

/* Whether the first packet has waited for too long. */
bool cq_stage_is_late(const struct cq_staged *of, uint64_t now_ns);

void cq_stage_free(struct cq_stage *stage, struct cq_queue_pool *pool); /* with all that waits in it */

#endif
