/*
 * Anti-replay window (the sliding bitmap of RFC 6479, one 64-bit word per block) for one receive key.
 *
 * check() never changes state: it may be called on a counter that nobody has authenticated yet. advance() is for
 * counters whose tag verified, and nothing else.
 */
#ifndef CQ_REPLAY_H
#define CQ_REPLAY_H

#include "cq_wire.h"

/* Twice what the protocol asks for, at 2 KiB a lane. The window that is guaranteed is one word shorter. */
#define CQ_REPLAY_WORDS 256u
#define CQ_REPLAY_WINDOW ((CQ_REPLAY_WORDS - 1u) * 64u)

struct cq_replay {
    uint64_t next; /* highest accepted counter + 1; 0 while nothing was accepted */
    uint64_t bits[CQ_REPLAY_WORDS];
};

void cq_replay_init(struct cq_replay *w);

/* CQ_OK if counter may be new, CQ_E_REPLAY if it was seen or lies before the window. */
int cq_replay_check(const struct cq_replay *w, uint64_t counter);

/* Marks counter as seen. CQ_OK, or CQ_E_REPLAY as check() would say (then nothing changed). */
int cq_replay_advance(struct cq_replay *w, uint64_t counter);

static_assert(CQ_REPLAY_WINDOW >= CQ_REPLAY_WINDOW_MIN, "the protocol asks for more");
static_assert((CQ_REPLAY_WORDS & (CQ_REPLAY_WORDS - 1)) == 0, "the ring index is a mask");

#endif
