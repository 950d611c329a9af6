/*
 * What a network card would do for a tunnel, in software and without I/O: split a super-packet that the kernel handed
 * over (TSO, USO), complete checksums, and merge consecutive packets of a flow into one super-packet for the kernel.
 *
 * Nothing that came from the network or from the kernel's virtio_net_hdr is trusted: header lengths, csum_start and
 * gso fields are always those that this file parsed and bounded itself.
 */
#ifndef CQ_OFFLOAD_H
#define CQ_OFFLOAD_H

#include <stdbool.h>
#include <sys/uio.h>

#include "cq_wire.h"

#define CQ_VNET_SIZE 10u /* struct virtio_net_hdr without num_buffers, host-endian (legacy, TUNSETVNETLE unset) */

/* virtio_net_hdr; names as in <linux/virtio_net.h> */
struct cq_vnet {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};

static_assert(sizeof(struct cq_vnet) == CQ_VNET_SIZE, "struct cq_vnet is read from and written to the TUN as it is");

/* ---- bounds of one IP packet ---- */

/* The length of the IP packet at p by its own header, or 0 if it is not a whole IPv4 or IPv6 packet within n bytes
 * (IPv4: IHL >= 5 and 4*IHL <= total length <= n; IPv6: 40 + payload length <= n). */
size_t cq_offload_packet_length(const uint8_t *p, size_t n);

/* ---- out: one read of the TUN to MTU-sized packets ---- */

#define CQ_SPLIT_HEADER_MAX 256u /* IP and transport headers of a super-packet; the most that IPv4 has is 120 */

struct cq_split {
    bool vouched;   /* all packets that come out may go into a VOUCHED record */
    bool transport; /* the packets are TCP or UDP: they may not share a record with others of the opposite vouched */
    unsigned count; /* of packets that come out, >= 1 */
    /* private from here on */
    unsigned index; /* of the next packet */
    uint8_t *packet;
    size_t length;
    size_t header_length; /* IP and transport headers of a super-packet, 0 for an ordinary packet */
    uint16_t gso_size;
    uint8_t version, protocol, l4_offset;
    uint16_t id, ip_sum; /* IPv4: ID of the first segment; sum of the header without length, ID and checksum */
    uint32_t l4_base;    /* not vouched: the kernel's sum of the pseudo-header without the transport length */
    uint8_t header[CQ_SPLIT_HEADER_MAX]; /* the super-packet's headers, since segments overwrite the packet */
};

/* Starts on one packet as read from the TUN; vnet is NULL if the TUN has no vnet header. CQ_OK; CQ_E_MALFORMED for
 * what is no whole IP packet, or for gso or checksum fields that do not fit its headers (nothing to send then). Bytes
 * after the IP packet's own end are cut off. For an ordinary packet it settles the checksum: NEEDS_CSUM of the packet's
 * own unfragmented TCP/UDP header makes it vouched, any other NEEDS_CSUM is completed here.
 * Not vouched although their own header needs the checksum, because the receiver could not make the pseudo-header sum
 * from the addresses it sees (or must not): packets with IPv4 options, a routing or a destination options header, UDP
 * over IPv4 with checksum 0, UDP whose length field is not what the IP header says. They are completed here, too. */
int cq_offload_split_init(struct cq_split *split, const struct cq_vnet *vnet, uint8_t *packet, size_t length);

/* The next packet: built in place in front of its payload (the headers overwrite bytes of the segment before, which
 * the caller has sealed by then). False when there is no more. */
bool cq_offload_split_next(struct cq_split *split, uint8_t **packet, size_t *length);

/* ---- in: packets of a batch to super-packets ---- */

struct cq_coalesce_options {
    bool tcp4, tcp6, uso; /* what the TUN takes as super-packets */
    bool vnet;            /* the TUN has IFF_VNET_HDR: iov[0] of each write is a struct cq_vnet */
    size_t max_size;      /* of a super-packet in bytes, headers included; taken as 65,535 if more */
    unsigned max_segments; /* of a super-packet; taken as 1,022 if more (IOV_MAX), as 1 if 0 */
};

/* Called once per packet or super-packet to write; iov[0] is the vnet header if there is one, then the first packet and
 * the payloads of the others follow. packets is how many went in. The memory is valid during the call only. */
typedef void cq_coalesce_write(void *arg, const struct iovec *iov, int iovcnt, unsigned packets);

struct cq_coalesce; /* a bounded table of open flows */

/* NULL when memory is short. All of it is allocated here. */
struct cq_coalesce *cq_offload_coalesce_new(const struct cq_coalesce_options *options, cq_coalesce_write *write,
                                            void *arg);
void cq_offload_coalesce_free(struct cq_coalesce *c); /* NULL is fine; does not flush */

/* Takes one packet whose length is cq_offload_packet_length's answer. It must stay valid and untouched until flush; the
 * headers are written to. Within a flow the order is kept; a packet that cannot be merged flushes its own flow first, a
 * fragment flushes all.
 * Vouched TCP/UDP packets: the checksum field is ignored and replaced by the pseudo-header sum, NEEDS_CSUM is set (or
 * the checksum is made here if the TUN has no vnet header). A vouched packet whose checksum cannot be made from its
 * headers is written as it came. Packets that are not vouched are written with their checksum as it came and are
 * merged only after it verified. */
void cq_offload_coalesce_add(struct cq_coalesce *c, uint8_t *packet, size_t length, bool vouched);
void cq_offload_coalesce_flush(struct cq_coalesce *c);

/* ---- checksums (RFC 1071) ---- */

/* The one's complement sum of n bytes as big-endian 16-bit words, added to sum; not folded, not complemented. Numbers
 * in host order may be added to it as they are. An odd last byte is padded: only the last of several parts may be odd.
 * n is below 2^34. */
uint64_t cq_offload_sum(const uint8_t *p, size_t n, uint64_t sum);
uint16_t cq_offload_fold(uint64_t sum); /* folded to 16 bits, in host order: complemented, it is the checksum */

#endif
