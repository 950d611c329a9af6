#include "cq_table.h"

#include <stdlib.h>
#include <string.h>

#define PEERS_MAX 65536u /* a change copies the list of them */
#define HASH_MIN 16u     /* places, of which at most one in HASH_SPARSE is taken: most look-ups end at the first */
#define HASH_SPARSE 4u

/* ---- what tables refer to ---- */

static struct cq_peer *peer_new(uint32_t handle)
{
    struct cq_peer *p = aligned_alloc(_Alignof(struct cq_peer), sizeof *p);
    if (p == NULL)
        return NULL;
    memset(p, 0, sizeof *p);
    pthread_mutex_init(&p->endpoint.writer, NULL);
    p->handle = handle;
    p->mtu = CQ_MTU_MAX;
    return p;
}

static void peer_free(struct cq_peer *p)
{
    if (p == NULL)
        return;
    pthread_mutex_destroy(&p->endpoint.writer);
    free(p);
}

static void peer_release(struct cq_peer *p)
{
    if (--p->references == 0)
        peer_free(p);
}

static struct cq_slot *slot_new(struct cq_peer *peer, struct cq_epoch *epoch)
{
    struct cq_slot *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    pthread_mutex_init(&s->path.writer, NULL);
    cq_notices_init(&s->notices);
    s->peer = peer;
    s->epoch = epoch;
    return s;
}

/* Neither peer nor epoch. */
static void slot_free(struct cq_slot *s)
{
    if (s == NULL)
        return;
    pthread_mutex_destroy(&s->path.writer);
    free(s);
}

static void slot_release(struct cq_tables *t, struct cq_slot *s)
{
    if (--s->references != 0)
        return;
    cq_epoch_free(s->epoch);
    peer_release(s->peer);
    slot_free(s);
    t->live_epochs--;
}

static void routes_free(struct cq_routes *r)
{
    if (r == NULL)
        return;
    cq_route_free(r->table);
    free(r);
}

/* NULL with *error set. */
static struct cq_routes *routes_new(const struct cq_route_entry *entries, size_t count, int *error)
{
    struct cq_routes *r = calloc(1, sizeof *r);
    *error = CQ_E_MEMORY;
    if (r == NULL)
        return NULL;
    r->table = cq_route_build(entries, count, error);
    if (r->table == NULL) {
        routes_free(r);
        return NULL;
    }
    return r;
}

static void routes_release(struct cq_routes *r)
{
    if (--r->references == 0)
        routes_free(r);
}

static void table_free(struct cq_tables *t, struct cq_table *table)
{
    for (size_t i = 0; i < table->slot_count; i++)
        slot_release(t, table->slots[i]);
    for (size_t i = 0; i < table->peer_count; i++)
        if (table->peers[i].peer != NULL)
            peer_release(table->peers[i].peer);
    routes_release(table->routes);
    free(table->slots);
    free(table->hash);
    free(table->peers);
    free(table);
}

/* ---- building ---- */

static size_t hash_place(uint32_t index, size_t mask)
{
    return index & mask; /* indices are random: their low bits are as good as any hash of them */
}

static void hash_fill(struct cq_table *table)
{
    for (size_t i = 0; i < table->slot_count; i++) {
        size_t at = hash_place(table->slots[i]->epoch->rx_index, table->hash_mask);
        while (table->hash[at] != NULL)
            at = (at + 1) & table->hash_mask;
        table->hash[at] = table->slots[i];
    }
}

/* A draft: a copy of the current table with room for slots and peers, which nobody sees until publish(). It holds no
 * references yet, so that it can be changed or thrown away freely. */
static void draft_free(struct cq_table *d)
{
    if (d == NULL)
        return;
    free(d->slots);
    free(d->peers);
    free(d->hash);
    free(d);
}

static struct cq_table *draft_new(const struct cq_table *old, size_t slots, size_t peers)
{
    struct cq_table *d = calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    d->slots = calloc(slots ? slots : 1, sizeof *d->slots);
    d->peers = calloc(peers ? peers : 1, sizeof *d->peers);
    if (d->slots == NULL || d->peers == NULL) {
        draft_free(d);
        return NULL;
    }
    if (old != NULL) {
        memcpy(d->slots, old->slots, old->slot_count * sizeof *d->slots);
        memcpy(d->peers, old->peers, old->peer_count * sizeof *d->peers);
        d->slot_count = old->slot_count;
        d->routes = old->routes;
    }
    d->peer_count = peers;
    return d;
}

/* Makes a draft the current table; one that is NULL, or that cannot be, is an error and goes. */
static int publish(struct cq_tables *t, struct cq_table *d)
{
    size_t size = HASH_MIN;
    while (d != NULL && size < d->slot_count * HASH_SPARSE)
        size *= 2;
    if (d == NULL || (d->hash = calloc(size, sizeof *d->hash)) == NULL) {
        draft_free(d);
        return CQ_E_MEMORY;
    }
    d->hash_mask = size - 1;
    hash_fill(d);
    for (size_t i = 0; i < d->slot_count; i++)
        d->slots[i]->references++;
    for (size_t i = 0; i < d->peer_count; i++)
        if (d->peers[i].peer != NULL)
            d->peers[i].peer->references++;
    d->routes->references++;

    struct cq_table *old = atomic_exchange(&t->current, d);
    if (old != NULL) {
        old->next_retired = t->retired;
        t->retired = old;
    }
    cq_table_reclaim(t);
    return CQ_OK;
}

void cq_table_reclaim(struct cq_tables *t)
{
    struct cq_table **link = &t->retired;
    while (*link != NULL) {
        struct cq_table *table = *link;
        if (cq_hazard_held(&t->hazards, table)) {
            link = &table->next_retired;
            continue;
        }
        *link = table->next_retired;
        table_free(t, table);
    }
}

/* ---- workers ---- */

struct cq_table *cq_table_acquire(struct cq_tables *t, size_t worker)
{
    struct cq_table *table = atomic_load(&t->current);
    for (;;) {
        cq_hazard_announce(&t->hazards, worker, table);
        struct cq_table *now = atomic_load(&t->current); /* the same: reclaim() sees the announcement from then on */
        if (now == table)
            return table;
        table = now;
    }
}

void cq_table_release(struct cq_tables *t, size_t worker) { cq_hazard_withdraw(&t->hazards, worker); }

bool cq_table_is_current(struct cq_tables *t, const struct cq_table *table)
{
    return atomic_load(&t->current) == table;
}

struct cq_slot *cq_table_find(const struct cq_table *table, uint32_t rx_index)
{
    size_t at = hash_place(rx_index, table->hash_mask);
    while (table->hash[at] != NULL && table->hash[at]->epoch->rx_index != rx_index)
        at = (at + 1) & table->hash_mask;
    return table->hash[at];
}

/* ---- life ---- */

int cq_table_init(struct cq_tables *t, size_t workers)
{
    memset(t, 0, sizeof *t);
    if (!cq_hazard_init(&t->hazards, workers))
        return CQ_E_MEMORY;
    int rc;
    struct cq_routes *routes = routes_new(NULL, 0, &rc);
    if (routes == NULL)
        return rc;
    struct cq_table *first = draft_new(NULL, 0, 0);
    if (first != NULL)
        first->routes = routes;
    rc = publish(t, first);
    if (rc != CQ_OK)
        routes_free(routes);
    return rc;
}

void cq_table_destroy(struct cq_tables *t)
{
    struct cq_table *last = atomic_exchange(&t->current, NULL);
    cq_table_reclaim(t);
    if (last != NULL)
        table_free(t, last);
    cq_hazard_free(&t->hazards);
}

/* ---- changes ---- */

static struct cq_table *now(struct cq_tables *t) { return atomic_load_explicit(&t->current, memory_order_relaxed); }

struct cq_peer *cq_table_peer(struct cq_tables *t, uint32_t handle)
{
    struct cq_table *table = now(t);
    return handle < table->peer_count ? table->peers[handle].peer : NULL;
}

int cq_table_add_peer(struct cq_tables *t, uint32_t *handle)
{
    struct cq_table *table = now(t);
    size_t at = 0;
    while (at < table->peer_count && table->peers[at].peer != NULL)
        at++;
    if (at >= PEERS_MAX)
        return CQ_E_ARGUMENT;
    struct cq_peer *p = peer_new((uint32_t)at);
    if (p == NULL)
        return CQ_E_MEMORY;
    struct cq_table *d = draft_new(table, table->slot_count, at < table->peer_count ? table->peer_count : at + 1);
    if (d != NULL)
        d->peers[at].peer = p;
    int rc = publish(t, d);
    if (rc == CQ_OK)
        *handle = p->handle;
    else
        peer_free(p);
    return rc;
}

int cq_table_remove_peer(struct cq_tables *t, uint32_t handle)
{
    struct cq_peer *peer = cq_table_peer(t, handle);
    if (peer == NULL)
        return CQ_E_ARGUMENT;
    struct cq_table *table = now(t);
    struct cq_table *d = draft_new(table, table->slot_count, table->peer_count);
    if (d == NULL)
        return CQ_E_MEMORY;
    d->slot_count = 0;
    for (size_t i = 0; i < table->slot_count; i++)
        if (table->slots[i]->peer != peer)
            d->slots[d->slot_count++] = table->slots[i];
    memset(&d->peers[handle], 0, sizeof d->peers[handle]);
    return publish(t, d);
}

int cq_table_set_routes(struct cq_tables *t, const struct cq_route_entry *entries, size_t count)
{
    struct cq_table *table = now(t);
    int rc;
    struct cq_routes *routes = routes_new(entries, count, &rc);
    if (routes == NULL)
        return rc;
    struct cq_table *d = draft_new(table, table->slot_count, table->peer_count);
    if (d != NULL)
        d->routes = routes;
    rc = publish(t, d);
    if (rc != CQ_OK)
        routes_free(routes);
    return rc;
}

int cq_table_install(struct cq_tables *t, uint32_t handle, struct cq_epoch *epoch)
{
    struct cq_peer *peer = cq_table_peer(t, handle);
    struct cq_table *table = now(t);
    if (peer == NULL || epoch->rx_index == 0 || cq_table_find(table, epoch->rx_index) != NULL)
        return CQ_E_ARGUMENT;
    struct cq_slot *s = slot_new(peer, epoch);
    if (s == NULL)
        return CQ_E_MEMORY;
    struct cq_table *d = draft_new(table, table->slot_count + 1, table->peer_count);
    if (d != NULL)
        d->slots[d->slot_count++] = s;
    int rc = publish(t, d);
    if (rc != CQ_OK) {
        slot_free(s);
        return rc;
    }
    peer->references++;
    t->live_epochs++;
    return CQ_OK;
}

static int change_slot(struct cq_tables *t, uint32_t rx_index, void (*change)(struct cq_table *, struct cq_slot *))
{
    struct cq_table *table = now(t);
    struct cq_slot *s = cq_table_find(table, rx_index);
    if (s == NULL)
        return CQ_E_ARGUMENT;
    struct cq_table *d = draft_new(table, table->slot_count, table->peer_count);
    if (d == NULL)
        return CQ_E_MEMORY;
    change(d, s);
    return publish(t, d);
}

static void set_active(struct cq_table *d, struct cq_slot *s) { d->peers[s->peer->handle].active = s; }

static void set_promoted(struct cq_table *d, struct cq_slot *s) { d->peers[s->peer->handle].promoted = s; }

static void drop_slot(struct cq_table *d, struct cq_slot *s)
{
    struct cq_table_peer *p = &d->peers[s->peer->handle];
    if (p->active == s)
        p->active = NULL;
    if (p->promoted == s)
        p->promoted = NULL;
    size_t at = 0;
    while (d->slots[at] != s)
        at++;
    d->slots[at] = d->slots[--d->slot_count];
}

int cq_table_activate(struct cq_tables *t, uint32_t rx_index) { return change_slot(t, rx_index, set_active); }

int cq_table_promote(struct cq_tables *t, uint32_t rx_index)
{
    struct cq_slot *s = cq_table_find(now(t), rx_index);
    if (s == NULL)
        return CQ_E_ARGUMENT;
    struct cq_endpoint path, known, next; /* the record that promotes also says where the peer is now */
    cq_endpoint_read(&s->path, &path);
    cq_endpoint_read(&s->peer->endpoint, &known);
    int rc = change_slot(t, rx_index, set_promoted);
    if (rc != CQ_OK || path.remote.family == 0)
        return rc;
    if (cq_endpoint_follow(&known, &path, &next)) /* unless a worker has already seen a newer record */
        (void)cq_endpoint_replace(&s->peer->endpoint, &known, &next);
    memset(&path, 0, sizeof path); /* if it is promoted once more, only what came in between counts */
    cq_endpoint_write(&s->path, &path);
    return CQ_OK;
}

int cq_table_remove(struct cq_tables *t, uint32_t rx_index) { return change_slot(t, rx_index, drop_slot); }
