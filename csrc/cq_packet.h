/*
 * One IP packet: where it ends, what its headers are, and the arithmetic of its checksum fields.
 *
 * Nothing that came from the network is trusted: a length or an offset is what this file parsed and bounded itself.
 */
#ifndef CQ_PACKET_H
#define CQ_PACKET_H

#include <stdbool.h>

#include "cq_checksum.h"

#define CQ_PROTOCOL_TCP 6u
#define CQ_PROTOCOL_UDP 17u
#define CQ_PROTOCOL_HOP_BY_HOP 0u /* IPv6 extension headers, RFC 8200, 4 */
#define CQ_PROTOCOL_ROUTING 43u
#define CQ_PROTOCOL_FRAGMENT 44u
#define CQ_PROTOCOL_DESTINATION 60u

#define CQ_DONT_FRAGMENT 0x40u /* of byte 6 of an IPv4 header */

#define CQ_TCP_CHECKSUM 16u /* offset of the field from the transport header */
#define CQ_UDP_CHECKSUM 6u
#define CQ_TCP_FLAGS 13u /* offset of the flags byte */
#define CQ_TCP_FIN 0x01u
#define CQ_TCP_SYN 0x02u
#define CQ_TCP_RST 0x04u
#define CQ_TCP_PSH 0x08u
#define CQ_TCP_ACK 0x10u
#define CQ_TCP_URG 0x20u
#define CQ_TCP_ECE 0x40u
#define CQ_TCP_CWR 0x80u

/* The most that IP and transport headers take together where a protocol is told: IPv4 has at most 120, and longer
 * chains of IPv6 extension headers than fit are not followed. */
#define CQ_PACKET_HEADERS_MAX 256u

struct cq_packet {
    uint8_t version;  /* 4 or 6 */
    uint8_t protocol; /* TCP or UDP where the packet is not a fragment and the transport header is whole, else 0 */
    bool fragment;    /* a part of a fragmented packet, whatever it carries */
    /* The addresses of the IP header are those of the pseudo-header. A source route, a routing header or a home
     * address option may put another address there (RFC 8200, 8.1; RFC 6275, 11.3.1): options and headers that can
     * carry one are not looked into, they just clear this. */
    bool plain;
    bool exact;         /* UDP: its length field says what the IP header says; TCP: always */
    uint16_t ip_header; /* 4 * IHL, or 40 */
    uint16_t transport; /* offset of the TCP or UDP header; only with a protocol, as the next one */
    uint16_t headers;   /* all headers; the payload follows */
};

/* The length of the IP packet at p by its own header, or 0 if it is not a whole IPv4 or IPv6 packet within n bytes
 * (IPv4: IHL >= 5 and 4*IHL <= total length <= n; IPv6: 40 + payload length <= n). */
size_t cq_packet_length(const uint8_t *p, size_t n);

/* Parses the packet of exactly n bytes at p, where n is cq_packet_length's answer. */
void cq_packet_parse(struct cq_packet *h, const uint8_t *p, size_t n);

/* Whether what comes next in an IPv6 packet is a header that is longer by the number in its second byte, and not yet what
 * the packet carries. */
static inline bool cq_packet_is_extension(uint8_t next)
{
    return next == CQ_PROTOCOL_HOP_BY_HOP || next == CQ_PROTOCOL_ROUTING || next == CQ_PROTOCOL_DESTINATION;
}

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

#endif
