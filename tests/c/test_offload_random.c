/*
 * Random traffic through the offloads: what comes out, taken apart by the naive segmenter, is what went in, packet by
 * packet and in order within each flow; and a super-packet that was split comes back whole.
 */
#include "kernel.h"

enum { FLOWS = 12, ROUNDS = 300, BATCH = 150 };

struct expected {
    uint8_t *packet;
    size_t length;
    bool constant_id;
};

static unsigned flow_of(const uint8_t *p)
{
    int protocol;
    return cq_get16(p + transport_of(p, &protocol)) - 1000u;
}

static void forget_id(uint8_t *p)
{
    cq_put16(p + 4, 0);
    put_ip_checksum(p);
}

/* One random step of a flow: mostly bulk, sometimes anything. */
static void wander(struct spec *s)
{
    uint64_t r = check_random();
    s->flags = ACK;
    s->payload = 1200;
    s->fill = (uint8_t)r;
    switch (r >> 8 & 63) {
    case 0: s->payload = (r >> 16) % 1200; break;
    case 1: s->payload = 0; break;
    case 2: s->flags |= PSH; break;
    case 3: s->flags |= (uint8_t)(r >> 16); break;
    case 4: s->sequence += (uint32_t)(r >> 40); break;
    case 5: s->id = (uint16_t)(r >> 20); break;
    case 6: s->tos = (uint8_t)(r >> 16 & 3); break;
    case 7: s->ttl = (uint8_t)(30 + (r >> 16 & 1)); break;
    case 8: s->window ^= 1; break;
    case 9: s->timestamp++; break;
    case 10: s->options ^= 4; break;
    case 11: s->extension = s->extension == NO_EXTENSION ? HOP_BY_HOP : NO_EXTENSION; break;
    case 12: s->ack++; break;
    case 13: s->payload = 1201; break;
    default: break;
    }
    if (s->version == 4)
        s->extension = NO_EXTENSION;
}

static void test_random_traffic_comes_out_as_it_went_in(void)
{
    static struct expected expected[BATCH];
    static uint8_t p[PACKET_MAX];
    struct spec flows[FLOWS];
    unsigned all_writes = 0;

    start();
    for (unsigned f = 0; f < FLOWS; f++) {
        flows[f] = spec_of(f & 1 ? 4 : 6, f & 2 ? TCP : UDP, 1200);
        flows[f].source_port = (uint16_t)(1000 + f);
        flows[f].df = f & 4;
    }
    for (int round = 0; round < ROUNDS; round++) {
        unsigned f = 0;
        reset();
        for (int i = 0; i < BATCH; i++) {
            if (check_random() % 8 == 0)
                f = check_random() % FLOWS;
            struct spec *s = &flows[f];
            bool constant_id = s->df && f >= 8, vouched = (f + (unsigned)round) % 3 != 0;
            wander(s);
            if (constant_id)
                s->id = 0;
            size_t n = build(p, s);
            if (!vouched && check_random() % 64 == 0)
                p[n - 1] ^= 1;
            expected[i] = (struct expected){keep(p, n), n, constant_id};
            add_bytes(p, n, vouched);
            advance(s);
        }
        all_writes += flush();
        CHECK_EQUAL(out_count, BATCH);
        for (f = 0; f < FLOWS; f++) {
            unsigned o = 0;
            for (int i = 0; i < BATCH; i++) {
                struct expected *e = &expected[i];
                if (flow_of(e->packet) != f)
                    continue;
                while (o < out_count && flow_of(out[o].packet) != f)
                    o++;
                REQUIRE(o < out_count);
                if (e->constant_id && e->packet[0] >> 4 == 4)
                    forget_id(e->packet), forget_id(out[o].packet);
                CHECK_EQUAL(out[o].length, e->length);
                CHECK(memcmp(out[o].packet, e->packet, e->length) == 0);
                o++;
            }
        }
    }
    CHECK(all_writes < ROUNDS * BATCH / 2); /* it does merge */
}

static void test_split_and_coalesce_give_back_the_super_packet(void)
{
    static uint8_t super[PACKET_MAX], copy[PACKET_MAX];
    for (int round = 0; round < 300; round++) {
        uint64_t r = check_random();
        struct spec s = spec_of(r & 1 ? 4 : 6, r & 2 ? TCP : UDP, 2000 + (r >> 8) % 62000);
        uint16_t gso = (uint16_t)(1000 + (r >> 32) % 460);
        struct cq_split split;
        uint8_t *p;
        int protocol;
        size_t n, length;

        s.id = (uint16_t)(r >> 48);
        if (s.payload % gso != 0 && (r & 4)) /* else the end of the batch ends it */
            s.flags |= PSH;
        n = build(super, &s);
        struct cq_vnet v = vnet_of(super, gso);
        put_partial(super, n);
        memcpy(copy, super, n);
        start_with((struct cq_coalesce_options){
            .tcp4 = true, .tcp6 = true, .uso = true, .vnet = true, .max_size = 65535, .max_segments = 100});
        REQUIRE(cq_split_init(&split, &v, super, n) == CQ_OK);
        CHECK(split.vouched);
        while (cq_split_next(&split, &p, &length))
            cq_coalesce_add(coalesce, keep(p, length), length, split.vouched);
        CHECK_EQUAL(flush(), 1);
        CHECK_EQUAL(last_length, n);
        CHECK(memcmp(whole, copy, n) == 0);
        CHECK_EQUAL(last_vnet.gso_size, gso);
        CHECK_EQUAL(last_vnet.csum_start, transport_of(copy, &protocol));
    }
}

int main(void)
{
    RUN(test_random_traffic_comes_out_as_it_went_in);
    RUN(test_split_and_coalesce_give_back_the_super_packet);
    cq_coalesce_free(coalesce);
    return check_done();
}
