/*
 * What the parts of cq_offload share: the parsed headers of one IP packet and the arithmetic of its checksum fields.
 */
#ifndef CQ_OFFLOAD_INTERNAL_H
#define CQ_OFFLOAD_INTERNAL_H

#include "cq_offload.h"

#define CQ_PROTOCOL_TCP 6u
#define CQ_PROTOCOL_UDP 17u

/* <linux/virtio_net.h>; the one on Debian 12 is older than GSO_UDP_L4 */
#define CQ_VNET_NEEDS_CSUM 0x01u
#define CQ_GSO_NONE 0u
#define CQ_GSO_TCPV4 1u
#define CQ_GSO_TCPV6 4u
#define CQ_GSO_UDP_L4 5u
#define CQ_GSO_ECN 0x80u

#define CQ_TCP_CHECKSUM 16u /* offset of the field from the transport header */
#define CQ_UDP_CHECKSUM 6u
#define CQ_TCP_FLAGS 13u /* offset of the flags byte */
#define CQ_TCP_FIN 0x01u
#define CQ_TCP_PSH 0x08u
#define CQ_TCP_ACK 0x10u
#define CQ_TCP_ECE 0x40u
#define CQ_TCP_CWR 0x80u

/* Deeper chains of IPv6 extension headers are not followed: such a packet counts as neither TCP nor UDP. */
#define CQ_IPV6_EXTENSIONS_MAX 8
#define CQ_TRANSPORT_OFFSET_MAX (CQ_SPLIT_HEADER_MAX - 60u)

struct cq_packet {
    uint8_t version;  /* 4 or 6 */
    uint8_t protocol; /* TCP or UDP where the packet is not a fragment and the transport header is whole, else 0 */
    bool fragment;    /* a part of a fragmented packet, whatever it carries */
    /* The addresses of the IP header are those of the pseudo-header. A source route, a routing header or a home
     * address option may put another address there (RFC 8200, 8.1; RFC 6275, 11.3.1): options and headers that can
     * carry one are not looked into, they just clear this. */
    bool plain;
    bool exact;          /* UDP: its length field says what the IP header says; TCP: always */
    uint16_t ip_header;  /* 4 * IHL, or 40 */
    uint16_t transport;  /* offset of the TCP or UDP header; only with a protocol, as the next one */
    uint16_t headers;    /* all headers; the payload follows */
};

/* Parses the packet of exactly n bytes at p, where n is cq_offload_packet_length's answer. */
void cq_packet_parse(struct cq_packet *h, const uint8_t *p, size_t n);

static inline uint16_t cq_packet_checksum_offset(const struct cq_packet *h)
{
    return h->protocol == CQ_PROTOCOL_TCP ? CQ_TCP_CHECKSUM : CQ_UDP_CHECKSUM;
}

static inline uint8_t *cq_packet_checksum_field(const struct cq_packet *h, uint8_t *p)
{
    return p + h->transport + cq_packet_checksum_offset(h);
}

/* The unfolded sum of the pseudo-header of a TCP or UDP packet of n bytes (RFC 9293, 3.1; RFC 8200, 8.1). */
uint64_t cq_packet_pseudo(const struct cq_packet *h, const uint8_t *p, size_t n);

/* Writes the checksum of an IPv4 header of h->ip_header bytes. */
void cq_packet_put_ip_checksum(const struct cq_packet *h, uint8_t *p);

/* Writes the checksum that a complemented sum gives; 0 becomes 0xffff, the same number in one's complement, because
 * a 0 in UDP means that there is none (RFC 768). */
static inline void cq_put_checksum(uint8_t *field, uint64_t sum)
{
    uint16_t v = (uint16_t)~cq_offload_fold(sum);
    cq_put16(field, v == 0 ? 0xffff : v);
}

#endif
