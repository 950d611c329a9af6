/*
 * Merging packets into super-packets: what merges, what does not, checksums, and the order within a flow.
 */
#include "kernel.h"

/* ---- what merges ---- */

static void test_bulk_of_each_kind_is_one_write(void)
{
    for (int kind = 0; kind < 8; kind++) {
        struct spec s = spec_of(kind & 1 ? 4 : 6, kind & 2 ? TCP : UDP, 1370), first = s;
        static uint8_t p[PACKET_MAX];
        start();
        for (int i = 0; i < 46; i++, advance(&s)) {
            s.fill = (uint8_t)i;
            add(&s, kind & 4);
        }
        CHECK_EQUAL(writes, 0);
        CHECK_EQUAL(flush(), 1);
        CHECK_EQUAL(out_count, 46);
        CHECK_EQUAL(last_vnet.gso_size, 1370);
        s = first;
        for (unsigned i = 0; i < out_count; i++, advance(&s)) {
            s.fill = (uint8_t)i;
            CHECK_EQUAL(out[i].length, build(p, &s));
            CHECK(memcmp(out[i].packet, p, out[i].length) == 0);
        }
        CHECK_EQUAL(flush(), 1); /* nothing is left */
    }
}

static void test_smaller_packet_ends_a_super_packet(void)
{
    for (int protocol = TCP; protocol <= UDP; protocol += UDP - TCP) {
        struct spec s = spec_of(4, protocol, 1000);
        start();
        add(&s, true), advance(&s);
        s.payload = 999;
        add(&s, true), advance(&s);
        CHECK_EQUAL(writes, 1);
        add(&s, true), advance(&s);
        s.payload = 1000; /* larger than the first: not part of it */
        add(&s, true);
        CHECK_EQUAL(writes, 2);
        CHECK_EQUAL(flush(), 3);
        CHECK_EQUAL(out_count, 4);
    }
}

static void test_push_ends_a_super_packet_and_is_kept(void)
{
    struct spec s = spec_of(6, TCP, 1000);
    start();
    add(&s, true), advance(&s);
    s.flags |= PSH;
    add(&s, true), advance(&s);
    CHECK_EQUAL(writes, 1);
    CHECK_EQUAL(out[0].packet[53], ACK);
    CHECK_EQUAL(out[1].packet[53], ACK | PSH);
    add(&s, true); /* alone it goes out at once */
    CHECK_EQUAL(writes, 2);
    CHECK_EQUAL(flush(), 2);
}

/* Two packets that differ in one more thing than their position: how many writes, with everything in order. */
enum { CHANGES = 18 };

static int change(struct spec *s, int what)
{
    switch (what) {
    case 0: return 1;              /* nothing */
    case 1: return s->tos ^= 3, 2; /* CE */
    case 2: return s->tos ^= 4, 2;
    case 3: return s->ttl--, 2;
    case 4: return s->df = false, s->version == 4 ? 2 : 1;
    case 5: return s->id++, s->version == 4 ? 2 : 1;
    case 6: return s->id--, 1; /* the same again: with DF it may be */
    case 7: return s->payload++, 2;
    case 8: return s->source_port ^= 1, 2;
    case 9: return s->host ^= 1, 2;
    case 10: return s->sequence++, s->protocol == TCP ? 2 : 1;
    case 11: return s->ack++, s->protocol == TCP ? 2 : 1;
    case 12: return s->window++, s->protocol == TCP ? 2 : 1;
    case 13: return s->timestamp++, s->protocol == TCP ? 2 : 1;
    case 14: return s->options -= 4, s->protocol == TCP ? 2 : 1;
    case 15: return s->flags |= ECE, s->protocol == TCP ? 2 : 1;
    case 16: return s->urgent = 1, s->protocol == TCP ? 2 : 1;
    default: return s->sequence -= 2000, s->protocol == TCP ? 2 : 1; /* an old one */
    }
}

static void test_packets_that_differ_do_not_merge(void)
{
    for (int kind = 0; kind < 4; kind++) {
        for (int what = 0; what < CHANGES; what++) {
            struct spec s = spec_of(kind & 1 ? 4 : 6, kind & 2 ? TCP : UDP, 1000);
            start();
            add(&s, true);
            advance(&s);
            int wanted = change(&s, what);
            add(&s, true);
            CHECK_EQUAL(flush(), wanted);
            CHECK_EQUAL(out_count, 2);
        }
    }
}

static void test_flags_with_a_meaning_are_written_alone(void)
{
    for (unsigned flags = 0; flags < 256; flags++) {
        struct spec s = spec_of(4, TCP, 1000);
        start();
        s.flags = (uint8_t)flags;
        for (int i = 0; i < 3; i++, advance(&s))
            add(&s, true);
        CHECK_EQUAL(flush(), (flags & ~ECE) == ACK ? 1 : 3);
        for (unsigned i = 0; i < out_count; i++)
            CHECK_EQUAL(out[i].packet[33], flags);
    }
}

static void test_ids_count_up_or_stay_the_same(void)
{
    static const struct {
        bool df;
        uint16_t ids[4];
        unsigned writes;
    } cases[] = {
        {true, {7, 8, 9, 10}, 1}, {false, {7, 8, 9, 10}, 1}, {false, {0xfffe, 0xffff, 0, 1}, 1},
        {true, {0, 0, 0, 0}, 1},  {false, {0, 0, 0, 0}, 4},  {true, {5, 5, 6, 7}, 2},
        {true, {5, 6, 6, 7}, 2},  {true, {5, 7, 8, 9}, 2},   {true, {5, 6, 5, 5}, 2},
        {false, {5, 4, 3, 2}, 4}, {true, {5, 5, 7, 8}, 2},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct spec s = spec_of(4, UDP, 500);
        start();
        s.df = cases[c].df;
        for (int i = 0; i < 4; i++) {
            s.id = cases[c].ids[i];
            add(&s, true);
        }
        CHECK_EQUAL(flush(), cases[c].writes);
        CHECK_EQUAL(out_count, 4);
    }
}

static void test_options_and_extension_headers_do_not_merge(void)
{
    for (int version = 4; version <= 6; version += 2) {
        for (int protocol = TCP; protocol <= UDP; protocol += UDP - TCP) {
            struct spec s = spec_of(version, protocol, 1000);
            s.extension = HOP_BY_HOP;
            start();
            for (int i = 0; i < 3; i++, advance(&s))
                add(&s, version == 6);
            CHECK_EQUAL(flush(), 3);
        }
    }
}

static void test_vouched_and_unvouched_do_not_mix(void)
{
    struct spec s = spec_of(4, TCP, 1000);
    start();
    for (int i = 0; i < 6; i++, advance(&s))
        add(&s, i / 2 == 1);
    CHECK_EQUAL(flush(), 3);
    CHECK_EQUAL(out_count, 6);
}

static void test_limits_of_size_and_segments(void)
{
    for (int by_size = 0; by_size < 2; by_size++) {
        struct spec s = spec_of(4, TCP, 1000);
        struct cq_coalesce_options o = options;
        o.max_size = by_size ? 52 + 10 * 1000 : 65535;
        o.max_segments = by_size ? 64 : 10;
        start_with(o);
        for (int i = 0; i < 25; i++, advance(&s))
            add(&s, true);
        CHECK_EQUAL(writes, 2);
        CHECK_EQUAL(flush(), 3);
        CHECK_EQUAL(out_count, 25);
    }
    struct spec s = spec_of(6, UDP, 32);
    start_with((struct cq_coalesce_options){.uso = true, .vnet = true, .max_size = 1 << 20, .max_segments = 5000});
    options.max_size = 65535; /* what receive() holds it to */
    options.max_segments = 1022;
    for (int i = 0; i < 1500; i++)
        add(&s, true);
    CHECK_EQUAL(flush(), 2);
    CHECK_EQUAL(out_count, 1500);
    start_with((struct cq_coalesce_options){.uso = true, .vnet = true, .max_size = 65535, .max_segments = 0});
    for (int i = 0; i < 3; i++)
        add(&s, true);
    options.max_segments = 1;
    CHECK_EQUAL(flush(), 3);
}

static void test_each_kind_can_be_switched_off(void)
{
    for (int off = 0; off < 3; off++) {
        struct cq_coalesce_options o = {
            .tcp4 = off != 0, .tcp6 = off != 1, .uso = off != 2, .vnet = true, .max_size = 65535, .max_segments = 64};
        start_with(o);
        for (int kind = 0; kind < 3; kind++) {
            struct spec s = spec_of(kind == 1 ? 6 : 4, kind == 2 ? UDP : TCP, 1000);
            for (int i = 0; i < 4; i++, advance(&s))
                add(&s, true);
            CHECK_EQUAL(flush(), kind == off ? 4 : 1);
            reset();
        }
    }
}

/* ---- checksums ---- */

static void test_unvouched_merges_only_with_good_checksums(void)
{
    for (int kind = 0; kind < 4; kind++) {
        for (int bad = -1; bad < 4; bad++) {
            struct spec s = spec_of(kind & 1 ? 4 : 6, kind & 2 ? TCP : UDP, 1001);
            static uint8_t p[4][PACKET_MAX];
            start();
            for (int i = 0; i < 4; i++, advance(&s)) {
                size_t n = build(p[i], &s);
                if (i == bad)
                    p[i][n - 2] ^= 4;
                add_bytes(p[i], n, false);
            }
            flush();
            CHECK_EQUAL(out_count, 4);
            for (int i = 0; i < 4 && i < (int)out_count; i++) {
                CHECK(memcmp(out[i].packet, p[i], out[i].length) == 0); /* the bad one as it came */
                if (i == bad)
                    CHECK(!out[i].needs_csum);
            }
            if (bad < 0)
                CHECK_EQUAL(writes, 1);
        }
    }
}

static void test_damaged_ip_header_is_not_repaired_by_merging(void)
{
    for (int bad = 0; bad < 3; bad++) {
        struct spec s = spec_of(4, TCP, 1000);
        static uint8_t p[PACKET_MAX];
        start();
        for (int i = 0; i < 3; i++, advance(&s)) {
            size_t n = build(p, &s);
            if (i == bad)
                p[10] ^= 1;
            add_bytes(p, n, false);
        }
        flush();
        CHECK_EQUAL(out_count, 3);
        for (int i = 0; i < 3; i++)
            CHECK_EQUAL(naive_fold(naive_sum(out[i].packet, 20)) == 0xffff, i != bad);
    }
}

static void test_udp_without_checksum_stays_as_it_is(void)
{
    struct spec s = spec_of(4, UDP, 600);
    static uint8_t p[PACKET_MAX];
    start();
    for (int i = 0; i < 3; i++, advance(&s)) {
        size_t n = build(p, &s);
        if (i > 0) /* 0 would even be the right sum */
            cq_put16(p + 28, naive_fold((uint64_t)cq_get16(p + 26) + cq_get16(p + 28)));
        cq_put16(p + 26, 0);
        CHECK_EQUAL(transport_checksum_good(p, n), i > 0);
        add_bytes(p, n, false);
    }
    CHECK_EQUAL(flush(), 3);
    for (unsigned i = 0; i < out_count; i++)
        CHECK(!out[i].needs_csum && cq_get16(out[i].packet + 26) == 0);
}

static void test_lone_vouched_packet_needs_its_checksum(void)
{
    for (int kind = 0; kind < 4; kind++) {
        struct spec s = spec_of(kind & 1 ? 4 : 6, kind & 2 ? TCP : UDP, 333);
        static uint8_t p[PACKET_MAX];
        size_t n = build(p, &s);
        start();
        add(&s, true);
        CHECK_EQUAL(flush(), 1);
        CHECK(out[0].needs_csum);
        CHECK(out[0].length == n && memcmp(out[0].packet, p, n) == 0);
        reset();
        add(&s, false);
        CHECK_EQUAL(flush(), 1);
        CHECK(!out[0].needs_csum);
        CHECK(memcmp(out[0].packet, p, n) == 0);
    }
}

/* ---- a TUN that takes no super-packets after all ---- */

/* Hands 5 packets over and checks that exactly these come out. */
static void five_come_out(struct spec *s, bool vouched)
{
    struct spec first = *s;
    static uint8_t p[PACKET_MAX];
    for (int i = 0; i < 5; i++, advance(s)) {
        s->fill = (uint8_t)i;
        s->payload = i == 4 ? 700 : 1000;
        s->flags = i == 4 ? ACK | PSH : ACK;
        add(s, vouched);
    }
    cq_coalesce_flush(coalesce);
    CHECK_EQUAL(out_count, 5);
    for (unsigned i = 0; i < out_count; i++, advance(&first)) {
        first.fill = (uint8_t)i;
        first.payload = i == 4 ? 700 : 1000;
        first.flags = i == 4 ? ACK | PSH : ACK;
        CHECK_EQUAL(out[i].length, build(p, &first));
        CHECK(memcmp(out[i].packet, p, out[i].length) == 0);
    }
}

static void test_refused_super_packet_comes_packet_by_packet_and_is_the_last_of_its_kind(void)
{
    for (int kind = 0; kind < 8; kind++) {
        const int version = kind & 1 ? 4 : 6, protocol = kind & 2 ? TCP : UDP;
        const uint32_t bit = 1u << (protocol == UDP ? CQ_GSO_UDP_L4 : version == 4 ? CQ_GSO_TCPV4 : CQ_GSO_TCPV6);
        struct spec s = spec_of(version, protocol, 1000);
        start();
        refuses_from = 2;
        five_come_out(&s, kind & 4);
        CHECK_EQUAL(refusals, 1);
        CHECK_EQUAL(refused, bit);
        reset();
        five_come_out(&s, kind & 4);
        CHECK_EQUAL(refusals, 1); /* it was not asked again */
        reset();
        refuses_from = 0;
        s = spec_of(version, protocol == TCP ? UDP : TCP, 1000);
        add(&s, true), advance(&s);
        add(&s, true);
        CHECK_EQUAL(flush(), 1); /* another kind merges on */
    }
}

static void test_refusal_of_the_packets_themselves_says_nothing_of_merging(void)
{
    struct spec s = spec_of(4, TCP, 1000);
    start();
    refuses_from = 1;
    for (int i = 0; i < 3; i++, advance(&s))
        add(&s, true);
    cq_coalesce_flush(coalesce);
    CHECK_EQUAL(refusals, 4); /* the three together, and each */
    CHECK_EQUAL(refused, 0);
}

static void test_without_vnet_header_checksums_are_made_here(void)
{
    for (int kind = 0; kind < 4; kind++) {
        for (size_t payload = 0; payload < 40; payload++) {
            struct spec s = spec_of(kind & 1 ? 4 : 6, kind & 2 ? TCP : UDP, payload);
            static uint8_t p[PACKET_MAX];
            start_with((struct cq_coalesce_options){
                .tcp4 = true, .tcp6 = true, .uso = true, .vnet = false, .max_size = 65535, .max_segments = 64});
            for (int i = 0; i < 3; i++, advance(&s)) {
                add(&s, true);
                CHECK_EQUAL(writes, i + 1); /* nothing merges */
                CHECK(memcmp(out[i].packet, p, build(p, &s)) == 0);
            }
        }
    }
    struct spec s = spec_of(4, UDP, 2); /* a UDP checksum of 0 goes out as all ones */
    static uint8_t p[PACKET_MAX];
    size_t n = build(p, &s);
    uint16_t field = cq_get16(p + 26), payload = cq_get16(p + 28);
    cq_put16(p + 28, naive_fold((uint64_t)field + payload));
    start_with((struct cq_coalesce_options){.vnet = false, .max_size = 65535, .max_segments = 64});
    add_bytes(p, n, true);
    CHECK_EQUAL(cq_get16(out[0].packet + 26), 0xffff);
    CHECK(transport_checksum_good(out[0].packet, out[0].length));
}

static void test_vouched_without_parsable_headers_is_written_as_it_came(void)
{
    struct spec s = spec_of(4, TCP, 100);
    static uint8_t p[PACKET_MAX];
    for (int how = 0; how < 5; how++) {
        start();
        s.version = how == 3 || how == 4 ? 6 : 4;
        s.protocol = how == 2 ? UDP : TCP;
        s.extension = how == 3 ? ROUTING : how == 4 ? FRAGMENT : NO_EXTENSION;
        size_t n = build(p, &s);
        if (how == 0)
            p[9] = 1;
        else if (how == 1)
            p[6] = 0x20;
        else if (how == 2)
            cq_put16(p + 24, 9);
        for (unsigned i = 0; i < 2; i++)
            cq_coalesce_add(coalesce, keep(p, n), n, true);
        CHECK_EQUAL(flush(), 2);
        for (unsigned i = 0; i < 2; i++) {
            CHECK(!out[i].needs_csum);
            CHECK(out[i].length == n && memcmp(out[i].packet, p, n) == 0);
        }
    }
}

/* ---- order ---- */

static void test_pure_acks_keep_their_place(void)
{
    struct spec s = spec_of(4, TCP, 1000), other = spec_of(4, TCP, 1000);
    start();
    other.source_port = 1;
    add(&other, true);
    add(&s, true), advance(&s);
    add(&s, true), advance(&s);
    s.payload = 0;
    add(&s, true), s.id++;
    CHECK_EQUAL(writes, 2); /* not the other flow */
    add(&s, true), s.id++;
    CHECK_EQUAL(writes, 3);
    s.payload = 1000;
    add(&s, true);
    CHECK_EQUAL(flush(), 5);
    CHECK_EQUAL(out[2].length, 52);
    CHECK_EQUAL(out[3].length, 52);
}

static void test_fragment_follows_what_came_before(void)
{
    for (int version = 4; version <= 6; version += 2) {
        struct spec s = spec_of(version, UDP, 1000), f = s;
        static uint8_t p[PACKET_MAX];
        start();
        for (int i = 0; i < 5; i++) {
            s.source_port++;
            add(&s, true);
        }
        if (version == 6)
            f.extension = FRAGMENT;
        size_t n = build(p, &f);
        if (version == 4)
            p[6] = 0x20;
        cq_coalesce_add(coalesce, keep(p, n), n, true);
        CHECK_EQUAL(writes, 6);
        CHECK(memcmp(out[5].packet, p, n) == 0);
    }
}

static void test_many_flows_are_all_written(void)
{
    enum { FLOWS_THAT_COLLIDE = 1200 };
    static struct spec s[FLOWS_THAT_COLLIDE];
    start();
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < FLOWS_THAT_COLLIDE; i++) {
            if (round == 0) {
                s[i] = spec_of(i & 1 ? 4 : 6, i & 2 ? TCP : UDP, 100);
                s[i].source_port = (uint16_t)(1000 + i);
            }
            add(&s[i], true);
            advance(&s[i]);
        }
    }
    CHECK_EQUAL(flush(), 2 * FLOWS_THAT_COLLIDE); /* the oldest makes room: each was gone before its second */
    CHECK_EQUAL(out_count, 2 * FLOWS_THAT_COLLIDE);
    static unsigned seen[FLOWS_THAT_COLLIDE];
    for (unsigned i = 0; i < out_count; i++) {
        int protocol;
        size_t l4 = transport_of(out[i].packet, &protocol);
        unsigned flow = cq_get16(out[i].packet + l4) - 1000u;
        REQUIRE(flow < FLOWS_THAT_COLLIDE);
        if (protocol == TCP) /* the older one first */
            CHECK_EQUAL(cq_get32(out[i].packet + l4 + 4), 0xfffffc00u + 100 * seen[flow]);
        seen[flow]++;
    }
}

static void test_flows_of_a_busy_batch_have_places_of_their_own(void)
{
    struct spec s[64];
    start();
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 64; i++) {
            if (round == 0) {
                s[i] = spec_of(i & 1 ? 4 : 6, i & 2 ? TCP : UDP, 100);
                s[i].source_port = (uint16_t)(1000 + i);
            }
            add(&s[i], true);
            advance(&s[i]);
        }
    }
    CHECK(flush() <= 64 + 4); /* a write each; no more than one of them shares a set with four others */
    CHECK_EQUAL(out_count, 4 * 64);
}

static void test_nothing_to_flush_writes_nothing(void)
{
    start();
    CHECK_EQUAL(flush(), 0);
    cq_coalesce_free(NULL);
}

int main(void)
{
    RUN(test_bulk_of_each_kind_is_one_write);
    RUN(test_smaller_packet_ends_a_super_packet);
    RUN(test_push_ends_a_super_packet_and_is_kept);
    RUN(test_packets_that_differ_do_not_merge);
    RUN(test_flags_with_a_meaning_are_written_alone);
    RUN(test_ids_count_up_or_stay_the_same);
    RUN(test_options_and_extension_headers_do_not_merge);
    RUN(test_vouched_and_unvouched_do_not_mix);
    RUN(test_limits_of_size_and_segments);
    RUN(test_each_kind_can_be_switched_off);
    RUN(test_unvouched_merges_only_with_good_checksums);
    RUN(test_damaged_ip_header_is_not_repaired_by_merging);
    RUN(test_udp_without_checksum_stays_as_it_is);
    RUN(test_lone_vouched_packet_needs_its_checksum);
    RUN(test_refused_super_packet_comes_packet_by_packet_and_is_the_last_of_its_kind);
    RUN(test_refusal_of_the_packets_themselves_says_nothing_of_merging);
    RUN(test_without_vnet_header_checksums_are_made_here);
    RUN(test_vouched_without_parsable_headers_is_written_as_it_came);
    RUN(test_pure_acks_keep_their_place);
    RUN(test_fragment_follows_what_came_before);
    RUN(test_many_flows_are_all_written);
    RUN(test_flows_of_a_busy_batch_have_places_of_their_own);
    RUN(test_nothing_to_flush_writes_nothing);
    cq_coalesce_free(coalesce);
    return check_done();
}
