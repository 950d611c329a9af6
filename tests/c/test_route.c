/*
 * The route table against a search of the whole list of prefixes.
 */
#include <stdbool.h>

#include "check.h"
#include "cq_route.h"

static bool covers(const struct cq_route_entry *e, const uint8_t *addr)
{
    for (unsigned bit = 0; bit < e->prefix; bit++)
        if ((e->addr[bit / 8] ^ addr[bit / 8]) >> (7 - bit % 8) & 1)
            return false;
    return true;
}

static uint32_t naive_lookup(const struct cq_route_entry *entries, size_t count, uint8_t family, const uint8_t *addr)
{
    const struct cq_route_entry *best = NULL;

    for (size_t i = 0; i < count; i++)
        if (entries[i].family == family && covers(&entries[i], addr) &&
            (best == NULL || entries[i].prefix > best->prefix))
            best = &entries[i];
    return best != NULL ? best->value : CQ_ROUTE_NONE;
}

static uint32_t lookup(const struct cq_route_table *table, uint8_t family, const uint8_t *addr)
{
    return family == 4 ? cq_route_lookup4(table, addr) : cq_route_lookup6(table, addr);
}

static void check_address(const struct cq_route_table *table, const struct cq_route_entry *entries, size_t count,
                          uint8_t family, const uint8_t *addr)
{
    CHECK_EQUAL(lookup(table, family, addr), naive_lookup(entries, count, family, addr));
}

/* Adds 1 or -1; past either end it wraps, which is an address like any other. */
static void add_one(uint8_t *addr, unsigned bytes, int step)
{
    for (unsigned i = bytes; i-- > 0;) {
        addr[i] = (uint8_t)(addr[i] + step);
        if (addr[i] != (step > 0 ? 0 : 0xff))
            return;
    }
}

/* The first and last address of a prefix, and those before and after it. */
static void check_edges(const struct cq_route_table *table, const struct cq_route_entry *entries, size_t count,
                        const struct cq_route_entry *e)
{
    unsigned bytes = e->family == 4 ? 4 : 16;
    uint8_t first[16], last[16];

    for (unsigned i = 0; i < bytes; i++) {
        unsigned kept = e->prefix >= 8 * (i + 1) ? 8 : e->prefix > 8 * i ? e->prefix - 8 * i : 0;
        uint8_t mask = (uint8_t)(0xff00 >> kept);
        first[i] = e->addr[i] & mask;
        last[i] = (uint8_t)(e->addr[i] | (uint8_t)~mask);
    }
    check_address(table, entries, count, e->family, first);
    check_address(table, entries, count, e->family, last);
    add_one(first, bytes, -1);
    add_one(last, bytes, 1);
    check_address(table, entries, count, e->family, first);
    check_address(table, entries, count, e->family, last);
}

/* Few distinct address bits, so that prefixes nest, touch and repeat. */
static void random_entry(struct cq_route_entry *e, unsigned spread)
{
    e->family = check_random() % 2 ? 4 : 6;
    e->prefix = (uint8_t)(check_random() % (e->family == 4 ? 33 : 129));
    for (unsigned i = 0; i < 16; i++)
        e->addr[i] = check_random() % spread ? (check_random() % 2 ? 0xff : 0) : (uint8_t)check_random();
}

/* A value that follows from the prefix (FNV-1a over its bits), so that a repeated prefix repeats it. */
static uint32_t value_of(const struct cq_route_entry *e)
{
    uint32_t hash = 2166136261u ^ e->prefix;

    for (unsigned bit = 0; bit < e->prefix; bit++)
        hash = (hash ^ (e->addr[bit / 8] >> (7 - bit % 8) & 1)) * 16777619u;
    return hash >> 1;
}

static void test_random_tables_agree_with_list(void)
{
    static const size_t sizes[] = {1, 2, 7, 40, 300};

    for (unsigned round = 0; round < 60; round++) {
        size_t count = sizes[round % 5];
        struct cq_route_entry *entries = calloc(count, sizeof *entries);
        int error = 1;

        REQUIRE(entries != NULL);
        for (size_t i = 0; i < count; i++) {
            random_entry(&entries[i], 1 + round % 9);
            entries[i].value = value_of(&entries[i]);
        }
        struct cq_route_table *table = cq_route_build(entries, count, &error);
        REQUIRE(table != NULL);
        CHECK_EQUAL(error, CQ_OK);
        for (size_t i = 0; i < count; i++)
            check_edges(table, entries, count, &entries[i]);
        for (unsigned i = 0; i < 300; i++) {
            struct cq_route_entry any;
            random_entry(&any, 1 + i % 9);
            check_address(table, entries, count, any.family, any.addr);
        }
        cq_route_free(table);
        free(entries);
    }
}

static void test_every_length_nested_in_one_another(void)
{
    static struct cq_route_entry entries[129];

    for (unsigned i = 0; i < 129; i++)
        entries[i] = (struct cq_route_entry){.family = 6, .prefix = (uint8_t)(128 - i), .value = 128 - i};
    struct cq_route_table *table = cq_route_build(entries, 129, NULL);
    REQUIRE(table != NULL);
    for (unsigned bit = 0; bit < 128; bit++) {
        uint8_t addr[16] = {0};
        addr[bit / 8] = (uint8_t)(0x80 >> bit % 8);
        CHECK_EQUAL(cq_route_lookup6(table, addr), bit);
    }
    CHECK_EQUAL(cq_route_lookup6(table, (uint8_t[16]){0}), 128);
    CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){0}), CQ_ROUTE_NONE);
    cq_route_free(table);
}

static void test_empty_table_answers_none(void)
{
    struct cq_route_table *table = cq_route_build(NULL, 0, NULL);

    REQUIRE(table != NULL);
    CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){10, 0, 0, 1}), CQ_ROUTE_NONE);
    CHECK_EQUAL(cq_route_lookup6(table, (uint8_t[16]){0xfd}), CQ_ROUTE_NONE);
    cq_route_free(table);
    cq_route_free(NULL);
}

static void test_families_do_not_mix(void)
{
    const struct cq_route_entry everything4 = {.family = 4, .prefix = 0, .value = 7};
    struct cq_route_table *table = cq_route_build(&everything4, 1, NULL);

    REQUIRE(table != NULL);
    CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){0, 0, 0, 0}), 7);
    CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){255, 255, 255, 255}), 7);
    CHECK_EQUAL(cq_route_lookup6(table, (uint8_t[16]){0}), CQ_ROUTE_NONE);
    cq_route_free(table);
}

static void test_bad_entries_are_refused(void)
{
    static const struct cq_route_entry bad[] = {
        {.family = 4, .prefix = 33, .value = 1},
        {.family = 6, .prefix = 129, .value = 1},
        {.family = 5, .prefix = 8, .value = 1},
        {.family = 0, .prefix = 0, .value = 1},
        {.family = 4, .prefix = 8, .value = CQ_ROUTE_NONE},
    };

    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        const struct cq_route_entry list[] = {{.family = 4, .prefix = 8, .addr = {10}, .value = 1}, bad[i]};
        int error = CQ_OK;
        CHECK(cq_route_build(list, 2, &error) == NULL);
        CHECK_EQUAL(error, CQ_E_ARGUMENT);
    }
}

static void test_one_prefix_with_two_owners_is_refused(void)
{
    /* Host bits do not count, so these two are one prefix; others stand between them in the list. */
    struct cq_route_entry list[] = {
        {.family = 4, .prefix = 24, .addr = {10, 1, 2, 3}, .value = 1},
        {.family = 4, .prefix = 25, .addr = {10, 1, 2, 0}, .value = 5},
        {.family = 6, .prefix = 24, .addr = {10, 1, 2, 0}, .value = 3},
        {.family = 4, .prefix = 24, .addr = {10, 1, 2, 200}, .value = 2},
        {.family = 4, .prefix = 8, .addr = {10}, .value = 6},
    };
    int error = CQ_OK;

    CHECK(cq_route_build(list, 5, &error) == NULL);
    CHECK_EQUAL(error, CQ_E_ARGUMENT);
    list[3].value = 1;
    struct cq_route_table *table = cq_route_build(list, 5, &error);
    REQUIRE(table != NULL);
    CHECK_EQUAL(error, CQ_OK);
    CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){10, 1, 2, 127}), 5);
    CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){10, 1, 2, 128}), 1);
    CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){10, 1, 3, 0}), 6);
    CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){11, 0, 0, 0}), CQ_ROUTE_NONE);
    cq_route_free(table);
}

int main(void)
{
    RUN(test_random_tables_agree_with_list);
    RUN(test_every_length_nested_in_one_another);
    RUN(test_empty_table_answers_none);
    RUN(test_families_do_not_mix);
    RUN(test_bad_entries_are_refused);
    RUN(test_one_prefix_with_two_owners_is_refused);
    return check_done();
}
