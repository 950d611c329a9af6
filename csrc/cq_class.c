#include "cq_class.h"
#include "cq_checksum.h"

void cq_ecn_put(uint8_t *p, enum cq_ecn field)
{
    if (p[0] >> 4 == 6) {
        p[1] = (uint8_t)((p[1] & ~(CQ_CLASS_ECN << 4)) | (unsigned)field << 4);
        return;
    }
    const uint8_t before = p[1];
    p[1] = (uint8_t)((before & CQ_CLASS_DSCP) | (unsigned)field);
    /* RFC 1624, equation 3: the checksum less the old word, and the new one. The word's first byte is the same in both. */
    cq_put16(p + 10, (uint16_t)~cq_checksum_fold((uint64_t)(uint16_t)~cq_get16(p + 10) + (uint16_t)~before + p[1]));
}

bool cq_ecn_mark(uint8_t *p)
{
    const enum cq_ecn before = cq_ecn_of(p);
    if (before == CQ_ECN_NOT_ECT)
        return false;
    if (before != CQ_ECN_CE)
        cq_ecn_put(p, CQ_ECN_CE);
    return true;
}

/* RFC 6040, figure 4:
 *
 *     inner      outer Not-ECT   ECT(0)    ECT(1)    CE
 *     Not-ECT    Not-ECT         Not-ECT   Not-ECT   drop
 *     ECT(0)     ECT(0)          ECT(0)    ECT(1)    CE
 *     ECT(1)     ECT(1)          ECT(1)    ECT(1)    CE
 *     CE         CE              CE        CE        CE
 *
 * ECT(1) goes inwards since it may be a mark of less congestion than CE is (RFC 6660), which ECT(0) then has met. */
enum cq_decapsulated cq_ecn_decapsulate(uint8_t *p, enum cq_ecn outer)
{
    const enum cq_ecn inner = cq_ecn_of(p);
    if (outer == CQ_ECN_CE && inner != CQ_ECN_CE)
        return cq_ecn_mark(p) ? CQ_MARKED : CQ_UNMARKABLE;
    if (outer == CQ_ECN_ECT1 && inner == CQ_ECN_ECT0)
        cq_ecn_put(p, CQ_ECN_ECT1);
    return CQ_DECAPSULATED;
}
