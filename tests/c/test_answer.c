/*
 * How often answers are given, and what is counted. The TUN is a function of this file.
 */
#include "cq_answer.h"
#include "packets.h"

static struct cq_answers answers;
static uint8_t packet[PACKET_MAX], written[CQ_ICMP_MAX6];
static size_t length, written_length;
static int refusal;

int cq_io_tun_write(int fd, bool has_vnet, uint8_t *p, size_t n)
{
    CHECK(fd == 7 && has_vnet);
    memcpy(written, p, n);
    written_length = n;
    return refusal;
}

static void start(int version)
{
    struct spec s = spec_of(version, UDP, 100);
    length = build(packet, &s);
    memset(&answers, 0, sizeof answers);
    cq_answer_init(&answers, 7, true);
    refusal = 0;
}

static uint64_t count(enum cq_icmp_reason reason, enum cq_answer_result result)
{
    return atomic_load(&answers.counts[reason][result]);
}

static void give(enum cq_icmp_reason reason, uint64_t ms)
{
    cq_answer_give(&answers, reason, packet, length, 600, 1000000000 + ms * 1000000);
}

static void from_host(uint32_t host)
{
    if (packet[0] >> 4 == 4)
        cq_put32(packet + 12, 0x0a000000 | host);
    else
        cq_put32(packet + 20, host);
}

static void test_one_sender(void)
{
    for (int version = 4; version <= 6; version += 2) {
        for (enum cq_icmp_reason reason = CQ_ICMP_NO_ROUTE; reason <= CQ_ICMP_UNREACHABLE; reason++) {
            start(version);
            for (int i = 0; i < 20; i++)
                give(reason, 0);
            CHECK_EQUAL(count(reason, CQ_ANSWER_SENT), 6);
            CHECK_EQUAL(count(reason, CQ_ANSWER_LIMITED), 14);
            for (uint64_t ms = 0; ms < 10000; ms += 10)
                give(reason, ms);
            CHECK_EQUAL(count(reason, CQ_ANSWER_SENT), 6 + 9);
            for (int i = 0; i < 20; i++)
                give(reason, 60000); /* long after: as many as at first */
            CHECK_EQUAL(count(reason, CQ_ANSWER_SENT), 6 + 9 + 6);
        }
    }
}

static void test_all_senders(void)
{
    for (int version = 4; version <= 6; version += 2) {
        start(version);
        for (uint32_t host = 0; host < 10000; host++) {
            from_host(host);
            give(CQ_ICMP_UNREACHABLE, 0);
        }
        CHECK_EQUAL(count(CQ_ICMP_UNREACHABLE, CQ_ANSWER_SENT), 50);
        for (uint32_t host = 0; host < 100000; host++) { /* 100 a millisecond, each a new one */
            from_host(host);
            give(CQ_ICMP_UNREACHABLE, 2000 + host / 100);
        }
        uint64_t sent = count(CQ_ICMP_UNREACHABLE, CQ_ANSWER_SENT) - 50;
        CHECK(sent > 500 && sent <= 50 + 1000); /* 256 sets of senders, 6 or 7 each, by chance */
        give(CQ_ICMP_TOO_BIG, 3000);            /* has a bucket of its own */
        CHECK_EQUAL(count(CQ_ICMP_TOO_BIG, CQ_ANSWER_SENT), 1);
    }
}

static void test_neighbours_do_not_share_a_bucket(void)
{
    start(4);
    for (uint32_t host = 1; host <= 8; host++) {
        from_host(host);
        for (int i = 0; i < 6; i++)
            give(CQ_ICMP_NO_ROUTE, 0);
    }
    CHECK_EQUAL(count(CQ_ICMP_NO_ROUTE, CQ_ANSWER_SENT), 48);
}

static void test_too_big_is_not_limited_by_sender(void)
{
    start(6);
    length = 1400;
    for (int i = 0; i < 60; i++)
        give(CQ_ICMP_TOO_BIG, 0);
    CHECK_EQUAL(count(CQ_ICMP_TOO_BIG, CQ_ANSWER_SENT), 50);
    for (uint64_t ms = 1; ms <= 100; ms++)
        give(CQ_ICMP_TOO_BIG, ms);
    CHECK_EQUAL(count(CQ_ICMP_TOO_BIG, CQ_ANSWER_SENT), 150);
}

static void test_what_is_barred_costs_no_token(void)
{
    start(4);
    packet[12] = 224;
    for (int i = 0; i < 100; i++)
        give(CQ_ICMP_NO_ROUTE, 0);
    CHECK_EQUAL(count(CQ_ICMP_NO_ROUTE, CQ_ANSWER_BARRED), 100);
    packet[12] = 10;
    give(CQ_ICMP_NO_ROUTE, 0);
    CHECK_EQUAL(count(CQ_ICMP_NO_ROUTE, CQ_ANSWER_SENT), 1);
    CHECK_EQUAL(written_length, 20 + 8 + length);
    CHECK(memcmp(written + 28, packet, length) == 0);
}

static void test_tun_that_takes_nothing(void)
{
    start(4);
    refusal = -5;
    give(CQ_ICMP_TOO_BIG, 0);
    CHECK_EQUAL(count(CQ_ICMP_TOO_BIG, CQ_ANSWER_FAILED), 1);
    CHECK_EQUAL(count(CQ_ICMP_TOO_BIG, CQ_ANSWER_SENT), 0);
}

int main(void)
{
    RUN(test_one_sender);
    RUN(test_all_senders);
    RUN(test_neighbours_do_not_share_a_bucket);
    RUN(test_too_big_is_not_limited_by_sender);
    RUN(test_what_is_barred_costs_no_token);
    RUN(test_tun_that_takes_nothing);
    return check_done();
}
