/*
 * The queue of what waits for room: turns by bytes, a new flow first, CoDel's drops and marks by a clock that is this
 * file's, and bounds. A flow's number is given here; that of real packets has its own test.
 */
#include <string.h>

#include "check.h"
#include "cq_queue.h"

#define MS ((uint64_t)1000000)
#define HEADER 40u

static struct cq_queue_pool pool;
static struct cq_queue *queue;
static uint64_t clock_ns;
static uint8_t *block;

static void begin(void)
{
    cq_queue_free(queue);
    REQUIRE(pool.bytes == 0); /* nothing is left of the test before */
    cq_queue_pool_free(&pool);
    free(block);
    memset(&pool, 0, sizeof pool);
    queue = cq_queue_new(&pool);
    block = cq_queue_block(&pool);
    REQUIRE(queue != NULL && block != NULL);
    clock_ns = 1000 * MS;
}

/* An IPv4 packet; its first bytes after the header are a number. */
static void put_marked(uint32_t flow, uint32_t number, size_t length, uint8_t ecn)
{
    static const struct cq_vnet none;
    memset(block, 0, HEADER);
    block[0] = 0x45;
    block[1] = ecn;
    cq_put32(block + 20, number);
    struct cq_waiting *p = cq_waiting_new(&pool, &block, length, &none, 1 + (uint32_t)(length / 1500), false);
    REQUIRE(p != NULL && (p->block != NULL) == (length >= CQ_QUEUE_BLOCK_FROM));
    cq_queue_put(queue, flow, p, clock_ns);
}

static void put(uint32_t flow, uint32_t number, size_t length) { put_marked(flow, number, length, 0); }

/* Its number and length; -1 if there is none. */
static int64_t take(size_t *length)
{
    struct cq_waiting *p = cq_queue_take(queue, clock_ns);
    if (p == NULL)
        return -1;
    int64_t number = cq_get32(cq_waiting_data(p) + 20);
    if (length != NULL)
        *length = p->length;
    cq_waiting_free(&pool, p);
    return number;
}

/* ---- turns ---- */

static void test_a_flow_keeps_its_order(void)
{
    begin();
    for (uint32_t i = 0; i < 100; i++)
        put(7, i, 100 + i * 400);
    CHECK_EQUAL(cq_queue_length(queue), 100);
    for (uint32_t i = 0; i < 100; i++)
        CHECK_EQUAL(take(NULL), i);
    CHECK_EQUAL(take(NULL), -1);
    CHECK_EQUAL(cq_queue_length(queue), 0);
}

static void test_a_new_flow_goes_first(void)
{
    begin();
    for (uint32_t i = 0; i < 50; i++)
        put(1, i, 60000);
    CHECK_EQUAL(take(NULL), 0);
    put(2, 1000, 100);
    CHECK_EQUAL(take(NULL), 1000);
    CHECK_EQUAL(take(NULL), 1);
}

static void test_flows_share_by_bytes(void)
{
    size_t bytes[2] = {0}, length;
    begin();
    for (uint32_t i = 0; i < 40; i++)
        put(1, 0, 60000);
    for (uint32_t i = 0; i < 1000; i++)
        put(2, 1, 1500);
    for (unsigned i = 0; i < 500; i++) {
        int64_t which = take(&length);
        REQUIRE(which == 0 || which == 1);
        bytes[which] += length;
        size_t more = bytes[0] > bytes[1] ? bytes[0] - bytes[1] : bytes[1] - bytes[0];
        CHECK(more <= 60000 + 2 * CQ_QUEUE_QUANTUM);
    }
    CHECK(bytes[1] > 600000);
}

/* One that begins again and again does not keep the others from their turns. */
static void test_sparse_flows_do_not_starve_the_others(void)
{
    unsigned bulk = 0;
    begin();
    for (uint32_t i = 0; i < 50; i++)
        put(1, 1, 1500);
    put(2, 2, 1500);
    for (unsigned i = 0; i < 60; i++) {
        int64_t which = take(NULL);
        bulk += which == 1;
        if (which == 2)
            put(2, 2, 1500);
    }
    CHECK(bulk >= 25);
}

static uint32_t flow_of(uint8_t version, uint8_t address, uint16_t port)
{
    uint8_t p[60] = {(uint8_t)(version << 4 | 5)};
    p[version == 4 ? 9 : 6] = 6;
    p[version == 4 ? 19 : 39] = address;
    cq_put16(p + (version == 4 ? 20 : 40), port);
    return cq_queue_flow(&pool, p, version == 4 ? 20 : 40);
}

static void test_flows_are_told_apart(void)
{
    for (uint8_t version = 4; version <= 6; version += 2) {
        unsigned used = 0;
        uint8_t seen[CQ_QUEUE_FLOWS] = {0};
        for (uint16_t i = 0; i < CQ_QUEUE_FLOWS; i++) {
            uint32_t flow = flow_of(version, (uint8_t)(i % 4), (uint16_t)(40000 + i));
            REQUIRE(flow < CQ_QUEUE_FLOWS);
            CHECK_EQUAL(flow, flow_of(version, (uint8_t)(i % 4), (uint16_t)(40000 + i)));
            used += seen[flow]++ == 0;
        }
        CHECK(used > CQ_QUEUE_FLOWS / 2); /* 162 of 256, if by chance */
    }
    uint32_t before = 0, same = 0;
    for (uint16_t i = 0; i < 64; i++)
        before = before * 31 + flow_of(4, 1, i);
    pool.seed = 12345;
    for (uint16_t i = 0; i < 64; i++)
        same = same * 31 + flow_of(4, 1, i);
    CHECK(before != same); /* nobody knows which flows share a queue */
}

/* ---- CoDel ---- */

/* Two packets a millisecond come, one leaves; for so many milliseconds. */
static void overload(unsigned milliseconds, uint8_t ecn)
{
    for (unsigned i = 0; i < milliseconds; i++, clock_ns += MS) {
        put_marked(1, i, 1500, ecn);
        put_marked(1, i, 1500, ecn);
        CHECK(take(NULL) >= 0);
    }
}

static void test_a_short_queue_loses_nothing(void)
{
    begin();
    for (unsigned i = 0; i < 2000; i++, clock_ns += MS) { /* 4 ms, for two seconds */
        put(1, i, 1500);
        if (i >= 4)
            CHECK_EQUAL(take(NULL), i - 4);
    }
    CHECK_EQUAL(pool.late, 0);
}

static void test_a_burst_loses_nothing(void)
{
    begin();
    for (unsigned i = 0; i < 90; i++)
        put(1, i, 1500);
    for (unsigned i = 0; i < 90; i++, clock_ns += MS)
        CHECK_EQUAL(take(NULL), i);
    CHECK_EQUAL(pool.late, 0);
}

static void test_a_standing_queue_loses_ever_more(void)
{
    begin();
    overload(100, 0);
    CHECK_EQUAL(pool.late, 0); /* it may be a burst yet */
    overload(20, 0);
    CHECK_EQUAL(pool.late, 2); /* of 1,500 bytes, which the helper counts as two packets */
    overload(1000, 0);
    const uint64_t first = pool.late;
    CHECK(first > 30); /* the sum of 100 ms / sqrt(n) over the drops n is a second: n = 30 */
    CHECK(first < 100);
    overload(1000, 0);
    CHECK(pool.late - first > first);
    while (take(NULL) >= 0)
        continue;
    pool.late = 0;
    clock_ns += 5000 * MS;
    overload(100, 0); /* all is forgotten */
    CHECK_EQUAL(pool.late, 0);
}

static void test_a_single_packet_is_never_late(void)
{
    begin();
    for (unsigned i = 0; i < 100; i++) {
        put(1, i, 60000);
        clock_ns += 300 * MS;
        CHECK_EQUAL(take(NULL), i);
    }
    CHECK_EQUAL(pool.late, 0);
}

static void test_who_understands_marks_is_marked(void)
{
    begin();
    overload(1000, 2);
    CHECK_EQUAL(pool.late, 0);
    CHECK(pool.marked > 20);
}

/* ---- bounds ---- */

static void test_the_fattest_flow_makes_room(void)
{
    begin();
    for (unsigned i = 0; i < 10; i++)
        put(2, 1000 + i, 1000);
    for (unsigned i = 0; i < 300; i++)
        put(1, i, 60000);
    CHECK(pool.bytes <= CQ_QUEUE_MAX);
    CHECK(pool.bytes > CQ_QUEUE_MAX / 3);
    CHECK(pool.full > 0);
    unsigned sparse = 0;
    int64_t number, last = -1;
    while ((number = take(NULL)) >= 0) {
        if (number >= 1000)
            sparse++;
        else
            last = number;
    }
    CHECK_EQUAL(sparse, 10);
    CHECK_EQUAL(last, 299); /* from the head: what is lost is what has waited longest */
}

static void test_a_worker_has_one_bound_for_all(void)
{
    struct cq_queue *queues[6];
    begin();
    for (unsigned i = 0; i < 6; i++) {
        REQUIRE((queues[i] = cq_queue_new(&pool)) != NULL);
        for (unsigned n = 0; n < 130; n++) {
            static const struct cq_vnet none;
            struct cq_waiting *p = cq_waiting_new(&pool, &block, 60000, &none, 1, false);
            REQUIRE(p != NULL);
            cq_queue_put(queues[i], n % 8, p, clock_ns);
            CHECK(pool.bytes <= CQ_QUEUE_ALL_MAX);
        }
    }
    for (unsigned i = 0; i < 6; i++)
        cq_queue_free(queues[i]);
    CHECK_EQUAL(pool.bytes, 0);
}

/* Whatever comes and goes: nothing is lost but what is counted, and a flow's packets leave in order. */
static void test_random_traffic_is_accounted_for(void)
{
    uint32_t next[8] = {0};
    int64_t newest[8];
    uint64_t in = 0, out = 0;
    begin();
    for (unsigned i = 0; i < 8; i++)
        newest[i] = -1;
    for (unsigned i = 0; i < 200000; i++) {
        uint64_t r = check_random();
        clock_ns += r >> 8 & 0x3ffff;
        if (r % 5 < (i / 20000 % 2 ? 1 : 3)) {
            uint32_t flow = r >> 32 & 7;
            size_t length = HEADER + (r >> 40 & (flow < 2 ? 0xbfff : 0x7ff));
            in += 1 + length / 1500;
            put_marked(flow, flow << 24 | next[flow]++, length, flow & 1 ? 2 : 0);
        } else {
            size_t length;
            int64_t number = take(&length);
            if (number < 0) {
                CHECK_EQUAL(cq_queue_length(queue), 0);
                continue;
            }
            out += 1 + length / 1500;
            CHECK((number & 0xffffff) > newest[number >> 24]);
            newest[number >> 24] = number & 0xffffff;
        }
        if (i % 1000 == 0)
            CHECK_EQUAL(in, out + pool.late + pool.full + cq_queue_packets(queue));
    }
    CHECK_EQUAL(in, out + pool.late + pool.full + cq_queue_packets(queue));
    CHECK(pool.late > 0 && pool.marked > 0);
}

int main(void)
{
    RUN(test_a_flow_keeps_its_order);
    RUN(test_a_new_flow_goes_first);
    RUN(test_flows_share_by_bytes);
    RUN(test_sparse_flows_do_not_starve_the_others);
    RUN(test_flows_are_told_apart);
    RUN(test_a_short_queue_loses_nothing);
    RUN(test_a_burst_loses_nothing);
    RUN(test_a_standing_queue_loses_ever_more);
    RUN(test_a_single_packet_is_never_late);
    RUN(test_who_understands_marks_is_marked);
    RUN(test_the_fattest_flow_makes_room);
    RUN(test_a_worker_has_one_bound_for_all);
    RUN(test_random_traffic_is_accounted_for);
    cq_queue_free(queue);
    free(block);
    cq_queue_pool_free(&pool);
    return check_done();
}
