/*
 * struct virtio_net_hdr, which comes before every packet that is read from or written to a TUN with IFF_VNET_HDR: which
 * checksum is still to be made, and how a super-packet is cut into segments. Names are as in <linux/virtio_net.h>; the
 * one on Debian 12 is older than GSO_UDP_L4.
 */
#ifndef CQ_VNET_H
#define CQ_VNET_H

#include <assert.h>
#include <stdint.h>

#define CQ_VNET_SIZE 10u /* without num_buffers, host-endian (legacy, TUNSETVNETLE unset) */

#define CQ_VNET_NEEDS_CSUM 0x01u

#define CQ_GSO_NONE 0u
#define CQ_GSO_TCPV4 1u
#define CQ_GSO_TCPV6 4u
#define CQ_GSO_UDP_L4 5u
#define CQ_GSO_ECN 0x80u

struct cq_vnet {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};

static_assert(sizeof(struct cq_vnet) == CQ_VNET_SIZE, "struct cq_vnet is read from and written to the TUN as it is");

#endif
