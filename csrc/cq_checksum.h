/*
 * The Internet checksum (RFC 1071).
 */
#ifndef CQ_CHECKSUM_H
#define CQ_CHECKSUM_H

#include "cq_wire.h"

/* The one's complement sum of n bytes as big-endian 16-bit words, added to sum; not folded, not complemented. Numbers
 * in host order may be added to it as they are. An odd last byte is padded: only the last of several parts may be odd.
 * n is below 2^34. */
uint64_t cq_checksum_add(const uint8_t *p, size_t n, uint64_t sum);

/* Folded to 16 bits, in host order: complemented, it is the checksum. */
uint16_t cq_checksum_fold(uint64_t sum);

/* Writes the checksum that a complemented sum gives; 0 becomes 0xffff, the same number in one's complement, because
 * a 0 in UDP means that there is none (RFC 768). */
static inline void cq_checksum_put(uint8_t *field, uint64_t sum)
{
    uint16_t v = (uint16_t)~cq_checksum_fold(sum);
    cq_put16(field, v == 0 ? 0xffff : v);
}

#endif
