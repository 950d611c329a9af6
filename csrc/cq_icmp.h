/*
 * What a packet's sender is told when it goes no further: ICMP (RFC 792, 1191, 1812) and ICMPv6 (RFC 4443).
 *
 * The answer's source is the packet's own destination, as in the answers of Linux's own tunnels to packets that they
 * bridge. An answer comes out of the tunnel, and the host checks whether what comes from there may have this source: an
 * address of its own is a martian, and only of the packet's destination is it certain that its way leads into the tunnel.
 */
#ifndef CQ_ICMP_H
#define CQ_ICMP_H

#include <stdbool.h>

#include "cq_wire.h"

/* Of an answer: RFC 1812, 4.3.2.3 (IPv4); RFC 4443, 2.4(c) (IPv6). */
#define CQ_ICMP_MAX4 576u
#define CQ_ICMP_MAX6 1280u

enum cq_icmp_reason {
    CQ_ICMP_TOO_BIG,     /* fragmentation needed, with the next hop's MTU; packet too big */
    CQ_ICMP_NO_ROUTE,    /* network unreachable; no route to destination */
    CQ_ICMP_UNREACHABLE, /* host unreachable; address unreachable */
    CQ_ICMP_REASONS
};

/* Builds the answer to a packet whose length cq_packet_length told, which it quotes as far as it may. Its length; 0 for
 * a packet that may not be answered (RFC 1122, 3.2.2; RFC 4443, 2.4(e)): an ICMP error or a redirect, what may be one,
 * all fragments but the first, what came from no single host, or went to no single one.
 * mtu is of CQ_ICMP_TOO_BIG: the most that would have gone. Since IPv6 sends no less than 1280 bytes whatever it is told
 * (RFC 8201, 4), a packet of no more than that is answered as unreachable. */
size_t cq_icmp_answer(uint8_t out[CQ_ICMP_MAX6], enum cq_icmp_reason reason, const uint8_t *packet, size_t length,
                      size_t mtu);

#endif
