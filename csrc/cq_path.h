/*
 * What is known of the path to a peer: how large records may be that leave with the Don't Fragment bit, and which probes
 * are on their way. What it means is the control thread's to judge (cryprq/protocol/path_mtu.py); workers send by it,
 * and match acknowledgements without a lock.
 */
#ifndef CQ_PATH_H
#define CQ_PATH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define CQ_PROBES_MAX 16u /* on their way at once; one more takes the place of the oldest */
#define CQ_PROBE_ACKED ((uint64_t)1)

/* Records of more than this tell something of the path: any that QUIC works on carries this much (RFC 9000, 14). */
#define CQ_RECORD_LARGE 1200u

struct cq_path {
    _Atomic uint32_t whole_max;     /* the largest record that is never fragmented; 0: any may be */
    _Atomic uint64_t last_large_ns; /* CLOCK_BOOTTIME when a record of more than CQ_RECORD_LARGE was last sent */
    /* Tokens, the lowest bit clear as long as no acknowledgement has come; 0: free. A size is older than its token. */
    _Atomic uint64_t tokens[CQ_PROBES_MAX];
    _Atomic uint32_t sizes[CQ_PROBES_MAX];
    _Atomic uint64_t left_ns[CQ_PROBES_MAX]; /* when each was sealed; 0: it has not been yet */
    _Atomic uint64_t round_trip_ns;          /* of the newest that was acknowledged; 0: none was */
    uint32_t next;                           /* the control thread's */
};

/* Control thread: a probe leaves. The token's lowest bit is clear, and it is not 0. */
static inline void cq_path_await(struct cq_path *path, uint64_t token, uint32_t size)
{
    const uint32_t at = path->next++ % CQ_PROBES_MAX;
    atomic_store_explicit(&path->tokens[at], 0, memory_order_relaxed);
    atomic_store_explicit(&path->left_ns[at], 0, memory_order_relaxed);
    atomic_store_explicit(&path->sizes[at], size, memory_order_release);
    atomic_store_explicit(&path->tokens[at], token, memory_order_release);
}

/* Worker: the probe is sealed now. */
static inline void cq_path_left(struct cq_path *path, uint64_t token, uint64_t now_ns)
{
    for (uint32_t i = 0; i < CQ_PROBES_MAX; i++)
        if (atomic_load_explicit(&path->tokens[i], memory_order_acquire) == token)
            atomic_store_explicit(&path->left_ns[i], now_ns, memory_order_relaxed);
}

/* Worker: an acknowledgement came. True if it is news: of a probe that is on its way, as large as it was, the first.
 * The round trip is from here to the peer's data plane and back: what the control threads are busy with is not in it. */
static inline bool cq_path_acknowledge(struct cq_path *path, uint64_t token, uint32_t size, uint64_t now_ns)
{
    if (token == 0 || (token & CQ_PROBE_ACKED) != 0)
        return false;
    for (uint32_t i = 0; i < CQ_PROBES_MAX; i++) {
        uint64_t expected = token;
        if (atomic_load_explicit(&path->tokens[i], memory_order_acquire) != token ||
            atomic_load_explicit(&path->sizes[i], memory_order_relaxed) != size)
            continue;
        const uint64_t left_ns = atomic_load_explicit(&path->left_ns[i], memory_order_relaxed);
        if (!atomic_compare_exchange_strong(&path->tokens[i], &expected, token | CQ_PROBE_ACKED))
            return false;
        if (left_ns != 0 && now_ns > left_ns)
            atomic_store_explicit(&path->round_trip_ns, now_ns - left_ns, memory_order_relaxed);
        return true;
    }
    return false;
}

/* Control thread: the token of a probe that has been acknowledged since the last call, or 0. */
static inline uint64_t cq_path_take(struct cq_path *path)
{
    for (uint32_t i = 0; i < CQ_PROBES_MAX; i++) {
        const uint64_t token = atomic_load_explicit(&path->tokens[i], memory_order_acquire);
        if ((token & CQ_PROBE_ACKED) != 0) {
            atomic_store_explicit(&path->tokens[i], 0, memory_order_relaxed);
            return token & ~CQ_PROBE_ACKED;
        }
    }
    return 0;
}

#endif
