/* The ports of a peer's lanes: whose word counts, and for how long. */
#include "cq_lane.h"

#include "check.h"

#define SECOND_NS ((uint64_t)1000000000)
#define NOW (1000 * SECOND_NS)

static void test_lane_is_sent_where_it_was_heard(void)
{
    struct cq_lane_ports ports = {0};
    CHECK(cq_lane_port(&ports, 1, 2, NOW) == 0);
    CHECK(cq_lane_hear(&ports, 1, 4001, 2, NOW));
    CHECK(cq_lane_hear(&ports, 63, 65535, 2, NOW));
    CHECK(cq_lane_port(&ports, 1, 2, NOW) == 4001);
    CHECK(cq_lane_port(&ports, 63, 2, NOW) == 65535);
    CHECK(cq_lane_port(&ports, 2, 2, NOW) == 0);
}

static void test_what_is_old_counts_no_more(void)
{
    struct cq_lane_ports ports = {0};
    CHECK(cq_lane_hear(&ports, 1, 4001, 2, NOW));
    CHECK(cq_lane_port(&ports, 1, 2, NOW + CQ_LANE_SECONDS * SECOND_NS) == 4001);
    CHECK(cq_lane_port(&ports, 1, 2, NOW + (CQ_LANE_SECONDS + 1) * SECOND_NS) == 0);
    CHECK(cq_lane_hear(&ports, 1, 4001, 2, NOW + 60 * SECOND_NS));
    CHECK(cq_lane_port(&ports, 1, 2, NOW + 61 * SECOND_NS) == 4001);
}

static void test_peer_that_has_moved_has_other_ports(void)
{
    struct cq_lane_ports ports = {0};
    CHECK(cq_lane_hear(&ports, 1, 4001, 2, NOW));
    CHECK(cq_lane_port(&ports, 1, 4, NOW) == 0);
    CHECK(cq_lane_hear(&ports, 1, 5001, 4, NOW));
    CHECK(cq_lane_port(&ports, 1, 4, NOW) == 5001);
    CHECK(cq_lane_port(&ports, 1, 2, NOW) == 0);
}

static void test_another_port_at_the_same_endpoint_is_a_move(void)
{
    struct cq_lane_ports ports = {0};
    CHECK(cq_lane_hear(&ports, 1, 4001, 2, NOW));
    CHECK(!cq_lane_hear(&ports, 1, 4002, 2, NOW + 100 * SECOND_NS));
    CHECK(cq_lane_port(&ports, 1, 2, NOW) == 4001);
}

static void test_numbers_wrap_around(void)
{
    struct cq_lane_ports ports = {0};
    const uint64_t last = 0xffffff * SECOND_NS; /* of the seconds that a word tells apart */
    CHECK(cq_lane_hear(&ports, 1, 4001, UINT32_MAX, last));
    CHECK(cq_lane_port(&ports, 1, UINT32_MAX, last + 20 * SECOND_NS) == 4001);
    CHECK(cq_lane_port(&ports, 1, UINT32_MAX, last + 30 * SECOND_NS) == 0);
}

int main(void)
{
    RUN(test_lane_is_sent_where_it_was_heard);
    RUN(test_what_is_old_counts_no_more);
    RUN(test_peer_that_has_moved_has_other_ports);
    RUN(test_another_port_at_the_same_endpoint_is_a_move);
    RUN(test_numbers_wrap_around);
    return check_done();
}
