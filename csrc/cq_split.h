/*
 * Out: one read of the TUN to packets that fit into records, in software and without I/O (what TSO and USO do in a
 * network card).
 *
 * The kernel's virtio_net_hdr is not trusted: its gso and checksum fields count only where they are those of the
 * packet's own headers.
 */
#ifndef CQ_SPLIT_H
#define CQ_SPLIT_H

#include "cq_class.h"
#include "cq_packet.h"
#include "cq_vnet.h"

struct cq_split {
    bool vouched;   /* all packets that come out may go into a VOUCHED record */
    bool syn;       /* an ordinary packet that opens a TCP connection */
    bool transport; /* the packets are TCP or UDP: they may not share a record with others of the opposite vouched */
    unsigned count; /* of packets that come out, >= 1 */
    size_t largest; /* of their lengths */
    size_t length;  /* of what was read */
    uint8_t version;
    uint8_t l4_offset; /* of the TCP or UDP header, where transport is true */
    uint8_t class;     /* the traffic class of all packets that come out */
    /* private from here on */
    unsigned index; /* of the next packet */
    uint8_t *packet;
    size_t header_length; /* IP and transport headers of a super-packet, 0 for an ordinary packet */
    uint16_t gso_size;
    uint8_t protocol;
    uint16_t id, ip_sum; /* IPv4: ID of the first segment; sum of the header without length, ID and checksum */
    uint32_t l4_base;    /* not vouched: the kernel's sum of the pseudo-header without the transport length */
    uint8_t header[CQ_PACKET_HEADERS_MAX]; /* the super-packet's headers, since segments overwrite the packet */
};

/* Starts on one packet as read from the TUN; vnet is NULL if the TUN has no vnet header. CQ_OK; CQ_E_MALFORMED for
 * what is no whole IP packet, or for gso or checksum fields that do not fit its headers (nothing to send then). Bytes
 * after the IP packet's own end are cut off. For an ordinary packet it settles the checksum: NEEDS_CSUM of the packet's
 * own unfragmented TCP/UDP header makes it vouched, any other NEEDS_CSUM is completed here.
 * Not vouched although their own header needs the checksum, because the receiver could not make the pseudo-header sum
 * from the addresses it sees (or must not): packets with IPv4 options, a routing or a destination options header, UDP
 * over IPv4 with checksum 0, UDP whose length field is not what the IP header says. They are completed here, too. */
int cq_split_init(struct cq_split *split, const struct cq_vnet *vnet, uint8_t *packet, size_t length);

/* Before the first packet: cuts TCP into smaller segments, of at most mtu bytes each with their headers, as a network
 * card does that was told a smaller MSS. It may be a super-packet or an ordinary one. False, and nothing has changed, for
 * what has to stay in one piece: the datagrams of UDP; an ordinary packet that IPv4 may fragment, that opens or resets a
 * connection, has urgent data, is signed, or whose checksum is wrong. mtu is more than the headers, as CQ_MTU_MIN is. */
bool cq_split_narrow(struct cq_split *split, size_t mtu);

/* Before the first packet: none of them is vouched for any more, each has a checksum of its own. So a fragment, whose
 * receiver could not make it, has its part of one. */
void cq_split_complete(struct cq_split *split);

/* The next packet: built in place in front of its payload (the headers overwrite bytes of the segment before, which
 * the caller has sealed by then). False when there is no more. */
bool cq_split_next(struct cq_split *split, uint8_t **packet, size_t *length);

/* How many packets are still to come, before the last. */
static inline unsigned cq_split_left(const struct cq_split *split) { return split->count - split->index; }

#endif
