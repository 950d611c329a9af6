/*
 * Prefixes of IPv4 and IPv6 with a value each, in a hash table: is this one there, and which is the longest around it?
 */
#ifndef CQ_PREFIX_H
#define CQ_PREFIX_H

#include <stdbool.h>

#include "cq_wire.h"

#define CQ_PREFIX_NONE UINT32_MAX
#define CQ_PREFIX_LENGTHS 129u /* 0 to 128 */

__extension__ typedef unsigned __int128 cq_address; /* in host order; IPv4 uses the low 32 bits */

struct cq_prefix {
    cq_address first, last;
    uint32_t value;
    uint8_t family, length; /* 4 or 6 */
};

/* What is so for an address: the value of the longest prefix that covers it. */
struct cq_prefix_match {
    uint32_t value;
    unsigned length; /* of that prefix, and one more; 0: there is none */
};

struct cq_prefixes {
    struct cq_prefix *places; /* open addressing; CQ_PREFIX_NONE is a free one */
    size_t mask, count;
    size_t lengths[2][CQ_PREFIX_LENGTHS]; /* how many of each there are, IPv4 first */
};

static inline unsigned cq_prefix_width(unsigned family) { return family == 4 ? 32 : 128; }

static inline cq_address cq_prefix_all(unsigned family) { return ~(cq_address)0 >> (128 - cq_prefix_width(family)); }

/* CQ_OK, or CQ_E_ARGUMENT for a family or a length that there is not. Bits of addr beyond the length are ignored. */
int cq_prefix_read(struct cq_prefix *prefix, uint8_t family, uint8_t length, const uint8_t addr[16], uint32_t value);

/* For qsort: by family; by first address; of those that begin together the longest range first, so that what contains
 * comes before what it contains. */
int cq_prefix_compare(const void *left, const void *right);

/* A zeroed set is an empty one that nothing may be asked before there is room. False when memory is short. */
bool cq_prefix_reserve(struct cq_prefixes *set, size_t more);
void cq_prefix_free(struct cq_prefixes *set);

/* The value of a prefix, or CQ_PREFIX_NONE. */
uint32_t cq_prefix_value(const struct cq_prefixes *set, const struct cq_prefix *p);

/* Sets the value of a prefix, for which there is room, or takes it out; returns the value before. */
uint32_t cq_prefix_put(struct cq_prefixes *set, const struct cq_prefix *p);

/* The longest prefix that covers what p does, p itself included. */
struct cq_prefix_match cq_prefix_longest(const struct cq_prefixes *set, const struct cq_prefix *p);

#endif
