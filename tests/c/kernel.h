/*
 * The kernel's end of the TUN for the tests of coalescing: it takes what is written apart again with the naive
 * segmenter, fills in checksums where it was told to, and keeps the packets in the order of their arrival.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include "packets.h"

enum { OUT_MAX = 4096, POOL_SIZE = 4 << 20 };

static struct cq_coalesce *coalesce;
static struct cq_coalesce_options options;
static uint8_t pool[POOL_SIZE], whole[PACKET_MAX];
static size_t pool_used;

/* What was written, after the kernel's work: one entry per packet. */
static struct {
    uint8_t *packet;
    size_t length;
    bool needs_csum;
} out[OUT_MAX];
static unsigned out_count, writes;
static unsigned refuses_from; /* writes of at least so many packets are refused; 0: none */
static unsigned refusals;
static _Atomic uint32_t refused;
static struct cq_vnet last_vnet;
static size_t last_length;

static inline uint8_t *keep(const uint8_t *p, size_t n)
{
    REQUIRE(pool_used + n <= POOL_SIZE);
    uint8_t *q = memcpy(pool + pool_used, p, n);
    pool_used += n;
    return q;
}

static inline void add_out(const uint8_t *p, size_t n, bool needs_csum)
{
    REQUIRE(out_count < OUT_MAX);
    out[out_count].packet = keep(p, n);
    out[out_count].length = n;
    out[out_count++].needs_csum = needs_csum;
}

/* Plays the kernel: checks the vnet header, then segments and completes. */
static inline enum cq_written receive(void *arg, const struct iovec *iov, int iovcnt, unsigned packets)
{
    struct cq_vnet v = {0};
    size_t n = 0;
    int i = 0, protocol;
    static uint8_t segment[PACKET_MAX];

    CHECK(arg == &coalesce);
    if (options.vnet) {
        CHECK_EQUAL(iov[0].iov_len, CQ_VNET_SIZE);
        memcpy(&v, iov[i++].iov_base, CQ_VNET_SIZE);
    }
    CHECK_EQUAL(iovcnt, (int)packets + i);
    for (; i < iovcnt; i++) {
        REQUIRE(n + iov[i].iov_len <= sizeof whole);
        memcpy(whole + n, iov[i].iov_base, iov[i].iov_len);
        n += iov[i].iov_len;
    }
    if (refuses_from != 0 && packets >= refuses_from)
        return refusals++, packets > 1 ? CQ_WRITE_REFUSED : CQ_WRITE_LOST;
    last_vnet = v;
    last_length = n;
    writes++;
    CHECK_EQUAL(cq_packet_length(whole, n), n);
    if (v.flags == 0) {
        CHECK(v.gso_type == 0 && v.gso_size == 0 && v.csum_start == 0 && v.csum_offset == 0);
        CHECK_EQUAL(packets, 1);
        add_out(whole, n, false);
        return CQ_WRITTEN;
    }
    CHECK_EQUAL(v.flags, 1);
    size_t l4 = transport_of(whole, &protocol);
    CHECK_EQUAL(v.csum_start, l4);
    CHECK_EQUAL(v.csum_offset, checksum_offset(protocol));
    CHECK_EQUAL(v.hdr_len, headers_of(whole));
    CHECK_EQUAL(cq_get16(whole + l4 + checksum_offset(protocol)), naive_fold(naive_pseudo(whole, n)));
    if (packets == 1) {
        CHECK(v.gso_type == 0 && v.gso_size == 0);
        put_checksums(whole, n);
        add_out(whole, n, true);
        return CQ_WRITTEN;
    }
    CHECK_EQUAL(v.gso_type, vnet_of(whole, v.gso_size).gso_type);
    CHECK(n <= options.max_size);
    CHECK(packets <= options.max_segments);
    if (whole[0] >> 4 == 4)
        CHECK_EQUAL(naive_fold(naive_sum(whole, ip_size(whole))), 0xffff);
    if (protocol == UDP)
        CHECK_EQUAL(cq_get16(whole + l4 + 4), n - l4);
    size_t length, segments = 0;
    while ((length = naive_segment(whole, n, v.gso_size, segments, segment)) > 0) {
        add_out(segment, length, true);
        segments++;
    }
    CHECK_EQUAL(segments, packets);
    return CQ_WRITTEN;
}

static inline void reset(void) { pool_used = out_count = writes = 0; }

static inline void start_with(struct cq_coalesce_options o)
{
    cq_coalesce_free(coalesce);
    o.refused = &refused;
    atomic_store(&refused, 0);
    refuses_from = refusals = 0;
    options = o;
    coalesce = cq_coalesce_new(&o, receive, &coalesce);
    REQUIRE(coalesce != NULL);
    reset();
}

static inline void start(void)
{
    start_with((struct cq_coalesce_options){
        .tcp4 = true, .tcp6 = true, .uso = true, .vnet = true, .max_size = 65535, .max_segments = 64});
}

/* Hands over a copy; a vouched one with rubbish in its checksum field. */
static inline void add_bytes(const uint8_t *p, size_t n, bool vouched)
{
    uint8_t *q = keep(p, n);
    int protocol;
    if (vouched)
        cq_put16(q + transport_of(q, &protocol) + checksum_offset(protocol), (uint16_t)check_random());
    cq_coalesce_add(coalesce, q, n, vouched);
}

static inline void add(const struct spec *s, bool vouched)
{
    static uint8_t p[PACKET_MAX];
    add_bytes(p, build(p, s), vouched);
}

static inline unsigned flush(void)
{
    cq_coalesce_flush(coalesce);
    return writes;
}

#endif
