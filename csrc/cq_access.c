#include "cq_access.h"
#include "cq_prefix.h"

#include <stdlib.h>
#include <string.h>

#define NOBODY UINT32_MAX

struct range {
    uint32_t first, last;
};

/* A network that some rule names. */
struct node {
    uint32_t around; /* the next larger one, or NOBODY */
    uint32_t ranges, count;
};

/* Addresses of one family, cut where networks begin and end. */
struct side {
    size_t count;
    cq_address *starts; /* ascending, from 0 on */
    uint32_t *nodes;    /* of each part, the smallest network around it, or NOBODY */
};

struct cq_access {
    struct side sides[2]; /* IPv4 first */
    struct node *nodes;
    struct range *ranges;
};

/* ---- looking up ---- */

static bool is_in(const struct range *ranges, uint32_t count, uint32_t service)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (ranges[middle].last < service)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && ranges[low].first <= service;
}

static uint32_t node_at(const struct side *side, cq_address address)
{
    size_t low = 0, high = side->count; /* the last start that is no greater is in [low, high) */
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (side->starts[middle] <= address)
            low = middle;
        else
            high = middle;
    }
    return side->nodes[low];
}

bool cq_access_allows(const struct cq_access *access, uint8_t family, const uint8_t *to, uint32_t service)
{
    cq_address address = 0;
    for (unsigned i = 0; i < cq_prefix_width(family) / 8; i++)
        address = address << 8 | to[i];
    for (uint32_t at = node_at(&access->sides[family == 6], address); at != NOBODY; at = access->nodes[at].around)
        if (is_in(access->ranges + access->nodes[at].ranges, access->nodes[at].count, service))
            return true;
    return false;
}

/* ---- building ---- */

struct item {
    struct cq_prefix prefix; /* first, since that is what is compared */
    struct range range;
};

static int compare_items(const void *left, const void *right)
{
    const struct item *a = left, *b = right;
    const int by_prefix = cq_prefix_compare(&a->prefix, &b->prefix);
    if (by_prefix != 0)
        return by_prefix;
    return a->range.first < b->range.first ? -1 : a->range.first > b->range.first;
}

/* The ranges of the items from `at` on that have the same network, put together. Returns where the next network's are. */
static size_t add_ranges(struct cq_access *access, struct node *node, const struct item *items, size_t at, size_t count)
{
    const struct cq_prefix *prefix = &items[at].prefix;
    struct range *ranges = access->ranges + node->ranges;
    for (; at < count && cq_prefix_compare(prefix, &items[at].prefix) == 0; at++) {
        const struct range *next = &items[at].range;
        struct range *last = node->count > 0 ? &ranges[node->count - 1] : NULL;
        if (last == NULL || next->first > last->last + 1)
            ranges[node->count++] = *next;
        else if (next->last > last->last)
            last->last = next->last;
    }
    return at;
}

/* From this address on this is the smallest network. */
static void cut(struct side *side, cq_address start, uint32_t node)
{
    if (side->count > 0 && side->starts[side->count - 1] == start)
        side->count--;
    side->starts[side->count] = start;
    side->nodes[side->count++] = node;
}

/* Networks that end before an address (NULL: all of them), the smallest first. Returns the one around it. */
static uint32_t leave(struct side *side, const struct node *nodes, const struct item *const *firsts, uint32_t open,
                      const cq_address *before)
{
    while (open != NOBODY) {
        const struct cq_prefix *prefix = &firsts[open]->prefix;
        if (before != NULL && prefix->last >= *before)
            break;
        if (prefix->last != cq_prefix_all(prefix->family))
            cut(side, prefix->last + 1, nodes[open].around);
        open = nodes[open].around;
    }
    return open;
}

/* The items are sorted. firsts has room for the first item of each network. */
static void build(struct cq_access *access, const struct item *items, size_t count, const struct item **firsts)
{
    uint32_t nodes = 0, ranges = 0;
    size_t at = 0;
    for (unsigned six = 0; six < 2; six++) {
        struct side *side = &access->sides[six];
        uint32_t open = NOBODY;
        cut(side, 0, NOBODY);
        while (at < count && (items[at].prefix.family == 6) == (six == 1)) {
            const cq_address start = items[at].prefix.first;
            struct node *node = &access->nodes[nodes];
            firsts[nodes] = &items[at];
            open = leave(side, access->nodes, firsts, open, &start);
            *node = (struct node){.around = open, .ranges = ranges};
            cut(side, start, nodes);
            open = nodes++;
            at = add_ranges(access, node, items, at, count);
            ranges += node->count;
        }
        (void)leave(side, access->nodes, firsts, open, NULL);
    }
}

/* CQ_OK, or CQ_E_ARGUMENT. */
static int read_rules(struct item *items, const struct cq_access_rule *rules, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct cq_access_rule *r = &rules[i];
        if (cq_prefix_read(&items[i].prefix, r->family, r->prefix, r->addr, 0) != CQ_OK || r->first > r->last ||
            r->last > CQ_ACCESS_SERVICE_MAX)
            return CQ_E_ARGUMENT;
        items[i].range = (struct range){r->first, r->last};
    }
    return CQ_OK;
}

struct cq_access *cq_access_new(const struct cq_access_rule *rules, size_t count, int *error)
{
    struct cq_access *access = calloc(1, sizeof *access);
    struct item *items = calloc(count + 1, sizeof *items);
    const struct item **firsts = calloc(count + 1, sizeof *firsts);
    bool ok = access != NULL && items != NULL && firsts != NULL;
    *error = CQ_E_MEMORY;
    for (unsigned six = 0; ok && six < 2; six++) {
        struct side *side = &access->sides[six];
        side->starts = calloc(2 * count + 1, sizeof *side->starts);
        side->nodes = calloc(2 * count + 1, sizeof *side->nodes);
        ok = side->starts != NULL && side->nodes != NULL;
    }
    if (ok) {
        access->nodes = calloc(count + 1, sizeof *access->nodes);
        access->ranges = calloc(count + 1, sizeof *access->ranges);
        ok = access->nodes != NULL && access->ranges != NULL;
    }
    if (ok && (*error = read_rules(items, rules, count)) == CQ_OK) {
        qsort(items, count, sizeof *items, compare_items);
        build(access, items, count, firsts);
    }
    free(items);
    free(firsts);
    if (*error == CQ_OK)
        return access;
    cq_access_free(access);
    return NULL;
}

void cq_access_free(struct cq_access *access)
{
    if (access == NULL)
        return;
    for (unsigned six = 0; six < 2; six++) {
        free(access->sides[six].starts);
        free(access->sides[six].nodes);
    }
    free(access->nodes);
    free(access->ranges);
    free(access);
}
