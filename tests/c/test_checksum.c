/*
 * The Internet checksum's sum and the bounds of an IP packet.
 */
#include "packets.h"

static uint8_t data[4096];

static void test_rfc1071_example(void)
{
    static const uint8_t example[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}; /* RFC 1071, section 3 */
    CHECK_EQUAL(cq_checksum_fold(cq_checksum_add(example, sizeof example, 0)), 0xddf2);
}

static void test_ipv4_header_example(void)
{
    /* A header that is in many textbooks: its checksum is b861. */
    static const uint8_t header[] = {0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11,
                                     0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7};
    CHECK_EQUAL(cq_checksum_fold(cq_checksum_add(header, sizeof header, 0)), 0xffff);
}

static void test_every_length_and_alignment_agrees_with_naive_sum(void)
{
    check_random_bytes(data, sizeof data);
    for (size_t n = 0; n < 300; n++)
        for (size_t at = 0; at < 9; at++)
            CHECK_EQUAL(cq_checksum_fold(cq_checksum_add(data + at, n, 0)), naive_fold(naive_sum(data + at, n)));
    for (size_t n = 1380; n < 1480; n++)
        CHECK_EQUAL(cq_checksum_fold(cq_checksum_add(data + n % 8, n, 0)), naive_fold(naive_sum(data + n % 8, n)));
}

static void test_carries_are_never_lost(void)
{
    static uint8_t ones[65535];
    memset(ones, 0xff, sizeof ones);
    for (size_t n = 65535 - 8; n <= 65535; n++)
        CHECK_EQUAL(cq_checksum_fold(cq_checksum_add(ones, n, 0)), naive_fold(naive_sum(ones, n)));
    CHECK_EQUAL(cq_checksum_fold(UINT64_MAX), naive_fold(UINT64_MAX));
    CHECK_EQUAL(cq_checksum_fold(0), 0);
    CHECK_EQUAL(cq_checksum_fold(0x10000), 1);
    CHECK_EQUAL(cq_checksum_fold(0xffff0001), naive_fold(0xffff0001));
    for (int i = 0; i < 10000; i++) {
        uint64_t sum = check_random() >> (check_random() % 64);
        CHECK_EQUAL(cq_checksum_fold(sum), naive_fold(sum));
    }
}

static void test_parts_and_numbers_add_up(void)
{
    check_random_bytes(data, sizeof data);
    for (size_t cut = 0; cut <= 200; cut += 2) {
        uint64_t sum = cq_checksum_add(data + cut, 201 - cut, cq_checksum_add(data, cut, 0x1234 + 17));
        CHECK_EQUAL(cq_checksum_fold(sum), naive_fold(naive_sum(data, 201) + 0x1234 + 17));
    }
}

/* ---- cq_packet_length ---- */

static void test_ipv4_length_is_the_header_s_own(void)
{
    uint8_t p[64] = {0x45, 0, 0, 60};
    CHECK_EQUAL(cq_packet_length(p, 64), 60);
    CHECK_EQUAL(cq_packet_length(p, 60), 60);
    CHECK_EQUAL(cq_packet_length(p, 59), 0);
    p[3] = 20;
    CHECK_EQUAL(cq_packet_length(p, 20), 20);
    CHECK_EQUAL(cq_packet_length(p, 19), 0);
    p[3] = 19; /* shorter than its header */
    CHECK_EQUAL(cq_packet_length(p, 64), 0);
    p[0] = 0x46, p[3] = 23;
    CHECK_EQUAL(cq_packet_length(p, 64), 0);
    p[0] = 0x44, p[3] = 60; /* IHL 4 */
    CHECK_EQUAL(cq_packet_length(p, 64), 0);
}

static void test_ipv6_length_is_the_header_s_own(void)
{
    uint8_t p[64] = {0x60, 0, 0, 0, 0, 10};
    CHECK_EQUAL(cq_packet_length(p, 64), 50);
    CHECK_EQUAL(cq_packet_length(p, 50), 50);
    CHECK_EQUAL(cq_packet_length(p, 49), 0);
    p[5] = 0;
    CHECK_EQUAL(cq_packet_length(p, 40), 40);
    CHECK_EQUAL(cq_packet_length(p, 39), 0);
    p[4] = 0xff, p[5] = 0xff;
    CHECK_EQUAL(cq_packet_length(p, 64), 0);
}

static void test_other_versions_have_no_length(void)
{
    uint8_t p[64] = {0};
    for (int version = 0; version < 16; version++) {
        p[0] = (uint8_t)(version << 4 | 5), p[3] = 20;
        CHECK_EQUAL(cq_packet_length(p, 64) != 0, version == 4 || version == 6);
        CHECK_EQUAL(cq_packet_length(p, 0), 0);
        CHECK_EQUAL(cq_packet_length(p, 1), 0);
    }
}

int main(void)
{
    RUN(test_rfc1071_example);
    RUN(test_ipv4_header_example);
    RUN(test_every_length_and_alignment_agrees_with_naive_sum);
    RUN(test_carries_are_never_lost);
    RUN(test_parts_and_numbers_add_up);
    RUN(test_ipv4_length_is_the_header_s_own);
    RUN(test_ipv6_length_is_the_header_s_own);
    RUN(test_other_versions_have_no_length);
    return check_done();
}
