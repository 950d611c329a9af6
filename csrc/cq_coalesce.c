/*
 * In: packets of one batch to super-packets for the TUN (what GRO does in the kernel, by its rules).
 *
 * A super-packet is the first packet as it lies, with new lengths and checksums in its headers, followed by the
 * payloads of the others where they lie. What the kernel makes of it again must equal what was merged, so packets merge
 * only if they differ in nothing but position: IP ID, sequence number, and PSH or a smaller size at the end.
 */
#include "cq_coalesce.h"
#include "cq_packet.h"
#include "cq_vnet.h"

#include <stdlib.h>

#define WAYS 4u             /* flows that may collide before one is cut short */
#define SETS 64u            /* a power of two, picked by the top bits of a hash */
#define SET_SHIFT (64 - 6)  /* those bits */
#define FLOWS (WAYS * SETS) /* more than a batch has: so few of 64 flows share a set with four others */
#define WORD 64u            /* flows of a word of cq_coalesce.open */
static_assert(SETS == 1u << (64 - SET_SHIFT) && FLOWS % WORD == 0, "sets and flows are bits of words");

/* What makes a flow: addresses, ports, IP version and protocol. */
struct key {
    uint64_t addresses[4]; /* IPv4: source and destination in the first */
    uint32_t ports;
    uint8_t version, protocol;
};

struct flow {
    struct key key;
    struct cq_packet headers; /* of the first packet, as are all of these: */
    uint8_t *packet;
    size_t payload;
    bool vouched;
    bool verified; /* vouched, or its checksums were computed and are right */
    bool constant_id;
    unsigned packets;
    size_t length; /* of the whole super-packet */
    uint64_t age;
    struct iovec *iov; /* vnet header, first packet, payloads */
};

struct cq_coalesce {
    struct cq_coalesce_options options;
    cq_coalesce_write *write;
    void *arg;
    uint64_t open[FLOWS / WORD]; /* one bit per flow that holds packets */
    uint64_t ticks;
    struct iovec *iov;
    struct flow flows[FLOWS];
};

/* ---- writing ---- */

static enum cq_written write_out(struct cq_coalesce *c, struct cq_vnet *vnet, struct iovec *iov, int count,
                                 unsigned packets)
{
    iov[0] = (struct iovec){.iov_base = vnet, .iov_len = CQ_VNET_SIZE};
    int skip = c->options.vnet ? 0 : 1;
    return c->write(c->arg, iov + skip, count - skip, packets);
}

static void set_needs_checksum(struct cq_vnet *vnet, const struct cq_packet *h)
{
    vnet->flags = CQ_VNET_NEEDS_CSUM;
    vnet->hdr_len = h->headers;
    vnet->csum_start = h->transport;
    vnet->csum_offset = cq_packet_checksum_offset(h);
}

static enum cq_written write_single(struct cq_coalesce *c, const struct cq_packet *h, uint8_t *p, size_t n,
                                    bool vouched)
{
    struct cq_vnet vnet = {0};
    struct iovec iov[2] = {[1] = {.iov_base = p, .iov_len = n}};
    if (vouched && h->protocol != 0 && h->plain && h->exact) {
        uint8_t *field = cq_packet_checksum_field(h, p);
        cq_put16(field, cq_checksum_fold(cq_packet_pseudo(h, p, n)));
        if (c->options.vnet)
            set_needs_checksum(&vnet, h);
        else
            cq_checksum_put(field, cq_checksum_add(p + h->transport, n - h->transport, 0));
    }
    return write_out(c, &vnet, iov, 2, 1);
}

static uint8_t gso_type(const struct cq_packet *h)
{
    if (h->protocol == CQ_PROTOCOL_UDP)
        return CQ_GSO_UDP_L4;
    return h->version == 4 ? CQ_GSO_TCPV4 : CQ_GSO_TCPV6;
}

/* The headers of a packet of n bytes say so: that of IP with its checksum, and that of UDP. */
static void put_length(const struct cq_packet *h, uint8_t *p, size_t n)
{
    if (h->version == 4) {
        cq_put16(p + 2, (uint16_t)n);
        cq_packet_put_ip_checksum(h, p);
    } else {
        cq_put16(p + 4, (uint16_t)(n - 40));
    }
    if (h->protocol == CQ_PROTOCOL_UDP)
        cq_put16(p + h->transport + 4, (uint16_t)(n - h->transport));
}

/* The packets of a super-packet that was refused, one by one. All but the first lie where they came, untouched; the
 * first has lost its length, its checksum and the PSH that it did not have. */
static void write_apart(struct cq_coalesce *c, struct flow *f)
{
    const struct cq_packet *h = &f->headers;
    bool written = false;
    put_length(h, f->packet, h->headers + f->payload);
    if (h->protocol == CQ_PROTOCOL_TCP)
        f->packet[h->transport + CQ_TCP_FLAGS] &= (uint8_t)~CQ_TCP_PSH;
    for (unsigned i = 0; i < f->packets; i++) {
        const struct iovec *part = &f->iov[i + 1];
        uint8_t *p = i == 0 ? f->packet : (uint8_t *)part->iov_base - h->headers;
        size_t n = i == 0 ? part->iov_len : part->iov_len + h->headers;
        if (write_single(c, h, p, n, f->vouched || i == 0) == CQ_WRITTEN)
            written = true;
    }
    if (written && c->options.refused != NULL) /* else it was not the merging */
        atomic_fetch_or_explicit(c->options.refused, (uint32_t)1 << gso_type(h), memory_order_relaxed);
}

static void write_super(struct cq_coalesce *c, struct flow *f)
{
    const struct cq_packet *h = &f->headers;
    uint8_t *p = f->packet;
    struct cq_vnet vnet = {.gso_size = (uint16_t)f->payload, .gso_type = gso_type(h)};
    set_needs_checksum(&vnet, h);
    put_length(h, p, f->length);
    cq_put16(cq_packet_checksum_field(h, p), cq_checksum_fold(cq_packet_pseudo(h, p, f->length)));
    if (write_out(c, &vnet, f->iov, (int)f->packets + 1, f->packets) == CQ_WRITE_REFUSED)
        write_apart(c, f);
}

static bool is_open(const struct cq_coalesce *c, const struct flow *f)
{
    const size_t i = (size_t)(f - c->flows);
    return c->open[i / WORD] >> i % WORD & 1;
}

static void set_open(struct cq_coalesce *c, const struct flow *f, bool open)
{
    const size_t i = (size_t)(f - c->flows);
    const uint64_t bit = (uint64_t)1 << i % WORD;
    c->open[i / WORD] = open ? c->open[i / WORD] | bit : c->open[i / WORD] & ~bit;
}

static void flush_flow(struct cq_coalesce *c, struct flow *f)
{
    set_open(c, f, false);
    if (f->packets > 1)
        write_super(c, f);
    else
        (void)write_single(c, &f->headers, f->packet, f->length, f->vouched);
}

void cq_coalesce_flush(struct cq_coalesce *c)
{
    for (size_t i = 0; i < FLOWS / WORD; i++)
        while (c->open[i] != 0)
            flush_flow(c, &c->flows[i * WORD + (size_t)__builtin_ctzll(c->open[i])]);
}

/* ---- finding a flow ---- */

static struct key key_of(const struct cq_packet *h, const uint8_t *p)
{
    struct key k = {.version = h->version, .protocol = h->protocol};
    if (h->version == 4)
        memcpy(k.addresses, p + 12, 8);
    else
        memcpy(k.addresses, p + 8, 32);
    memcpy(&k.ports, p + h->transport, 4);
    return k;
}

static bool same_key(const struct key *a, const struct key *b)
{
    uint64_t differ =
        (uint64_t)(a->ports ^ b->ports) | (uint64_t)(a->version ^ b->version) | (uint64_t)(a->protocol ^ b->protocol);
    for (int i = 0; i < 4; i++)
        differ |= a->addresses[i] ^ b->addresses[i];
    return differ == 0;
}

/* A peer that makes its flows collide loses merging for them, nothing else: no secret is needed. */
static struct flow *set_of(struct cq_coalesce *c, const struct key *k)
{
    uint64_t x = k->ports;
    for (int i = 0; i < 4; i++)
        x = (x ^ k->addresses[i]) * 0x9e3779b97f4a7c15u;
    return &c->flows[(x >> SET_SHIFT) * WAYS];
}

static struct flow *find(const struct cq_coalesce *c, struct flow *set, const struct key *k)
{
    for (unsigned i = 0; i < WAYS; i++)
        if (is_open(c, &set[i]) && same_key(&set[i].key, k))
            return &set[i];
    return NULL;
}

/* A free place of the set; if need be its oldest flow goes out. */
static struct flow *make_room(struct cq_coalesce *c, struct flow *set)
{
    struct flow *oldest = &set[0];
    for (unsigned i = 0; i < WAYS; i++) {
        if (!is_open(c, &set[i]))
            return &set[i];
        if (set[i].age < oldest->age)
            oldest = &set[i];
    }
    flush_flow(c, oldest);
    return oldest;
}

/* ---- what merges ---- */

/* Whether packets of this kind merge at all: no IP options or extension headers, a payload, a TCP segment that says
 * nothing but "more data" (CWR among the flags would be lost or doubled by whoever splits again). */
static bool mergeable(const struct cq_coalesce *c, const struct cq_packet *h, const uint8_t *p, size_t n, bool vouched)
{
    if (!h->plain || !h->exact || h->transport != h->ip_header || n <= h->headers)
        return false;
    if (c->options.refused != NULL &&
        (atomic_load_explicit(c->options.refused, memory_order_relaxed) >> gso_type(h) & 1) != 0)
        return false;
    if (h->protocol == CQ_PROTOCOL_UDP)
        return c->options.uso && (vouched || cq_get16(p + h->transport + CQ_UDP_CHECKSUM) != 0);
    if (!(h->version == 4 ? c->options.tcp4 : c->options.tcp6))
        return false;
    return (p[h->transport + CQ_TCP_FLAGS] & ~(CQ_TCP_PSH | CQ_TCP_ECE)) == CQ_TCP_ACK;
}

/* IPv4: IDs count up or, with DF, may stay the same. The second packet decides which. */
static bool next_id(const struct flow *f, const uint8_t *p, bool *constant)
{
    uint16_t distance = (uint16_t)(cq_get16(p + 4) - cq_get16(f->packet + 4));
    bool dont_fragment = (p[6] & 0x40) != 0;
    *constant = distance == 0 && dont_fragment && (f->packets == 1 || f->constant_id);
    return *constant || (distance == (uint16_t)f->packets && !f->constant_id);
}

static bool same_ip_header(const struct flow *f, const uint8_t *p, bool *constant_id)
{
    const uint8_t *q = f->packet;
    if (f->headers.version == 4) /* TOS; DF and the reserved bit; TTL */
        return p[1] == q[1] && p[6] == q[6] && p[8] == q[8] && next_id(f, p, constant_id);
    *constant_id = false;
    return cq_get32(p) == cq_get32(q) && p[7] == q[7]; /* traffic class and flow label; hop limit */
}

static bool next_in_stream(const struct flow *f, const struct cq_packet *h, const uint8_t *p)
{
    const uint8_t *a = f->packet + f->headers.transport, *b = p + h->transport;
    uint32_t sequence = cq_get32(a + 4) + (uint32_t)(f->length - f->headers.headers);
    uint32_t differ = cq_get32(a + 12) ^ cq_get32(b + 12); /* header length, flags, window */
    return cq_get32(b + 4) == sequence && cq_get32(a + 8) == cq_get32(b + 8) &&
           (differ & ~((uint32_t)CQ_TCP_PSH << 16)) == 0 && cq_get16(a + 18) == cq_get16(b + 18) &&
           memcmp(a + 20, b + 20, (size_t)(h->headers - h->transport) - 20) == 0;
}

static bool follows(const struct cq_coalesce *c, const struct flow *f, const struct cq_packet *h, const uint8_t *p,
                    size_t n, bool vouched, bool *constant_id)
{
    size_t payload = n - h->headers;
    return vouched == f->vouched && payload <= f->payload && f->length + payload <= c->options.max_size &&
           f->packets < c->options.max_segments && same_ip_header(f, p, constant_id) &&
           (h->protocol != CQ_PROTOCOL_TCP || next_in_stream(f, h, p));
}

/* Merging writes new checksums, which must not make a damaged packet look whole. */
static bool verify(const struct cq_packet *h, const uint8_t *p, size_t n, bool vouched)
{
    if (h->version == 4 && cq_checksum_fold(cq_checksum_add(p, h->ip_header, 0)) != 0xffff)
        return false;
    return vouched ||
           cq_checksum_fold(cq_checksum_add(p + h->transport, n - h->transport, cq_packet_pseudo(h, p, n))) == 0xffff;
}

static bool merge(struct cq_coalesce *c, struct flow *f, const struct cq_packet *h, uint8_t *p, size_t n,
                  bool constant_id)
{
    if (!f->verified && !verify(&f->headers, f->packet, f->length, f->vouched))
        return false;
    f->verified = true;
    if (!verify(h, p, n, f->vouched))
        return false;
    size_t payload = n - h->headers;
    f->iov[f->packets + 1] = (struct iovec){.iov_base = p + h->headers, .iov_len = payload};
    f->constant_id = constant_id;
    f->packets++;
    f->length += payload;
    bool push = h->protocol == CQ_PROTOCOL_TCP && (p[h->transport + CQ_TCP_FLAGS] & CQ_TCP_PSH) != 0;
    if (push)
        f->packet[f->headers.transport + CQ_TCP_FLAGS] |= CQ_TCP_PSH;
    if (push || payload < f->payload)
        flush_flow(c, f);
    return true;
}

void cq_coalesce_add(struct cq_coalesce *c, uint8_t *p, size_t n, bool vouched)
{
    struct cq_packet h;
    cq_packet_parse(&h, p, n);
    if (h.protocol == 0) {
        if (h.fragment) /* its flow may be any: only the first fragment has ports */
            cq_coalesce_flush(c);
        (void)write_single(c, &h, p, n, vouched);
        return;
    }
    struct key key = key_of(&h, p);
    struct flow *set = set_of(c, &key), *f = find(c, set, &key);
    bool can = mergeable(c, &h, p, n, vouched), constant_id;
    if (f != NULL) {
        if (can && follows(c, f, &h, p, n, vouched, &constant_id) && merge(c, f, &h, p, n, constant_id))
            return;
        flush_flow(c, f);
    }
    if (!can || (h.protocol == CQ_PROTOCOL_TCP && (p[h.transport + CQ_TCP_FLAGS] & CQ_TCP_PSH) != 0)) {
        (void)write_single(c, &h, p, n, vouched);
        return;
    }
    f = make_room(c, set);
    f->key = key;
    f->headers = h;
    f->packet = p;
    f->payload = n - h.headers;
    f->vouched = vouched;
    f->verified = false;
    f->constant_id = false;
    f->packets = 1;
    f->length = n;
    f->age = ++c->ticks;
    f->iov[1] = (struct iovec){.iov_base = p, .iov_len = n};
    set_open(c, f, true);
}

/* ---- life ---- */

struct cq_coalesce *cq_coalesce_new(const struct cq_coalesce_options *options, cq_coalesce_write *write, void *arg)
{
    struct cq_coalesce *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    c->options = *options;
    if (c->options.max_size > CQ_COALESCE_SIZE_MAX)
        c->options.max_size = CQ_COALESCE_SIZE_MAX;
    if (c->options.max_segments > CQ_COALESCE_SEGMENTS_MAX)
        c->options.max_segments = CQ_COALESCE_SEGMENTS_MAX;
    if (!c->options.vnet) /* no way to tell the TUN that it is a super-packet */
        c->options.tcp4 = c->options.tcp6 = c->options.uso = false;
    c->write = write;
    c->arg = arg;
    size_t each = (c->options.max_segments == 0 ? 1 : c->options.max_segments) + (size_t)1;
    c->iov = calloc(FLOWS * each, sizeof *c->iov);
    if (c->iov == NULL) {
        free(c);
        return NULL;
    }
    for (size_t i = 0; i < FLOWS; i++)
        c->flows[i].iov = c->iov + i * each;
    return c;
}

void cq_coalesce_free(struct cq_coalesce *c)
{
    if (c == NULL)
        return;
    free(c->iov);
    free(c);
}
