/*
 * Answers by ICMP: what is in them, and to what none is given.
 */
#include "cq_icmp.h"
#include "packets.h"

enum { ICMP4 = 1, ICMP6 = 58, AUTHENTICATION = 51 };

static uint8_t packet[PACKET_MAX], out[CQ_ICMP_MAX6];

static size_t answer(enum cq_icmp_reason reason, size_t n, size_t mtu)
{
    memset(out, 0xa5, sizeof out);
    return cq_icmp_answer(out, reason, packet, n, mtu);
}

static size_t packet_of(int version, size_t payload)
{
    struct spec s = spec_of(version, UDP, payload);
    s.tos = 0xb9;
    return build(packet, &s);
}

/* Everything about an answer but its type, code and number. */
static void check_form(size_t size, size_t n)
{
    const bool four = packet[0] >> 4 == 4;
    const size_t header = four ? 20 : 40, most = four ? 576 : 1280;
    const size_t quoted = n < most - header - 8 ? n : most - header - 8;
    CHECK_EQUAL(size, header + 8 + quoted);
    CHECK_EQUAL(cq_packet_length(out, size), size);
    CHECK(memcmp(out + header + 8, packet, quoted) == 0);
    uint64_t sum = naive_sum(out + header, size - header);
    if (four) {
        CHECK_EQUAL(naive_fold(naive_sum(out, 20)), 0xffff);
        CHECK_EQUAL(out[0], 0x45);
        CHECK_EQUAL(out[1], 0xc0 | (0xb9 & 0x1e));
        CHECK(cq_get16(out + 4) == 0 && cq_get16(out + 6) == 0x4000 && out[8] == 64 && out[9] == ICMP4);
        CHECK(memcmp(out + 12, packet + 16, 4) == 0 && memcmp(out + 16, packet + 12, 4) == 0);
    } else {
        CHECK(cq_get32(out) == 0x60000000 && out[6] == ICMP6 && out[7] == 64);
        CHECK(memcmp(out + 8, packet + 24, 16) == 0 && memcmp(out + 24, packet + 8, 16) == 0);
        sum += naive_sum(out + 8, 32) + (size - header) + ICMP6;
    }
    CHECK_EQUAL(naive_fold(sum), 0xffff);
}

static void test_form_and_numbers(void)
{
    static const struct {
        int version;
        enum cq_icmp_reason reason;
        uint8_t type, code;
        uint32_t number;
    } cases[] = {
        {4, CQ_ICMP_TOO_BIG, 3, 4, 1300}, {6, CQ_ICMP_TOO_BIG, 2, 0, 1300},  {4, CQ_ICMP_NO_ROUTE, 3, 0, 0},
        {6, CQ_ICMP_NO_ROUTE, 1, 0, 0},   {4, CQ_ICMP_UNREACHABLE, 3, 1, 0}, {6, CQ_ICMP_UNREACHABLE, 1, 3, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t payload = cases[i].reason == CQ_ICMP_TOO_BIG ? 1273 : 0; payload < 1600; payload++) {
            size_t n = packet_of(cases[i].version, payload), header = cases[i].version == 4 ? 20 : 40;
            check_form(answer(cases[i].reason, n, 1300), n);
            CHECK_EQUAL(out[header], cases[i].type);
            CHECK_EQUAL(out[header + 1], cases[i].code);
            CHECK_EQUAL(cq_get32(out + header + 4), cases[i].number);
        }
    }
}

static void test_ipv6_is_told_no_less_than_it_needs(void)
{
    size_t n = packet_of(6, 1300);
    CHECK(answer(CQ_ICMP_TOO_BIG, n, 600) > 0);
    CHECK(out[40] == 2 && cq_get32(out + 44) == 1280);
    n = packet_of(6, 1280 - 48);
    CHECK(answer(CQ_ICMP_TOO_BIG, n, 600) > 0); /* no number would help */
    CHECK(out[40] == 1 && out[41] == 3 && cq_get32(out + 44) == 0);
    CHECK(answer(CQ_ICMP_TOO_BIG, packet_of(4, 700), 600) > 0);
    CHECK(out[20] == 3 && out[21] == 4 && cq_get32(out + 24) == 600);
}

static bool answered(size_t n) { return answer(CQ_ICMP_NO_ROUTE, n, 0) > 0; }

static void test_no_single_host(void)
{
    static const uint8_t bad4[][4] = {{0, 0, 0, 0},   {0, 1, 2, 3},   {127, 0, 0, 1},      {224, 0, 0, 1},
                                      {239, 1, 1, 1}, {240, 0, 0, 1}, {255, 255, 255, 255}};
    static const uint8_t bad6[][16] = {{0}, {[15] = 1}, {0xff, 2, [15] = 1}, {0xff, 0x0e}};
    for (size_t place = 0; place < 2; place++) {
        for (size_t i = 0; i < sizeof bad4 / sizeof *bad4; i++) {
            size_t n = packet_of(4, 10);
            CHECK(answered(n));
            memcpy(packet + (place ? 16 : 12), bad4[i], 4);
            CHECK(!answered(n));
        }
        for (size_t i = 0; i < sizeof bad6 / sizeof *bad6; i++) {
            size_t n = packet_of(6, 10);
            CHECK(answered(n));
            memcpy(packet + (place ? 24 : 8), bad6[i], 16);
            CHECK(!answered(n));
        }
    }
}

static void test_only_the_first_fragment(void)
{
    size_t n = packet_of(4, 100);
    cq_put16(packet + 6, 0x2000);
    CHECK(answered(n));
    for (unsigned offset = 1; offset < 0x2000; offset++) {
        cq_put16(packet + 6, (uint16_t)offset);
        CHECK(!answered(n));
    }
    struct spec s = spec_of(6, UDP, 100);
    s.extension = HOP_BY_HOP;
    n = build(packet, &s);
    packet[6] = FRAGMENT; /* 8 bytes; the rest of the 16 passes for UDP */
    cq_put16(packet + 42, 0x0001);
    CHECK(answered(n));
    for (unsigned place = 8; place < 0x10000; place += 8) {
        cq_put16(packet + 42, (uint16_t)place);
        CHECK(!answered(n));
    }
}

static void test_no_errors_about_errors(void)
{
    for (unsigned type = 0; type < 256; type++) {
        size_t n = packet_of(4, 100);
        packet[9] = ICMP4;
        packet[20] = (uint8_t)type;
        CHECK_EQUAL(answered(n), !(type == 3 || type == 4 || type == 5 || type == 11 || type == 12));
        n = packet_of(6, 100);
        packet[6] = ICMP6;
        packet[40] = (uint8_t)type;
        CHECK_EQUAL(answered(n), type >= 128 && type != 137);
        struct spec s = spec_of(6, UDP, 100); /* the same behind another header */
        for (int extension = 0; extension < 3; extension++) {
            s.extension = (const int[]){HOP_BY_HOP, ROUTING, DESTINATION}[extension];
            n = build(packet, &s);
            packet[40] = ICMP6;
            packet[56] = (uint8_t)type;
            CHECK_EQUAL(answered(n), type >= 128 && type != 137);
        }
        s.extension = HOP_BY_HOP;
        n = build(packet, &s);
        packet[6] = AUTHENTICATION; /* counts words of 4 bytes, less 2 */
        packet[40] = ICMP6;
        packet[41] = 2;
        packet[56] = (uint8_t)type;
        CHECK_EQUAL(answered(n), type >= 128 && type != 137);
    }
    size_t n = packet_of(4, 0); /* no type to be seen */
    packet[9] = ICMP4;
    cq_put16(packet + 2, 20);
    CHECK(!answered(20));
    n = packet_of(6, 0);
    packet[6] = ICMP6;
    CHECK(!answered(40));
    CHECK(answered(n) == (packet[40] >= 128));
}

static void test_chain_whose_end_is_not_seen(void)
{
    for (size_t headers = 1; headers < 12; headers++) {
        (void)packet_of(6, 200);
        for (size_t i = 0; i < headers; i++) {
            packet[i == 0 ? 6 : 40 + (i - 1) * 8] = DESTINATION;
            packet[40 + i * 8] = UDP;
            packet[41 + i * 8] = 0;
        }
        CHECK_EQUAL(answered(248), headers <= 8);
        CHECK(!answered(40 + headers * 8 - 1));
    }
    (void)packet_of(6, 200);
    packet[6] = DESTINATION;
    packet[41] = 255; /* longer than the packet */
    CHECK(!answered(248));
}

static void test_random_packets(void)
{
    for (int round = 0; round < 200000; round++) {
        size_t n = packet_of(round % 2 ? 4 : 6, check_random() % 200);
        for (int changes = 0; changes < 4; changes++) {
            static const uint8_t next[] = {HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, AUTHENTICATION, ICMP6, ICMP4};
            packet[1 + check_random() % 80] = next[check_random() % sizeof next];
        }
        if ((n = cq_packet_length(packet, n)) == 0)
            continue;
        uint8_t *block = malloc(n), *own = malloc(CQ_ICMP_MAX6); /* of just their sizes, for the sanitizer */
        REQUIRE(block != NULL && own != NULL);
        memcpy(block, packet, n);
        size_t size = cq_icmp_answer(own, (enum cq_icmp_reason)(round % 3), block, n, 1300);
        CHECK(size <= CQ_ICMP_MAX6 && (size == 0 || cq_packet_length(own, size) == size));
        free(block);
        free(own);
    }
}

int main(void)
{
    RUN(test_form_and_numbers);
    RUN(test_ipv6_is_told_no_less_than_it_needs);
    RUN(test_no_single_host);
    RUN(test_only_the_first_fragment);
    RUN(test_no_errors_about_errors);
    RUN(test_chain_whose_end_is_not_seen);
    RUN(test_random_packets);
    return check_done();
}
