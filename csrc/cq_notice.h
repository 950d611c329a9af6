/*
 * What a node has to tell its peer's node beside packets: empty records, probes of the path and their acknowledgements.
 * A bounded queue for each epoch that seals them: any thread puts in, the tx worker of lane 0 takes out, and neither
 * ever waits for the other.
 *
 * After D. Vyukov's bounded queue: the sequence of a cell says whose turn it is. A producer takes the cell at `head` when
 * its sequence is `head`, and hands it over with one more; the consumer gives it back for the next round.
 */
#ifndef CQ_NOTICE_H
#define CQ_NOTICE_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A round of probes is three or four; what a peer's flood of them leaves no room for, it has to ask again. */
#define CQ_NOTICES_MAX 8u

static_assert((CQ_NOTICES_MAX & (CQ_NOTICES_MAX - 1)) == 0, "sequences wrap around at 2^32");

enum cq_notice_kind {
    CQ_NOTICE_EMPTY,
    CQ_NOTICE_PING,
    CQ_NOTICE_PROBE, /* `size` is that of the record to make */
    CQ_NOTICE_ACK,   /* `size` is that of the record that came */
};

struct cq_notice {
    enum cq_notice_kind kind;
    uint32_t size;
    uint64_t token;
};

struct cq_notices {
    _Atomic uint32_t head;
    uint32_t tail; /* the consumer's */
    struct {
        _Atomic uint32_t sequence;
        struct cq_notice notice;
    } cells[CQ_NOTICES_MAX];
};

static inline void cq_notices_init(struct cq_notices *q)
{
    atomic_init(&q->head, 0);
    q->tail = 0;
    for (uint32_t i = 0; i < CQ_NOTICES_MAX; i++)
        atomic_init(&q->cells[i].sequence, i);
}

/* Any thread: false if there is no room for it. */
static inline bool cq_notices_push(struct cq_notices *q, struct cq_notice notice)
{
    uint32_t at = atomic_load_explicit(&q->head, memory_order_relaxed);
    for (;;) {
        uint32_t turn = atomic_load_explicit(&q->cells[at % CQ_NOTICES_MAX].sequence, memory_order_acquire);
        if (turn == at) {
            if (atomic_compare_exchange_weak_explicit(&q->head, &at, at + 1, memory_order_relaxed,
                                                      memory_order_relaxed))
                break;
        } else if ((int32_t)(turn - at) < 0) {
            return false;
        } else { /* another producer was faster */
            at = atomic_load_explicit(&q->head, memory_order_relaxed);
        }
    }
    q->cells[at % CQ_NOTICES_MAX].notice = notice;
    atomic_store_explicit(&q->cells[at % CQ_NOTICES_MAX].sequence, at + 1, memory_order_release);
    return true;
}

/* Consumer: false if there is none. */
static inline bool cq_notices_pop(struct cq_notices *q, struct cq_notice *out)
{
    const uint32_t at = q->tail;
    _Atomic uint32_t *sequence = &q->cells[at % CQ_NOTICES_MAX].sequence;
    if (atomic_load_explicit(sequence, memory_order_acquire) != at + 1)
        return false;
    *out = q->cells[at % CQ_NOTICES_MAX].notice;
    atomic_store_explicit(sequence, at + CQ_NOTICES_MAX, memory_order_release);
    q->tail = at + 1;
    return true;
}

#endif
