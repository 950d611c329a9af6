/*
 * In: consecutive packets of a flow to one super-packet for the TUN, in software and without I/O (what GRO does in the
 * kernel).
 */
#ifndef CQ_COALESCE_H
#define CQ_COALESCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define CQ_COALESCE_SIZE_MAX 65535u    /* what an IPv4 header can say */
#define CQ_COALESCE_SEGMENTS_MAX 1022u /* and a vnet header: below Linux's IOV_MAX of 1,024 */

struct cq_coalesce_options {
    bool tcp4, tcp6, uso;      /* what the TUN takes as super-packets */
    bool vnet;                 /* the TUN has IFF_VNET_HDR: iov[0] of each write is a struct cq_vnet */
    _Atomic uint32_t *refused; /* bits 1 << gso_type: such super-packets it refused after all, so none is made */
    size_t max_size;           /* of a super-packet in bytes, headers included; CQ_COALESCE_SIZE_MAX if more */
    unsigned max_segments;     /* of a super-packet; CQ_COALESCE_SEGMENTS_MAX if more, 1 if 0 */
};

enum cq_written {
    CQ_WRITTEN,
    CQ_WRITE_LOST,
    CQ_WRITE_REFUSED, /* a super-packet, and maybe because it is one */
};

/* Called once per packet or super-packet to write; iov[0] is the vnet header if there is one, then the first packet and
 * the payloads of the others follow. packets is how many went in. The memory is valid during the call only. What it
 * refuses it gets again, packet by packet; if that works, no more of its kind are made. */
typedef enum cq_written cq_coalesce_write(void *arg, const struct iovec *iov, int iovcnt, unsigned packets);

struct cq_coalesce; /* a bounded table of open flows */

/* NULL when memory is short. All of it is allocated here. */
struct cq_coalesce *cq_coalesce_new(const struct cq_coalesce_options *options, cq_coalesce_write *write, void *arg);
void cq_coalesce_free(struct cq_coalesce *c); /* NULL is fine; does not flush */

/* Takes one packet whose length is cq_packet_length's answer. It must stay valid and untouched until flush; the
 * headers are written to. Within a flow the order is kept; a packet that cannot be merged flushes its own flow first, a
 * fragment flushes all.
 * Vouched TCP/UDP packets: the checksum field is ignored and replaced by the pseudo-header sum, NEEDS_CSUM is set (or
 * the checksum is made here if the TUN has no vnet header). A vouched packet whose checksum cannot be made from its
 * headers is written as it came. Packets that are not vouched are written with their checksum as it came and are
 * merged only after it verified. */
void cq_coalesce_add(struct cq_coalesce *c, uint8_t *packet, size_t length, bool vouched);
void cq_coalesce_flush(struct cq_coalesce *c);

#endif
