/*
 * What the workers look things up in: an immutable table of receive indices, peers and routes.
 *
 * The control thread makes a new version for every change and publishes it with one atomic store. What is the same in
 * both, the new one shares with the old: the places of peers and of receive indices are in pages, of which a change
 * copies those that it touches. Each worker announces the version it is using (a hazard pointer). Whatever a change takes
 * out knows in which versions it was, and is freed, and its keys are wiped, as soon as no worker holds any of them.
 * Workers take no lock; all functions but those marked "worker" belong to the control thread.
 */
#ifndef CQ_TABLE_H
#define CQ_TABLE_H

#include "cq_endpoint.h"
#include "cq_epoch.h"
#include "cq_hazard.h"
#include "cq_lane.h"
#include "cq_notice.h"
#include "cq_path.h"
#include "cq_route.h"

/* What becomes unreachable by a change: in which versions of the table it was. */
struct cq_life {
    uint64_t first, last;
    struct cq_life *next; /* of those that have been taken out, or in one change are to be */
    enum { CQ_LIFE_TABLE, CQ_LIFE_PAGE, CQ_LIFE_SLOT, CQ_LIFE_PEER } kind;
};

struct cq_peer {
    struct cq_life life;
    struct cq_slot *slots; /* its live epochs, for the control thread */
    uint32_t handle;
    struct cq_shared_endpoint endpoint;
    _Atomic uint32_t events;               /* cq_worker.h has their bits */
    _Atomic uint64_t segment_off_until_ns; /* this peer's path refused UDP_SEGMENT */
    _Atomic uint32_t mtu;                  /* the largest inner packet for it, where the tunnel's own MTU is no less */
    _Atomic uint32_t mtu_told;             /* what its senders are told, where that is more */
    _Atomic bool ecn;                      /* it minds the ECN field of what it is sent */
    _Atomic bool lanes_apart;              /* it takes each of our lanes from a port of its own */
    _Atomic bool lanes_spread;             /* each of its lanes has a port of its own, which is in ... */
    struct cq_lane_ports *lanes;           /* ... this; NULL as long as that has never been so */
    _Atomic uint64_t keyless_ns;           /* since when it has no key to send under, where it has none */
    _Atomic uint64_t lost_ns;              /* last_rx_ns of a peer that is taken for gone, until it is heard; else 0 */
    _Alignas(64) _Atomic uint64_t rx_packets;
    _Atomic uint64_t rx_bytes, last_rx_ns;
    _Alignas(64) _Atomic uint64_t tx_packets;
    _Atomic uint64_t tx_bytes, last_tx_ns, last_tx_data_ns;
    struct cq_path path; /* begins with what senders write, too */
};

/* An epoch and what surrounds it. */
struct cq_slot {
    struct cq_life life;
    struct cq_slot *next; /* of the same peer's, for the control thread */
    struct cq_epoch *epoch;
    struct cq_peer *peer;
    _Atomic uint32_t events;
    _Atomic bool seen;         /* a valid record has arrived */
    struct cq_notices notices; /* what a worker is to send under it beside packets */
    /* Where the newest record came from while the epoch was not the promoted one; family 0: there was none. */
    struct cq_shared_endpoint path;
};

struct cq_table_peer {
    struct cq_peer *peer;     /* NULL: the handle is free */
    struct cq_slot *active;   /* seals what goes out; NULL: no key */
    struct cq_slot *promoted; /* newest promoted receive epoch */
};

#define CQ_PAGE 64u                                  /* places in a page */
#define CQ_TABLE_READERS_MAX (2u * CQ_LANES_MAX + 1) /* a worker for each direction and lane, and the control thread */

struct cq_page {
    struct cq_life life;
    union {
        struct cq_slot *slots[CQ_PAGE];
        struct cq_table_peer peers[CQ_PAGE];
    } of;
};

struct cq_table {
    struct cq_life life;
    struct cq_page **indices; /* open addressing by receive index: a slot, or NULL */
    size_t index_mask;
    struct cq_page **peers; /* by handle */
    size_t slot_count, peer_count;
    struct cq_route_table *routes;
};

struct cq_tables {
    _Atomic(struct cq_table *) current;
    struct cq_hazards hazards;
    struct cq_life *retired;
    struct cq_route_list *routes;
    size_t live_epochs;
    uint32_t free_from; /* no handle below it is free */
};

/* CQ_OK or CQ_E_MEMORY; either way destroy takes it down. */
int cq_table_init(struct cq_tables *t, size_t workers);

/* No worker may be running. */
void cq_table_destroy(struct cq_tables *t);

/* worker: the current table, safe to use until release. */
struct cq_table *cq_table_acquire(struct cq_tables *t, size_t worker);
void cq_table_release(struct cq_tables *t, size_t worker);

bool cq_table_is_current(struct cq_tables *t, const struct cq_table *table); /* worker */

struct cq_slot *cq_table_find(const struct cq_table *table, uint32_t rx_index); /* worker */

/* worker: what there is of a peer; NULL if nobody has the handle. */
static inline const struct cq_table_peer *cq_table_peer_of(const struct cq_table *table, uint32_t handle)
{
    if (handle >= table->peer_count)
        return NULL;
    const struct cq_table_peer *p = &table->peers[handle / CQ_PAGE]->of.peers[handle % CQ_PAGE];
    return p->peer != NULL ? p : NULL;
}

/* worker: the ports of a peer's lanes; NULL where they have none of their own. */
static inline struct cq_lane_ports *cq_table_lanes_of(struct cq_peer *peer)
{
    return atomic_load_explicit(&peer->lanes_spread, memory_order_acquire) ? peer->lanes : NULL;
}

/* worker: every live epoch, in no order: for (size_t at = 0; (slot = cq_table_next(table, &at)) != NULL;) */
struct cq_slot *cq_table_next(const struct cq_table *table, size_t *at);

/* Each publishes a new table. 0, CQ_E_MEMORY or CQ_E_ARGUMENT; on an error nothing has changed. */
int cq_table_add_peer(struct cq_tables *t, uint32_t *handle);
int cq_table_remove_peer(struct cq_tables *t, uint32_t handle);
int cq_table_set_routes(struct cq_tables *t, const struct cq_route_entry *entries, size_t count);
int cq_table_change_routes(struct cq_tables *t, const struct cq_route_entry *changes, size_t count);
int cq_table_install(struct cq_tables *t, uint32_t handle, struct cq_epoch *epoch); /* takes the epoch on success */
int cq_table_activate(struct cq_tables *t, uint32_t rx_index);
int cq_table_promote(struct cq_tables *t, uint32_t rx_index);
int cq_table_remove(struct cq_tables *t, uint32_t rx_index);

struct cq_peer *cq_table_peer(struct cq_tables *t, uint32_t handle); /* NULL if unknown */

/* Whether the peer's lanes have ports of their own. CQ_OK or CQ_E_MEMORY; no new table. */
int cq_table_spread_lanes(struct cq_peer *peer, bool spread);

/* Frees what no worker holds any more; called by everything above. */
void cq_table_reclaim(struct cq_tables *t);

#endif
