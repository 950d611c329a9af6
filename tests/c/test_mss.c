/*
 * The clamp of the MSS: what it lowers, that the checksum follows, and that no option leads it astray.
 */
#include "cq_mss.h"
#include "packets.h"

static uint8_t packet[PACKET_MAX];

/* A SYN with these options and some data; returns its length. */
static size_t syn(int version, const uint8_t *options, uint8_t n, size_t payload)
{
    struct spec s = spec_of(version, TCP, payload);
    s.flags = SYN;
    s.options = n;
    s.fill = (uint8_t)check_random();
    size_t length = build(packet, &s);
    memcpy(packet + ip_size(packet) + 20, options, n);
    put_checksums(packet, length);
    return length;
}

static uint8_t *tcp(void) { return packet + ip_size(packet); }

static void test_only_downwards_and_with_a_right_checksum(void)
{
    static const uint16_t numbers[] = {0, 1, 536, 1299, 1300, 1301, 1460, 8960, 65535};
    for (int version = 4; version <= 6; version += 2) {
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
            for (uint8_t before = 0; before < 4; before++) { /* at an odd place, too: behind no-operations */
                uint8_t options[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
                options[before] = 2;
                options[before + 1] = 4;
                cq_put16(options + before + 2, numbers[i]);
                size_t n = syn(version, options, 12, check_random() % 100);
                cq_mss_clamp(tcp(), 1300, true);
                CHECK_EQUAL(cq_get16(tcp() + 20 + before + 2), numbers[i] < 1300 ? numbers[i] : 1300);
                CHECK(transport_checksum_good(packet, n));
            }
        }
    }
}

static void test_wrong_checksum_stays_as_wrong(void)
{
    static const uint8_t options[] = {2, 4, 0x05, 0xb4};
    for (unsigned error = 1; error < 65535; error += 97) {
        size_t n = syn(4, options, 4, 0);
        uint8_t *field = tcp() + 16;
        cq_put16(field, naive_fold((uint64_t)cq_get16(field) + error));
        uint16_t before = naive_fold(naive_pseudo(packet, n) + naive_sum(tcp(), n - 20));
        cq_mss_clamp(tcp(), 1200, true);
        CHECK_EQUAL(naive_fold(naive_pseudo(packet, n) + naive_sum(tcp(), n - 20)), before);
    }
}

static void test_checksum_that_others_complete_is_left_alone(void)
{
    static const uint8_t options[] = {2, 4, 0x05, 0xb4};
    for (int version = 4; version <= 6; version += 2) {
        size_t n = syn(version, options, 4, 0);
        put_partial(packet, n);
        uint16_t partial = cq_get16(tcp() + 16);
        cq_mss_clamp(tcp(), 1200, false);
        CHECK_EQUAL(cq_get16(tcp() + 22), 1200);
        CHECK_EQUAL(cq_get16(tcp() + 16), partial);
        CHECK_EQUAL(partial, naive_fold(naive_pseudo(packet, n)));
    }
}

static void test_what_is_no_mss_option_stays(void)
{
    static const uint8_t cases[][8] = {
        {0, 2, 4, 0x05, 0xb4, 0, 0, 0},    /* behind the end */
        {2, 3, 0x05, 0xb4, 0xb4, 0, 0, 0}, /* another length */
        {2, 0, 2, 4, 0x05, 0xb4, 0, 0},    /* no length */
        {3, 1, 2, 4, 0x05, 0xb4, 0, 0},    /* less than one */
        {1, 1, 1, 1, 1, 2, 4, 0x05},       /* cut off */
        {1, 1, 1, 1, 1, 1, 1, 2},          /* nothing but a kind */
        {8, 10, 2, 4, 0x05, 0xb4, 0, 0},   /* behind an option that is too long */
        {254, 8, 2, 4, 0x05, 0xb4, 0, 0},  /* inside of another */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = syn(4, cases[i], 8, 10);
        uint8_t before[100];
        memcpy(before, packet, n);
        cq_mss_clamp(tcp(), 100, true);
        CHECK(memcmp(packet, before, n) == 0);
    }
    size_t n = syn(6, cases[0], 0, 0); /* announces nothing: what is not said is not said for it */
    cq_mss_clamp(tcp(), 100, true);
    CHECK(transport_checksum_good(packet, n));
}

static void test_behind_other_options(void)
{
    static const uint8_t options[] = {4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 3, 3, 7, 2, 4, 0xff, 0xff, 0};
    size_t n = syn(6, options, sizeof options, 3);
    cq_mss_clamp(tcp(), 1240, true);
    CHECK_EQUAL(cq_get16(tcp() + 20 + 17), 1240);
    CHECK(transport_checksum_good(packet, n));
}

static void test_random_options(void)
{
    uint8_t options[40], before[200];
    for (int round = 0; round < 50000; round++) {
        uint8_t n = (uint8_t)(check_random() % 11 * 4);
        check_random_bytes(options, n);
        for (size_t i = 0; i < n; i++)
            if (check_random() % 2)
                options[i] %= 6;
        size_t length = syn(round % 2 ? 4 : 6, options, n, check_random() % 32), end = headers_of(packet);
        uint8_t *block = malloc(end); /* of just the header's size, for the sanitizer */
        REQUIRE(block != NULL);
        memcpy(before, packet, length);
        memcpy(block, packet, end);
        cq_mss_clamp(block + ip_size(packet), 700, true);
        memcpy(packet, block, end);
        CHECK(transport_checksum_good(packet, length));
        CHECK(memcmp(packet, before, ip_size(packet) + 16) == 0); /* nothing but the checksum and options */
        free(block);
    }
}

static void test_what_a_packet_carries(void)
{
    CHECK_EQUAL(cq_mss_of(4, 1420), 1380);
    CHECK_EQUAL(cq_mss_of(6, 1420), 1360);
    CHECK_EQUAL(cq_mss_of(4, 576), 536);
    CHECK_EQUAL(cq_mss_of(4, CQ_MTU_MAX), 65415);
}

int main(void)
{
    RUN(test_only_downwards_and_with_a_right_checksum);
    RUN(test_wrong_checksum_stays_as_wrong);
    RUN(test_checksum_that_others_complete_is_left_alone);
    RUN(test_what_is_no_mss_option_stays);
    RUN(test_behind_other_options);
    RUN(test_random_options);
    RUN(test_what_a_packet_carries);
    return check_done();
}
