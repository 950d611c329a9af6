#include "cq_table.h"

#include <stdlib.h>
#include <string.h>

#define PEERS_MAX 65536u
#define HASH_SPARSE 4u /* of so many places at most one is taken: most look-ups end at the first */

/* ---- what tables refer to ---- */

static struct cq_peer *peer_new(uint32_t handle)
{
    struct cq_peer *p = aligned_alloc(_Alignof(struct cq_peer), sizeof *p);
    if (p == NULL)
        return NULL;
    memset(p, 0, sizeof *p);
    pthread_mutex_init(&p->endpoint.writer, NULL);
    p->life.kind = CQ_LIFE_PEER;
    p->handle = handle;
    p->mtu = CQ_MTU_MAX;
    return p;
}

static void peer_free(struct cq_peer *p)
{
    if (p == NULL)
        return;
    pthread_mutex_destroy(&p->endpoint.writer);
    free(p->lanes);
    free(p);
}

static struct cq_slot *slot_new(struct cq_peer *peer, struct cq_epoch *epoch)
{
    struct cq_slot *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    pthread_mutex_init(&s->path.writer, NULL);
    cq_notices_init(&s->notices);
    s->life.kind = CQ_LIFE_SLOT;
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

static void table_free(struct cq_table *table)
{
    cq_route_free(table->routes);
    free(table->indices);
    free(table->peers);
    free(table);
}

static void life_end(struct cq_tables *t, struct cq_life *life)
{
    switch (life->kind) { /* a life is the first member of what it is of */
    case CQ_LIFE_TABLE: table_free((struct cq_table *)life); break;
    case CQ_LIFE_PAGE: free(life); break;
    case CQ_LIFE_PEER: peer_free((struct cq_peer *)life); break;
    case CQ_LIFE_SLOT:
        cq_epoch_free(((struct cq_slot *)life)->epoch);
        slot_free((struct cq_slot *)life);
        t->live_epochs--;
    }
}

/* ---- look-ups ---- */

static size_t pages_for(size_t places) { return (places + CQ_PAGE - 1) / CQ_PAGE; }

static size_t hash_place(uint32_t index, size_t mask)
{
    return index & mask; /* the lower half of an index is random: its bits are as good as any hash of them */
}

static struct cq_slot *slot_at(const struct cq_table *table, size_t at)
{
    return table->indices[at / CQ_PAGE]->of.slots[at % CQ_PAGE];
}

/* Where an index is, or the free place where it belongs. */
static size_t find_place(const struct cq_table *table, uint32_t rx_index)
{
    size_t at = hash_place(rx_index, table->index_mask);
    struct cq_slot *s;
    while ((s = slot_at(table, at)) != NULL && s->epoch->rx_index != rx_index)
        at = (at + 1) & table->index_mask;
    return at;
}

struct cq_slot *cq_table_find(const struct cq_table *table, uint32_t rx_index)
{
    return slot_at(table, find_place(table, rx_index));
}

struct cq_slot *cq_table_next(const struct cq_table *table, size_t *at)
{
    while (*at <= table->index_mask) {
        struct cq_slot *s = slot_at(table, (*at)++);
        if (s != NULL)
            return s;
    }
    return NULL;
}

/* ---- building ---- */

/* The next version while it is made: a table that nobody sees until publish(), and what will not be in it any more. */
struct draft {
    struct cq_table *table; /* NULL: memory was short */
    struct cq_life *gone;
};

static struct cq_page *page_new(uint64_t version)
{
    struct cq_page *page = calloc(1, sizeof *page);
    if (page != NULL)
        page->life = (struct cq_life){.first = version, .kind = CQ_LIFE_PAGE};
    return page;
}

/* Pages of this version are the draft's own: all others belong to tables that were published. */
static void free_own(struct cq_page **pages, size_t count, uint64_t version)
{
    for (size_t i = 0; pages != NULL && i < count; i++)
        if (pages[i] != NULL && pages[i]->life.first == version)
            free(pages[i]);
}

static void draft_drop(struct draft *d)
{
    struct cq_table *table = d->table;
    if (table == NULL)
        return;
    free_own(table->indices, pages_for(table->index_mask + 1), table->life.first);
    free_own(table->peers, pages_for(table->peer_count), table->life.first);
    table_free(table);
    *d = (struct draft){0};
}

static void leave(struct draft *d, struct cq_life *life)
{
    life->next = d->gone;
    d->gone = life;
}

/* A copy of a list of pages with room for `count`, of which those that there are not yet are new. */
static struct cq_page **pages_copy(struct cq_page *const *old, size_t had, size_t count, uint64_t version)
{
    struct cq_page **pages = calloc(count ? count : 1, sizeof *pages);
    if (pages == NULL)
        return NULL;
    if (had != 0)
        memcpy(pages, old, had * sizeof *pages);
    for (size_t i = had; i < count; i++)
        if ((pages[i] = page_new(version)) == NULL) {
            free_own(pages, count, version);
            free(pages);
            return NULL;
        }
    return pages;
}

/* The version after `old` (NULL: the first), with so many peers. */
static struct draft draft_new(struct cq_tables *t, const struct cq_table *old, size_t peers)
{
    struct draft d = {.table = calloc(1, sizeof(struct cq_table))};
    struct cq_table *table = d.table;
    if (table == NULL)
        return d;
    const uint64_t version = old != NULL ? old->life.first + 1 : 1;
    const size_t had = old != NULL ? pages_for(old->index_mask + 1) : 0;
    table->life = (struct cq_life){.first = version, .last = version, .kind = CQ_LIFE_TABLE};
    table->index_mask = old != NULL ? old->index_mask : CQ_PAGE - 1;
    table->slot_count = old != NULL ? old->slot_count : 0;
    table->indices = pages_copy(old != NULL ? old->indices : NULL, had, pages_for(table->index_mask + 1), version);
    table->peers = pages_copy(old != NULL ? old->peers : NULL, old != NULL ? pages_for(old->peer_count) : 0,
                              pages_for(peers), version);
    table->peer_count = peers;
    table->routes = cq_route_take(t->routes);
    if (table->indices == NULL || table->peers == NULL)
        draft_drop(&d);
    return d;
}

/* A page of the draft to write to; NULL, and no draft any more, when memory is short. */
static struct cq_page *own_page(struct draft *d, struct cq_page **page)
{
    struct cq_page *old = *page;
    const uint64_t version = d->table->life.first;
    if (old->life.first == version)
        return old;
    struct cq_page *copy = malloc(sizeof *copy);
    if (copy == NULL) {
        draft_drop(d);
        return NULL;
    }
    *copy = *old;
    copy->life = (struct cq_life){.first = version, .kind = CQ_LIFE_PAGE};
    leave(d, &old->life);
    return *page = copy;
}

/* The place of a peer in the draft, to write to. */
static struct cq_table_peer *own_peer(struct draft *d, uint32_t handle)
{
    struct cq_page *page = d->table != NULL ? own_page(d, &d->table->peers[handle / CQ_PAGE]) : NULL;
    return page != NULL ? &page->of.peers[handle % CQ_PAGE] : NULL;
}

/* The place of an index in the draft, to write to. */
static struct cq_slot **own_place(struct draft *d, size_t at)
{
    struct cq_page *page = d->table != NULL ? own_page(d, &d->table->indices[at / CQ_PAGE]) : NULL;
    return page != NULL ? &page->of.slots[at % CQ_PAGE] : NULL;
}

/* Makes the places for indices twice as many, which is the one change that walks over all of them. */
static void grow(struct draft *d)
{
    struct cq_table *table = d->table;
    struct cq_table larger = *table;
    struct cq_slot *s;
    larger.index_mask = 2 * table->index_mask + 1;
    larger.indices = pages_copy(NULL, 0, pages_for(larger.index_mask + 1), table->life.first);
    if (larger.indices == NULL) {
        draft_drop(d);
        return;
    }
    for (size_t at = 0; (s = cq_table_next(table, &at)) != NULL;) {
        const size_t place = find_place(&larger, s->epoch->rx_index);
        larger.indices[place / CQ_PAGE]->of.slots[place % CQ_PAGE] = s;
    }
    for (size_t i = 0; i < pages_for(table->index_mask + 1); i++)
        leave(d, &table->indices[i]->life); /* none is the draft's own: it grows before it changes */
    free(table->indices);
    *table = larger;
}

static void add_slot(struct draft *d, struct cq_slot *s)
{
    if (d->table != NULL && (d->table->slot_count + 1) * HASH_SPARSE > d->table->index_mask + 1)
        grow(d);
    struct cq_slot **place = d->table != NULL ? own_place(d, find_place(d->table, s->epoch->rx_index)) : NULL;
    if (place == NULL)
        return;
    *place = s;
    d->table->slot_count++;
}

/* Takes one out, and moves those up that stand behind it since its place was taken. */
static void drop_slot(struct draft *d, struct cq_slot *s)
{
    struct cq_table_peer *p = own_peer(d, s->peer->handle);
    struct cq_slot **hole, **place, *next;
    if (p == NULL)
        return;
    if (p->active == s)
        p->active = NULL;
    if (p->promoted == s)
        p->promoted = NULL;
    const size_t mask = d->table->index_mask;
    size_t at = find_place(d->table, s->epoch->rx_index);
    if ((hole = own_place(d, at)) == NULL)
        return;
    for (size_t from = (at + 1) & mask; (next = slot_at(d->table, from)) != NULL; from = (from + 1) & mask) {
        const size_t home = hash_place(next->epoch->rx_index, mask);
        if (((from - home) & mask) < ((from - at) & mask))
            continue;
        if ((place = own_place(d, from)) == NULL)
            return;
        *hole = next;
        hole = place;
        at = from;
    }
    *hole = NULL;
    d->table->slot_count--;
    leave(d, &s->life);
}

/* Makes a draft the current table; none is an error. */
static int publish(struct cq_tables *t, struct draft *d)
{
    if (d->table == NULL)
        return CQ_E_MEMORY;
    struct cq_table *old = atomic_exchange(&t->current, d->table);
    if (old != NULL)
        leave(d, &old->life);
    for (struct cq_life *life = d->gone, *next; life != NULL; life = next) {
        next = life->next;
        life->last = d->table->life.first - 1;
        life->next = t->retired;
        t->retired = life;
    }
    cq_table_reclaim(t);
    return CQ_OK;
}

/* ---- freeing ---- */

/* The versions before the current one that readers hold. What is announced and was freed before, its reader will not use:
 * it looks once more whether that is current, and finds that it is not. */
static size_t held_versions(struct cq_tables *t, uint64_t *versions)
{
    size_t n = 0;
    for (size_t i = 0; i < t->hazards.count; i++) {
        const void *held = cq_hazard_announced(&t->hazards, i);
        if (held == NULL || held == atomic_load_explicit(&t->current, memory_order_relaxed))
            continue;
        for (const struct cq_life *life = t->retired; life != NULL; life = life->next)
            if (life == held)
                versions[n++] = life->first;
    }
    return n;
}

static bool was_in_any(const struct cq_life *life, const uint64_t *versions, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (life->first <= versions[i] && versions[i] <= life->last)
            return true;
    return false;
}

void cq_table_reclaim(struct cq_tables *t)
{
    uint64_t versions[CQ_TABLE_READERS_MAX];
    if (t->retired == NULL)
        return;
    const size_t count = held_versions(t, versions);
    for (struct cq_life **link = &t->retired, *life; (life = *link) != NULL;) {
        if (was_in_any(life, versions, count)) {
            link = &life->next;
            continue;
        }
        *link = life->next;
        life_end(t, life);
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

/* ---- life ---- */

static struct cq_table *now(struct cq_tables *t) { return atomic_load_explicit(&t->current, memory_order_relaxed); }

int cq_table_init(struct cq_tables *t, size_t workers)
{
    memset(t, 0, sizeof *t);
    int rc = CQ_E_ARGUMENT;
    if (workers > CQ_TABLE_READERS_MAX)
        return rc;
    if (!cq_hazard_init(&t->hazards, workers))
        return CQ_E_MEMORY;
    t->routes = cq_route_list_new(NULL, 0, &rc);
    if (t->routes == NULL)
        return rc;
    struct draft d = draft_new(t, NULL, 0);
    return publish(t, &d);
}

/* All that is in the last table goes the way of what was taken out before. */
void cq_table_destroy(struct cq_tables *t)
{
    struct cq_table *last = atomic_exchange(&t->current, NULL);
    struct cq_slot *s;
    cq_table_reclaim(t);
    if (last != NULL) {
        for (size_t at = 0; (s = cq_table_next(last, &at)) != NULL;)
            life_end(t, &s->life);
        for (uint32_t i = 0; i < last->peer_count; i++)
            peer_free(last->peers[i / CQ_PAGE]->of.peers[i % CQ_PAGE].peer);
        for (size_t i = 0; i < pages_for(last->index_mask + 1); i++)
            free(last->indices[i]);
        for (size_t i = 0; i < pages_for(last->peer_count); i++)
            free(last->peers[i]);
        table_free(last);
    }
    cq_route_list_free(t->routes);
    t->routes = NULL;
    cq_hazard_free(&t->hazards);
}

/* ---- changes ---- */

struct cq_peer *cq_table_peer(struct cq_tables *t, uint32_t handle)
{
    const struct cq_table_peer *p = cq_table_peer_of(now(t), handle);
    return p != NULL ? p->peer : NULL;
}

int cq_table_add_peer(struct cq_tables *t, uint32_t *handle)
{
    struct cq_table *table = now(t);
    uint32_t at = t->free_from;
    while (cq_table_peer_of(table, at) != NULL)
        at++;
    if (at >= PEERS_MAX)
        return CQ_E_ARGUMENT;
    struct cq_peer *p = peer_new(at);
    if (p == NULL)
        return CQ_E_MEMORY;
    struct draft d = draft_new(t, table, at < table->peer_count ? table->peer_count : at + 1);
    struct cq_table_peer *place = own_peer(&d, at);
    if (place != NULL) {
        place->peer = p;
        p->life.first = d.table->life.first;
    }
    int rc = publish(t, &d);
    if (rc != CQ_OK) {
        peer_free(p);
        return rc;
    }
    *handle = at;
    t->free_from = at + 1;
    return CQ_OK;
}

int cq_table_remove_peer(struct cq_tables *t, uint32_t handle)
{
    struct cq_peer *peer = cq_table_peer(t, handle);
    if (peer == NULL)
        return CQ_E_ARGUMENT;
    struct cq_table *table = now(t);
    struct draft d = draft_new(t, table, table->peer_count);
    for (struct cq_slot *s = peer->slots; s != NULL && d.table != NULL; s = s->next)
        drop_slot(&d, s);
    struct cq_table_peer *place = own_peer(&d, handle);
    if (place != NULL) {
        *place = (struct cq_table_peer){0};
        leave(&d, &peer->life);
    }
    int rc = publish(t, &d);
    if (rc == CQ_OK && handle < t->free_from)
        t->free_from = handle;
    return rc;
}

int cq_table_set_routes(struct cq_tables *t, const struct cq_route_entry *entries, size_t count)
{
    struct cq_table *table = now(t);
    int rc;
    struct cq_route_list *before = t->routes, *routes = cq_route_list_new(entries, count, &rc);
    if (routes == NULL)
        return rc;
    t->routes = routes;
    struct draft d = draft_new(t, table, table->peer_count);
    rc = publish(t, &d);
    t->routes = rc == CQ_OK ? routes : before;
    cq_route_list_free(rc == CQ_OK ? before : routes);
    return rc;
}

int cq_table_change_routes(struct cq_tables *t, const struct cq_route_entry *changes, size_t count)
{
    struct cq_table *table = now(t);
    /* The draft first: once the list has changed, nothing may fail any more. */
    struct draft d = draft_new(t, table, table->peer_count);
    int rc = d.table != NULL ? cq_route_list_change(t->routes, changes, count) : CQ_E_MEMORY;
    if (rc != CQ_OK) {
        draft_drop(&d);
        return rc;
    }
    cq_route_free(d.table->routes);
    d.table->routes = cq_route_take(t->routes);
    return publish(t, &d);
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
    struct draft d = draft_new(t, table, table->peer_count);
    add_slot(&d, s);
    if (d.table != NULL)
        s->life.first = d.table->life.first;
    int rc = publish(t, &d);
    if (rc != CQ_OK) {
        slot_free(s);
        return rc;
    }
    s->next = peer->slots;
    peer->slots = s;
    t->live_epochs++;
    return CQ_OK;
}

/* Its epoch becomes the one that seals, or the newest promoted one. */
static int set_slot(struct cq_tables *t, struct cq_slot *s, size_t member)
{
    struct cq_table *table = now(t);
    struct draft d = draft_new(t, table, table->peer_count);
    struct cq_table_peer *place = own_peer(&d, s->peer->handle);
    if (place != NULL)
        memcpy((char *)place + member, &s, sizeof s);
    return publish(t, &d);
}

int cq_table_activate(struct cq_tables *t, uint32_t rx_index)
{
    struct cq_slot *s = cq_table_find(now(t), rx_index);
    return s != NULL ? set_slot(t, s, offsetof(struct cq_table_peer, active)) : CQ_E_ARGUMENT;
}

int cq_table_promote(struct cq_tables *t, uint32_t rx_index)
{
    struct cq_slot *s = cq_table_find(now(t), rx_index);
    if (s == NULL)
        return CQ_E_ARGUMENT;
    struct cq_endpoint path, known, next; /* the record that promotes also says where the peer is now */
    cq_endpoint_read(&s->path, &path);
    cq_endpoint_read(&s->peer->endpoint, &known);
    int rc = set_slot(t, s, offsetof(struct cq_table_peer, promoted));
    if (rc != CQ_OK || path.remote.family == 0)
        return rc;
    if (cq_endpoint_follow(&known, &path, &next)) /* unless a worker has already seen a newer record */
        (void)cq_endpoint_replace(&s->peer->endpoint, &known, &next);
    memset(&path, 0, sizeof path); /* if it is promoted once more, only what came in between counts */
    cq_endpoint_write(&s->path, &path);
    return CQ_OK;
}

int cq_table_remove(struct cq_tables *t, uint32_t rx_index)
{
    struct cq_table *table = now(t);
    struct cq_slot *s = cq_table_find(table, rx_index);
    if (s == NULL)
        return CQ_E_ARGUMENT;
    struct cq_slot **link = &s->peer->slots;
    struct draft d = draft_new(t, table, table->peer_count);
    drop_slot(&d, s);
    while (*link != s)
        link = &(*link)->next;
    struct cq_slot *next = s->next; /* when it is published, nobody may hold it any more */
    int rc = publish(t, &d);
    if (rc == CQ_OK)
        *link = next;
    return rc;
}

int cq_table_spread_lanes(struct cq_peer *peer, bool spread)
{
    if (spread && peer->lanes == NULL && (peer->lanes = calloc(1, sizeof *peer->lanes)) == NULL)
        return CQ_E_MEMORY;
    atomic_store_explicit(&peer->lanes_spread, spread, memory_order_release);
    return CQ_OK;
}
