#include "cq_icmp.h"
#include "cq_packet.h"

#define HEADER_SIZE 8u /* of ICMP: type, code, checksum, and 32 bits by type */
#define HOP_LIMIT 64u
#define EXTENSIONS_MAX 8 /* behind more than these it is not known what a packet carries: it may be an error */

enum { ICMP = 1, ICMPV6 = 58 };
enum { AUTHENTICATION = 51 };

/* ---- IPv4 ---- */

enum { UNREACHABLE4 = 3, QUENCH = 4, REDIRECT = 5, EXCEEDED = 11, PROBLEM = 12 };

static const uint8_t codes4[CQ_ICMP_REASONS] = {
    [CQ_ICMP_TOO_BIG] = 4,
    [CQ_ICMP_NO_ROUTE] = 0,
    [CQ_ICMP_UNREACHABLE] = 1,
};

static bool is_error4(uint8_t type)
{
    return type == UNREACHABLE4 || type == QUENCH || type == REDIRECT || type == EXCEEDED || type == PROBLEM;
}

/* Neither this network, loopback, multicast, what is reserved, nor the broadcast. A directed broadcast looks like a host
 * to whoever is not on its network, and the kernel takes nothing from one. */
static bool is_host4(const uint8_t *a) { return a[0] != 0 && a[0] != 127 && a[0] < 224; }

static bool answerable4(const uint8_t *p, size_t n)
{
    const size_t header = (size_t)(p[0] & 15) * 4;
    if (!is_host4(p + 12) || !is_host4(p + 16) || (cq_get16(p + 6) & 0x1fff) != 0)
        return false;
    return p[9] != ICMP || (n > header && !is_error4(p[header]));
}

static size_t answer4(uint8_t *out, enum cq_icmp_reason reason, const uint8_t *p, size_t n, size_t mtu)
{
    const size_t most = CQ_ICMP_MAX4 - 20 - HEADER_SIZE, quoted = n < most ? n : most;
    const size_t size = 20 + HEADER_SIZE + quoted;
    uint8_t *icmp = out + 20;
    if (!answerable4(p, n))
        return 0;
    memset(out, 0, 20 + HEADER_SIZE);
    out[0] = 0x45;
    out[1] = (p[1] & 0x1e) | 0xc0; /* the precedence of internetwork control (RFC 1812, 4.3.2.5) */
    cq_put16(out + 2, (uint16_t)size);
    cq_put16(out + 6, 0x4000); /* DF: in one piece it needs no ID (RFC 6864) */
    out[8] = HOP_LIMIT;
    out[9] = ICMP;
    memcpy(out + 12, p + 16, 4);
    memcpy(out + 16, p + 12, 4);
    cq_put16(out + 10, (uint16_t)~cq_checksum_fold(cq_checksum_add(out, 20, 0)));
    icmp[0] = UNREACHABLE4;
    icmp[1] = codes4[reason];
    if (reason == CQ_ICMP_TOO_BIG)
        cq_put16(icmp + 6, (uint16_t)mtu);
    memcpy(icmp + HEADER_SIZE, p, quoted);
    cq_put16(icmp + 2, (uint16_t)~cq_checksum_fold(cq_checksum_add(icmp, HEADER_SIZE + quoted, 0)));
    return size;
}

/* ---- IPv6 ---- */

enum { UNREACHABLE6 = 1, TOO_BIG6 = 2, INFORMATIONAL6 = 128, REDIRECT6 = 137 };

static const uint8_t codes6[CQ_ICMP_REASONS] = {
    [CQ_ICMP_TOO_BIG] = 0,
    [CQ_ICMP_NO_ROUTE] = 0,
    [CQ_ICMP_UNREACHABLE] = 3,
};

static bool is_host6(const uint8_t *a)
{
    static const uint8_t zeros[15];
    return a[0] != 0xff && (memcmp(a, zeros, sizeof zeros) != 0 || a[15] > 1); /* neither :: nor ::1 */
}

static bool answerable6(const uint8_t *p, size_t n)
{
    uint8_t next = p[6];
    size_t at = 40;
    if (!is_host6(p + 8) || !is_host6(p + 24))
        return false;
    for (int i = 0; cq_packet_is_extension(next) || next == CQ_PROTOCOL_FRAGMENT || next == AUTHENTICATION; i++) {
        size_t size = 8;
        if (i == EXTENSIONS_MAX || n - at < size)
            return false;
        if (next == CQ_PROTOCOL_FRAGMENT && (cq_get16(p + at + 2) & 0xfff8) != 0)
            return false;
        if (next == AUTHENTICATION)
            size = ((size_t)p[at + 1] + 2) * 4; /* RFC 4302, 2.2 */
        else if (next != CQ_PROTOCOL_FRAGMENT)
            size = ((size_t)p[at + 1] + 1) * 8;
        if (n - at < size)
            return false;
        next = p[at];
        at += size;
    }
    return next != ICMPV6 || (n > at && p[at] >= INFORMATIONAL6 && p[at] != REDIRECT6);
}

static size_t answer6(uint8_t *out, enum cq_icmp_reason reason, const uint8_t *p, size_t n, size_t mtu)
{
    const size_t most = CQ_ICMP_MAX6 - 40 - HEADER_SIZE, quoted = n < most ? n : most;
    const size_t size = HEADER_SIZE + quoted;
    uint8_t *icmp = out + 40;
    if (!answerable6(p, n))
        return 0;
    if (reason == CQ_ICMP_TOO_BIG && n <= CQ_MTU_MIN6)
        reason = CQ_ICMP_UNREACHABLE;
    memset(out, 0, 40 + HEADER_SIZE);
    out[0] = 0x60;
    cq_put16(out + 4, (uint16_t)size);
    out[6] = ICMPV6;
    out[7] = HOP_LIMIT;
    memcpy(out + 8, p + 24, 16);
    memcpy(out + 24, p + 8, 16);
    icmp[0] = reason == CQ_ICMP_TOO_BIG ? TOO_BIG6 : UNREACHABLE6;
    icmp[1] = codes6[reason];
    if (reason == CQ_ICMP_TOO_BIG)
        cq_put32(icmp + 4, mtu < CQ_MTU_MIN6 ? CQ_MTU_MIN6 : (uint32_t)mtu);
    memcpy(icmp + HEADER_SIZE, p, quoted);
    const uint64_t pseudo = cq_checksum_add(out + 8, 32, size + ICMPV6);
    cq_put16(icmp + 2, (uint16_t)~cq_checksum_fold(cq_checksum_add(icmp, size, pseudo)));
    return 40 + size;
}

size_t cq_icmp_answer(uint8_t out[CQ_ICMP_MAX6], enum cq_icmp_reason reason, const uint8_t *packet, size_t length,
                      size_t mtu)
{
    return packet[0] >> 4 == 4 ? answer4(out, reason, packet, length, mtu) : answer6(out, reason, packet, length, mtu);
}
