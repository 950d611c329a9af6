/*
 * Fuzzing of the offloads. One input is a batch of packets:
 *
 *   byte 0: options of the coalescer; then per packet: control byte (bit 0: vouched, bit 1: run it through split first,
 *   with the 10 bytes of a vnet header before it, bit 2: from here on super-packets are refused), u16 length, bytes.
 *
 * Whatever the input, nothing outside of the packets' own bytes is touched, segments stay inside of the buffer and are
 * whole IP packets, every packet is written exactly once, and no write is longer than it may be.
 */
#define _GNU_SOURCE
#include "fuzz.h"
#include "packets.h"

enum { BATCH_MAX = 64 };

struct sink {
    struct cq_coalesce_options options;
    unsigned packets;
    bool refuses; /* super-packets */
    volatile uint8_t byte;
};

static enum cq_written take(void *arg, const struct iovec *iov, int iovcnt, unsigned packets)
{
    struct sink *sink = arg;
    int first = sink->options.vnet ? 1 : 0;
    size_t n = 0;
    HOLDS(packets >= 1 && iovcnt == first + (int)packets);
    for (int i = first; i < iovcnt; i++) {
        const uint8_t *p = iov[i].iov_base;
        for (size_t j = 0; j < iov[i].iov_len; j++) /* the sanitizer sees every byte that the kernel would read */
            sink->byte = p[j];
        n += iov[i].iov_len;
    }
    const uint8_t *head = iov[first].iov_base;
    if (packets > 1) {
        HOLDS(n <= sink->options.max_size && packets <= sink->options.max_segments);
        HOLDS(n == (head[0] >> 4 == 4 ? cq_get16(head + 2) : 40u + cq_get16(head + 4)));
    }
    if (first) {
        struct cq_vnet v;
        HOLDS(iov[0].iov_len == sizeof v);
        memcpy(&v, iov[0].iov_base, sizeof v);
        HOLDS(v.flags == 0 || (size_t)v.csum_start + v.csum_offset + 2 <= iov[1].iov_len);
        HOLDS((v.gso_size != 0) == (packets > 1) && (v.gso_type != 0) == (packets > 1));
        HOLDS(packets == 1 || (v.flags == 1 && v.hdr_len + (size_t)v.gso_size == iov[1].iov_len));
    }
    if (packets > 1 && sink->refuses)
        return CQ_WRITE_REFUSED;
    sink->packets += packets;
    return CQ_WRITTEN;
}

struct batch {
    struct cq_coalesce *coalesce;
    uint8_t *blocks[BATCH_MAX * 8];
    unsigned used, added;
};

/* In a block of exactly its size. */
static void hand_over(struct batch *b, const uint8_t *p, size_t n, bool vouched)
{
    size_t length = cq_packet_length(p, n);
    if (length == 0 || b->used == sizeof b->blocks / sizeof *b->blocks)
        return;
    uint8_t *block = memcpy(block_new(length), p, length);
    b->blocks[b->used++] = block;
    cq_coalesce_add(b->coalesce, block, length, vouched);
    b->added++;
}

static void split_first(struct batch *b, const uint8_t *p, size_t n, bool narrow)
{
    struct cq_vnet v;
    struct cq_split s;
    uint8_t *packet;
    size_t length;
    if (n < sizeof v)
        return;
    memcpy(&v, p, sizeof v);
    n -= sizeof v;
    uint8_t *buffer = memcpy(block_new(n), p + sizeof v, n);
    if (cq_split_init(&s, &v, buffer, n) == CQ_OK) {
        unsigned count = 0;
        narrow = narrow && cq_split_narrow(&s, CQ_MTU_MIN);
        while (cq_split_next(&s, &packet, &length)) {
            HOLDS(!narrow || length <= CQ_MTU_MIN);
            HOLDS(packet >= buffer && packet + length <= buffer + n);
            if (v.gso_type != 0) /* completing an ordinary packet may hit any of its bytes, if the kernel says so */
                HOLDS(cq_packet_length(packet, length) == length);
            HOLDS(!s.vouched || s.transport);
            hand_over(b, packet, length, s.vouched);
            count++;
        }
        HOLDS(count == s.count);
    }
    block_free(buffer);
}

/* The coalescer with these options. It has nothing of the input before, which ended with a flush. */
static struct cq_coalesce *coalesce_for(uint8_t options, struct sink **sink)
{
    static struct cq_coalesce *made[256];
    static struct sink sinks[256];

    *sink = &sinks[options];
    if (made[options] == NULL) {
        (*sink)->options = (struct cq_coalesce_options){.tcp4 = options & 1,
                                                        .tcp6 = options & 2,
                                                        .uso = options & 4,
                                                        .vnet = options & 8,
                                                        .max_size = options & 16 ? 65535 : 4000,
                                                        .max_segments = 1 + (options >> 5) * 20u};
        made[options] = cq_coalesce_new(&(*sink)->options, take, *sink);
        REQUIRE(made[options] != NULL);
    }
    (*sink)->packets = 0;
    (*sink)->refuses = false;
    return made[options];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct sink *sink;
    struct batch b;
    b.coalesce = coalesce_for(data[0], &sink);
    b.used = b.added = 0;
    for (size_t at = 1; at + 3 <= size;) {
        uint8_t control = data[at];
        size_t n = cq_get16(data + at + 1);
        at += 3;
        n = n < size - at ? n : size - at;
        sink->refuses |= (control & 4) != 0;
        if (control & 2)
            split_first(&b, data + at, n, control & 8);
        else
            hand_over(&b, data + at, n, control & 1);
        at += n;
    }
    cq_coalesce_flush(b.coalesce);
    HOLDS(sink->packets == b.added);
    for (unsigned i = 0; i < b.used; i++)
        block_free(b.blocks[i]);
    return 0;
}

#ifndef CQ_LIBFUZZER

/* Appends one packet of a few flows that would merge if nothing were changed about it. */
static size_t append(uint8_t *out, struct spec *flows)
{
    static const int extensions[] = {HOP_BY_HOP, ROUTING, DESTINATION, FRAGMENT};
    struct spec *s = &flows[draw(4)];
    uint8_t *p = out + 3;
    bool split = draw(4) == 0;
    s->payload = split ? draw(6000) : draw(8) == 0 ? draw(300) : 200;
    s->extension = draw(16) == 0 ? extensions[draw(4)] : NO_EXTENSION;
    if (split)
        p += CQ_VNET_SIZE;
    size_t n = build(p, s);
    s->sequence += (uint32_t)s->payload;
    s->id++;
    if (split) {
        struct cq_vnet v = vnet_of(p, draw(4) == 0 ? 0 : (uint16_t)(1 + draw(draw(2) ? 1500 : 100)));
        if (draw(16) == 0)
            ((uint8_t *)&v)[draw(sizeof v)] ^= (uint8_t)(1u << draw(8));
        memcpy(out + 3, &v, sizeof v);
    }
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, 0x40, 0x60, 0x45};
    for (uint32_t changes = draw(3) == 0 ? draw(4) : 0; changes > 0; changes--) {
        uint32_t where = draw(n < 80 || draw(8) == 0 ? (uint32_t)n : 80);
        p[where] = draw(2) ? edges[draw(sizeof edges)] : (uint8_t)draw(256);
    }
    if (draw(64) == 0) /* cut off */
        n = draw((uint32_t)n + 1);
    n += (size_t)(p - out) - 3;
    out[0] = (uint8_t)(draw(8) != 0) | (split ? 2 : 0) | (draw(2) ? 8 : 0) | (draw(64) == 0 ? 4 : 0);
    cq_put16(out + 1, (uint16_t)n);
    return 3 + n;
}

static size_t make_input(uint8_t *out)
{
    struct spec flows[4] = {spec_of(4, TCP, 0), spec_of(6, TCP, 0), spec_of(4, UDP, 0), spec_of(6, UDP, 0)};
    size_t n = 1;
    out[0] = (uint8_t)(draw(256) | (draw(4) ? 31 : 0));
    for (uint32_t packets = 1 + draw(BATCH_MAX); packets > 0; packets--)
        n += append(out + n, flows);
    return n;
}

#endif
