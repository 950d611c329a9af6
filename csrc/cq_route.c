/*
 * Longest-prefix match over disjoint ranges.
 *
 * n prefixes cut the address space into at most 2n + 1 ranges, each with one answer: the value of the longest prefix
 * that covers it, and how long that is. So memory is linear whatever the prefixes are (a trie of IPv6 hosts is not). The
 * ranges are in leaves of up to LEAF, and a table is the list of its leaves: a lookup is a binary search without
 * branches over the leaves' first addresses, and then over the addresses of one leaf.
 *
 * A change rewrites the leaves that its prefix has a part in; the new table shares the others, which count the tables
 * that they are in. With the length of each answer at hand, to add a prefix is to overwrite the answers of shorter ones
 * in its place, and to remove it is to put in place of its own that of the longest prefix around it, which a hash table
 * of all prefixes finds.
 */
#include "cq_route.h"
#include "cq_prefix.h"

#include <assert.h>
#include <stdlib.h>

#define LEAF 64u      /* ranges at most */
#define LEAF_FULL 48u /* to how many a rewritten leaf is filled, so that the next prefix need not split it */
#define LEAF_FEW 16u  /* below that it is rewritten together with a neighbour */

struct leaf {
    unsigned references;
    unsigned count;
    uint32_t value[LEAF];
    uint8_t length[LEAF];
    union {
        uint32_t v4[LEAF];
        cq_address v6[LEAF];
    } first; /* sorted */
};

/* The ranges of one family: at least one leaf, whose first address is 0, so every address has a range. */
struct ranges {
    size_t count;
    struct leaf **leaves;
    uint32_t *first4; /* of each leaf; one of the two is used */
    cq_address *first6;
};

struct cq_route_table {
    unsigned references;
    struct ranges v4, v6;
};

struct cq_route_list {
    struct cq_prefixes prefixes;
    struct cq_route_table *table;
};

static_assert(CQ_ROUTE_NONE == CQ_PREFIX_NONE, "an answer is passed on as it is");

static const struct cq_prefix_match nothing = {.value = CQ_ROUTE_NONE};

/* ---- leaves ---- */

static cq_address first_of(const struct leaf *leaf, unsigned family, unsigned i)
{
    return family == 4 ? leaf->first.v4[i] : leaf->first.v6[i];
}

static void leaf_release(struct leaf *leaf)
{
    if (leaf != NULL && --leaf->references == 0)
        free(leaf);
}

static void ranges_free(struct ranges *r)
{
    for (size_t i = 0; r->leaves != NULL && i < r->count; i++)
        leaf_release(r->leaves[i]);
    free(r->leaves);
    free(r->first4);
    free(r->first6);
}

/* Room for so many leaves, none of which is there yet; false when memory is short. */
static bool ranges_init(struct ranges *r, unsigned family, size_t count)
{
    *r = (struct ranges){.count = count, .leaves = calloc(count, sizeof(struct leaf *))};
    if (family == 4)
        r->first4 = calloc(count, sizeof *r->first4);
    else
        r->first6 = calloc(count, sizeof *r->first6);
    return r->leaves != NULL && (family == 4 ? (void *)r->first4 : (void *)r->first6) != NULL;
}

static void ranges_set(struct ranges *r, unsigned family, size_t at, struct leaf *leaf)
{
    r->leaves[at] = leaf;
    if (family == 4)
        r->first4[at] = leaf->first.v4[0];
    else
        r->first6[at] = leaf->first.v6[0];
}

/* ---- a run of ranges, to be cut into leaves ---- */

struct range {
    cq_address first;
    struct cq_prefix_match answer;
};

struct run {
    struct range *ranges;
    size_t count;
};

/* From first on, up to the next call's first, this is the answer. Calls come in ascending order; the last one for the
 * same address counts, and neighbours with one answer become one range. */
static void run_add(struct run *run, cq_address first, struct cq_prefix_match answer)
{
    if (run->count != 0 && run->ranges[run->count - 1].first == first)
        run->count--;
    if (run->count != 0) {
        const struct cq_prefix_match *last = &run->ranges[run->count - 1].answer;
        if (last->value == answer.value && last->length == answer.length)
            return;
    }
    run->ranges[run->count++] = (struct range){first, answer};
}

static size_t leaves_for(const struct run *run) { return run->count <= LEAF ? 1 : (run->count - 1) / LEAF_FULL + 1; }

/* Cuts the run into new leaves at `at` and after it; false when memory is short. */
static bool run_cut(const struct run *run, unsigned family, struct ranges *out, size_t at)
{
    const size_t leaves = leaves_for(run);

    for (size_t n = 0, done = 0; n < leaves; n++) {
        struct leaf *leaf = malloc(sizeof *leaf);
        if (leaf == NULL)
            return false;
        leaf->references = 1;
        leaf->count = (unsigned)((run->count - done) / (leaves - n));
        for (unsigned i = 0; i < leaf->count; i++, done++) {
            const struct range *range = &run->ranges[done];
            leaf->value[i] = range->answer.value;
            leaf->length[i] = (uint8_t)range->answer.length;
            if (family == 4)
                leaf->first.v4[i] = (uint32_t)range->first;
            else
                leaf->first.v6[i] = range->first;
        }
        ranges_set(out, family, at + n, leaf);
    }
    return true;
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

    SEARCH(table->v4.first4, table->v4.count, a, found);
    const struct leaf *leaf = table->v4.leaves[found];
    SEARCH(leaf->first.v4, leaf->count, a, found);
    return leaf->value[found];
}

uint32_t cq_route_lookup6(const struct cq_route_table *table, const uint8_t addr[16])
{
    cq_address a = (cq_address)cq_get64(addr) << 64 | cq_get64(addr + 8);
    size_t found;

    SEARCH(table->v6.first6, table->v6.count, a, found);
    const struct leaf *leaf = table->v6.leaves[found];
    SEARCH(leaf->first.v6, leaf->count, a, found);
    return leaf->value[found];
}

static size_t leaf_of(const struct ranges *r, unsigned family, cq_address a)
{
    size_t found;

    if (family == 4)
        SEARCH(r->first4, r->count, a, found);
    else
        SEARCH(r->first6, r->count, a, found);
    return found;
}

/* ---- a table of a whole list ---- */

/* The ranges of sorted prefixes of one family, which are nested or disjoint, never overlapping in part: the open ones
 * are a stack, at most one per length. */
static void run_build(struct run *run, const struct cq_prefix *prefixes, size_t count, cq_address max)
{
    const struct cq_prefix *open[CQ_PREFIX_LENGTHS];
    size_t depth = 0;

    run_add(run, 0, nothing);
    for (size_t i = 0; i <= count; i++) {
        const struct cq_prefix *next = i < count ? &prefixes[i] : NULL;

        while (depth != 0 && (next == NULL || open[depth - 1]->last < next->first)) {
            const cq_address last = open[--depth]->last;
            const struct cq_prefix *under = depth != 0 ? open[depth - 1] : NULL;
            if (last != max)
                run_add(run, last + 1,
                        under != NULL ? (struct cq_prefix_match){under->value, under->length + 1u} : nothing);
        }
        if (next == NULL)
            break;
        open[depth++] = next;
        run_add(run, next->first, (struct cq_prefix_match){next->value, next->length + 1u});
    }
}

static bool ranges_build(struct ranges *out, unsigned family, const struct cq_prefix *prefixes, size_t count)
{
    struct run run = {.ranges = malloc((2 * count + 1) * sizeof(struct range))};
    bool ok = run.ranges != NULL;

    if (ok) {
        run_build(&run, prefixes, count, cq_prefix_all(family));
        ok = ranges_init(out, family, leaves_for(&run)) && run_cut(&run, family, out, 0);
    }
    free(run.ranges);
    return ok;
}

static struct cq_route_table *table_build(const struct cq_route_list *list)
{
    struct cq_route_table *table = calloc(1, sizeof *table);
    struct cq_prefix *sorted = malloc((list->prefixes.count + 1) * sizeof *sorted); /* never of size 0 */
    size_t n = 0, fours = 0;
    bool ok = table != NULL && sorted != NULL;

    if (table != NULL)
        table->references = 1;
    for (size_t i = 0; ok && i <= list->prefixes.mask; i++)
        if (list->prefixes.places[i].value != CQ_ROUTE_NONE) {
            sorted[n++] = list->prefixes.places[i];
            fours += list->prefixes.places[i].family == 4;
        }
    if (ok) {
        qsort(sorted, n, sizeof *sorted, cq_prefix_compare);
        ok = ranges_build(&table->v4, 4, sorted, fours) && ranges_build(&table->v6, 6, sorted + fours, n - fours);
    }
    free(sorted);
    if (!ok) {
        cq_route_free(table);
        return NULL;
    }
    return table;
}

/* ---- a table after a change ---- */

/* What the ranges of some leaves, of which the last ends at `end`, are when the answers within p that are no longer than
 * its own become `answer`: all of those when it is added, its own when it is removed. */
static void run_rewrite(struct run *run, struct leaf *const *leaves, size_t count, cq_address end,
                        const struct cq_prefix *p, struct cq_prefix_match answer)
{
    for (size_t n = 0; n < count; n++)
        for (unsigned i = 0; i < leaves[n]->count; i++) {
            const struct leaf *leaf = leaves[n];
            const struct cq_prefix_match old = {leaf->value[i], leaf->length[i]};
            const cq_address first = first_of(leaf, p->family, i);
            const cq_address last = i + 1 < leaf->count ? first_of(leaf, p->family, i + 1) - 1
                                    : n + 1 < count     ? first_of(leaves[n + 1], p->family, 0) - 1
                                                        : end;
            if (last < p->first || first > p->last || old.length > p->length + 1u) {
                run_add(run, first, old);
                continue;
            }
            if (first < p->first)
                run_add(run, first, old);
            run_add(run, first < p->first ? p->first : first, answer);
            if (last > p->last)
                run_add(run, p->last + 1, old);
        }
}

/* The ranges after p has become `answer`, which shares all leaves that it has no part in; false when memory is short. */
static bool ranges_change(struct ranges *out, const struct ranges *in, const struct cq_prefix *p,
                          struct cq_prefix_match answer)
{
    size_t from = leaf_of(in, p->family, p->first), to = leaf_of(in, p->family, p->last) + 1;

    if (to - from == 1 && in->leaves[from]->count < LEAF_FEW && to < in->count)
        to++;
    const cq_address end = to < in->count ? first_of(in->leaves[to], p->family, 0) - 1 : cq_prefix_all(p->family);
    struct run run = {.ranges = malloc(((to - from) * LEAF + 3) * sizeof(struct range))};
    if (run.ranges == NULL)
        return false;
    run_rewrite(&run, in->leaves + from, to - from, end, p, answer);
    const size_t made = leaves_for(&run), kept = in->count - (to - from);
    bool ok = ranges_init(out, p->family, kept + made) && run_cut(&run, p->family, out, from);
    free(run.ranges);
    if (!ok)
        return false;
    for (size_t i = 0; i < kept; i++) {
        struct leaf *leaf = in->leaves[i < from ? i : i + (to - from)];
        leaf->references++;
        ranges_set(out, p->family, i < from ? i : i + made, leaf);
    }
    return true;
}

static bool ranges_share(struct ranges *out, const struct ranges *in, unsigned family)
{
    if (!ranges_init(out, family, in->count))
        return false;
    for (size_t i = 0; i < in->count; i++) {
        in->leaves[i]->references++;
        ranges_set(out, family, i, in->leaves[i]);
    }
    return true;
}

static struct cq_route_table *table_change(const struct cq_route_table *old, const struct cq_prefix *p,
                                           struct cq_prefix_match answer)
{
    struct cq_route_table *table = calloc(1, sizeof *table);

    if (table == NULL)
        return NULL;
    table->references = 1;
    const bool ok = p->family == 4
                        ? ranges_change(&table->v4, &old->v4, p, answer) && ranges_share(&table->v6, &old->v6, 6)
                        : ranges_change(&table->v6, &old->v6, p, answer) && ranges_share(&table->v4, &old->v4, 4);
    if (!ok) {
        cq_route_free(table);
        return NULL;
    }
    return table;
}

/* ---- lists ---- */

struct cq_route_table *cq_route_take(struct cq_route_list *list)
{
    list->table->references++;
    return list->table;
}

void cq_route_free(struct cq_route_table *table)
{
    if (table == NULL || --table->references != 0)
        return;
    ranges_free(&table->v4);
    ranges_free(&table->v6);
    free(table);
}

void cq_route_list_free(struct cq_route_list *list)
{
    if (list == NULL)
        return;
    cq_route_free(list->table);
    cq_prefix_free(&list->prefixes);
    free(list);
}

static int read_entry(const struct cq_route_entry *e, struct cq_prefix *p)
{
    return cq_prefix_read(p, e->family, e->prefix, e->addr, e->value);
}

/* 0, CQ_E_MEMORY or CQ_E_ARGUMENT */
static int list_fill(struct cq_route_list *list, const struct cq_route_entry *entries, size_t count)
{
    struct cq_prefix p;

    if (count >= UINT32_MAX / 2 || !cq_prefix_reserve(&list->prefixes, count))
        return CQ_E_MEMORY;
    for (size_t i = 0; i < count; i++) {
        if (read_entry(&entries[i], &p) != CQ_OK || p.value == CQ_ROUTE_NONE)
            return CQ_E_ARGUMENT;
        const uint32_t before = cq_prefix_put(&list->prefixes, &p);
        if (before != CQ_ROUTE_NONE && before != p.value)
            return CQ_E_ARGUMENT;
    }
    list->table = table_build(list);
    return list->table != NULL ? CQ_OK : CQ_E_MEMORY;
}

struct cq_route_list *cq_route_list_new(const struct cq_route_entry *entries, size_t count, int *error)
{
    struct cq_route_list *list = calloc(1, sizeof *list);
    int rc = list != NULL ? list_fill(list, entries, count) : CQ_E_MEMORY;

    if (rc != CQ_OK) {
        cq_route_list_free(list);
        list = NULL;
    }
    if (error != NULL)
        *error = rc;
    return list;
}

/* One change of the list, and of the table. */
static int change(struct cq_route_list *list, const struct cq_prefix *p)
{
    struct cq_prefix before = *p;

    before.value = cq_prefix_put(&list->prefixes, p);
    if (before.value == p->value)
        return CQ_OK;
    struct cq_route_table *table = table_change(list->table, p, cq_prefix_longest(&list->prefixes, p));
    if (table == NULL) {
        (void)cq_prefix_put(&list->prefixes, &before);
        return CQ_E_MEMORY;
    }
    cq_route_free(list->table);
    list->table = table;
    return CQ_OK;
}

int cq_route_list_change(struct cq_route_list *list, const struct cq_route_entry *changes, size_t count)
{
    struct cq_route_table *before = cq_route_take(list);
    struct cq_prefix *undo = malloc((count + 1) * sizeof *undo), p;
    size_t done = 0;
    int rc = undo != NULL && count < UINT32_MAX / 2 && cq_prefix_reserve(&list->prefixes, count) ? CQ_OK : CQ_E_MEMORY;

    for (; rc == CQ_OK && done < count; done++) {
        rc = read_entry(&changes[done], &p);
        if (rc != CQ_OK)
            break;
        undo[done] = p;
        undo[done].value = cq_prefix_value(&list->prefixes, &p);
        rc = change(list, &p);
        if (rc != CQ_OK)
            break;
    }
    if (rc != CQ_OK) {
        while (done-- > 0)
            (void)cq_prefix_put(&list->prefixes, &undo[done]);
        cq_route_free(list->table);
        list->table = before;
    } else {
        cq_route_free(before);
    }
    free(undo);
    return rc;
}
