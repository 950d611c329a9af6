#include "cq_mss.h"

enum { OPTION_END = 0, OPTION_NOP = 1, OPTION_MSS = 2, OPTION_MSS_SIZE = 4 };

/* The change of 16 bits at an offset of the header in its checksum. Behind an odd number of no-operations they lie across
 * two words, which in one's complement is the same as swapped in one (RFC 1071, 2(B)). */
static void update_checksum(uint8_t *tcp, size_t offset, uint16_t before, uint16_t after)
{
    if (offset % 2 != 0) {
        before = (uint16_t)(before << 8 | before >> 8);
        after = (uint16_t)(after << 8 | after >> 8);
    }
    uint8_t *field = tcp + CQ_TCP_CHECKSUM;
    uint64_t sum = (uint64_t)(uint16_t)~cq_get16(field) + (uint16_t)~before + after;
    cq_put16(field, (uint16_t)~cq_checksum_fold(sum)); /* RFC 1624, equation 3 */
}

void cq_mss_clamp(uint8_t *tcp, uint16_t most, bool complete)
{
    const size_t end = (size_t)(tcp[12] >> 4) * 4;
    size_t at = 20;
    while (at < end && tcp[at] != OPTION_END) {
        if (tcp[at] == OPTION_NOP) {
            at++;
            continue;
        }
        if (end - at < 2 || tcp[at + 1] < 2 || tcp[at + 1] > end - at)
            return;
        if (tcp[at] == OPTION_MSS && tcp[at + 1] == OPTION_MSS_SIZE) {
            const uint16_t mss = cq_get16(tcp + at + 2);
            if (mss > most) {
                cq_put16(tcp + at + 2, most);
                if (complete)
                    update_checksum(tcp, at + 2, mss, most);
            }
        }
        at += tcp[at + 1];
    }
}
