/* What waits for a key: its order, its bounds, its age, and that nothing of it is left. */
#include <string.h>

#include "check.h"
#include "cq_stage.h"

#define SECOND ((uint64_t)1000000000)

static struct cq_queue_pool pool;
static struct cq_stage stage;
static uint8_t *block;

static const struct cq_peer *peer(unsigned number)
{
    static uint8_t peers[CQ_STAGE_PEERS + 2];
    return (const struct cq_peer *)(const void *)&peers[number];
}

static bool put(unsigned number, uint32_t mark, size_t length, uint64_t now_ns)
{
    static const struct cq_vnet none;
    if (!cq_stage_has_room(&stage, peer(number), length))
        return false;
    cq_put32(block, mark);
    struct cq_waiting *p = cq_waiting_new(&pool, &block, length, &none, 1, false);
    REQUIRE(p != NULL);
    cq_stage_put(&stage, peer(number), number, p, now_ns);
    return true;
}

static struct cq_staged *of(unsigned number)
{
    for (size_t i = 0; i < CQ_STAGE_PEERS; i++)
        if (stage.peers[i].peer == peer(number))
            return &stage.peers[i];
    return NULL;
}

static uint32_t take(unsigned number)
{
    REQUIRE(of(number) != NULL);
    struct cq_waiting *p = cq_stage_take(&stage, of(number));
    REQUIRE(p != NULL);
    const uint32_t mark = cq_get32(cq_waiting_data(p));
    cq_waiting_free(&pool, p);
    return mark;
}

static void test_each_peer_has_its_order(void)
{
    for (uint32_t i = 0; i < 10; i++)
        CHECK(put(i % 2, i, 100, SECOND));
    CHECK_EQUAL(stage.used, 2);
    for (uint32_t i = 0; i < 10; i++)
        CHECK_EQUAL(take(i % 2), i);
    CHECK(of(0) == NULL && of(1) == NULL);
    CHECK_EQUAL(stage.used, 0);
}

static void test_bounds(void)
{
    for (uint32_t i = 0; i < CQ_STAGE_PACKETS; i++)
        CHECK(put(0, i, 100, SECOND));
    CHECK(!put(0, 0, 100, SECOND));
    CHECK_EQUAL(take(0), 0);
    CHECK(put(0, CQ_STAGE_PACKETS, 100, SECOND));
    size_t bytes = 0;
    while (put(1, 0, 60000, SECOND)) /* these keep their blocks */
        bytes += 60000;
    CHECK(bytes <= CQ_STAGE_BYTES && bytes + 60000 > CQ_STAGE_BYTES);
    for (unsigned number = 2; number < CQ_STAGE_PEERS; number++)
        CHECK(put(number, 0, 100, SECOND));
    CHECK(!put(CQ_STAGE_PEERS, 0, 100, SECOND));
    CHECK_EQUAL(take(2), 0);
    CHECK(put(CQ_STAGE_PEERS, 0, 100, SECOND)); /* there is a place */
    cq_stage_free(&stage, &pool);
    CHECK_EQUAL(stage.used, 0);
}

static void test_age_is_that_of_the_first(void)
{
    CHECK(put(0, 0, 100, SECOND));
    CHECK(put(0, 1, 100, SECOND + CQ_STAGE_NS / 2));
    CHECK(!cq_stage_is_late(of(0), SECOND + CQ_STAGE_NS - 1));
    CHECK(cq_stage_is_late(of(0), SECOND + CQ_STAGE_NS));
    CHECK_EQUAL(take(0), 0);
    CHECK(!cq_stage_is_late(of(0), SECOND + CQ_STAGE_NS));
    cq_stage_free(&stage, &pool);
}

int main(void)
{
    block = cq_queue_block(&pool);
    REQUIRE(block != NULL);
    RUN(test_each_peer_has_its_order);
    RUN(test_bounds);
    RUN(test_age_is_that_of_the_first);
    cq_queue_give_block(&pool, block);
    cq_queue_pool_free(&pool);
    return check_done();
}
