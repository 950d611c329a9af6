/*
 * Allowed IPs: an immutable longest-prefix table, IPv4 and IPv6, from address to a 32-bit value (a peer).
 *
 * A table is built once from a list of prefixes and read by any number of threads without locks; a change builds a
 * new table. One table answers both questions: the destination of an outgoing packet names the peer that gets it,
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

/* NULL when memory is short, an entry is out of range, or a prefix is listed twice with different values
 * (then *error, which may be NULL, says which: CQ_E_MEMORY or CQ_E_ARGUMENT). An empty list is a valid table. */
struct cq_route_table *cq_route_build(const struct cq_route_entry *entries, size_t count, int *error);
void cq_route_free(struct cq_route_table *table); /* NULL is fine */

/* The value of the longest prefix that covers addr, or CQ_ROUTE_NONE. */
uint32_t cq_route_lookup4(const struct cq_route_table *table, const uint8_t addr[4]);
uint32_t cq_route_lookup6(const struct cq_route_table *table, const uint8_t addr[16]);

#endif
