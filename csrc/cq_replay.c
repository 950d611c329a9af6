/*
 * Anti-replay window: a ring of 64-bit words, indexed by counter / 64 (RFC 6479).
 *
 * The word of the highest counter may be partly ahead of it, so the window that is guaranteed is one word shorter than
 * the ring: no counter inside it ever shares a word with one ahead of it.
 */
#include "cq_replay.h"

#define WORD_BITS 64u
#define RING_MASK ((uint64_t)CQ_REPLAY_WORDS - 1u)

void cq_replay_init(struct cq_replay *w) { memset(w, 0, sizeof *w); }

int cq_replay_check(const struct cq_replay *w, uint64_t counter)
{
    if (counter == UINT64_MAX) /* next could not be one more than it */
        return CQ_E_REPLAY;
    if (counter >= w->next)
        return CQ_OK;
    if (w->next - counter > CQ_REPLAY_WINDOW)
        return CQ_E_REPLAY;
    uint64_t word = w->bits[counter / WORD_BITS & RING_MASK];
    return word >> counter % WORD_BITS & 1 ? CQ_E_REPLAY : CQ_OK;
}

int cq_replay_advance(struct cq_replay *w, uint64_t counter)
{
    if (cq_replay_check(w, counter) != CQ_OK)
        return CQ_E_REPLAY;
    if (counter >= w->next) {
        /* Words behind that of the highest counter so far still hold the bits of one turn of the ring before. */
        uint64_t fresh = w->next / WORD_BITS + (w->next % WORD_BITS != 0);
        uint64_t last = counter / WORD_BITS;

        if (last >= fresh && last - fresh >= CQ_REPLAY_WORDS)
            fresh = last - RING_MASK; /* one whole turn of the ring is all there is to clear */
        for (; fresh <= last; fresh++)
            w->bits[fresh & RING_MASK] = 0;
        w->next = counter + 1;
    }
    w->bits[counter / WORD_BITS & RING_MASK] |= (uint64_t)1 << counter % WORD_BITS;
    return CQ_OK;
}
