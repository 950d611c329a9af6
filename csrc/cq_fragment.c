#include "cq_fragment.h"
#include "cq_checksum.h"

#define MORE_FRAGMENTS 0x2000u
#define OFFSET_MASK 0x1fffu
#define PACKET_MAX 65535u

enum { OPTION_END = 0, OPTION_NOP = 1, OPTION_COPIED = 0x80 };

/* What only the first fragment carries becomes no-operations in the others: their headers are as long as its. Behind an
 * option that cannot be there is none that a fragment could be trusted with. */
static void keep_copied_options(uint8_t *option, uint8_t *end)
{
    while (option < end && *option != OPTION_END) {
        size_t size = *option == OPTION_NOP ? 1 : end - option < 2 ? 0 : option[1];
        if (size == 0 || (size < 2 && *option != OPTION_NOP) || size > (size_t)(end - option))
            break;
        if ((*option & OPTION_COPIED) == 0)
            memset(option, OPTION_NOP, size);
        option += size;
    }
    memset(option, OPTION_END, (size_t)(end - option));
}

int cq_fragment_init(struct cq_fragment *f, uint8_t *packet, size_t length, size_t mtu)
{
    const uint16_t place = cq_get16(packet + 6);
    *f = (struct cq_fragment){.packet = packet, .length = length};
    f->header_length = (size_t)(packet[0] & 15) * 4;
    f->at = f->header_length;
    f->payload_max = (mtu - f->header_length) & ~(size_t)7;
    f->flags = place & MORE_FRAGMENTS;
    f->offset = place & OFFSET_MASK;
    memcpy(f->header, packet, f->header_length);
    return f->offset * (size_t)8 + length - f->header_length <= PACKET_MAX ? CQ_OK : CQ_E_MALFORMED;
}

bool cq_fragment_next(struct cq_fragment *f, uint8_t **fragment, size_t *length)
{
    const size_t left = f->length - f->at, done = f->at - f->header_length;
    if (left == 0)
        return false;
    const bool last = left <= f->payload_max;
    const size_t n = last ? left : f->payload_max;
    uint8_t *p = f->packet + done;
    memcpy(p, f->header, f->header_length);
    cq_put16(p + 2, (uint16_t)(f->header_length + n));
    cq_put16(p + 6, (uint16_t)((last ? f->flags : MORE_FRAGMENTS) | (f->offset + done / 8)));
    cq_put16(p + 10, 0);
    cq_put16(p + 10, (uint16_t)~cq_checksum_fold(cq_checksum_add(p, f->header_length, 0)));
    if (done == 0)
        keep_copied_options(f->header + 20, f->header + f->header_length);
    f->at += n;
    *fragment = p;
    *length = f->header_length + n;
    return true;
}
