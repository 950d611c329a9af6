/*
 * Allowed IPs: an immutable longest-prefix table, IPv4 and IPv6, from address to a 32-bit value (a peer).
 *
 * Any number of threads read a table without locks. A change makes a new table, which shares with the old one what is
 * the same in both. One table answers both questions: the destination of an outgoing packet names the peer that gets it,
 * and the source of an incoming packet must belong to the peer that sent it.
 */
#ifndef CQ_ROUTE_H
#define CQ_ROUTE_H

#include "cq_wire.h"

#define CQ_ROUTE_NONE UINT32_MAX

struct cq_route_entry {
    uint8_t family;   /* 4 or 6 */
    uint8_t prefix;   /* 0..32 or 0..128; host bits of addr are ignored */
    uint8_t addr[16]; /* network order; IPv4 uses the first 4 bytes */
    uint32_t value;   /* any but CQ_ROUTE_NONE */
};

struct cq_route_table;

/* ---- reading ---- */

/* The value of the longest prefix that covers addr, or CQ_ROUTE_NONE. */
uint32_t cq_route_lookup4(const struct cq_route_table *table, const uint8_t addr[4]);
uint32_t cq_route_lookup6(const struct cq_route_table *table, const uint8_t addr[16]);

/* ---- changing: all of it belongs to one thread, the reference counts in tables too ---- */

/* The prefixes that a table has, and the newest table that was made of them. */
struct cq_route_list;

/* NULL when memory is short, an entry is out of range, or a prefix is listed twice with different values
 * (then *error, which may be NULL, says which: CQ_E_MEMORY or CQ_E_ARGUMENT). No entry is a valid list. */
struct cq_route_list *cq_route_list_new(const struct cq_route_entry *entries, size_t count, int *error);
void cq_route_list_free(struct cq_route_list *list); /* NULL is fine; tables that were taken stay */

/* Gives each prefix this value from now on, or none with CQ_ROUTE_NONE; what a change costs depends on how much of the
 * table it concerns, and on the size of the table hardly. 0, CQ_E_MEMORY or CQ_E_ARGUMENT; on an error nothing has
 * changed. */
int cq_route_list_change(struct cq_route_list *list, const struct cq_route_entry *changes, size_t count);

/* The table of the list as it is; each take needs a free. */
struct cq_route_table *cq_route_take(struct cq_route_list *list);
void cq_route_free(struct cq_route_table *table); /* NULL is fine */

#endif
