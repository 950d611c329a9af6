/*
 * The Internet checksum's sum (RFC 1071).
 *
 * The loop adds machine words in memory order and swaps once at the end, which section 2(B) of the RFC allows. Four
 * bytes at a time into a 64-bit sum need no carry handling, and gcc and clang make vector code of just this loop at -O3.
 */
#include "cq_checksum.h"

static uint64_t fold32(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    return (sum & 0xffffffff) + (sum >> 32);
}

uint64_t cq_checksum_add(const uint8_t *p, size_t n, uint64_t sum)
{
    uint64_t words = 0;
    for (; n >= 4; n -= 4, p += 4) {
        uint32_t word;
        memcpy(&word, p, sizeof word);
        words += word;
    }
    uint8_t rest[4] = {0}; /* an odd last byte counts as the high half of its 16 bits */
    for (size_t i = 0; i < n; i++)
        rest[i] = p[i];
    uint32_t word;
    memcpy(&word, rest, sizeof word);
    words = fold32(words + word);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    words = (words >> 8 & 0x00ff00ff) + (words << 8 & 0xff00ff00);
#endif
    return sum + words;
}

uint16_t cq_checksum_fold(uint64_t sum)
{
    sum = fold32(sum);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)((sum & 0xffff) + (sum >> 16));
}
