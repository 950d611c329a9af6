#include "cq_endpoint.h"

#include <string.h>

static void write_locked(struct cq_shared_endpoint *s, const struct cq_endpoint *value)
{
    uint64_t words[CQ_ENDPOINT_WORDS];
    memcpy(words, value, sizeof words);
    uint32_t n = atomic_load_explicit(&s->sequence, memory_order_relaxed);
    atomic_store_explicit(&s->sequence, n + 1, memory_order_relaxed);
    for (size_t i = 0; i < CQ_ENDPOINT_WORDS; i++) /* release: a reader that sees a new word sees the odd sequence */
        atomic_store_explicit(&s->words[i], words[i], memory_order_release);
    atomic_store_explicit(&s->sequence, n + 2, memory_order_release);
}

uint32_t cq_endpoint_read(struct cq_shared_endpoint *s, struct cq_endpoint *out)
{
    uint64_t words[CQ_ENDPOINT_WORDS];
    uint32_t before;
    for (;;) {
        before = atomic_load_explicit(&s->sequence, memory_order_acquire);
        for (size_t i = 0; i < CQ_ENDPOINT_WORDS; i++)
            words[i] = atomic_load_explicit(&s->words[i], memory_order_acquire);
        if (!(before & 1) && atomic_load_explicit(&s->sequence, memory_order_relaxed) == before)
            break;
    }
    memcpy(out, words, sizeof words);
    return before;
}

void cq_endpoint_write(struct cq_shared_endpoint *s, const struct cq_endpoint *value)
{
    pthread_mutex_lock(&s->writer);
    write_locked(s, value);
    pthread_mutex_unlock(&s->writer);
}

bool cq_endpoint_replace(struct cq_shared_endpoint *s, const struct cq_endpoint *read, const struct cq_endpoint *value)
{
    struct cq_endpoint current;
    if (pthread_mutex_trylock(&s->writer) != 0)
        return false;
    cq_endpoint_read(s, &current);
    bool same = memcmp(&current, read, sizeof current) == 0;
    if (same)
        write_locked(s, value);
    pthread_mutex_unlock(&s->writer);
    return same;
}

bool cq_endpoint_moved(const struct cq_endpoint *before, const struct cq_endpoint *now)
{
    return memcmp(&before->remote, &now->remote, sizeof before->remote) != 0 || before->group != now->group;
}

bool cq_endpoint_follow(const struct cq_endpoint *known, const struct cq_endpoint *heard, struct cq_endpoint *next)
{
    bool moved = cq_endpoint_moved(known, heard);
    bool named = heard->source == CQ_SOURCE_PINNED;
    *next = *heard;
    if (known->source == CQ_SOURCE_KERNEL || !named) {
        memset(next->local, 0, sizeof next->local);
        next->local_scope = 0;
        next->source = known->source == CQ_SOURCE_KERNEL ? CQ_SOURCE_KERNEL : CQ_SOURCE_FORGOTTEN;
        return moved;
    }
    return moved || memcmp(known->local, heard->local, sizeof known->local) != 0 ||
           known->local_scope != heard->local_scope;
}

bool cq_endpoint_beside(const struct cq_endpoint *known, const struct cq_endpoint *heard)
{
    const struct cq_address *a = &known->remote, *b = &heard->remote;
    if (a->family != b->family || a->scope != b->scope || memcmp(a->host, b->host, sizeof a->host) != 0 ||
        known->group != heard->group)
        return false;
    return known->source != CQ_SOURCE_PINNED ||
           (memcmp(known->local, heard->local, sizeof known->local) == 0 && known->local_scope == heard->local_scope);
}
