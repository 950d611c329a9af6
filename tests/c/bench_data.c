/*
 * What a packet costs in the parts of the data plane that this directory tests: nanoseconds, the best of several
 * rounds, single thread.
 */
#define _DEFAULT_SOURCE 1

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "cq_epoch.h"
#include "cq_route.h"

#define ROUNDS 50

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Runs body `times` times in each of several rounds and leaves the best average in result. */
#define BEST(result, times, body)                                                                                      \
    do {                                                                                                               \
        (result) = 1e18;                                                                                               \
        for (int round_ = 0; round_ < ROUNDS; round_++) {                                                              \
            double start_ = now_ns();                                                                                  \
            for (size_t i = 0; i < (times); i++)                                                                       \
                body;                                                                                                  \
            double each_ = (now_ns() - start_) / (double)(times);                                                      \
            (result) = each_ < (result) ? each_ : (result);                                                            \
        }                                                                                                              \
    } while (0)

static void bench_aead(const struct cq_aead_ops *ops, size_t n)
{
    uint8_t secret[CQ_KEY_SIZE], nonce[CQ_IV_SIZE] = {0}, aad[CQ_HEADER_SIZE] = {0};
    static uint8_t plain[CQ_DATAGRAM_MAX], sealed[CQ_DATAGRAM_MAX];
    struct cq_aead_key key = {.ops = ops};
    double seal, open;
    int rc = 0;

    memset(plain, 1, sizeof plain); /* pages that nothing was ever written to are slow to look at */
    memset(sealed, 1, sizeof sealed);
    check_random_bytes(secret, sizeof secret);
    REQUIRE(ops->init(&key, secret) == CQ_OK);
    BEST(seal, 2000, rc |= ops->seal(&key, nonce, aad, sizeof aad, plain, n, sealed));
    BEST(open, 2000, rc |= ops->open(&key, nonce, aad, sizeof aad, sealed, n, plain));
    REQUIRE(rc == CQ_OK);
    printf("%-24s %5zu bytes: seal %6.0f ns (%5.2f GB/s), open %6.0f ns (%5.2f GB/s)\n", key.ops->name, n, seal,
           (double)n / seal, open, (double)n / open);
    cq_aead_wipe(&key);
}

static void bench_key_setup(const struct cq_aead_ops *ops)
{
    uint8_t secret[CQ_KEY_SIZE];
    struct cq_aead_key key = {0};
    double each;
    int rc = 0;

    check_random_bytes(secret, sizeof secret);
    BEST(each, 1000, {
        rc |= ops->init(&key, secret);
        key.ops = ops;
        cq_aead_wipe(&key);
    });
    REQUIRE(rc == CQ_OK);
    printf("%-24s a key set up and wiped: %6.0f ns\n", ops->name, each);
}

static void bench_epoch(uint8_t suite, size_t n)
{
    enum { RECORDS = 20000 };
    uint8_t secret[CQ_LANE_SECRET_SIZE];
    static uint8_t plain[2048];
    size_t size = n + CQ_OVERHEAD;
    uint8_t *records = malloc(RECORDS * size);
    double seal, open = 1e18;
    bool newest;
    int rc = 0;

    REQUIRE(records != NULL);
    check_random_bytes(secret, sizeof secret);
    const struct cq_epoch_params params = {.rx_index = 1,
                                           .tx_index = 1,
                                           .suite = suite,
                                           .tx_lanes = 1,
                                           .rx_lanes = 1,
                                           .tx_secrets = secret,
                                           .rx_secrets = secret,
                                           .limits = cq_epoch_default_limits()};
    struct cq_epoch *epoch = cq_epoch_new(&params, NULL);
    REQUIRE(epoch != NULL);
    seal = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        double start = now_ns();
        for (size_t i = 0; i < RECORDS; i++)
            rc |= cq_epoch_seal(epoch, 0, 0, plain, n, records + i * size);
        double middle = now_ns();
        for (size_t i = 0; i < RECORDS; i++) {
            struct cq_header header = cq_wire_read_header(records + i * size);
            rc |= cq_epoch_open(epoch, &header, records + i * size, size, &newest);
        }
        double end = now_ns();
        seal = (middle - start) / RECORDS < seal ? (middle - start) / RECORDS : seal;
        open = (end - middle) / RECORDS < open ? (end - middle) / RECORDS : open;
    }
    REQUIRE(rc == CQ_OK);
    printf("epoch, suite %u           %5zu bytes: seal %6.0f ns,              open %6.0f ns (memory-cold records)\n",
           suite, n, seal, open);
    cq_epoch_free(epoch);
    free(records);
}

static void bench_route(uint8_t family, size_t count)
{
    enum { ADDRESSES = 4096 };
    struct cq_route_entry *entries = calloc(count, sizeof *entries);
    static uint8_t addresses[ADDRESSES][16];
    uint32_t sum = 0;
    double each;

    REQUIRE(entries != NULL);
    for (size_t i = 0; i < count; i++) {
        entries[i].family = family;
        entries[i].prefix = (uint8_t)(family == 4 ? 16 + check_random() % 17 : 32 + check_random() % 97);
        entries[i].value = (uint32_t)i;
        check_random_bytes(entries[i].addr, sizeof entries[i].addr);
    }
    for (size_t i = 0; i < ADDRESSES; i++)
        memcpy(addresses[i], entries[check_random() % count].addr, 16);
    struct cq_route_list *list = cq_route_list_new(entries, count, NULL);
    REQUIRE(list != NULL);
    struct cq_route_table *table = cq_route_take(list);
    if (family == 4)
        BEST(each, 400000, sum += cq_route_lookup4(table, addresses[i % ADDRESSES]));
    else
        BEST(each, 400000, sum += cq_route_lookup6(table, addresses[i % ADDRESSES]));
    printf("route, IPv%u, %5zu prefixes: %5.1f ns a lookup (addresses at random; sum %u)\n", family, count, each, sum);
    cq_route_free(table);
    cq_route_list_free(list);
    free(entries);
}

int main(void)
{
    static const uint8_t suites[] = {CQ_SUITE_AES_256_GCM, CQ_SUITE_CHACHA20_POLY1305};
    static const size_t sizes[] = {0, 64, 1420, 8192};
    static const size_t prefixes[] = {4, 100, 4000};

    printf("CPU with AES: %s\n", cq_aead_cpu_has_aes() ? "yes" : "no");
    for (size_t s = 0; s < 2; s++) {
        const struct cq_aead_ops *ops;

        for (unsigned b = 0; (ops = cq_aead_backends(suites[s], b)) != NULL; b++) {
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                bench_aead(ops, sizes[i]);
            bench_key_setup(ops);
        }
        bench_epoch(suites[s], 1420);
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        bench_route(4, prefixes[i]);
        bench_route(6, prefixes[i]);
    }
    return 0;
}
