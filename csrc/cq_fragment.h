/*
 * Out: an IPv4 packet that is larger than a record may carry, and may be cut, to fragments that are not (RFC 791, 3.2).
 */
#ifndef CQ_FRAGMENT_H
#define CQ_FRAGMENT_H

#include <stdbool.h>

#include "cq_wire.h"

#define CQ_FRAGMENT_HEADER_MAX 60u /* 15 words */

struct cq_fragment {
    /* all private */
    uint8_t *packet;
    size_t length;
    size_t at; /* of the next fragment's payload in the packet */
    size_t header_length, payload_max;
    uint16_t flags, offset; /* of the packet, which may be a fragment itself */
    uint8_t header[CQ_FRAGMENT_HEADER_MAX];
};

/* Starts on an IPv4 packet whose length cq_packet_length told and whose DF is clear; its transport checksum is complete,
 * and it has payload. mtu is at least CQ_MTU_MIN. CQ_OK, or CQ_E_MALFORMED for a fragment that ends where no packet can. */
int cq_fragment_init(struct cq_fragment *f, uint8_t *packet, size_t length, size_t mtu);

/* The next fragment: built in place in front of its payload (the header overwrites bytes of the fragment before, which
 * the caller has sealed by then). False when there is no more. */
bool cq_fragment_next(struct cq_fragment *f, uint8_t **fragment, size_t *length);

#endif
