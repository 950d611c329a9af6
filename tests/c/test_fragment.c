/*
 * Fragments of IPv4 packets: put together again by RFC 791's own procedure, they are the packet.
 */
#include "cq_fragment.h"
#include "packets.h"

static uint8_t packet[PACKET_MAX], original[PACKET_MAX], together[PACKET_MAX];

/* Cuts what is in packet and puts it together in its place in together. Returns how many fragments there were. */
static unsigned cut(size_t n, size_t mtu)
{
    struct cq_fragment f;
    uint8_t *p;
    size_t length, total = 0, header = ip_size(packet);
    const size_t base = (size_t)(cq_get16(packet + 6) & 0x1fff) * 8, payload = n - header;
    const bool more = (packet[6] & 0x20) != 0;
    unsigned count = 0;

    memcpy(original, packet, n);
    memset(together, 0, sizeof together);
    REQUIRE(cq_fragment_init(&f, packet, n, mtu) == CQ_OK);
    while (cq_fragment_next(&f, &p, &length)) {
        const size_t offset = (size_t)(cq_get16(p + 6) & 0x1fff) * 8, here = length - ip_size(p);
        const bool last = offset + here == base + payload;
        CHECK(length <= mtu && p >= packet && p + length <= packet + n);
        CHECK_EQUAL(cq_packet_length(p, length), length);
        CHECK_EQUAL(ip_size(p), header);
        CHECK_EQUAL(naive_fold(naive_sum(p, header)), 0xffff);
        CHECK_EQUAL(p[6] >> 5, !last || more ? 1 : 0); /* neither DF nor the reserved bit */
        CHECK(last || here % 8 == 0);
        CHECK(last || here + 8 > mtu - header); /* as much as fits */
        CHECK(memcmp(p + 4, original + 4, 2) == 0 && p[1] == original[1]);
        CHECK(memcmp(p + 8, original + 8, 2) == 0 && memcmp(p + 12, original + 12, 8) == 0);
        CHECK_EQUAL(offset, base + total);
        memcpy(together + offset - base, p + header, here);
        total += here;
        count++;
    }
    CHECK_EQUAL(total, payload);
    CHECK(memcmp(together, original + header, payload) == 0);
    CHECK(!cq_fragment_next(&f, &p, &length));
    return count;
}

static size_t udp(size_t payload)
{
    struct spec s = spec_of(4, UDP, payload);
    s.df = false;
    s.tos = 0x2e;
    return build(packet, &s);
}

static void test_every_size(void)
{
    for (size_t mtu = 576; mtu < 592; mtu++)
        for (size_t n = mtu + 1; n < mtu + 1200; n += n < mtu + 40 ? 1 : 37)
            CHECK_EQUAL(cut(udp(n - 28), mtu), (n - 20 + ((mtu - 20) & ~7u) - 1) / ((mtu - 20) & ~7u));
    CHECK_EQUAL(cut(udp(65535 - 28), 1420), 47);
}

static void test_fragments_of_a_fragment(void)
{
    for (int more = 0; more < 2; more++) {
        size_t n = udp(1400);
        cq_put16(packet + 6, (uint16_t)((more ? 0x2000 : 0) | 185));
        CHECK_EQUAL(cut(n, 1000), 2);
    }
}

static void test_fragment_beyond_the_largest_packet_is_malformed(void)
{
    struct cq_fragment f;
    size_t n = udp(1400);
    for (unsigned offset = 8000; offset < 8192; offset++) {
        cq_put16(packet + 6, (uint16_t)offset);
        CHECK_EQUAL(cq_fragment_init(&f, packet, n, 1000), offset * 8 + n - 20 <= 65535 ? CQ_OK : CQ_E_MALFORMED);
    }
}

/* A packet with these options; returns how many fragments there are, the second's options in after. */
static void options_after(const uint8_t *options, size_t n, uint8_t *after)
{
    struct cq_fragment f;
    uint8_t *p;
    size_t length, total = 20 + n + 1000;
    (void)udp(1100);
    packet[0] = (uint8_t)(0x40 | (20 + n) / 4);
    cq_put16(packet + 2, (uint16_t)total);
    memcpy(packet + 20, options, n);
    REQUIRE(cq_fragment_init(&f, packet, total, 700) == CQ_OK);
    REQUIRE(cq_fragment_next(&f, &p, &length));
    CHECK(memcmp(p + 20, options, n) == 0);
    REQUIRE(cq_fragment_next(&f, &p, &length));
    CHECK_EQUAL(ip_size(p), 20 + n);
    CHECK_EQUAL(naive_fold(naive_sum(p, 20 + n)), 0xffff);
    memcpy(after, p + 20, n);
}

static void test_only_options_that_are_copied_are_in_later_fragments(void)
{
    static const struct {
        uint8_t before[12], after[12];
    } cases[] = {
        {{7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0},
         {1, 1, 1, 1, 1, 1, 1, 1, 148, 4, 0, 0}}, /* record route, router alert */
        {{131, 7, 4, 9, 8, 7, 6, 0, 0, 0, 0, 0}, {131, 7, 4, 9, 8, 7, 6, 0, 0, 0, 0, 0}},   /* loose source route */
        {{1, 148, 4, 0, 0, 0, 131, 5, 0, 0, 0, 0}, {1, 148, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0}}, /* END: nothing follows */
        {{148, 4, 0, 0, 131, 0, 9, 9, 9, 9, 9, 9}, {148, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}, /* length 0 */
        {{148, 4, 0, 0, 131, 1, 9, 9, 9, 9, 9, 9}, {148, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}, /* length 1 */
        {{148, 4, 0, 0, 131, 9, 9, 9, 9, 9, 9, 9}, {148, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}, /* beyond the header */
        {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 131}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0}},     /* no length at all */
    };
    uint8_t after[12];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options_after(cases[i].before, 12, after);
        for (size_t at = 0; at < 12; at++)
            CHECK_EQUAL(after[at], cases[i].after[at]);
    }
}

static void test_random_options(void)
{
    uint8_t options[40], after[40];
    for (int round = 0; round < 20000; round++) {
        size_t n = (1 + check_random() % 10) * 4;
        check_random_bytes(options, n);
        for (size_t i = 0; i < n; i++)
            if (check_random() % 2)
                options[i] %= 12;
        options_after(options, n, after);
        for (size_t at = 0; at < n && after[at] != 0;) { /* what is left is whole, and is to be copied */
            if (after[at] == 1) {
                at++;
                continue;
            }
            CHECK(after[at] & 0x80);
            REQUIRE(at + 1 < n && after[at + 1] >= 2 && at + after[at + 1] <= n);
            at += after[at + 1];
        }
    }
}

int main(void)
{
    RUN(test_every_size);
    RUN(test_fragments_of_a_fragment);
    RUN(test_fragment_beyond_the_largest_packet_is_malformed);
    RUN(test_only_options_that_are_copied_are_in_later_fragments);
    RUN(test_random_options);
    return check_done();
}
