#define _POSIX_C_SOURCE 200809L /* clock_gettime under -std=c11 */
#include "cq_bench.h"
#include "cq_coalesce.h"
#include "cq_replay.h"
#include "cq_route.h"
#include "cq_split.h"

#include <stdlib.h>
#include <time.h>

#define RECORDS 64u           /* in turn: with their headers more than the first cache holds, as in a node's batches */
#define SEGMENTS 44u          /* packets of a super-packet; 44 of 1,420 bytes are what one TUN read brings at most */
#define HEADERS 40u           /* IPv4 and TCP */
#define PREFIXES_MAX 1000000u /* beyond any node's: some 20 MB of table */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64: the same numbers in every run. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- records ---- */

static int bench_aead(bool open, const struct cq_aead_ops *ops, size_t size, unsigned count, double *ns)
{
    static const uint8_t secret[CQ_KEY_SIZE] = {1};
    struct cq_aead_key key = {.ops = ops};
    uint8_t nonce[CQ_IV_SIZE] = {0};
    const size_t stride = size + CQ_OVERHEAD;
    if (ops == NULL || size > CQ_DATAGRAM_MAX - CQ_OVERHEAD)
        return CQ_E_ARGUMENT;
    uint8_t *plain = calloc(RECORDS, stride), *sealed = calloc(RECORDS, stride);
    int rc = plain == NULL || sealed == NULL ? CQ_E_MEMORY : ops->init(&key, secret);
    for (unsigned i = 0; rc == CQ_OK && i < RECORDS; i++) {
        cq_put32(nonce + 8, i);
        rc = ops->seal(&key, nonce, sealed + i * stride, CQ_HEADER_SIZE, plain + i * stride, size,
                       sealed + i * stride + CQ_HEADER_SIZE);
    }
    uint64_t start = now_ns();
    for (unsigned i = 0; rc == CQ_OK && i < count; i++) {
        uint8_t *p = plain + i % RECORDS * stride, *s = sealed + i % RECORDS * stride;
        cq_put32(nonce + 8, i % RECORDS);
        rc = open ? ops->open(&key, nonce, s, CQ_HEADER_SIZE, s + CQ_HEADER_SIZE, size, p)
                  : ops->seal(&key, nonce, s, CQ_HEADER_SIZE, p, size, s + CQ_HEADER_SIZE);
    }
    *ns = (double)(now_ns() - start) / count;
    if (key.state != NULL)
        ops->wipe(&key);
    free(plain);
    free(sealed);
    return rc;
}

static int bench_replay(unsigned count, double *ns)
{
    struct cq_replay *w = malloc(sizeof *w);
    int rc = CQ_OK;
    if (w == NULL)
        return CQ_E_MEMORY;
    cq_replay_init(w);
    uint64_t start = now_ns();
    for (unsigned i = 0; rc == CQ_OK && i < count; i++)
        if ((rc = cq_replay_check(w, i)) == CQ_OK)
            rc = cq_replay_advance(w, i);
    *ns = (double)(now_ns() - start) / count;
    free(w);
    return rc;
}

/* ---- routes ---- */

static int bench_route(uint8_t family, size_t prefixes, unsigned count, double *ns)
{
    enum { ADDRESSES = 1024 };
    uint64_t state = 88172645463325252u;
    uint32_t sum = 0;
    if (prefixes < 1 || prefixes > PREFIXES_MAX)
        return CQ_E_ARGUMENT;
    struct cq_route_entry *entries = calloc(prefixes, sizeof *entries);
    uint8_t (*addresses)[16] = calloc(ADDRESSES, sizeof *addresses);
    struct cq_route_list *list = NULL;
    int rc = CQ_E_MEMORY;
    if (entries != NULL && addresses != NULL) {
        for (size_t i = 0; i < prefixes; i++) {
            entries[i] = (struct cq_route_entry){.family = family, .prefix = family == 4 ? 24 : 64, .value = 1};
            cq_put64(entries[i].addr, next_random(&state));
        }
        for (size_t i = 0; i < ADDRESSES; i++)
            cq_put64(addresses[i], next_random(&state));
        list = cq_route_list_new(entries, prefixes, &rc);
    }
    if (list != NULL) {
        struct cq_route_table *table = cq_route_take(list);
        uint64_t start = now_ns();
        for (unsigned i = 0; i < count; i++) {
            const uint8_t *a = addresses[i % ADDRESSES];
            sum += family == 4 ? cq_route_lookup4(table, a) : cq_route_lookup6(table, a);
        }
        *ns = (double)(now_ns() - start) / count;
        if (sum == 1) /* use the sum, so that the loop is not left out */
            *ns += 1e-9;
        cq_route_free(table);
    }
    cq_route_list_free(list);
    free(entries);
    free(addresses);
    return rc;
}

/* ---- super-packets ---- */

/* IPv4 and TCP headers of packet number i of a flow. */
static void write_headers(uint8_t *p, size_t length, unsigned i, size_t payload)
{
    static const uint8_t ip[20] = {0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2};
    memcpy(p, ip, sizeof ip);
    cq_put16(p + 2, (uint16_t)length);
    cq_put16(p + 4, (uint16_t)i);
    cq_put16(p + 10, (uint16_t)~cq_checksum_fold(cq_checksum_add(p, 20, 0)));
    memset(p + 20, 0, 20);
    cq_put32(p + 20, 0x12345678); /* ports */
    cq_put32(p + 24, (uint32_t)(i * payload));
    p[32] = 0x50;
    p[33] = 0x10; /* ACK */
}

static enum cq_written discard(void *arg, const struct iovec *iov, int iovcnt, unsigned packets)
{
    (void)iov;
    (void)iovcnt;
    *(unsigned *)arg += packets;
    return CQ_WRITTEN;
}

static int bench_split(size_t size, unsigned count, double *ns)
{
    const size_t payload = size - HEADERS, length = HEADERS + SEGMENTS * payload;
    const struct cq_vnet vnet = {.flags = CQ_VNET_NEEDS_CSUM,
                                 .gso_type = CQ_GSO_TCPV4,
                                 .gso_size = (uint16_t)payload,
                                 .csum_start = 20,
                                 .csum_offset = CQ_TCP_CHECKSUM};
    struct cq_split split;
    uint8_t *packet = calloc(1, length), *segment;
    size_t n;
    unsigned done = 0;
    int rc = CQ_OK;
    if (packet == NULL)
        return CQ_E_MEMORY;
    uint64_t start = now_ns();
    while (rc == CQ_OK && done < count) {
        write_headers(packet, length, 0, payload);
        rc = cq_split_init(&split, &vnet, packet, length);
        while (rc == CQ_OK && cq_split_next(&split, &segment, &n))
            done++;
    }
    *ns = (double)(now_ns() - start) / (done ? done : 1);
    free(packet);
    return rc;
}

static int bench_coalesce(size_t size, unsigned count, double *ns)
{
    const struct cq_coalesce_options options = {.tcp4 = true,
                                                .tcp6 = true,
                                                .uso = true,
                                                .vnet = true,
                                                .max_size = CQ_COALESCE_SIZE_MAX,
                                                .max_segments = SEGMENTS};
    unsigned done = 0;
    struct cq_coalesce *c = cq_coalesce_new(&options, discard, &done);
    uint8_t *packets = calloc(SEGMENTS, size);
    int rc = c == NULL || packets == NULL ? CQ_E_MEMORY : CQ_OK;
    uint64_t start = now_ns();
    for (unsigned i = 0; rc == CQ_OK && i < SEGMENTS; i++)
        write_headers(packets + i * size, size, i, size - HEADERS);
    while (rc == CQ_OK && done < count) {
        write_headers(packets, size, 0, size - HEADERS); /* the last round changed it */
        for (unsigned i = 0; i < SEGMENTS; i++)
            cq_coalesce_add(c, packets + i * size, size, true);
        cq_coalesce_flush(c);
    }
    *ns = (double)(now_ns() - start) / (done ? done : 1);
    cq_coalesce_free(c);
    free(packets);
    return rc;
}

int cq_bench_run(enum cq_bench_op op, const struct cq_aead_ops *ops, size_t size, unsigned count, double *ns)
{
    const bool fits = size > HEADERS && HEADERS + SEGMENTS * (size - HEADERS) <= CQ_COALESCE_SIZE_MAX;
    if (count == 0)
        return CQ_E_ARGUMENT;
    switch (op) {
    case CQ_BENCH_SEAL:
    case CQ_BENCH_OPEN: return bench_aead(op == CQ_BENCH_OPEN, ops, size, count, ns);
    case CQ_BENCH_REPLAY: return bench_replay(count, ns);
    case CQ_BENCH_ROUTE4: return bench_route(4, size, count, ns);
    case CQ_BENCH_ROUTE6: return bench_route(6, size, count, ns);
    case CQ_BENCH_SPLIT: return fits ? bench_split(size, count, ns) : CQ_E_ARGUMENT;
    case CQ_BENCH_COALESCE: return fits ? bench_coalesce(size, count, ns) : CQ_E_ARGUMENT;
    }
    return CQ_E_ARGUMENT;
}
