#include "cq_queue.h"
#include "cq_class.h"
#include "cq_wipe.h"

#include <stdlib.h>

#define FULL_BATCH 64u /* packets that an overfull flow loses at a time, at most half of its bytes (RFC 8290, 4.1.2) */
#define COUNT_KEPT 16u /* intervals for which the pace of dropping is remembered (RFC 8289, 5.5) */

/* Of a flow, RFC 8289's names in brackets. */
struct codel {
    uint64_t above_until_ns; /* too long ago for a standing queue if it was above the target until then; 0: it was not
                                (first_above_time) */
    uint64_t drop_next_ns;
    uint32_t count, last_count; /* dropped since dropping began */
    bool dropping;
};

struct flow {
    struct flow *next; /* in its list */
    struct cq_waiting *head, *tail;
    size_t bytes;
    int64_t deficit; /* bytes that it may still send in this turn */
    bool listed;
    struct codel codel;
};

struct list {
    struct flow *head, *tail;
};

struct cq_queue {
    struct cq_queue_pool *pool;
    size_t bytes, length;
    struct list fresh, old;
    struct flow flows[CQ_QUEUE_FLOWS];
};

/* ---- memory ---- */

uint8_t *cq_queue_block(struct cq_queue_pool *pool)
{
    if (pool->spare_count > 0)
        return pool->spares[--pool->spare_count];
    return aligned_alloc(64, CQ_QUEUE_BLOCK);
}

void cq_queue_give_block(struct cq_queue_pool *pool, uint8_t *block)
{
    if (block != NULL && pool->spare_count < CQ_QUEUE_SPARES)
        pool->spares[pool->spare_count++] = block;
    else
        cq_wipe_free(block, CQ_QUEUE_BLOCK);
}

void cq_queue_pool_free(struct cq_queue_pool *pool)
{
    while (pool->spare_count > 0)
        cq_wipe_free(pool->spares[--pool->spare_count], CQ_QUEUE_BLOCK);
}

struct cq_waiting *cq_waiting_new(struct cq_queue_pool *pool, uint8_t **block, size_t length,
                                  const struct cq_vnet *vnet, unsigned packets, bool keep)
{
    const bool moves = keep || length >= CQ_QUEUE_BLOCK_FROM;
    struct cq_waiting *p = malloc(sizeof *p + (moves ? 0 : length));
    uint8_t *other = moves && p != NULL ? cq_queue_block(pool) : NULL;
    if (p == NULL || (moves && other == NULL)) {
        free(p);
        return NULL;
    }
    *p = (struct cq_waiting){.length = length, .packets = packets, .vnet = *vnet, .block = moves ? *block : NULL};
    if (moves)
        *block = other;
    else
        memcpy(p->bytes, *block, length);
    return p;
}

void cq_waiting_free(struct cq_queue_pool *pool, struct cq_waiting *p)
{
    if (p == NULL)
        return;
    if (p->block != NULL) {
        cq_queue_give_block(pool, p->block);
        free(p);
    } else {
        cq_wipe_free(p, sizeof *p + p->length);
    }
}

struct cq_queue *cq_queue_new(struct cq_queue_pool *pool)
{
    struct cq_queue *q = calloc(1, sizeof *q);
    if (q != NULL)
        q->pool = pool;
    return q;
}

static struct cq_waiting *pop(struct cq_queue *q, struct flow *flow)
{
    struct cq_waiting *p = flow->head;
    if (p == NULL)
        return NULL;
    flow->head = p->next;
    flow->bytes -= p->length;
    q->bytes -= p->length;
    q->pool->bytes -= p->length;
    q->length--;
    return p;
}

void cq_queue_free(struct cq_queue *q)
{
    if (q == NULL)
        return;
    for (size_t i = 0; i < CQ_QUEUE_FLOWS; i++)
        while (q->flows[i].head != NULL)
            cq_waiting_free(q->pool, pop(q, &q->flows[i]));
    free(q);
}

uint64_t cq_queue_packets(const struct cq_queue *q)
{
    uint64_t packets = 0;
    for (size_t i = 0; q != NULL && i < CQ_QUEUE_FLOWS; i++)
        for (const struct cq_waiting *p = q->flows[i].head; p != NULL; p = p->next)
            packets += p->packets;
    return packets;
}

size_t cq_queue_length(const struct cq_queue *q) { return q != NULL ? q->length : 0; }

/* ---- flows ---- */

uint32_t cq_queue_flow(const struct cq_queue_pool *pool, const uint8_t *packet, size_t l4_offset)
{
    const bool four = packet[0] >> 4 == 4;
    const size_t from = four ? 12 : 8, end = four ? 20 : 40;
    uint64_t h = pool->seed ^ (four ? packet[9] : packet[6]);
    for (size_t i = from; i < end; i += 4)
        h = (h ^ cq_get32(packet + i)) * 0x9e3779b97f4a7c15u, h ^= h >> 32;
    if (l4_offset != 0)
        h = (h ^ cq_get32(packet + l4_offset)) * 0x9e3779b97f4a7c15u, h ^= h >> 32;
    return (uint32_t)(h % CQ_QUEUE_FLOWS);
}

static void append(struct list *list, struct flow *flow)
{
    flow->next = NULL;
    flow->listed = true;
    if (list->head == NULL)
        list->head = flow;
    else
        list->tail->next = flow;
    list->tail = flow;
}

static struct flow *remove_first(struct list *list)
{
    struct flow *flow = list->head;
    list->head = flow->next;
    flow->listed = false;
    return flow;
}

/* ---- in ---- */

/* The flow with the most bytes loses what has waited longest (RFC 8290, 4.1.2). */
static void make_room(struct cq_queue *q)
{
    struct flow *fat = &q->flows[0];
    for (size_t i = 1; i < CQ_QUEUE_FLOWS; i++)
        if (q->flows[i].bytes > fat->bytes)
            fat = &q->flows[i];
    const size_t half = fat->bytes / 2;
    for (unsigned n = 0; n < FULL_BATCH && fat->bytes > half; n++) {
        struct cq_waiting *p = pop(q, fat);
        q->pool->full += p->packets;
        cq_waiting_free(q->pool, p);
    }
}

void cq_queue_put(struct cq_queue *q, uint32_t number, struct cq_waiting *p, uint64_t now_ns)
{
    struct flow *flow = &q->flows[number];
    p->next = NULL;
    p->since_ns = now_ns;
    if (flow->head == NULL)
        flow->head = p;
    else
        flow->tail->next = p;
    flow->tail = p;
    flow->bytes += p->length;
    q->bytes += p->length;
    q->pool->bytes += p->length;
    q->length++;
    if (!flow->listed) {
        flow->deficit = CQ_QUEUE_QUANTUM;
        append(&q->fresh, flow);
    }
    while (q->length > 0 && (q->bytes > CQ_QUEUE_MAX || q->pool->bytes > CQ_QUEUE_ALL_MAX))
        make_room(q);
}

/* ---- out: CoDel ---- */

static uint64_t square_root(uint64_t v)
{
    uint64_t root = 0;
    for (uint64_t bit = (uint64_t)1 << 62; bit != 0; bit >>= 2) {
        const bool fits = v >= root + bit;
        if (fits)
            v -= root + bit;
        root = (root >> 1) + (fits ? bit : 0);
    }
    return root;
}

/* RFC 8289, 5.3: an interval through the square root of the count. */
static uint64_t next_drop(uint64_t from_ns, uint32_t count)
{
    return from_ns + square_root(CQ_QUEUE_INTERVAL_NS * CQ_QUEUE_INTERVAL_NS / count);
}

/* The next packet of a flow, and whether the flow has had a standing queue for an interval. */
static struct cq_waiting *look(struct cq_queue *q, struct flow *flow, uint64_t now_ns, bool *standing)
{
    struct codel *c = &flow->codel;
    struct cq_waiting *p = pop(q, flow);
    *standing = false;
    if (p == NULL || now_ns - p->since_ns < CQ_QUEUE_TARGET_NS || flow->bytes <= CQ_QUEUE_QUANTUM)
        c->above_until_ns = 0;
    else if (c->above_until_ns == 0)
        c->above_until_ns = now_ns + CQ_QUEUE_INTERVAL_NS;
    else
        *standing = now_ns >= c->above_until_ns;
    return p;
}

/* True if the packet goes on, marked. */
static bool mark_or_drop(struct cq_queue *q, struct cq_waiting *p)
{
    if (cq_ecn_mark(cq_waiting_data(p))) {
        q->pool->marked += p->packets;
        return true;
    }
    q->pool->late += p->packets;
    cq_waiting_free(q->pool, p);
    return false;
}

/* RFC 8289, 5.4 to 5.6. */
static struct cq_waiting *codel_take(struct cq_queue *q, struct flow *flow, uint64_t now_ns)
{
    struct codel *c = &flow->codel;
    bool standing;
    struct cq_waiting *p = look(q, flow, now_ns, &standing);
    if (!c->dropping && standing) {
        if (!mark_or_drop(q, p))
            p = look(q, flow, now_ns, &standing);
        const uint32_t delta = c->count - c->last_count;
        const bool recent = now_ns < c->drop_next_ns + COUNT_KEPT * CQ_QUEUE_INTERVAL_NS;
        c->dropping = true;
        c->count = delta > 1 && recent ? delta : 1;
        c->last_count = c->count;
        c->drop_next_ns = next_drop(now_ns, c->count);
        return p;
    }
    c->dropping = c->dropping && standing;
    while (c->dropping && now_ns >= c->drop_next_ns) {
        c->count++;
        const bool goes = mark_or_drop(q, p);
        if (!goes)
            p = look(q, flow, now_ns, &standing);
        c->dropping = goes || standing;
        if (c->dropping)
            c->drop_next_ns = next_drop(c->drop_next_ns, c->count);
        if (goes)
            break;
    }
    return p;
}

/* ---- out: turns (RFC 8290, 4.2) ---- */

struct cq_waiting *cq_queue_take(struct cq_queue *q, uint64_t now_ns)
{
    while (q->fresh.head != NULL || q->old.head != NULL) {
        struct list *list = q->fresh.head != NULL ? &q->fresh : &q->old;
        struct flow *flow = list->head;
        if (flow->deficit <= 0) {
            flow->deficit += CQ_QUEUE_QUANTUM;
            append(&q->old, remove_first(list));
            continue;
        }
        struct cq_waiting *p = codel_take(q, flow, now_ns);
        if (p != NULL) {
            flow->deficit -= (int64_t)p->length;
            return p;
        }
        (void)remove_first(list);
        /* Once round among the old ones, so that a flow that is always just beginning does not starve them. */
        if (list == &q->fresh && q->old.head != NULL)
            append(&q->old, flow);
    }
    return NULL;
}
