#include "cq_stage.h"

static const struct cq_staged *find(const struct cq_stage *stage, const struct cq_peer *peer)
{
    for (size_t i = 0; i < CQ_STAGE_PEERS; i++)
        if (stage->peers[i].peer == peer)
            return &stage->peers[i];
    return NULL;
}

bool cq_stage_has_room(const struct cq_stage *stage, const struct cq_peer *peer, size_t length)
{
    const struct cq_staged *of = find(stage, peer);
    if (of == NULL)
        return stage->used < CQ_STAGE_PEERS;
    return of->count < CQ_STAGE_PACKETS && of->bytes + length <= CQ_STAGE_BYTES;
}

void cq_stage_put(struct cq_stage *stage, const struct cq_peer *peer, uint32_t handle, struct cq_waiting *p,
                  uint64_t now_ns)
{
    const struct cq_staged *found = find(stage, peer);
    struct cq_staged *of = &stage->peers[(found != NULL ? found : find(stage, NULL)) - stage->peers];
    if (of->peer == NULL) {
        *of = (struct cq_staged){.peer = peer, .handle = handle};
        stage->used++;
    }
    p->since_ns = now_ns;
    p->next = NULL;
    if (of->last != NULL)
        of->last->next = p;
    else
        of->first = p;
    of->last = p;
    of->count++;
    of->bytes += p->length;
}

struct cq_waiting *cq_stage_take(struct cq_stage *stage, struct cq_staged *of)
{
    struct cq_waiting *p = of->first;
    if (p == NULL)
        return NULL;
    of->first = p->next;
    of->count--;
    of->bytes -= p->length;
    p->next = NULL;
    if (of->first == NULL) {
        *of = (struct cq_staged){0};
        stage->used--;
    }
    return p;
}

bool cq_stage_is_late(const struct cq_staged *of, uint64_t now_ns)
{
    return of->first != NULL && now_ns >= of->first->since_ns + CQ_STAGE_NS;
}

void cq_stage_free(struct cq_stage *stage, struct cq_queue_pool *pool)
{
    struct cq_waiting *p;
    for (size_t i = 0; i < CQ_STAGE_PEERS; i++)
        while ((p = cq_stage_take(stage, &stage->peers[i])) != NULL)
            cq_waiting_free(pool, p);
}
