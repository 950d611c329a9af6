/*
 * The table of flows: what it finds, for how long, who loses a place when there is none, and threads that all use it.
 */
#include <pthread.h>

#include "check.h"
#include "cq_flow.h"

static const uint64_t seed[2] = {1, 2};

static struct cq_flow_key key_of(uint64_t number)
{
    return (struct cq_flow_key){.words = {number, 0, number >> 7, 0, 17}};
}

static struct cq_flows *flows_new(void)
{
    struct cq_flows *flows = cq_flows_new(seed, 100);
    REQUIRE(flows != NULL);
    return flows;
}

static enum cq_flow_kind find(struct cq_flows *flows, uint64_t number, uint32_t now)
{
    const struct cq_flow_key key = key_of(number);
    return cq_flows_find(flows, &key, now);
}

static void put(struct cq_flows *flows, uint64_t number, uint32_t now, uint32_t owner, enum cq_flow_kind kind)
{
    const struct cq_flow_key key = key_of(number);
    cq_flows_put(flows, &key, now, owner, kind);
}

static void test_flows_are_found_as_they_were_put(void)
{
    struct cq_flows *flows = flows_new();
    for (uint64_t i = 0; i < 5000; i++)
        put(flows, i, 100, (uint32_t)i % 7, i % 2 ? CQ_FLOW_ANSWERED : CQ_FLOW_HEARD);
    for (uint64_t i = 0; i < 5000; i++)
        CHECK_EQUAL(find(flows, i, 101), i % 2 ? CQ_FLOW_ANSWERED : CQ_FLOW_HEARD);
    for (uint64_t i = 5000; i < 9000; i++)
        CHECK_EQUAL(find(flows, i, 101), CQ_FLOW_NONE);
    put(flows, 3, 101, 3, CQ_FLOW_HEARD);
    CHECK_EQUAL(find(flows, 3, 101), CQ_FLOW_HEARD);
    cq_flows_free(flows);
}

static void test_every_word_tells_flows_apart(void)
{
    struct cq_flows *flows = flows_new();
    const struct cq_flow_key key = {.words = {1, 2, 3, 4, 5}};
    cq_flows_put(flows, &key, 100, 0, CQ_FLOW_BEGUN);
    for (unsigned word = 0; word < 5; word++)
        for (unsigned bit = 0; bit < 64; bit++) {
            struct cq_flow_key other = key;
            other.words[word] ^= UINT64_C(1) << bit;
            CHECK_EQUAL(cq_flows_find(flows, &other, 100), CQ_FLOW_NONE);
            CHECK(!cq_flow_same(&key, &other));
        }
    CHECK_EQUAL(cq_flows_find(flows, &key, 100), CQ_FLOW_BEGUN);
    cq_flows_free(flows);
}

static void test_each_kind_has_its_time(void)
{
    static const struct {
        enum cq_flow_kind kind;
        uint32_t life;
    } kinds[] = {{CQ_FLOW_TCP_BEGUN, 120}, {CQ_FLOW_TCP_OPEN, 432000}, {CQ_FLOW_TCP_CLOSING, 120}, {CQ_FLOW_BEGUN, 30},
                 {CQ_FLOW_ANSWERED, 180},  {CQ_FLOW_HEARD, 180},       {CQ_FLOW_FRAGMENTS, 30}};
    struct cq_flows *flows = flows_new();
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        put(flows, i, 100, 1, kinds[i].kind);
        CHECK_EQUAL(find(flows, i, 99), kinds[i].kind); /* another thread's clock */
        CHECK_EQUAL(find(flows, i, 100 + kinds[i].life - 1), kinds[i].kind);
        CHECK_EQUAL(find(flows, i, 100 + kinds[i].life), CQ_FLOW_NONE);
        put(flows, i, 110, 1, kinds[i].kind);
        CHECK_EQUAL(find(flows, i, 110 + kinds[i].life - 1), kinds[i].kind);
    }
    CHECK_EQUAL(cq_flows_age(flows, 130), 30);
    cq_flows_free(flows);
}

/* A peer that opens very many more flows than there is room for pushes out its own. */
static void test_nobody_pushes_out_the_flows_of_others(void)
{
    enum { OTHERS = 2000, FLOOD = 2000000 };
    struct cq_flows *flows = flows_new();
    unsigned lost = 0, newest = 0;
    for (uint64_t i = 0; i < OTHERS; i++)
        put(flows, i, 100, 1 + (uint32_t)i % 5, CQ_FLOW_TCP_OPEN);
    for (uint64_t i = 0; i < FLOOD; i++)
        put(flows, (UINT64_C(1) << 32) + i, 101 + (uint32_t)(i >> 16), 9, CQ_FLOW_BEGUN);
    for (uint64_t i = 0; i < OTHERS; i++)
        lost += find(flows, i, 140) == CQ_FLOW_NONE;
    for (uint64_t i = FLOOD - 1000; i < FLOOD; i++)
        newest += find(flows, (UINT64_C(1) << 32) + i, 131) == CQ_FLOW_BEGUN;
    CHECK_EQUAL(lost, 0);
    CHECK(newest > 990);
    cq_flows_free(flows);
}

static void test_who_is_alone_has_all_places(void)
{
    enum { ALL = CQ_FLOW_SETS * CQ_FLOW_WAYS };
    struct cq_flows *flows = flows_new();
    unsigned there = 0;
    for (uint64_t i = 0; i < 2 * ALL; i++)
        put(flows, i, 100 + (uint32_t)(i >> 12), 1, CQ_FLOW_TCP_OPEN);
    for (uint64_t i = 0; i < 2 * ALL; i++)
        there += find(flows, i, 200) != CQ_FLOW_NONE;
    CHECK(there > ALL - ALL / 50 && there <= ALL);
    cq_flows_free(flows);
}

struct job {
    struct cq_flows *flows;
    uint32_t number, wrong;
};

static void *use(void *arg)
{
    struct job *job = arg;
    for (uint64_t i = 0; i < 200000; i++) {
        const uint64_t flow = i * 7919 % 4096 + (i % 3 == 0 ? job->number << 20 : 0);
        const enum cq_flow_kind kind = find(job->flows, flow, 100 + (uint32_t)(i >> 12));
        job->wrong += kind != CQ_FLOW_NONE && kind != CQ_FLOW_BEGUN && kind != CQ_FLOW_ANSWERED;
        put(job->flows, flow, 100 + (uint32_t)(i >> 12), job->number,
            kind == CQ_FLOW_NONE ? CQ_FLOW_BEGUN : CQ_FLOW_ANSWERED);
    }
    return NULL;
}

static void test_threads_share_it(void)
{
    struct cq_flows *flows = flows_new();
    pthread_t threads[4];
    struct job jobs[4];
    for (uint32_t i = 0; i < 4; i++) {
        jobs[i] = (struct job){flows, i, 0};
        REQUIRE(pthread_create(&threads[i], NULL, use, &jobs[i]) == 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
        CHECK_EQUAL(jobs[i].wrong, 0);
    }
    unsigned there = 0;
    for (uint64_t i = 0; i < 4096; i++)
        there += find(flows, i, 150) != CQ_FLOW_NONE;
    CHECK(there > 4000); /* two that take one place at once may both lose it */
    cq_flows_free(flows);
}

int main(void)
{
    RUN(test_flows_are_found_as_they_were_put);
    RUN(test_every_word_tells_flows_apart);
    RUN(test_each_kind_has_its_time);
    RUN(test_nobody_pushes_out_the_flows_of_others);
    RUN(test_who_is_alone_has_all_places);
    RUN(test_threads_share_it);
    return check_done();
}
