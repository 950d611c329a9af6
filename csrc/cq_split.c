/*
 * Segments are built one after another in the super-packet's own buffer, each in front of its payload. What their
 * checksums have in common is summed up once.
 */
#include "cq_split.h"

/* Whether the receiver can make the checksum from what it parses itself. */
static bool vouchable(const struct cq_packet *h, const uint8_t *p)
{
    if (h->protocol == 0 || !h->plain)
        return false;
    return h->protocol != CQ_PROTOCOL_UDP || h->version != 4 || cq_get16(p + h->transport + CQ_UDP_CHECKSUM) != 0;
}

static bool own_checksum(const struct cq_packet *h, const struct cq_vnet *vnet)
{
    return h->protocol != 0 && vnet->csum_start == h->transport && vnet->csum_offset == cq_packet_checksum_offset(h);
}

static int init_ordinary(struct cq_split *s, const struct cq_packet *h, const struct cq_vnet *vnet)
{
    uint8_t *p = s->packet;
    if ((vnet->flags & CQ_VNET_NEEDS_CSUM) == 0)
        return CQ_OK;
    if (own_checksum(h, vnet) && h->exact && vouchable(h, p)) {
        s->vouched = true;
        return CQ_OK;
    }
    size_t start = vnet->csum_start, field = start + vnet->csum_offset;
    if (start < h->ip_header || field + 2 > s->length)
        return CQ_E_MALFORMED;
    cq_checksum_put(p + field, cq_checksum_add(p + start, s->length - start, 0));
    return CQ_OK;
}

/* Whether a gso_type is the one of the packet's own headers. */
static bool own_type(const struct cq_packet *h, uint8_t gso_type)
{
    switch (gso_type & ~CQ_GSO_ECN) {
    case CQ_GSO_TCPV4: return h->protocol == CQ_PROTOCOL_TCP && h->version == 4;
    case CQ_GSO_TCPV6: return h->protocol == CQ_PROTOCOL_TCP && h->version == 6;
    case CQ_GSO_UDP_L4: return h->protocol == CQ_PROTOCOL_UDP;
    default: return false;
    }
}

/* How many bytes of payload a segment has, and what follows from it. */
static void set_size(struct cq_split *s, size_t size)
{
    size_t payload = s->length - s->header_length;
    s->gso_size = (uint16_t)size;
    s->count = payload > 0 ? (unsigned)((payload + size - 1) / size) : 1;
    s->largest = s->header_length + (payload < size ? payload : size);
}

/* What segments are made from. pseudo is the folded sum of the whole one's pseudo-header. */
static void keep_headers(struct cq_split *s, const struct cq_packet *h, uint16_t pseudo)
{
    s->header_length = h->headers;
    memcpy(s->header, s->packet, h->headers);
    if (h->version == 4) {
        s->id = cq_get16(s->header + 4);
        cq_put32(s->header + 2, 0); /* total length and ID */
        cq_put16(s->header + 10, 0);
        s->ip_sum = cq_checksum_fold(cq_checksum_add(s->header, h->ip_header, 0));
    }
    /* One's complement: adding the complement takes the super-packet's length out again (RFC 1624). */
    s->l4_base = pseudo + (uint32_t)(uint16_t)~(s->length - h->transport);
}

static int init_super(struct cq_split *s, const struct cq_packet *h, const struct cq_vnet *vnet)
{
    if ((vnet->flags & CQ_VNET_NEEDS_CSUM) == 0 || !own_type(h, vnet->gso_type) || !own_checksum(h, vnet) ||
        vnet->gso_size == 0)
        return CQ_E_MALFORMED;
    s->vouched = vouchable(h, s->packet);
    keep_headers(s, h, cq_get16(cq_packet_checksum_field(h, s->packet)));
    set_size(s, vnet->gso_size);
    return CQ_OK;
}

int cq_split_init(struct cq_split *s, const struct cq_vnet *vnet, uint8_t *packet, size_t length)
{
    static const struct cq_vnet none;
    struct cq_packet h;
    s->vouched = false;
    s->count = 1;
    s->index = 0;
    s->packet = packet;
    s->length = cq_packet_length(packet, length);
    s->largest = s->length;
    s->header_length = 0;
    if (s->length == 0)
        return CQ_E_MALFORMED;
    cq_packet_parse(&h, packet, s->length);
    s->version = h.version;
    s->class = cq_class_of(packet);
    s->protocol = h.protocol;
    s->transport = h.protocol != 0;
    s->l4_offset = (uint8_t)h.transport;
    s->syn = h.protocol == CQ_PROTOCOL_TCP && (packet[h.transport + CQ_TCP_FLAGS] & CQ_TCP_SYN) != 0;
    if (vnet == NULL)
        vnet = &none;
    return vnet->gso_type == CQ_GSO_NONE ? init_ordinary(s, &h, vnet) : init_super(s, &h, vnet);
}

/* Whether a signature covers the segment, which nobody but its sender can make: TCP MD5 (RFC 2385), TCP-AO (RFC 5925).
 * Options that cannot be read may have one. */
static bool is_signed(const uint8_t *tcp)
{
    enum { END = 0, NOP = 1, MD5 = 19, AO = 29 };
    const size_t end = (size_t)(tcp[12] >> 4) * 4;
    for (size_t at = 20; at < end && tcp[at] != END;) {
        if (tcp[at] == NOP) {
            at++;
            continue;
        }
        if (tcp[at] == MD5 || tcp[at] == AO || end - at < 2 || tcp[at + 1] < 2)
            return true;
        at += tcp[at + 1];
    }
    return false;
}

/* An ordinary TCP segment becomes a super-packet. Without DF it has an ID of its own in IPv4, and others next to it have
 * theirs (RFC 6864, 4): it is fragmented instead. */
static bool widen(struct cq_split *s)
{
    const uint8_t *p = s->packet, *tcp = p + s->l4_offset;
    struct cq_packet h;
    cq_packet_parse(&h, p, s->length); /* anew: a checksum that the kernel put elsewhere may have changed a header */
    if (h.protocol != CQ_PROTOCOL_TCP || h.transport != s->l4_offset ||
        (h.version == 4 && (p[6] & CQ_DONT_FRAGMENT) == 0) ||
        (tcp[CQ_TCP_FLAGS] & (CQ_TCP_SYN | CQ_TCP_RST | CQ_TCP_URG)) != 0 || is_signed(tcp))
        return false;
    const uint16_t pseudo = cq_checksum_fold(cq_packet_pseudo(&h, p, s->length));
    /* A segment that was damaged does not get a checksum that is right. */
    if (!s->vouched &&
        (!h.plain || cq_checksum_fold(cq_checksum_add(tcp, s->length - h.transport, pseudo)) != UINT16_MAX))
        return false;
    s->protocol = h.protocol;
    keep_headers(s, &h, pseudo);
    return true;
}

bool cq_split_narrow(struct cq_split *s, size_t mtu)
{
    if (s->header_length == 0 ? !widen(s) : s->protocol != CQ_PROTOCOL_TCP)
        return false;
    set_size(s, mtu - s->header_length);
    return true;
}

static uint8_t *checksum_field(const struct cq_split *s, uint8_t *packet)
{
    return packet + s->l4_offset + (s->protocol == CQ_PROTOCOL_TCP ? CQ_TCP_CHECKSUM : CQ_UDP_CHECKSUM);
}

void cq_split_complete(struct cq_split *s)
{
    if (s->vouched && s->header_length == 0) /* the field holds the kernel's sum of the pseudo-header */
        cq_checksum_put(checksum_field(s, s->packet),
                        cq_checksum_add(s->packet + s->l4_offset, s->length - s->l4_offset, 0));
    s->vouched = false;
}

/* Completes the checksum of a segment of n bytes whose pseudo-header only the kernel knows. */
static void complete_segment(const struct cq_split *s, uint8_t *p, size_t n)
{
    size_t size = n - s->l4_offset;
    uint8_t *field = checksum_field(s, p);
    cq_put16(field, 0);
    cq_checksum_put(field, cq_checksum_add(p + s->l4_offset, size, s->l4_base + size));
}

bool cq_split_next(struct cq_split *s, uint8_t **packet, size_t *length)
{
    if (s->index == s->count)
        return false;
    unsigned i = s->index++;
    *packet = s->packet;
    *length = s->length;
    if (s->header_length == 0)
        return true;
    bool last = s->index == s->count;
    size_t offset = (size_t)i * s->gso_size; /* of this payload in the whole */
    uint8_t *p = s->packet + offset;
    size_t n = last ? s->length - offset : s->header_length + s->gso_size;
    memcpy(p, s->header, s->header_length);
    if (s->version == 4) {
        uint16_t id = (uint16_t)(s->id + i);
        cq_put16(p + 2, (uint16_t)n);
        cq_put16(p + 4, id);
        cq_put16(p + 10, (uint16_t)~cq_checksum_fold((uint64_t)s->ip_sum + n + id));
    } else {
        cq_put16(p + 4, (uint16_t)(n - 40));
    }
    uint8_t *l4 = p + s->l4_offset;
    if (s->protocol == CQ_PROTOCOL_TCP) {
        cq_put32(l4 + 4, cq_get32(s->header + s->l4_offset + 4) + (uint32_t)offset);
        if (i > 0) /* one congestion window reduction, told once (RFC 3168, 6.1.2) */
            l4[CQ_TCP_FLAGS] &= (uint8_t)~CQ_TCP_CWR;
        if (!last)
            l4[CQ_TCP_FLAGS] &= (uint8_t)~(CQ_TCP_FIN | CQ_TCP_PSH);
    } else {
        cq_put16(l4 + 4, (uint16_t)(n - s->l4_offset));
    }
    if (!s->vouched)
        complete_segment(s, p, n);
    *packet = p;
    *length = n;
    return true;
}
