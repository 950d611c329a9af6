#include "cq_prefix.h"

#include <stdlib.h>

#define PLACES_MIN 16u /* of which at most half are taken */

/* ---- one ---- */

static struct cq_prefix prefix_of(unsigned family, unsigned length, cq_address any, uint32_t value)
{
    const cq_address host = length == cq_prefix_width(family) ? 0 : cq_prefix_all(family) >> length;
    return (struct cq_prefix){
        .first = any & ~host, .last = any | host, .value = value, .family = (uint8_t)family, .length = (uint8_t)length};
}

int cq_prefix_read(struct cq_prefix *prefix, uint8_t family, uint8_t length, const uint8_t addr[16], uint32_t value)
{
    if ((family != 4 && family != 6) || length > cq_prefix_width(family))
        return CQ_E_ARGUMENT;
    cq_address any = 0;
    for (unsigned i = 0; i < cq_prefix_width(family) / 8; i++)
        any = any << 8 | addr[i];
    *prefix = prefix_of(family, length, any, value);
    return CQ_OK;
}

static bool same(const struct cq_prefix *a, const struct cq_prefix *b)
{
    return a->first == b->first && a->length == b->length && a->family == b->family;
}

int cq_prefix_compare(const void *left, const void *right)
{
    const struct cq_prefix *a = left, *b = right;

    if (a->family != b->family)
        return a->family < b->family ? -1 : 1;
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    return (int)a->length - (int)b->length;
}

/* ---- many ---- */

static size_t place_of(const struct cq_prefixes *set, const struct cq_prefix *p)
{
    uint64_t h = (uint64_t)p->first ^ (uint64_t)(p->first >> 64) * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ ((uint64_t)p->length << 8 | p->family)) * UINT64_C(0xd6e8feb86659fd93);
    return (size_t)(h ^ h >> 32) & set->mask;
}

/* Where the prefix is, or where it belongs. */
static struct cq_prefix *find(const struct cq_prefixes *set, const struct cq_prefix *p)
{
    size_t at = place_of(set, p);

    while (set->places[at].value != CQ_PREFIX_NONE && !same(&set->places[at], p))
        at = (at + 1) & set->mask;
    return &set->places[at];
}

static struct cq_prefix *places_new(size_t count)
{
    struct cq_prefix *places = malloc(count * sizeof *places);

    for (size_t i = 0; places != NULL && i < count; i++)
        places[i].value = CQ_PREFIX_NONE;
    return places;
}

bool cq_prefix_reserve(struct cq_prefixes *set, size_t more)
{
    struct cq_prefix *old = set->places;
    size_t size = old == NULL ? 0 : set->mask + 1, wanted = size == 0 ? PLACES_MIN : size;

    while (wanted < 2 * (set->count + more))
        wanted *= 2;
    if (wanted == size)
        return true;
    struct cq_prefix *places = places_new(wanted);
    if (places == NULL)
        return false;
    set->places = places;
    set->mask = wanted - 1;
    for (size_t i = 0; i < size; i++)
        if (old[i].value != CQ_PREFIX_NONE)
            *find(set, &old[i]) = old[i];
    free(old);
    return true;
}

/* Takes one out, and moves those up that stand behind it since its place was taken. */
static void vacate(struct cq_prefixes *set, struct cq_prefix *found)
{
    size_t hole = (size_t)(found - set->places);

    for (size_t at = (hole + 1) & set->mask; set->places[at].value != CQ_PREFIX_NONE; at = (at + 1) & set->mask) {
        size_t home = place_of(set, &set->places[at]);
        if (((at - home) & set->mask) < ((at - hole) & set->mask))
            continue;
        set->places[hole] = set->places[at];
        hole = at;
    }
    set->places[hole].value = CQ_PREFIX_NONE;
}

uint32_t cq_prefix_put(struct cq_prefixes *set, const struct cq_prefix *p)
{
    struct cq_prefix *found = find(set, p);
    const uint32_t before = found->value;
    size_t *length = &set->lengths[p->family == 6][p->length];

    if (p->value != CQ_PREFIX_NONE)
        *found = *p;
    else if (before != CQ_PREFIX_NONE)
        vacate(set, found);
    if ((before == CQ_PREFIX_NONE) != (p->value == CQ_PREFIX_NONE)) {
        set->count += p->value == CQ_PREFIX_NONE ? -(size_t)1 : 1;
        *length += p->value == CQ_PREFIX_NONE ? -(size_t)1 : 1;
    }
    return before;
}

uint32_t cq_prefix_value(const struct cq_prefixes *set, const struct cq_prefix *p) { return find(set, p)->value; }

struct cq_prefix_match cq_prefix_longest(const struct cq_prefixes *set, const struct cq_prefix *p)
{
    for (unsigned length = p->length + 1u; length-- > 0;) {
        if (set->lengths[p->family == 6][length] == 0)
            continue;
        const struct cq_prefix around = prefix_of(p->family, length, p->first, 0);
        const uint32_t value = find(set, &around)->value;
        if (value != CQ_PREFIX_NONE)
            return (struct cq_prefix_match){.value = value, .length = length + 1};
    }
    return (struct cq_prefix_match){.value = CQ_PREFIX_NONE};
}

void cq_prefix_free(struct cq_prefixes *set)
{
    free(set->places);
    set->places = NULL;
}
