/*
 * The route table against a search of the whole list of prefixes.
 */
#include <stdbool.h>

#include "check.h"
#include "cq_route.h"

/* A table of a list that nobody changes any more. */
static struct cq_route_table *build(const struct cq_route_entry *entries, size_t count, int *error)
{
    struct cq_route_list *list = cq_route_list_new(entries, count, error);
    struct cq_route_table *table = list != NULL ? cq_route_take(list) : NULL;
    cq_route_list_free(list);
    return table;
}

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
        struct cq_route_table *table = build(entries, count, &error);
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

/* ---- changes ---- */

#define PREFIXES 400u
#define LISTED 260u /* prefixes at a time, so that leaves split and join */

static struct cq_route_entry pool[PREFIXES], listed[PREFIXES];

/* Prefixes of which no two are the same, many in one place and some around them. */
static void draw_pool(unsigned spread)
{
    for (unsigned i = 0; i < PREFIXES; i++) {
        unsigned same;
        do {
            random_entry(&pool[i], spread);
            if (check_random() % 4 != 0) { /* a host in a small network */
                pool[i].prefix = pool[i].family == 4 ? 32 : 128;
                memset(pool[i].addr, 10, sizeof pool[i].addr);
                pool[i].addr[pool[i].family == 4 ? 3 : 15] = (uint8_t)check_random();
            }
            const uint32_t value = value_of(&pool[i]);
            for (same = 0; same < i && (value_of(&pool[same]) != value || pool[same].family != pool[i].family); same++)
                ;
        } while (same < i);
    }
}

/* Entries with values are what the list should have: those of the pool that are not CQ_ROUTE_NONE. */
static size_t listed_now(void)
{
    size_t n = 0;
    for (unsigned i = 0; i < PREFIXES; i++)
        if (pool[i].value != CQ_ROUTE_NONE)
            listed[n++] = pool[i];
    return n;
}

static void check_list(struct cq_route_list *list, unsigned addresses)
{
    struct cq_route_table *table = cq_route_take(list);
    const size_t count = listed_now();
    for (unsigned i = 0; i < addresses; i++) {
        const struct cq_route_entry *e = &pool[check_random() % PREFIXES];
        check_edges(table, listed, count, e);
        check_address(table, listed, count, e->family, e->addr);
    }
    cq_route_free(table);
}

static void test_changed_lists_agree_with_naive_ones(void)
{
    for (unsigned round = 0; round < 12; round++) {
        struct cq_route_list *list = cq_route_list_new(NULL, 0, NULL);
        REQUIRE(list != NULL);
        draw_pool(1 + round);
        for (unsigned i = 0; i < PREFIXES; i++)
            pool[i].value = CQ_ROUTE_NONE;
        for (unsigned step = 0; step < 900; step++) {
            struct cq_route_entry *e = &pool[check_random() % PREFIXES];
            /* It grows, and then goes to nothing. */
            const bool add = check_random() % 100 < (step < 600 ? 75u : 5u);
            e->value = add ? (uint32_t)check_random() % LISTED : CQ_ROUTE_NONE;
            CHECK_EQUAL(cq_route_list_change(list, e, 1), CQ_OK);
            check_list(list, step % 50 == 0 ? 60 : 1);
        }
        for (unsigned i = 0; i < PREFIXES; i++)
            pool[i].value = CQ_ROUTE_NONE;
        CHECK_EQUAL(cq_route_list_change(list, pool, PREFIXES), CQ_OK);
        check_list(list, 100);
        cq_route_list_free(list);
    }
}

static void test_tables_that_were_taken_stay_as_they_are(void)
{
    struct cq_route_entry hosts[200];
    for (unsigned i = 0; i < 200; i++)
        hosts[i] = (struct cq_route_entry){.family = 4, .prefix = 32, .addr = {10, 0, 0, (uint8_t)i}, .value = i};
    struct cq_route_list *list = cq_route_list_new(hosts, 200, NULL);
    struct cq_route_table *taken[200];
    REQUIRE(list != NULL);
    for (unsigned i = 0; i < 200; i++) { /* table i is without the hosts before i */
        taken[i] = cq_route_take(list);
        const struct cq_route_entry gone = {
            .family = 4, .prefix = 32, .addr = {10, 0, 0, (uint8_t)i}, .value = CQ_ROUTE_NONE};
        CHECK_EQUAL(cq_route_list_change(list, &gone, 1), CQ_OK);
    }
    cq_route_list_free(list);
    for (unsigned i = 0; i < 200; i++) {
        for (unsigned host = 0; host < 256; host++)
            CHECK_EQUAL(cq_route_lookup4(taken[i], (uint8_t[4]){10, 0, 0, (uint8_t)host}),
                        host >= i && host < 200 ? host : CQ_ROUTE_NONE);
        cq_route_free(taken[i]);
    }
}

static void test_changes_of_which_one_is_wrong_change_nothing(void)
{
    const struct cq_route_entry first[] = {{.family = 4, .prefix = 8, .addr = {10}, .value = 1},
                                           {.family = 4, .prefix = 24, .addr = {10, 1, 2}, .value = 2}};
    const struct cq_route_entry changes[] = {{.family = 4, .prefix = 24, .addr = {10, 1, 2}, .value = CQ_ROUTE_NONE},
                                             {.family = 4, .prefix = 16, .addr = {10, 1}, .value = 3},
                                             {.family = 4, .prefix = 8, .addr = {10}, .value = 4},
                                             {.family = 4, .prefix = 33, .value = 5}};
    struct cq_route_list *list = cq_route_list_new(first, 2, NULL);
    REQUIRE(list != NULL);
    CHECK_EQUAL(cq_route_list_change(list, changes, 4), CQ_E_ARGUMENT);
    for (unsigned tried = 0; tried < 2; tried++) {
        struct cq_route_table *table = cq_route_take(list);
        CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){10, 1, 2, 3}), tried ? 3 : 2);
        CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){10, 1, 3, 3}), tried ? 3 : 1);
        CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){10, 2, 3, 3}), tried ? 4 : 1);
        cq_route_free(table);
        CHECK_EQUAL(cq_route_list_change(list, changes, 3), CQ_OK);
    }
    cq_route_list_free(list);
}

static void test_every_length_nested_in_one_another(void)
{
    static struct cq_route_entry entries[129];

    for (unsigned i = 0; i < 129; i++)
        entries[i] = (struct cq_route_entry){.family = 6, .prefix = (uint8_t)(128 - i), .value = 128 - i};
    struct cq_route_table *table = build(entries, 129, NULL);
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
    struct cq_route_table *table = build(NULL, 0, NULL);

    REQUIRE(table != NULL);
    CHECK_EQUAL(cq_route_lookup4(table, (uint8_t[4]){10, 0, 0, 1}), CQ_ROUTE_NONE);
    CHECK_EQUAL(cq_route_lookup6(table, (uint8_t[16]){0xfd}), CQ_ROUTE_NONE);
    cq_route_free(table);
    cq_route_free(NULL);
}

static void test_families_do_not_mix(void)
{
    const struct cq_route_entry everything4 = {.family = 4, .prefix = 0, .value = 7};
    struct cq_route_table *table = build(&everything4, 1, NULL);

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
        CHECK(build(list, 2, &error) == NULL);
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

    CHECK(build(list, 5, &error) == NULL);
    CHECK_EQUAL(error, CQ_E_ARGUMENT);
    list[3].value = 1;
    struct cq_route_table *table = build(list, 5, &error);
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
    RUN(test_changed_lists_agree_with_naive_ones);
    RUN(test_tables_that_were_taken_stay_as_they_are);
    RUN(test_changes_of_which_one_is_wrong_change_nothing);
    RUN(test_every_length_nested_in_one_another);
    RUN(test_empty_table_answers_none);
    RUN(test_families_do_not_mix);
    RUN(test_bad_entries_are_refused);
    RUN(test_one_prefix_with_two_owners_is_refused);
    return check_done();
}
