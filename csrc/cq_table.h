/*
 * What the workers look things up in: an immutable table of receive indices, peers and routes.
 *
 * The control thread builds a new table for every change and publishes it with one atomic store. Each worker announces
 * the table it is using (a hazard pointer), so an old one is freed, and the keys that only it referred to are wiped,
 * as soon as no worker holds it. Workers take no lock; all functions but those marked "worker" belong to the control
 * thread, and so do the reference counts.
 */
#ifndef CQ_TABLE_H
#define CQ_TABLE_H

#include "cq_endpoint.h"
#include "cq_epoch.h"
#include "cq_hazard.h"
#include "cq_notice.h"
#include "cq_path.h"
#include "cq_route.h"

struct cq_peer {
    uint32_t handle;
    unsigned references;
    struct cq_shared_endpoint endpoint;
    _Atomic uint32_t events;               /* cq_worker.h has their bits */
    _Atomic uint64_t segment_off_until_ns; /* this peer's path refused UDP_SEGMENT */
    _Atomic uint32_t mtu;                  /* the largest inner packet for it, where the tunnel's own MTU is no less */
    _Atomic uint32_t mtu_told;             /* what its senders are told, where that is more */
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
    struct cq_epoch *epoch;
    struct cq_peer *peer;
    unsigned references;
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

struct cq_routes {
    struct cq_route_table *table;
    unsigned references;
};

struct cq_table {
    struct cq_slot **slots; /* every live epoch, in no order */
    size_t slot_count;
    struct cq_slot **hash; /* open addressing by receive index */
    size_t hash_mask;
    struct cq_table_peer *peers; /* by handle */
    size_t peer_count;
    struct cq_routes *routes;
    struct cq_table *next_retired;
};

struct cq_tables {
    _Atomic(struct cq_table *) current;
    struct cq_hazards hazards;
    struct cq_table *retired;
    size_t live_epochs;
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

/* Each publishes a new table. 0, CQ_E_MEMORY or CQ_E_ARGUMENT; on an error nothing has changed. */
int cq_table_add_peer(struct cq_tables *t, uint32_t *handle);
int cq_table_remove_peer(struct cq_tables *t, uint32_t handle);
int cq_table_set_routes(struct cq_tables *t, const struct cq_route_entry *entries, size_t count);
int cq_table_install(struct cq_tables *t, uint32_t handle, struct cq_epoch *epoch); /* takes the epoch on success */
int cq_table_activate(struct cq_tables *t, uint32_t rx_index);
int cq_table_promote(struct cq_tables *t, uint32_t rx_index);
int cq_table_remove(struct cq_tables *t, uint32_t rx_index);

struct cq_peer *cq_table_peer(struct cq_tables *t, uint32_t handle); /* NULL if unknown */

/* Frees what no worker holds any more; called by everything above. */
void cq_table_reclaim(struct cq_tables *t);

#endif
