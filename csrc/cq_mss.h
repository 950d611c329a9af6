/*
 * The maximum segment size that a TCP SYN announces (RFC 9293, 3.7.1), made small enough for the tunnel, so that neither
 * end of a connection begins with segments that do not fit.
 */
#ifndef CQ_MSS_H
#define CQ_MSS_H

#include "cq_packet.h"

/* What a packet of mtu bytes carries of a segment, by headers without options, as the MSS counts (RFC 6691). */
static inline uint16_t cq_mss_of(unsigned version, size_t mtu)
{
    const size_t mss = mtu - (version == 4 ? 40 : 60);
    return mss < 65535 ? (uint16_t)mss : 65535;
}

/* Lowers to most what the header of a SYN announces; a header that announces nothing, or less, stays as it is. The
 * header is one that cq_packet_parse found whole. complete: its checksum field holds the whole checksum, which follows
 * the change (RFC 1624), right or wrong as it was; otherwise whoever completes it sums up the new number. */
void cq_mss_clamp(uint8_t *tcp, uint16_t most, bool complete);

#endif
