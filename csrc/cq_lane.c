#include "cq_lane.h"

/* A word: port (16 bits), second (24), number of the endpoint (24). The last two wrap around, so what is half a year old
 * may look new, for CQ_LANE_SECONDS. */
#define SECOND_NS ((uint64_t)1000000000)
#define FIELD_MASK 0xffffffu
#define SECOND_SHIFT 16
#define ENDPOINT_SHIFT 40

static uint64_t word_of(uint16_t port, uint32_t endpoint, uint64_t now_ns)
{
    const uint64_t second = (now_ns / SECOND_NS) & FIELD_MASK;
    return (uint64_t)(endpoint & FIELD_MASK) << ENDPOINT_SHIFT | second << SECOND_SHIFT | port;
}

bool cq_lane_hear(struct cq_lane_ports *ports, uint8_t lane, uint16_t port, uint32_t endpoint, uint64_t now_ns)
{
    const uint64_t word = word_of(port, endpoint, now_ns);
    const uint64_t before = atomic_load_explicit(&ports->heard[lane], memory_order_relaxed);
    if (before != 0 && before >> ENDPOINT_SHIFT == word >> ENDPOINT_SHIFT && (uint16_t)before != port)
        return false;
    if (before != word) /* once a second, not once a record */
        atomic_store_explicit(&ports->heard[lane], word, memory_order_relaxed);
    return true;
}

uint16_t cq_lane_port(struct cq_lane_ports *ports, size_t lane, uint32_t endpoint, uint64_t now_ns)
{
    const uint64_t word = atomic_load_explicit(&ports->heard[lane], memory_order_relaxed);
    const uint64_t age = (now_ns / SECOND_NS - (word >> SECOND_SHIFT)) & FIELD_MASK;
    if (word == 0 || word >> ENDPOINT_SHIFT != (endpoint & FIELD_MASK) || age > CQ_LANE_SECONDS)
        return 0;
    return (uint16_t)word;
}
