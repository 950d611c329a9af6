/*
 * QUIC datagrams that GRO delivered to a data socket, on their way to the control thread: a bounded queue with one
 * producer, the worker of that socket, and one consumer, the control thread. Neither ever waits for the other.
 *
 * Either side writes one of the two indices. `head` is released when an entry is complete, `tail` when it has been read.
 */
#ifndef CQ_RING_H
#define CQ_RING_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cq_endpoint.h"

#define CQ_RING_ENTRIES 256u   /* several handshakes' worth between two looks of the control thread */
#define CQ_RING_DATAGRAM 2048u /* QUIC keeps to what paths carry without fragments */

static_assert((CQ_RING_ENTRIES & (CQ_RING_ENTRIES - 1)) == 0, "indices wrap around at 2^32");

struct cq_ring_entry {
    struct cq_endpoint from;
    uint32_t length;
    uint8_t data[CQ_RING_DATAGRAM];
};

struct cq_ring {
    _Alignas(64) _Atomic uint32_t head; /* next to write */
    _Alignas(64) _Atomic uint32_t tail; /* next to read */
    struct cq_ring_entry *entries;
};

/* Room for the entries of a zeroed ring. False when memory is short. */
static inline bool cq_ring_init(struct cq_ring *ring)
{
    ring->entries = calloc(CQ_RING_ENTRIES, sizeof *ring->entries);
    return ring->entries != NULL;
}

static inline void cq_ring_free(struct cq_ring *ring) { free(ring->entries); }

/* Producer: false if there is no room for it. */
static inline bool cq_ring_push(struct cq_ring *ring, const struct cq_endpoint *from, const uint8_t *data, size_t n)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    if (n > CQ_RING_DATAGRAM || head - tail >= CQ_RING_ENTRIES)
        return false;
    struct cq_ring_entry *e = &ring->entries[head % CQ_RING_ENTRIES];
    e->from = *from;
    e->length = (uint32_t)n;
    memcpy(e->data, data, n);
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
    return true;
}

/* Consumer: the oldest entry, or NULL; it stays valid until pop. */
static inline const struct cq_ring_entry *cq_ring_peek(struct cq_ring *ring)
{
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (atomic_load_explicit(&ring->head, memory_order_acquire) == tail)
        return NULL;
    return &ring->entries[tail % CQ_RING_ENTRIES];
}

static inline void cq_ring_pop(struct cq_ring *ring)
{
    atomic_fetch_add_explicit(&ring->tail, 1, memory_order_release);
}

#endif
