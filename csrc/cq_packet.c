/*
 * Bounds and headers of one IP packet: the only place that decides where a packet ends and what it carries.
 */
#include "cq_packet.h"

/* Deeper chains of IPv6 extension headers are not followed: such a packet counts as neither TCP nor UDP. */
#define EXTENSIONS_MAX 8
#define TCP_HEADER_MAX 60u /* 15 words */

size_t cq_packet_length(const uint8_t *p, size_t n)
{
    if (n >= 20 && p[0] >> 4 == 4) {
        size_t header = (size_t)(p[0] & 15) * 4, total = cq_get16(p + 2);
        return header >= 20 && header <= total && total <= n ? total : 0;
    }
    if (n >= 40 && p[0] >> 4 == 6) {
        size_t total = 40 + (size_t)cq_get16(p + 4);
        return total <= n ? total : 0;
    }
    return 0;
}

/* Where the headers end and whether the transport header is whole. */
static void parse_transport(struct cq_packet *h, const uint8_t *p, size_t n, uint8_t protocol, size_t offset)
{
    size_t size;
    if (protocol == CQ_PROTOCOL_UDP) {
        size = 8;
        if (n - offset < size)
            return;
        h->exact = cq_get16(p + offset + 4) == n - offset;
    } else if (protocol == CQ_PROTOCOL_TCP) {
        if (n - offset < 20)
            return;
        size = (size_t)(p[offset + 12] >> 4) * 4;
        if (size < 20 || n - offset < size)
            return;
        h->exact = true;
    } else {
        return;
    }
    h->protocol = protocol;
    h->transport = (uint16_t)offset;
    h->headers = (uint16_t)(offset + size);
}

static void parse6(struct cq_packet *h, const uint8_t *p, size_t n)
{
    uint8_t next = p[6];
    size_t offset = 40;
    for (int i = 0; cq_packet_is_extension(next); i++) {
        if (i == EXTENSIONS_MAX || n - offset < 8)
            return;
        if (next != CQ_PROTOCOL_HOP_BY_HOP)
            h->plain = false;
        size_t size = ((size_t)p[offset + 1] + 1) * 8;
        next = p[offset];
        if (n - offset < size || offset + size > CQ_PACKET_HEADERS_MAX - TCP_HEADER_MAX)
            return;
        offset += size;
    }
    if (next == CQ_PROTOCOL_FRAGMENT)
        h->fragment = true;
    else
        parse_transport(h, p, n, next, offset);
}

void cq_packet_parse(struct cq_packet *h, const uint8_t *p, size_t n)
{
    *h = (struct cq_packet){.version = p[0] >> 4, .plain = true};
    if (h->version == 4) {
        h->ip_header = (uint16_t)((p[0] & 15) * 4);
        h->plain = h->ip_header == 20;
        h->fragment = (cq_get16(p + 6) & 0x3fff) != 0; /* MF or an offset */
        if (!h->fragment)
            parse_transport(h, p, n, p[9], h->ip_header);
    } else {
        h->ip_header = 40;
        parse6(h, p, n);
    }
}

uint64_t cq_packet_pseudo(const struct cq_packet *h, const uint8_t *p, size_t n)
{
    uint64_t sum = (uint64_t)h->protocol + (n - h->transport);
    return h->version == 4 ? cq_checksum_add(p + 12, 8, sum) : cq_checksum_add(p + 8, 32, sum);
}

void cq_packet_put_ip_checksum(const struct cq_packet *h, uint8_t *p)
{
    cq_put16(p + 10, 0);
    cq_put16(p + 10, (uint16_t)~cq_checksum_fold(cq_checksum_add(p, h->ip_header, 0)));
}
