/*
 * The queue of notices: order, bounds, and several producers at once beside the consumer, none of whose notices gets
 * lost, is doubled or changes. And the probes whose acknowledgements are awaited, with two that acknowledge at once.
 */
#include <pthread.h>
#include <sched.h>

#include "check.h"
#include "cq_notice.h"
#include "cq_path.h"

#define PRODUCERS 3u
#define EACH 20000u

static struct cq_notices queue;
static struct cq_path path;

static void test_first_in_first_out_and_no_more_than_there_is_room_for(void)
{
    struct cq_notice out;
    cq_notices_init(&queue);
    CHECK(!cq_notices_pop(&queue, &out));
    for (unsigned round = 0; round < 100; round++) {
        for (uint32_t i = 0; i < CQ_NOTICES_MAX; i++)
            CHECK(cq_notices_push(&queue, (struct cq_notice){CQ_NOTICE_PROBE, i, round}));
        CHECK(!cq_notices_push(&queue, (struct cq_notice){CQ_NOTICE_EMPTY, 0, 0}));
        for (uint32_t i = 0; i < CQ_NOTICES_MAX; i++) {
            CHECK(cq_notices_pop(&queue, &out));
            CHECK(out.kind == CQ_NOTICE_PROBE && out.size == i && out.token == round);
        }
        CHECK(!cq_notices_pop(&queue, &out));
    }
}

static void test_indices_wrap_around(void)
{
    struct cq_notice out;
    cq_notices_init(&queue);
    queue.head = queue.tail = UINT32_MAX - 3;
    for (uint32_t i = 0; i < CQ_NOTICES_MAX; i++) {
        uint32_t at = UINT32_MAX - 3 + i;
        queue.cells[at % CQ_NOTICES_MAX].sequence = at;
    }
    for (uint32_t i = 0; i < 20; i++) {
        CHECK(cq_notices_push(&queue, (struct cq_notice){CQ_NOTICE_ACK, i, i}));
        CHECK(cq_notices_pop(&queue, &out) && out.size == i);
    }
}

static void *produce(void *arg)
{
    const uint32_t number = (uint32_t)(uintptr_t)arg;
    for (uint32_t i = 1; i <= EACH;)
        if (cq_notices_push(&queue, (struct cq_notice){CQ_NOTICE_ACK, number, i}))
            i++;
        else
            sched_yield();
    return NULL;
}

static void test_producers_do_not_disturb_each_other(void)
{
    pthread_t threads[PRODUCERS];
    uint64_t last[PRODUCERS] = {0};
    struct cq_notice out;
    cq_notices_init(&queue);
    for (uintptr_t i = 0; i < PRODUCERS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, produce, (void *)i) == 0);
    unsigned wrong = 0;
    for (unsigned taken = 0; taken < PRODUCERS * EACH;) {
        if (!cq_notices_pop(&queue, &out)) {
            sched_yield();
            continue;
        }
        wrong += out.size >= PRODUCERS || out.token != ++last[out.size % PRODUCERS];
        taken++;
    }
    CHECK_EQUAL(wrong, 0);
    for (unsigned i = 0; i < PRODUCERS; i++)
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    CHECK(!cq_notices_pop(&queue, &out));
}

static void test_acknowledgement_counts_once_as_large_as_it_was_and_while_it_is_awaited(void)
{
    for (uint64_t i = 1; i <= CQ_PROBES_MAX + 1; i++)
        cq_path_await(&path, 2 * i, (uint32_t)(1000 + i));
    CHECK(!cq_path_acknowledge(&path, 2, 1001, 0)); /* the oldest had to give way */
    CHECK(!cq_path_acknowledge(&path, 4, 1001, 0));
    CHECK(!cq_path_acknowledge(&path, 5, 1002, 0));
    CHECK(!cq_path_acknowledge(&path, 0, 0, 0));
    CHECK(cq_path_acknowledge(&path, 4, 1002, 0));
    CHECK(!cq_path_acknowledge(&path, 4, 1002, 0));
    CHECK_EQUAL(cq_path_take(&path), 4);
    CHECK_EQUAL(cq_path_take(&path), 0);
    CHECK(!cq_path_acknowledge(&path, 4, 1002, 0));
}

static void test_round_trip_is_from_the_seal_of_the_newest_probe_to_its_acknowledgement(void)
{
    static struct cq_path fresh;
    cq_path_await(&fresh, 2, 100);
    cq_path_await(&fresh, 4, 100);
    CHECK(cq_path_acknowledge(&fresh, 2, 100, 900)); /* by the clock of a worker that had not seen it leave */
    CHECK_EQUAL(atomic_load(&fresh.round_trip_ns), 0);
    cq_path_left(&fresh, 4, 1000);
    cq_path_left(&fresh, 6, 2000); /* nobody waits for it */
    CHECK(!cq_path_acknowledge(&fresh, 4, 101, 1500));
    CHECK_EQUAL(atomic_load(&fresh.round_trip_ns), 0);
    CHECK(cq_path_acknowledge(&fresh, 4, 100, 1700));
    CHECK_EQUAL(atomic_load(&fresh.round_trip_ns), 700);
    CHECK(!cq_path_acknowledge(&fresh, 4, 100, 9000));
    CHECK_EQUAL(atomic_load(&fresh.round_trip_ns), 700);
}

static _Atomic unsigned news;

static void *acknowledge(void *arg)
{
    (void)arg;
    for (uint64_t i = 1; i <= EACH; i++)
        news += cq_path_acknowledge(&path, 2 * i, 1000, 0);
    return NULL;
}

static void test_two_that_acknowledge_the_same(void)
{
    pthread_t threads[2];
    unsigned taken = 0;
    for (unsigned i = 0; i < 2; i++)
        REQUIRE(pthread_create(&threads[i], NULL, acknowledge, NULL) == 0);
    for (uint64_t i = 1; i <= EACH; i++) {
        cq_path_await(&path, 2 * i, 1000);
        taken += cq_path_take(&path) != 0;
    }
    for (unsigned i = 0; i < 2; i++)
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    while (cq_path_take(&path) != 0)
        taken++;
    CHECK(taken <= news);
}

int main(void)
{
    RUN(test_first_in_first_out_and_no_more_than_there_is_room_for);
    RUN(test_indices_wrap_around);
    RUN(test_producers_do_not_disturb_each_other);
    RUN(test_acknowledgement_counts_once_as_large_as_it_was_and_while_it_is_awaited);
    RUN(test_round_trip_is_from_the_seal_of_the_newest_probe_to_its_acknowledgement);
    RUN(test_two_that_acknowledge_the_same);
    return check_done();
}
