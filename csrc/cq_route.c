/*
 * Longest-prefix match over disjoint ranges.
 *
 * n prefixes cut the address space into at most 2n + 1 ranges, each with one answer. Building sorts the prefixes and
 * walks them once with a stack of those that are open; a lookup is a binary search without branches over the ranges'
 * first addresses. So memory is linear whatever the prefixes are (a trie of IPv6 hosts is not), and a lookup among a
 * few thousand prefixes touches a dozen words.
 */
#include "cq_route.h"

#include <stdlib.h>

__extension__ typedef unsigned __int128 address; /* in host order; IPv4 uses the low 32 bits */

struct cq_route_table {
    size_t count4, count6; /* of ranges, at least 1 */
    uint32_t *first4;      /* sorted; first4[0] is 0, so every address has a range */
    uint32_t *value4;
    address *first6;
    uint32_t *value6;
};

/* ---- building ---- */

#define LENGTHS 129 /* of prefixes, 0 to 128: as many may be open at once */

struct prefix {
    address first, last;
    uint32_t value;
};

struct ranges {
    size_t count;
    address *first;
    uint32_t *value;
};

static address address_of(const uint8_t *p, unsigned bytes)
{
    address a = 0;

    for (unsigned i = 0; i < bytes; i++)
        a = a << 8 | p[i];
    return a;
}

static int prefix_of(const struct cq_route_entry *entry, struct prefix *prefix)
{
    unsigned width = entry->family == 4 ? 32 : 128;

    if ((entry->family != 4 && entry->family != 6) || entry->prefix > width || entry->value == CQ_ROUTE_NONE)
        return CQ_E_ARGUMENT;
    address all = ~(address)0 >> (128 - width);
    address host = entry->prefix == width ? 0 : all >> entry->prefix;
    prefix->first = address_of(entry->addr, width / 8) & ~host;
    prefix->last = prefix->first | host;
    prefix->value = entry->value;
    return CQ_OK;
}

/* By first address; of those that begin together the longest range first, so that what contains comes before what it
 * contains. */
static int prefix_compare(const void *left, const void *right)
{
    const struct prefix *a = left, *b = right;

    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    if (a->last != b->last)
        return a->last > b->last ? -1 : 1;
    return 0;
}

/* From first on, up to the next call's first, the answer is value. Calls come in ascending order; the last one for the
 * same address counts, and neighbours with one answer become one range. */
static void ranges_add(struct ranges *r, address first, uint32_t value)
{
    if (r->count != 0 && r->first[r->count - 1] == first)
        r->count--;
    if (r->count != 0 && r->value[r->count - 1] == value)
        return;
    r->first[r->count] = first;
    r->value[r->count++] = value;
}

/* Prefixes are nested or disjoint, never overlapping in part: the open ones are a stack, at most one per length. */
static int ranges_build(struct ranges *r, struct prefix *prefixes, size_t count, address max)
{
    const struct prefix *open[LENGTHS];
    size_t depth = 0;

    qsort(prefixes, count, sizeof *prefixes, prefix_compare);
    ranges_add(r, 0, CQ_ROUTE_NONE);
    for (size_t i = 0; i <= count; i++) {
        const struct prefix *next = i < count ? &prefixes[i] : NULL;

        while (depth != 0 && (next == NULL || open[depth - 1]->last < next->first)) {
            address last = open[--depth]->last;
            if (last != max)
                ranges_add(r, last + 1, depth != 0 ? open[depth - 1]->value : CQ_ROUTE_NONE);
        }
        if (next == NULL)
            break;
        if (depth != 0 && prefix_compare(open[depth - 1], next) == 0) {
            if (open[depth - 1]->value != next->value)
                return CQ_E_ARGUMENT;
            continue;
        }
        open[depth++] = next;
        ranges_add(r, next->first, next->value);
    }
    return CQ_OK;
}

static int table_fill(struct cq_route_table *table, const struct cq_route_entry *entries, size_t count,
                      struct prefix *prefixes)
{
    static const uint8_t families[] = {4, 6};

    for (size_t f = 0; f < 2; f++) {
        struct ranges r = {.count = 0};
        size_t n = 0;
        int rc;

        for (size_t i = 0; i < count; i++) {
            rc = prefix_of(&entries[i], &prefixes[n]);
            if (rc != CQ_OK)
                return rc;
            n += entries[i].family == families[f];
        }
        r.first = calloc(2 * n + 1, sizeof *r.first);
        r.value = calloc(2 * n + 1, sizeof *r.value);
        if (families[f] == 6) { /* the table owns the arrays, whatever comes of them */
            table->first6 = r.first;
            table->value6 = r.value;
        } else {
            table->first4 = calloc(2 * n + 1, sizeof *table->first4);
            table->value4 = r.value;
        }
        if (r.first == NULL || r.value == NULL || (families[f] == 4 && table->first4 == NULL))
            rc = CQ_E_MEMORY;
        else
            rc = ranges_build(&r, prefixes, n, ~(address)0 >> (families[f] == 4 ? 96 : 0));
        if (families[f] == 6) {
            table->count6 = r.count;
        } else {
            table->count4 = r.count;
            for (size_t i = 0; rc == CQ_OK && i < r.count; i++)
                table->first4[i] = (uint32_t)r.first[i];
            free(r.first);
        }
        if (rc != CQ_OK)
            return rc;
    }
    return CQ_OK;
}

struct cq_route_table *cq_route_build(const struct cq_route_entry *entries, size_t count, int *error)
{
    struct cq_route_table *table = NULL;
    struct prefix *prefixes = NULL;
    int rc = CQ_E_MEMORY;

    if (count < UINT32_MAX / 2) {
        table = calloc(1, sizeof *table);
        prefixes = calloc(count + 1, sizeof *prefixes); /* never of size 0; and prefix_of writes before it is counted */
    }
    if (table != NULL && prefixes != NULL)
        rc = table_fill(table, entries, count, prefixes);
    free(prefixes);
    if (rc != CQ_OK) {
        cq_route_free(table);
        table = NULL;
    }
    if (error != NULL)
        *error = rc;
    return table;
}

void cq_route_free(struct cq_route_table *table)
{
    if (table == NULL)
        return;
    free(table->first4);
    free(table->value4);
    free(table->first6);
    free(table->value6);
    free(table);
}

/* ---- lookup ---- */

/* The last range whose first address is not above addr. The outcome of a comparison is data, not a branch: on mixed
 * traffic it cannot be predicted. */
#define SEARCH(first, count, addr, found)                                                                              \
    do {                                                                                                               \
        size_t left_ = (count);                                                                                        \
        (found) = 0;                                                                                                   \
        while (left_ > 1) {                                                                                            \
            size_t half_ = left_ / 2;                                                                                  \
            (found) += half_ & -(size_t)((first)[(found) + half_] <= (addr));                                          \
            left_ -= half_;                                                                                            \
        }                                                                                                              \
    } while (0)

uint32_t cq_route_lookup4(const struct cq_route_table *table, const uint8_t addr[4])
{
    uint32_t a = cq_get32(addr);
    size_t found;

    SEARCH(table->first4, table->count4, a, found);
    return table->value4[found];
}

uint32_t cq_route_lookup6(const struct cq_route_table *table, const uint8_t addr[16])
{
    address a = (address)cq_get64(addr) << 64 | cq_get64(addr + 8);
    size_t found;

    SEARCH(table->first6, table->count6, a, found);
    return table->value6[found];
}
