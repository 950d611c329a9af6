/*
 * Out: super-packets to segments, and the checksums of ordinary packets from the TUN.
 */
#include "packets.h"

static uint8_t super[PACKET_MAX], original[PACKET_MAX], wanted[PACKET_MAX];

/* Compares every segment of what is in super with the naive one. A vouched segment may have anything in its transport
 * checksum, another one must have it right. Returns the number of segments. */
static int compare(struct cq_split *s, size_t n, size_t gso_size)
{
    uint8_t *p;
    size_t length, largest = 0;
    int count = 0;

    memcpy(original, super, n);
    while (cq_split_next(s, &p, &length)) {
        size_t right = naive_segment(original, n, gso_size, (size_t)count, wanted);
        int protocol;
        uint8_t *field = wanted + transport_of(wanted, &protocol) + checksum_offset(protocol);
        if (s->vouched)
            memcpy(field, p + (field - wanted), 2);
        CHECK_EQUAL(length, right);
        largest = length > largest ? length : largest;
        CHECK(memcmp(p, wanted, right) == 0);
        CHECK(p >= super && p + length <= super + n);
        CHECK_EQUAL(cq_packet_length(p, length), length);
        count++;
    }
    CHECK_EQUAL(naive_segment(original, n, gso_size, (size_t)count, wanted), 0);
    CHECK_EQUAL(s->count, count);
    CHECK_EQUAL(s->largest, largest);
    CHECK(!cq_split_next(s, &p, &length));
    return count;
}

/* Splits what is in super. Returns the number of segments, or a negative error. */
static int split_and_compare(size_t n, const struct cq_vnet *v, bool vouched)
{
    struct cq_split s;
    int rc = cq_split_init(&s, v, super, n);

    if (rc != CQ_OK)
        return rc;
    CHECK_EQUAL(s.vouched, vouched);
    CHECK(s.transport);
    return compare(&s, n, v->gso_size);
}

static int split_spec(const struct spec *s, uint16_t gso_size, bool vouched)
{
    size_t n = build(super, s);
    struct cq_vnet v = vnet_of(super, gso_size);
    put_partial(super, n);
    return split_and_compare(n, &v, vouched);
}

static void test_super_packets_equal_naive_segments(void)
{
    static const size_t payloads[] = {1, 99, 1399, 1400, 1401, 2800, 2801, 46 * 1400 - 1, 46 * 1400};
    for (int kind = 0; kind < 4; kind++) {
        for (size_t i = 0; i < sizeof payloads / sizeof *payloads; i++) {
            struct spec s = spec_of(kind & 1 ? 4 : 6, kind & 2 ? TCP : UDP, payloads[i]);
            CHECK_EQUAL(split_spec(&s, 1400, true), (payloads[i] + 1399) / 1400);
        }
    }
}

static void test_narrowed_tcp_equals_naive_segments_of_that_size(void)
{
    static const size_t payloads[] = {1361, 1400, 2800, 46 * 1400 - 1};
    for (int version = 4; version <= 6; version += 2) {
        for (size_t i = 0; i < sizeof payloads / sizeof *payloads; i++) {
            for (int own = 0; own < 2; own++) { /* checksums of their own, because of IPv4 options */
                struct spec s = spec_of(version, TCP, payloads[i]);
                s.flags = ACK | PSH | CWR;
                s.extension = own && version == 4 ? 0 : NO_EXTENSION;
                size_t n = build(super, &s), headers = headers_of(super);
                struct cq_vnet v = vnet_of(super, 1400);
                struct cq_split split;
                put_partial(super, n);
                REQUIRE(cq_split_init(&split, &v, super, n) == CQ_OK);
                REQUIRE(cq_split_narrow(&split, 1300));
                CHECK_EQUAL(compare(&split, n, 1300 - headers), (payloads[i] + 1299 - headers) / (1300 - headers));
                CHECK(split.largest == 1300 || payloads[i] < 1300 - headers);
            }
        }
    }
}

static void test_ordinary_tcp_is_narrowed_whoever_made_its_checksum(void)
{
    for (int kind = 0; kind < 8; kind++) {
        const bool partial = kind & 2;
        struct spec s = spec_of(kind & 1 ? 4 : 6, TCP, 1367);
        s.flags = ACK | PSH | FIN | CWR;
        s.extension = kind & 4 && s.version == 6 ? HOP_BY_HOP : NO_EXTENSION;
        size_t n = build(super, &s), headers = headers_of(super);
        struct cq_vnet v = vnet_of(super, 0);
        struct cq_split split;
        if (partial)
            put_partial(super, n);
        REQUIRE(cq_split_init(&split, partial ? &v : NULL, super, n) == CQ_OK);
        REQUIRE(cq_split_narrow(&split, 1200));
        CHECK_EQUAL(split.vouched, partial);
        CHECK_EQUAL(compare(&split, n, 1200 - headers), 2);
        CHECK_EQUAL(split.largest, 1200);
    }
}

static void test_datagrams_are_not_narrowed(void)
{
    struct cq_split split;
    for (int kind = 0; kind < 4; kind++) {
        struct spec s = spec_of(kind & 1 ? 4 : 6, UDP, 2800);
        size_t n = build(super, &s);
        struct cq_vnet v = vnet_of(super, kind & 2 ? 1400 : 0);
        put_partial(super, n);
        REQUIRE(cq_split_init(&split, &v, super, n) == CQ_OK);
        CHECK(!cq_split_narrow(&split, 1300));
        CHECK_EQUAL(compare(&split, n, kind & 2 ? 1400 : 2800), kind & 2 ? 2 : 1);
    }
}

/* Makes what is in super something else. */
static void open_connection(struct spec *s) { s->flags = SYN; }
static void reset_connection(struct spec *s) { s->flags = RST | ACK; }
static void have_urgent_data(struct spec *s) { s->flags = URG | ACK; }
static void allow_fragments(struct spec *s) { s->df = false; }
static void have_ip_options(struct spec *s) { s->extension = 0; }
static void sign(struct spec *s) { s->timestamp = 19u << 24 | 4u << 16; } /* the kind of TCP MD5 */
static void authenticate(struct spec *s) { s->timestamp = 29u << 24 | 4u << 16; }
static void end_too_late(struct spec *s) { s->timestamp = 0x01010108; } /* an option that is a kind and no more */
static void have_no_length(struct spec *s) { s->timestamp = 0x01010800; }

static void test_tcp_that_others_must_not_cut_is_not_narrowed(void)
{
    void (*const changes[])(struct spec *) = {open_connection, reset_connection, have_urgent_data,
                                              allow_fragments, have_ip_options,  sign,
                                              authenticate,    end_too_late,     have_no_length};
    struct cq_split split;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct spec s = spec_of(4, TCP, 1367);
        s.options = 40;
        changes[i](&s);
        size_t n = build(super, &s);
        REQUIRE(cq_split_init(&split, NULL, super, n) == CQ_OK);
        CHECK(!cq_split_narrow(&split, 1300));
        CHECK_EQUAL(compare(&split, n, 1367), 1);
    }
}

static void test_damaged_segment_is_not_mended_by_cutting_it(void)
{
    struct cq_split split;
    struct spec s = spec_of(6, TCP, 1367);
    uint8_t *p;
    size_t n = build(super, &s), length;
    super[n - 1] ^= 1;
    memcpy(original, super, n);
    REQUIRE(cq_split_init(&split, NULL, super, n) == CQ_OK);
    CHECK(!cq_split_narrow(&split, 1300));
    REQUIRE(cq_split_next(&split, &p, &length));
    CHECK_EQUAL(length, n);
    CHECK(memcmp(p, original, n) == 0);
}

static void test_segments_smaller_than_headers(void)
{
    for (uint16_t gso = 1; gso < 70; gso++) {
        struct spec s = spec_of(6, TCP, 500);
        s.options = 40;
        CHECK_EQUAL(split_spec(&s, gso, true), (500 + gso - 1) / gso);
    }
}

static void test_super_packet_without_payload_is_one_packet(void)
{
    struct spec s = spec_of(4, TCP, 0);
    CHECK_EQUAL(split_spec(&s, 1400, true), 1);
}

static void test_largest_super_packet(void)
{
    struct spec s = spec_of(4, UDP, 65535 - 28);
    CHECK_EQUAL(split_spec(&s, 1392, true), (65535 - 28 + 1391) / 1392);
    s = spec_of(6, TCP, 65535 - 32);
    CHECK_EQUAL(split_spec(&s, 65535, true), 1);
}

static void test_flags_stay_where_they_belong(void)
{
    struct spec s = spec_of(4, TCP, 3000);
    struct cq_split split;
    uint8_t *p, flags[3];
    uint16_t ids[3];
    size_t n, length;
    int count = 0;

    s.flags = ACK | PSH | FIN | CWR | ECE;
    s.id = 0xffff;
    n = build(super, &s);
    struct cq_vnet v = vnet_of(super, 1400);
    v.gso_type |= 0x80; /* ECN */
    REQUIRE(cq_split_init(&split, &v, super, n) == CQ_OK);
    while (cq_split_next(&split, &p, &length) && count < 3) {
        ids[count] = cq_get16(p + 4);
        flags[count++] = p[20 + 13];
    }
    CHECK_EQUAL(count, 3);
    CHECK_EQUAL(flags[0], ACK | CWR | ECE);
    CHECK_EQUAL(flags[1], ACK | ECE);
    CHECK_EQUAL(flags[2], ACK | ECE | PSH | FIN);
    CHECK_EQUAL(ids[0], 0xffff);
    CHECK_EQUAL(ids[1], 0);
    CHECK_EQUAL(ids[2], 1);
}

static void test_hdr_len_is_not_believed(void)
{
    struct spec s = spec_of(4, TCP, 5000);
    for (int hdr_len = 0; hdr_len < 65536; hdr_len += 257) {
        size_t n = build(super, &s);
        struct cq_vnet v = vnet_of(super, 1400);
        v.hdr_len = (uint16_t)hdr_len;
        put_partial(super, n);
        CHECK_EQUAL(split_and_compare(n, &v, true), 4);
    }
}

static void test_completed_packets_have_checksums_of_their_own(void)
{
    for (int kind = 0; kind < 8; kind++) {
        struct spec s = spec_of(kind & 1 ? 4 : 6, kind & 2 ? TCP : UDP, 3000);
        size_t n = build(super, &s);
        uint16_t gso_size = kind & 4 ? 1400 : 0;
        struct cq_vnet v = vnet_of(super, gso_size);
        struct cq_split split;
        put_partial(super, n);
        REQUIRE(cq_split_init(&split, &v, super, n) == CQ_OK);
        CHECK(split.vouched);
        cq_split_complete(&split);
        CHECK(!split.vouched);
        CHECK_EQUAL(compare(&split, n, gso_size ? gso_size : 3000), gso_size ? 3 : 1);
    }
}

static void test_opening_of_a_connection_is_told(void)
{
    for (unsigned flags = 0; flags < 256; flags++) {
        for (int version = 4; version <= 6; version += 2) {
            struct spec s = spec_of(version, TCP, 0);
            struct cq_split split;
            s.flags = (uint8_t)flags;
            REQUIRE(cq_split_init(&split, NULL, super, build(super, &s)) == CQ_OK);
            CHECK_EQUAL(split.syn, (flags & SYN) != 0);
            CHECK_EQUAL(split.l4_offset, version == 4 ? 20 : 40);
            s.protocol = UDP;
            REQUIRE(cq_split_init(&split, NULL, super, build(super, &s)) == CQ_OK);
            CHECK(!split.syn);
        }
    }
}

static void test_hop_by_hop_header_is_vouched_for(void)
{
    struct spec s = spec_of(6, TCP, 5000);
    s.extension = HOP_BY_HOP;
    CHECK_EQUAL(split_spec(&s, 1400, true), 4);
}

/* Options and headers that can change the pseudo-header: the segments leave with checksums of their own. */
static void test_source_routed_segments_are_completed(void)
{
    for (int protocol = TCP; protocol <= UDP; protocol += UDP - TCP) {
        for (size_t payload = 4990; payload < 5003; payload++) {
            struct spec s = spec_of(6, protocol, payload);
            s.extension = ROUTING;
            CHECK_EQUAL(split_spec(&s, 1000, false), (payload + 999) / 1000);
            s.extension = DESTINATION;
            CHECK_EQUAL(split_spec(&s, 1001, false), (payload + 1000) / 1001);
            s.version = 4; /* with options */
            CHECK_EQUAL(split_spec(&s, 1001, false), (payload + 1000) / 1001);
        }
    }
}

static void test_pseudo_header_of_another_destination_is_kept(void)
{
    struct spec s = spec_of(6, TCP, 3000);
    struct cq_split split;
    uint8_t *p;
    size_t length, n;

    s.extension = ROUTING;
    n = build(super, &s);
    struct cq_vnet v = vnet_of(super, 1000);
    super[39] = 99; /* the final destination, which the kernel sums */
    put_partial(super, n);
    super[39] = 1; /* the next hop, which stands in the header */
    REQUIRE(cq_split_init(&split, &v, super, n) == CQ_OK);
    for (int i = 0; cq_split_next(&split, &p, &length); i++) {
        CHECK(!transport_checksum_good(p, length));
        p[39] = 99; /* as it arrives */
        CHECK(transport_checksum_good(p, length));
    }
}

static void test_bytes_after_the_packet_are_cut_off(void)
{
    struct spec s = spec_of(4, UDP, 100);
    struct cq_split split;
    uint8_t *p;
    size_t length, n = build(super, &s);

    REQUIRE(cq_split_init(&split, NULL, super, n + 18) == CQ_OK);
    REQUIRE(cq_split_next(&split, &p, &length));
    CHECK(p == super);
    CHECK_EQUAL(length, n);
    CHECK(!cq_split_next(&split, &p, &length));
}

/* ---- what no super-packet can be ---- */

static void check_refused(const struct spec *s, struct cq_vnet v)
{
    struct cq_split split;
    CHECK_EQUAL(cq_split_init(&split, &v, super, build(super, s)), CQ_E_MALFORMED);
}

static void test_gso_fields_that_do_not_fit_are_malformed(void)
{
    struct spec s = spec_of(4, TCP, 3000);
    build(super, &s);
    struct cq_vnet good = vnet_of(super, 1400), v = good;
    CHECK_EQUAL(split_spec(&s, 1400, true), 3);
    v.gso_size = 0;
    check_refused(&s, v);
    v = good, v.flags = 0;
    check_refused(&s, v);
    v = good, v.flags = 2; /* DATA_VALID */
    check_refused(&s, v);
    v = good, v.csum_start = 24;
    check_refused(&s, v);
    v = good, v.csum_start = 0;
    check_refused(&s, v);
    v = good, v.csum_offset = 6;
    check_refused(&s, v);
    for (int type = 1; type < 256; type++) {
        v = good, v.gso_type = (uint8_t)type;
        if (type != 1 && type != 0x81)
            check_refused(&s, v);
    }
}

static void test_gso_type_of_another_packet_is_malformed(void)
{
    for (int kind = 0; kind < 4; kind++) {
        struct spec s = spec_of(kind & 1 ? 4 : 6, kind & 2 ? TCP : UDP, 3000);
        build(super, &s);
        struct cq_vnet v = vnet_of(super, 1400);
        for (uint8_t type = 1; type < 8; type++) {
            if (type == vnet_of(super, 1400).gso_type)
                continue;
            v.gso_type = type;
            check_refused(&s, v);
        }
    }
}

static void test_super_packets_with_broken_headers_are_malformed(void)
{
    struct spec s = spec_of(4, TCP, 3000);
    struct cq_split split;
    size_t n = build(super, &s);
    struct cq_vnet v = vnet_of(super, 1400);

    for (size_t cut = 0; cut < n; cut += cut < 60 ? 1 : 211) /* shorter than it says */
        CHECK_EQUAL(cq_split_init(&split, &v, super, cut), CQ_E_MALFORMED);
    super[6] |= 0x20; /* MF */
    CHECK_EQUAL(cq_split_init(&split, &v, super, n), CQ_E_MALFORMED);
    super[6] = 0, super[7] = 1; /* an offset */
    CHECK_EQUAL(cq_split_init(&split, &v, super, n), CQ_E_MALFORMED);
    super[7] = 0, super[32] = 0x40; /* TCP header length 16 */
    CHECK_EQUAL(cq_split_init(&split, &v, super, n), CQ_E_MALFORMED);
    super[9] = 47;
    CHECK_EQUAL(cq_split_init(&split, &v, super, n), CQ_E_MALFORMED);
    s.payload = 0;
    n = build(super, &s);
    super[32] = 0xf0; /* a header that ends after the packet */
    CHECK_EQUAL(cq_split_init(&split, &v, super, n), CQ_E_MALFORMED);
    s = spec_of(6, UDP, 3000);
    s.extension = FRAGMENT;
    n = build(super, &s);
    v = vnet_of(super, 1400);
    v.csum_start = 56;
    CHECK_EQUAL(cq_split_init(&split, &v, super, n), CQ_E_MALFORMED);
}

/* A chain of hop-by-hop headers of 8 bytes, then UDP. */
static size_t build_chain(unsigned extensions, unsigned size, uint8_t last)
{
    size_t at = 40;
    memset(super, 0, 2048);
    super[0] = 0x60;
    for (unsigned i = 0; i < extensions; i++, at += size) {
        super[at] = i + 1 == extensions ? last : HOP_BY_HOP;
        super[at + 1] = (uint8_t)(size / 8 - 1);
    }
    super[6] = extensions > 0 ? HOP_BY_HOP : last;
    cq_put16(super + at + 4, 8 + 100);
    cq_put16(super + 4, (uint16_t)(at + 108 - 40));
    return at + 108;
}

static void test_extension_header_walk_is_bounded(void)
{
    struct cq_split s;
    for (unsigned extensions = 0; extensions < 20; extensions++) {
        size_t n = build_chain(extensions, 8, UDP);
        REQUIRE(cq_split_init(&s, NULL, super, n) == CQ_OK);
        CHECK_EQUAL(s.transport, extensions <= 8);
        n = build_chain(extensions, 8, 58);
        REQUIRE(cq_split_init(&s, NULL, super, n) == CQ_OK);
        CHECK(!s.transport);
    }
    for (unsigned size = 8; size < 512; size += 8) { /* and by what fits into the header's copy */
        size_t n = build_chain(1, size, UDP);
        struct cq_vnet v = {
            .flags = 1, .gso_type = 5, .gso_size = 10, .csum_start = (uint16_t)(40 + size), .csum_offset = 6};
        int rc = cq_split_init(&s, &v, super, n);
        CHECK_EQUAL(rc, 40 + size + 60 <= CQ_PACKET_HEADERS_MAX ? CQ_OK : CQ_E_MALFORMED);
    }
    for (size_t payload = 0; payload < 17; payload++) { /* cut off: in a block of its own, for the sanitizer to see */
        for (unsigned size = 8; size <= 16; size += 8) {
            uint8_t *block = malloc(40 + payload);
            REQUIRE(block != NULL);
            build_chain(1, size, UDP);
            cq_put16(super + 4, (uint16_t)payload);
            memcpy(block, super, 40 + payload);
            CHECK_EQUAL(cq_split_init(&s, NULL, block, 40 + payload), CQ_OK);
            CHECK_EQUAL(s.transport, payload >= size + 8);
            free(block);
        }
    }
}

/* ---- ordinary packets ---- */

static int split_ordinary(size_t n, const struct cq_vnet *v, struct cq_split *s)
{
    uint8_t *p;
    size_t length;
    int rc = cq_split_init(s, v, super, n);
    if (rc != CQ_OK)
        return rc;
    CHECK_EQUAL(s->count, 1);
    CHECK(cq_split_next(s, &p, &length));
    CHECK(p == super && length == n);
    CHECK(!cq_split_next(s, &p, &length));
    return CQ_OK;
}

static void test_own_checksum_is_vouched_for_and_left_alone(void)
{
    for (int kind = 0; kind < 4; kind++) {
        struct spec spec = spec_of(kind & 1 ? 4 : 6, kind & 2 ? TCP : UDP, 777);
        struct cq_split s;
        size_t n = build(super, &spec);
        struct cq_vnet v = vnet_of(super, 0);
        put_partial(super, n);
        memcpy(original, super, n);
        CHECK_EQUAL(split_ordinary(n, &v, &s), CQ_OK);
        CHECK(s.vouched && s.transport);
        CHECK(memcmp(super, original, n) == 0);
    }
}

static void test_without_needs_csum_nothing_is_vouched_or_changed(void)
{
    for (int kind = 0; kind < 4; kind++) {
        struct spec spec = spec_of(kind & 1 ? 4 : 6, kind & 2 ? TCP : UDP, 777);
        struct cq_split s;
        size_t n = build(super, &spec);
        struct cq_vnet v = vnet_of(super, 0);
        v.flags = 2;
        super[n - 1] ^= 1; /* a wrong checksum stays wrong */
        memcpy(original, super, n);
        CHECK_EQUAL(split_ordinary(n, &v, &s), CQ_OK);
        CHECK(!s.vouched && s.transport);
        CHECK_EQUAL(split_ordinary(n, NULL, &s), CQ_OK);
        CHECK(!s.vouched && s.transport);
        CHECK(memcmp(super, original, n) == 0);
    }
}

static void test_own_checksum_that_the_receiver_could_not_make_is_completed(void)
{
    static const int extensions[] = {ROUTING, DESTINATION, 0};
    for (int i = 0; i < 3; i++) {
        struct spec spec = spec_of(i == 2 ? 4 : 6, TCP, 333);
        struct cq_split s;
        spec.extension = extensions[i];
        size_t n = build(super, &spec);
        memcpy(original, super, n);
        struct cq_vnet v = vnet_of(super, 0);
        put_partial(super, n);
        CHECK_EQUAL(split_ordinary(n, &v, &s), CQ_OK);
        CHECK(!s.vouched && s.transport);
        CHECK(memcmp(super, original, n) == 0);
    }
}

static void test_udp_without_checksum_is_never_vouched_for(void)
{
    struct spec spec = spec_of(4, UDP, 50);
    struct cq_split s;
    size_t n = build(super, &spec);
    struct cq_vnet v = vnet_of(super, 0);
    cq_put16(super + 26, 0);
    CHECK_EQUAL(split_ordinary(n, NULL, &s), CQ_OK);
    CHECK(!s.vouched && s.transport);
    CHECK_EQUAL(cq_get16(super + 26), 0);
    CHECK_EQUAL(split_ordinary(n, &v, &s), CQ_OK);
    CHECK(!s.vouched && s.transport);
}

static void test_udp_length_of_its_own_is_not_vouched_for(void)
{
    struct spec spec = spec_of(4, UDP, 50);
    struct cq_split s;
    size_t n = build(super, &spec);
    struct cq_vnet v = vnet_of(super, 0);
    cq_put16(super + 24, 8 + 40); /* RFC 9868 has options in the rest */
    CHECK_EQUAL(split_ordinary(n, &v, &s), CQ_OK);
    CHECK(!s.vouched && s.transport);
}

static void test_fragments_are_neither_transport_nor_vouched(void)
{
    struct spec spec = spec_of(4, UDP, 50);
    struct cq_split s;
    size_t n = build(super, &spec);
    super[6] = 0x20;
    put_ip_checksum(super);
    CHECK_EQUAL(split_ordinary(n, NULL, &s), CQ_OK);
    CHECK(!s.vouched && !s.transport);
    spec.version = 6, spec.extension = FRAGMENT;
    n = build(super, &spec);
    CHECK_EQUAL(split_ordinary(n, NULL, &s), CQ_OK);
    CHECK(!s.vouched && !s.transport);
}

/* An outer UDP header (VXLAN without a checksum of its own) or IPIP around a packet whose checksum is wanted. */
static void test_inner_checksum_of_a_tunnel_is_completed(void)
{
    for (int odd = 0; odd < 2; odd++) {
        for (int inner_protocol = TCP; inner_protocol <= UDP; inner_protocol += UDP - TCP) {
            for (int vxlan = 0; vxlan < 2; vxlan++) {
                struct spec inner = spec_of(4, inner_protocol, 200u + (size_t)odd);
                struct spec outer = spec_of(4, UDP, 0);
                size_t header = vxlan ? 20 + 8 + 8 + 14 : 20, m = build(original, &inner);
                struct cq_split s;
                outer.payload = header - 28 * (size_t)vxlan - 20 * (size_t)!vxlan + m - (vxlan ? 0 : 8);
                size_t n = build(super, &outer);
                if (!vxlan)
                    super[9] = 4;
                else
                    cq_put16(super + 26, 0);
                put_ip_checksum(super);
                CHECK_EQUAL(n, header + m);
                memcpy(super + header, original, m);
                put_partial(super + header, m);
                struct cq_vnet v = vnet_of(original, 0);
                v.csum_start = (uint16_t)(v.csum_start + header);
                CHECK_EQUAL(split_ordinary(n, &v, &s), CQ_OK);
                CHECK(!s.vouched);
                CHECK_EQUAL(s.transport, vxlan);
                CHECK(memcmp(super + header, original, m) == 0);
            }
        }
    }
}

static void test_completed_zero_becomes_all_ones(void)
{
    struct spec spec = spec_of(4, UDP, 40);
    struct cq_split s;
    size_t n = build(super, &spec);
    struct cq_vnet v = {.flags = 1, .csum_start = 28, .csum_offset = 6}; /* an inner header */
    memset(super + 28, 0, 40);
    cq_put16(super + 28, 0xffff);
    CHECK_EQUAL(split_ordinary(n, &v, &s), CQ_OK);
    CHECK_EQUAL(cq_get16(super + 34), 0xffff);
}

static void test_checksum_outside_of_the_packet_is_malformed(void)
{
    struct spec spec = spec_of(4, UDP, 40);
    struct cq_split s;
    for (unsigned start = 0; start < 100; start++) {
        for (unsigned offset = 0; offset < 100; offset++) {
            size_t n = build(super, &spec);
            struct cq_vnet v = {.flags = 1, .csum_start = (uint16_t)start, .csum_offset = (uint16_t)offset};
            bool inside = start >= 20 && start + offset + 2 <= n;
            CHECK_EQUAL(cq_split_init(&s, &v, super, n), inside ? CQ_OK : CQ_E_MALFORMED);
        }
    }
    struct cq_vnet v = {.flags = 1, .csum_start = 65535, .csum_offset = 65535};
    CHECK_EQUAL(cq_split_init(&s, &v, super, build(super, &spec)), CQ_E_MALFORMED);
}

static void test_what_is_no_ip_packet_is_malformed(void)
{
    struct cq_split s;
    memset(super, 0, 100);
    CHECK_EQUAL(cq_split_init(&s, NULL, super, 100), CQ_E_MALFORMED);
    CHECK_EQUAL(cq_split_init(&s, NULL, super, 0), CQ_E_MALFORMED);
    super[0] = 0x45;
    CHECK_EQUAL(cq_split_init(&s, NULL, super, 100), CQ_E_MALFORMED);
}

int main(void)
{
    RUN(test_super_packets_equal_naive_segments);
    RUN(test_narrowed_tcp_equals_naive_segments_of_that_size);
    RUN(test_ordinary_tcp_is_narrowed_whoever_made_its_checksum);
    RUN(test_datagrams_are_not_narrowed);
    RUN(test_tcp_that_others_must_not_cut_is_not_narrowed);
    RUN(test_damaged_segment_is_not_mended_by_cutting_it);
    RUN(test_segments_smaller_than_headers);
    RUN(test_super_packet_without_payload_is_one_packet);
    RUN(test_largest_super_packet);
    RUN(test_flags_stay_where_they_belong);
    RUN(test_hdr_len_is_not_believed);
    RUN(test_completed_packets_have_checksums_of_their_own);
    RUN(test_opening_of_a_connection_is_told);
    RUN(test_hop_by_hop_header_is_vouched_for);
    RUN(test_source_routed_segments_are_completed);
    RUN(test_pseudo_header_of_another_destination_is_kept);
    RUN(test_bytes_after_the_packet_are_cut_off);
    RUN(test_gso_fields_that_do_not_fit_are_malformed);
    RUN(test_gso_type_of_another_packet_is_malformed);
    RUN(test_super_packets_with_broken_headers_are_malformed);
    RUN(test_extension_header_walk_is_bounded);
    RUN(test_own_checksum_is_vouched_for_and_left_alone);
    RUN(test_without_needs_csum_nothing_is_vouched_or_changed);
    RUN(test_own_checksum_that_the_receiver_could_not_make_is_completed);
    RUN(test_udp_without_checksum_is_never_vouched_for);
    RUN(test_udp_length_of_its_own_is_not_vouched_for);
    RUN(test_fragments_are_neither_transport_nor_vouched);
    RUN(test_inner_checksum_of_a_tunnel_is_completed);
    RUN(test_completed_zero_becomes_all_ones);
    RUN(test_checksum_outside_of_the_packet_is_malformed);
    RUN(test_what_is_no_ip_packet_is_malformed);
    return check_done();
}
