/*
 * Packets for the offload tests: a builder, and slow and obvious twins of what cq_packet, cq_checksum, cq_split and
 * cq_coalesce do fast. Nothing here uses that code; checksums are added up two bytes at a time.
 */
#ifndef PACKETS_H
#define PACKETS_H

#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "cq_coalesce.h"
#include "cq_split.h"

enum { TCP = 6, UDP = 17, PACKET_MAX = 65600 };
enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32, ECE = 64, CWR = 128 };
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, DESTINATION = 60, NO_EXTENSION = 255 };

struct spec {
    int version, protocol;
    int extension; /* IPv6: one extension header of 16 bytes, or NO_EXTENSION; IPv4: 4 bytes of options if not */
    uint8_t tos, ttl;
    bool df;
    uint16_t id, source_port, destination_port, window, urgent;
    uint8_t host; /* last byte of both addresses */
    uint32_t sequence, ack;
    uint8_t flags;
    uint8_t options; /* bytes of TCP options, a multiple of 4 */
    uint32_t timestamp;
    size_t payload;
    uint8_t fill; /* first payload byte; the others follow from it */
};

static inline struct spec spec_of(int version, int protocol, size_t payload)
{
    struct spec s = {.version = version,
                     .protocol = protocol,
                     .extension = NO_EXTENSION,
                     .ttl = 64,
                     .df = true,
                     .id = 0xfff0,
                     .source_port = 5201,
                     .destination_port = 40000,
                     .window = 501,
                     .host = 1,
                     .sequence = 0xfffffc00u,
                     .ack = 77,
                     .flags = ACK,
                     .options = 12,
                     .timestamp = 0x01020304,
                     .payload = payload,
                     .fill = 3};
    return s;
}

static inline uint16_t naive_fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static inline uint64_t naive_sum(const uint8_t *p, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += i % 2 ? p[i] : (uint64_t)p[i] << 8;
    return sum;
}

static inline size_t ip_size(const uint8_t *p) { return p[0] >> 4 == 4 ? (size_t)(p[0] & 15) * 4 : 40; }

/* Offset of the transport header: the tests have at most one extension header. */
static inline size_t transport_of(const uint8_t *p, int *protocol)
{
    if (p[0] >> 4 == 4) {
        *protocol = p[9];
        return ip_size(p);
    }
    if (p[6] != HOP_BY_HOP && p[6] != ROUTING && p[6] != DESTINATION) {
        *protocol = p[6];
        return 40;
    }
    *protocol = p[40];
    return 48 + (size_t)p[41] * 8;
}

static inline size_t checksum_offset(int protocol) { return protocol == TCP ? 16 : 6; }

static inline uint64_t naive_pseudo(const uint8_t *p, size_t n)
{
    int protocol;
    size_t l4 = transport_of(p, &protocol);
    return (p[0] >> 4 == 4 ? naive_sum(p + 12, 8) : naive_sum(p + 8, 32)) + (uint64_t)protocol + (n - l4);
}

static inline void put_partial(uint8_t *p, size_t n)
{
    int protocol;
    size_t l4 = transport_of(p, &protocol);
    cq_put16(p + l4 + checksum_offset(protocol), naive_fold(naive_pseudo(p, n)));
}

static inline void put_ip_checksum(uint8_t *p)
{
    cq_put16(p + 10, 0);
    cq_put16(p + 10, (uint16_t)~naive_fold(naive_sum(p, ip_size(p))));
}

/* Fills in all checksums from scratch. */
static inline void put_checksums(uint8_t *p, size_t n)
{
    int protocol;
    size_t l4 = transport_of(p, &protocol);
    uint8_t *field = p + l4 + checksum_offset(protocol);
    if (p[0] >> 4 == 4)
        put_ip_checksum(p);
    cq_put16(field, 0);
    uint16_t sum = (uint16_t)~naive_fold(naive_pseudo(p, n) + naive_sum(p + l4, n - l4));
    cq_put16(field, sum == 0 ? 0xffff : sum);
}

static inline bool transport_checksum_good(const uint8_t *p, size_t n)
{
    int protocol;
    size_t l4 = transport_of(p, &protocol);
    return naive_fold(naive_pseudo(p, n) + naive_sum(p + l4, n - l4)) == 0xffff;
}

/* A whole packet with right checksums; returns its length. */
static inline size_t build(uint8_t *p, const struct spec *s)
{
    size_t ip = s->version == 4 ? 20 : 40, extension = s->extension == NO_EXTENSION ? 0 : s->version == 4 ? 4 : 16;
    size_t l4 = ip + extension, headers = l4 + (s->protocol == TCP ? 20u + s->options : 8u), n = headers + s->payload;
    memset(p, 0, headers);
    if (s->version == 4) {
        p[0] = (uint8_t)(0x40 | l4 / 4);
        p[1] = s->tos;
        cq_put16(p + 2, (uint16_t)n);
        cq_put16(p + 4, s->id);
        p[6] = s->df ? 0x40 : 0;
        p[8] = s->ttl;
        p[9] = (uint8_t)s->protocol;
        memcpy(p + 12, (uint8_t[]){10, 1, 0, s->host, 10, 2, 0, s->host}, 8);
        memset(p + 20, 1, extension); /* no-operation options */
    } else {
        cq_put32(p, 0x60000000u | (uint32_t)s->tos << 20 | 0x12345);
        cq_put16(p + 4, (uint16_t)(n - 40));
        p[6] = (uint8_t)(extension ? s->extension : s->protocol);
        p[7] = s->ttl;
        p[8] = p[24] = 0xfd;
        p[23] = p[39] = s->host;
        p[24 + 8] = 9;
        if (extension) {
            p[40] = (uint8_t)s->protocol;
            p[41] = 1;
        }
    }
    uint8_t *t = p + l4;
    cq_put16(t, s->source_port);
    cq_put16(t + 2, s->destination_port);
    if (s->protocol == TCP) {
        cq_put32(t + 4, s->sequence);
        cq_put32(t + 8, s->ack);
        t[12] = (uint8_t)((20 + s->options) / 4 << 4);
        t[13] = s->flags;
        cq_put16(t + 14, s->window);
        cq_put16(t + 18, s->urgent);
        memset(t + 20, 1, s->options);
        if (s->options >= 4)
            cq_put32(t + 20 + s->options - 4, s->timestamp);
    } else {
        cq_put16(t + 4, (uint16_t)(n - l4));
    }
    for (size_t i = 0; i < s->payload; i++)
        p[headers + i] = (uint8_t)(s->fill + i * 7 + i / 256);
    put_checksums(p, n);
    return n;
}

/* The next packet of the same flow. */
static inline void advance(struct spec *s)
{
    s->sequence += (uint32_t)s->payload;
    s->id++;
}

static inline size_t headers_of(const uint8_t *p)
{
    int protocol;
    size_t l4 = transport_of(p, &protocol);
    return l4 + (protocol == TCP ? (size_t)(p[l4 + 12] >> 4) * 4 : 8);
}

/* Packet i of what a super-packet of n bytes stands for, with right checksums; 0 when there is none. */
static inline size_t naive_segment(const uint8_t *super, size_t n, size_t gso_size, size_t i, uint8_t *out)
{
    int protocol;
    size_t l4 = transport_of(super, &protocol), headers = headers_of(super), total = n - headers;
    if (i * gso_size >= total && i > 0)
        return 0;
    size_t payload = total - i * gso_size < gso_size ? total - i * gso_size : gso_size;
    bool last = i * gso_size + payload == total;
    memcpy(out, super, headers);
    memcpy(out + headers, super + headers + i * gso_size, payload);
    if (super[0] >> 4 == 4) {
        cq_put16(out + 2, (uint16_t)(headers + payload));
        cq_put16(out + 4, (uint16_t)(cq_get16(super + 4) + i));
    } else {
        cq_put16(out + 4, (uint16_t)(headers + payload - 40));
    }
    if (protocol == TCP) {
        cq_put32(out + l4 + 4, (uint32_t)(cq_get32(super + l4 + 4) + i * gso_size));
        if (!last)
            out[l4 + 13] &= (uint8_t)~(FIN | PSH);
        if (i > 0)
            out[l4 + 13] &= (uint8_t)~CWR;
    } else {
        cq_put16(out + l4 + 4, (uint16_t)(8 + payload));
    }
    put_checksums(out, headers + payload);
    return headers + payload;
}

/* The vnet header that a kernel writes for packet p; gso_size 0 for none. */
static inline struct cq_vnet vnet_of(const uint8_t *p, uint16_t gso_size)
{
    int protocol;
    struct cq_vnet v = {.flags = 1, .hdr_len = (uint16_t)headers_of(p), .gso_size = gso_size};
    v.csum_start = (uint16_t)transport_of(p, &protocol);
    v.csum_offset = (uint16_t)checksum_offset(protocol);
    if (gso_size > 0)
        v.gso_type = protocol == UDP ? 5 : p[0] >> 4 == 4 ? 1 : 4;
    return v;
}

#endif
