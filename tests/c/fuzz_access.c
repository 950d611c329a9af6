/*
 * Fuzzing of what decides about a peer's packets: their headers, rules, flows and the ICMP errors about them.
 *
 * Byte 0 of an input: how many rules there are, at most 7; each has family, prefix length, 2 bytes of address, protocol
 * and 2 ports of one byte each. Then steps: a control byte, and what it takes of the bytes that follow.
 *
 *   bit 0     this side sends the packet, else the peer does
 *   bit 1     seconds pass: u8 times 8
 *   bits 2, 3 the packet: its bytes as they are, of u8 length; or with the headers of IPv4 or IPv6 made whole
 *
 * Whatever the input, nothing is read beyond a packet; a packet that a rule has passes, whatever was before; without any
 * rule only what is of a flow passes, and a TCP SYN never is; asked twice, the answer is the same.
 */
#define _GNU_SOURCE
#include <string.h>

#include "check.h"
#include "cq_guard.h"
#include "fuzz.h"

enum { RULES_MAX = 7, PEER = 5 };

static struct {
    const uint8_t *at;
    size_t left;
} input;

UNGUIDED static uint8_t u8(void)
{
    if (input.left == 0)
        return 0;
    input.left--;
    return *input.at++;
}

static struct cq_route_list *list;
static struct cq_route_table *routes;
static struct cq_access_rule all[RULES_MAX];
static size_t rule_count;

UNGUIDED static void read_rules(void)
{
    rule_count = u8() % (RULES_MAX + 1);
    for (size_t i = 0; i < rule_count; i++) {
        struct cq_access_rule *r = &all[i];
        *r = (struct cq_access_rule){.family = u8() % 2 ? 4 : 6};
        r->prefix = u8() % (r->family == 4 ? 33 : 129);
        r->addr[0] = u8();
        r->addr[1] = u8();
        const uint32_t protocol = u8();
        r->first = cq_access_service(protocol, u8());
        r->last = r->first + u8();
    }
}

/* What the rules say of a packet, by looking through them. */
UNGUIDED static bool listed(const struct cq_flow_packet *f)
{
    const uint16_t port = cq_flow_has_ports(f) ? f->destination : 0;
    const uint32_t service = cq_access_service(f->protocol, port);
    for (size_t i = 0; i < rule_count; i++) {
        const struct cq_access_rule *r = &all[i];
        bool same = r->family == f->version && r->first <= service && service <= r->last;
        for (unsigned bit = 0; same && bit < r->prefix; bit++)
            same = ((r->addr[bit / 8] ^ f->to[bit / 8]) >> (7 - bit % 8) & 1) == 0;
        if (same)
            return true;
    }
    return false;
}

/* A packet from the input, in a block of its size; 0 if it is none. */
UNGUIDED static size_t read_packet(uint8_t control, uint8_t **packet)
{
    uint8_t bytes[256] = {0};
    const size_t n = u8();
    for (size_t i = 0; i < n; i++)
        bytes[i] = u8();
    if ((control & 4) != 0 && n >= 40) {
        const bool four = (control & 8) == 0;
        bytes[0] = four ? 0x45 : 0x60;
        if (four)
            cq_put16(bytes + 2, (uint16_t)n);
        else
            cq_put16(bytes + 4, (uint16_t)(n - 40));
    }
    const size_t length = cq_packet_length(bytes, n);
    *packet = block_new(length);
    memcpy(*packet, bytes, length);
    return length;
}

static void take_in(struct cq_guard *guard, const struct cq_rules *rules, const uint8_t *p, size_t n)
{
    struct cq_guard_refusal refusal;
    struct cq_flow_packet f;
    const bool passes = cq_guard_admits(guard, rules, routes, PEER, p, n, &refusal);
    cq_flow_read(&f, p, n);
    HOLDS(cq_guard_admits(guard, rules, routes, PEER, p, n, &refusal) == passes);
    if (f.part == CQ_FLOW_LATER)
        return;
    HOLDS(passes || !listed(&f));
    HOLDS(!passes || listed(&f) || f.protocol != CQ_FLOW_UNREADABLE);
    HOLDS(!passes || listed(&f) || f.protocol != CQ_PROTOCOL_TCP ||
          (f.flags & (CQ_TCP_SYN | CQ_TCP_ACK)) != CQ_TCP_SYN);
    HOLDS(passes || (refusal.family == f.version && refusal.protocol == f.protocol));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t seed[2] = {1, 2};
    static const struct cq_route_entry any[] = {{.family = 4, .value = PEER}, {.family = 6, .value = PEER}};
    static struct cq_flows *flows;
    static uint32_t now = 1000;
    static uint64_t serial;
    int error;
    if (routes == NULL) {
        list = cq_route_list_new(any, 2, NULL);
        flows = cq_flows_new(seed, now);
        HOLDS(list != NULL && flows != NULL);
        routes = cq_route_take(list);
    }
    input.at = data;
    input.left = size;
    read_rules();
    now += 1000000; /* no flow of the input before is left */
    const struct cq_rules rules = {cq_access_new(all, rule_count, &error), ++serial};
    struct cq_guard guard = {.flows = flows, .now = now};
    HOLDS(rules.access != NULL);
    while (input.left > 0) {
        const uint8_t control = u8();
        uint8_t *packet;
        guard.now += (control & 2) != 0 ? u8() * 8u : 0;
        const size_t n = read_packet(control, &packet);
        if (n > 0 && (control & 1) != 0)
            cq_guard_sends(&guard, true, PEER, packet, n);
        else if (n > 0)
            take_in(&guard, &rules, packet, n);
        block_free(packet);
    }
    cq_access_free(rules.access);
    return 0;
}

#ifndef CQ_LIBFUZZER
/* Headers that are nearly right. */
static size_t make_packet(uint8_t *p)
{
    static const uint8_t protocols[] = {1, 6, 17, 58, 47, 0, 43, 44, 60};
    const size_t n = 40 + draw(80);
    for (size_t i = 0; i < n; i++)
        p[i] = draw(4) == 0 ? (uint8_t)draw(256) : 0;
    p[6] = draw(3) == 0 ? protocols[draw(sizeof protocols)] : p[6];
    p[9] = protocols[draw(sizeof protocols)];
    p[12] = p[16] = p[8] = p[24] = (uint8_t)draw(3);
    if (draw(2) == 0)
        p[28 + draw(8)] = (uint8_t)draw(12);
    return n;
}

static size_t make_input(uint8_t *out)
{
    size_t n = 0;
    out[n++] = (uint8_t)draw(RULES_MAX + 1);
    for (size_t i = 0; i < out[0] * 7u; i++)
        out[n++] = (uint8_t)draw(draw(2) ? 8 : 256);
    for (uint32_t steps = 1 + draw(12); steps > 0; steps--) {
        const uint8_t control = (uint8_t)draw(16);
        out[n++] = control;
        if ((control & 2) != 0)
            out[n++] = (uint8_t)draw(40);
        const size_t length = make_packet(out + n + 1);
        out[n] = (uint8_t)length;
        n += 1 + length;
    }
    return n;
}
#endif
