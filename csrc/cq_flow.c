#include "cq_flow.h"

#include <stdlib.h>
#include <string.h>

/* ---- of a packet ---- */

#define EXTENSIONS_MAX 8 /* as in cq_packet.c */
#define TCP_LEAST 20u    /* of a header; what a later fragment could overlay is never less */
#define L4_LEAST 8u      /* of UDP and of ICMP */
#define QUOTED_LEAST 8u  /* that an error quotes of what follows the IP header (RFC 792) */

#define IPV4_MORE 0x2000u
#define IPV4_OFFSET 0x1fffu
#define LOOSE_SOURCE_ROUTE 131u
#define STRICT_SOURCE_ROUTE 137u

/* Whether options send the packet to another address than its header names. What cannot be read might. */
static bool is_source_routed(const uint8_t *options, size_t n)
{
    enum { END = 0, NOP = 1 };
    for (size_t at = 0; at < n && options[at] != END;) {
        if (options[at] == NOP) {
            at++;
            continue;
        }
        if (options[at] == LOOSE_SOURCE_ROUTE || options[at] == STRICT_SOURCE_ROUTE || n - at < 2 ||
            options[at + 1] < 2)
            return true;
        at += options[at + 1];
    }
    return false;
}

static bool is_error(uint8_t version, uint8_t type)
{
    if (version == 6)
        return type >= 1 && type <= 4; /* RFC 4443, 2.1; of them those that there are */
    return type == 3 || type == 11 || type == 12;
}

static bool is_echo(uint8_t version, uint8_t type)
{
    return version == 6 ? type == 128 || type == 129 : type == 8 || type == 0;
}

/* What of a transport header tells flows apart. */
static void read_transport(struct cq_flow_packet *f, uint8_t protocol, const uint8_t *p, size_t n, bool quoted)
{
    const bool icmp = protocol == (f->version == 4 ? CQ_PROTOCOL_ICMP : CQ_PROTOCOL_ICMP6);
    const bool tcp = protocol == CQ_PROTOCOL_TCP, ports = tcp || protocol == CQ_PROTOCOL_UDP;
    f->protocol = protocol;
    if (!icmp && !ports)
        return;
    if (n < (tcp && !quoted ? TCP_LEAST : quoted ? QUOTED_LEAST : L4_LEAST)) {
        f->protocol = CQ_FLOW_UNREADABLE;
        return;
    }
    if (ports) {
        f->source = cq_get16(p);
        f->destination = cq_get16(p + 2);
        f->flags = tcp && !quoted ? p[CQ_TCP_FLAGS] : 0;
        return;
    }
    f->type = p[0];
    if (is_echo(f->version, f->type))
        f->source = f->destination = cq_get16(p + 4);
    if (is_error(f->version, f->type) && !quoted) {
        f->quoted = p + L4_LEAST;
        f->quoted_length = n - L4_LEAST;
    }
}

/* A later fragment may be anything but one that could lie over the header by which the first was judged. */
static void read_later(struct cq_flow_packet *f, uint8_t protocol, size_t offset)
{
    const bool overlays = protocol == CQ_PROTOCOL_TCP && offset < TCP_LEAST;
    f->part = overlays ? CQ_FLOW_WHOLE : CQ_FLOW_LATER;
    f->protocol = overlays ? CQ_FLOW_UNREADABLE : protocol;
}

static void read4(struct cq_flow_packet *f, const uint8_t *p, size_t n, bool quoted)
{
    const size_t header = (size_t)(p[0] & 15) * 4;
    const uint16_t where = cq_get16(p + 6);
    f->from = p + 12;
    f->to = p + 16;
    f->id = cq_get16(p + 4);
    if (is_source_routed(p + 20, header - 20))
        return;
    if ((where & IPV4_OFFSET) != 0) {
        read_later(f, p[9], (size_t)(where & IPV4_OFFSET) * 8);
        return;
    }
    f->part = (where & IPV4_MORE) != 0 ? CQ_FLOW_FIRST : CQ_FLOW_WHOLE;
    read_transport(f, p[9], p + header, n - header, quoted);
}

/* A fragment header. False: nothing of what follows it is to be read. */
static bool read_fragment6(struct cq_flow_packet *f, const uint8_t *p)
{
    const uint16_t where = cq_get16(p + 2);
    f->id = cq_get32(p + 4);
    if ((where & 0xfff8) != 0) {
        read_later(f, p[0], where & 0xfff8);
        return false;
    }
    f->part = (where & 1) != 0 ? CQ_FLOW_FIRST : CQ_FLOW_WHOLE;
    return true;
}

static void read6(struct cq_flow_packet *f, const uint8_t *p, size_t n, bool quoted)
{
    uint8_t next = p[6];
    size_t offset = 40;
    bool fragmented = false;
    f->from = p + 8;
    f->to = p + 24;
    for (int i = 0; cq_packet_is_extension(next) || next == CQ_PROTOCOL_FRAGMENT; i++) {
        const uint8_t *h = p + offset;
        /* Headers behind that of a fragment would say where the transport header is, which later ones do not know. */
        if (i == EXTENSIONS_MAX || n - offset < 8 || fragmented || (next == CQ_PROTOCOL_ROUTING && h[3] != 0))
            return;
        fragmented = next == CQ_PROTOCOL_FRAGMENT;
        if (fragmented && !read_fragment6(f, h))
            return;
        const size_t size = fragmented ? 8 : ((size_t)h[1] + 1) * 8;
        if (n - offset < size)
            return;
        next = h[0];
        offset += size;
    }
    read_transport(f, next, p + offset, n - offset, quoted);
}

static void read_packet(struct cq_flow_packet *f, const uint8_t *p, size_t n, bool quoted)
{
    *f = (struct cq_flow_packet){.version = p[0] >> 4, .protocol = CQ_FLOW_UNREADABLE};
    if (f->version == 4)
        read4(f, p, n, quoted);
    else
        read6(f, p, n, quoted);
}

void cq_flow_read(struct cq_flow_packet *f, const uint8_t *p, size_t n) { read_packet(f, p, n, false); }

bool cq_flow_read_quoted(struct cq_flow_packet *f, const uint8_t *p, size_t n)
{
    const bool four = n >= 20 && p[0] >> 4 == 4 && (p[0] & 15) >= 5 && n >= (size_t)(p[0] & 15) * 4;
    if (!four && !(n >= 40 && p[0] >> 4 == 6))
        return false;
    read_packet(f, p, n, true);
    return true;
}

static void put_address(uint64_t words[2], const struct cq_flow_packet *f, const uint8_t *address)
{
    if (f->version == 4) {
        words[0] = cq_get32(address);
        words[1] = 0;
    } else {
        memcpy(words, address, 16);
    }
}

static uint64_t last_word(uint32_t ports, const struct cq_flow_packet *f, bool fragments)
{
    return (uint64_t)ports << 32 | (uint64_t)f->protocol << 16 | (uint64_t)f->version << 8 | (fragments ? 1 : 0);
}

void cq_flow_key(struct cq_flow_key *key, const struct cq_flow_packet *f, bool out)
{
    const uint16_t here = out ? f->source : f->destination, there = out ? f->destination : f->source;
    put_address(key->words, f, out ? f->from : f->to);
    put_address(key->words + 2, f, out ? f->to : f->from);
    key->words[4] = last_word((uint32_t)here << 16 | there, f, false);
}

void cq_flow_key_fragments(struct cq_flow_key *key, const struct cq_flow_packet *f)
{
    put_address(key->words, f, f->to);
    put_address(key->words + 2, f, f->from);
    key->words[4] = last_word(f->id, f, true);
}

/* ---- the hash ---- */

struct digest {
    uint64_t tag, other;
};

static uint64_t rotated(uint64_t x, unsigned by) { return x << by | x >> (64 - by); }

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotated(v[1], 13) ^ v[0];
    v[3] = rotated(v[3], 16) ^ v[2];
    v[0] = rotated(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotated(v[1], 17) ^ v[2];
    v[3] = rotated(v[3], 21) ^ v[0];
    v[2] = rotated(v[2], 32);
}

/* SipHash-1-3 with 128 bits (Aumasson, Bernstein, 2012), of a key's words. */
static struct digest hash(const uint64_t seed[2], const struct cq_flow_key *key)
{
    uint64_t v[4] = {seed[0] ^ UINT64_C(0x736f6d6570736575), seed[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee,
                     seed[0] ^ UINT64_C(0x6c7967656e657261), seed[1] ^ UINT64_C(0x7465646279746573)};
    for (unsigned i = 0; i < 6; i++) {
        const uint64_t word = i < 5 ? key->words[i] : (uint64_t)sizeof key->words << 56;
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    struct digest d;
    v[2] ^= 0xee;
    for (unsigned i = 0; i < 3; i++)
        sip_round(v);
    d.tag = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    for (unsigned i = 0; i < 3; i++)
        sip_round(v);
    d.other = v[0] ^ v[1] ^ v[2] ^ v[3];
    return d;
}

/* ---- those that there are ---- */

/* A place: the tag, and in one word when the flow was used last, who owns it, more bits of the hash, and its kind. */
struct place {
    _Atomic uint64_t tag, state;
};

struct cq_flows {
    uint64_t seed[2];
    uint32_t since;
    void *memory; /* of the places, which begin at a cache line in it */
    struct place (*sets)[CQ_FLOW_WAYS];
};

/* Seconds without a packet: those of Linux's connection tracking, where it has such a state. */
static const uint32_t lives[] = {
    [CQ_FLOW_NONE] = 0,          [CQ_FLOW_TCP_BEGUN] = 120, [CQ_FLOW_TCP_OPEN] = 432000,
    [CQ_FLOW_TCP_CLOSING] = 120, [CQ_FLOW_BEGUN] = 30,      [CQ_FLOW_ANSWERED] = 180,
    [CQ_FLOW_HEARD] = 180,       [CQ_FLOW_FRAGMENTS] = 30,  [CQ_FLOW_BUSY] = UINT32_MAX,
};

#define CHECK_BITS 12
#define CHECK_MASK ((1u << CHECK_BITS) - 1)

static enum cq_flow_kind kind_of(uint64_t state) { return (enum cq_flow_kind)(state & 15); }
static uint32_t check_of(uint64_t state) { return (uint32_t)(state >> 4) & CHECK_MASK; }
static uint32_t owner_of(uint64_t state) { return (uint32_t)(state >> 16) & 0xffff; }
static uint32_t used_at(uint64_t state) { return (uint32_t)(state >> 32); }

static uint64_t state_of(uint32_t used, uint32_t owner, uint32_t check, enum cq_flow_kind kind)
{
    return (uint64_t)used << 32 | (uint64_t)(owner & 0xffff) << 16 | (uint64_t)check << 4 | (uint64_t)kind;
}

/* How long ago, though another thread's clock may be a little ahead. */
static uint32_t idle(uint64_t state, uint32_t now)
{
    const uint32_t since = now - used_at(state);
    return since <= INT32_MAX ? since : 0;
}

static bool is_over(uint64_t state, uint32_t now) { return idle(state, now) >= lives[kind_of(state)]; }

/* The place of a flow, and what it says; NULL if there is none. A place that is being taken by another flow has neither
 * its tag nor its check bits. */
static struct place *find(struct place *set, const struct digest *d, uint64_t *state)
{
    const uint32_t check = (uint32_t)(d->other >> 32) & CHECK_MASK;
    for (unsigned i = 0; i < CQ_FLOW_WAYS; i++) {
        if (atomic_load_explicit(&set[i].tag, memory_order_acquire) != d->tag)
            continue;
        *state = atomic_load_explicit(&set[i].state, memory_order_acquire);
        if (check_of(*state) == check && kind_of(*state) != CQ_FLOW_NONE && kind_of(*state) != CQ_FLOW_BUSY)
            return &set[i];
    }
    return NULL;
}

/* How many places of a set an owner has. */
static unsigned count(const uint64_t states[CQ_FLOW_WAYS], uint32_t owner)
{
    unsigned n = 0;
    for (unsigned i = 0; i < CQ_FLOW_WAYS; i++)
        n += kind_of(states[i]) != CQ_FLOW_BUSY && owner_of(states[i]) == owner;
    return n;
}

/* Which place a new flow gets; CQ_FLOW_WAYS: none. A free one, or one whose time is over; else of the owner with the
 * most, where the new one counts already, that which was not used for longest. */
static unsigned victim(const uint64_t states[CQ_FLOW_WAYS], uint32_t owner, uint32_t now)
{
    unsigned best = CQ_FLOW_WAYS, most = 0;
    for (unsigned i = 0; i < CQ_FLOW_WAYS; i++)
        if (is_over(states[i], now))
            return i;
    for (unsigned i = 0; i < CQ_FLOW_WAYS; i++) {
        if (kind_of(states[i]) == CQ_FLOW_BUSY)
            continue;
        const unsigned has = count(states, owner_of(states[i])) + (owner_of(states[i]) == owner);
        if (has > most || (has == most && idle(states[i], now) > idle(states[best], now))) {
            best = i;
            most = has;
        }
    }
    return best;
}

static void take_place(struct place *set, const struct digest *d, uint32_t now, uint32_t owner, enum cq_flow_kind kind)
{
    const uint32_t check = (uint32_t)(d->other >> 32) & CHECK_MASK;
    uint64_t states[CQ_FLOW_WAYS];
    for (unsigned tries = 0; tries < 2;
         tries++) { /* another thread may take the same; twice, and the flow does without */
        for (unsigned i = 0; i < CQ_FLOW_WAYS; i++)
            states[i] = atomic_load_explicit(&set[i].state, memory_order_acquire);
        const unsigned at = victim(states, owner, now);
        if (at == CQ_FLOW_WAYS)
            return;
        if (!atomic_compare_exchange_strong(&set[at].state, &states[at], state_of(now, owner, check, CQ_FLOW_BUSY)))
            continue;
        atomic_store_explicit(&set[at].tag, d->tag, memory_order_release);
        atomic_store_explicit(&set[at].state, state_of(now, owner, check, kind), memory_order_release);
        return;
    }
}

static struct place *set_of(struct cq_flows *flows, const struct digest *d)
{
    return flows->sets[(uint32_t)d->other & (CQ_FLOW_SETS - 1)];
}

enum cq_flow_kind cq_flows_find(struct cq_flows *flows, const struct cq_flow_key *key, uint32_t now)
{
    const struct digest d = hash(flows->seed, key);
    uint64_t state;
    if (find(set_of(flows, &d), &d, &state) == NULL || is_over(state, now))
        return CQ_FLOW_NONE;
    return kind_of(state);
}

void cq_flows_put(struct cq_flows *flows, const struct cq_flow_key *key, uint32_t now, uint32_t owner,
                  enum cq_flow_kind kind)
{
    const struct digest d = hash(flows->seed, key);
    uint64_t state;
    struct place *set = set_of(flows, &d), *place = find(set, &d, &state);
    if (place == NULL) {
        take_place(set, &d, now, owner, kind);
        return;
    }
    const uint64_t next = state_of(now, owner, check_of(state), kind);
    if (next != state) /* where another thread has just written, that is as good */
        (void)atomic_compare_exchange_strong(&place->state, &state, next);
}

uint32_t cq_flows_age(const struct cq_flows *flows, uint32_t now) { return now - flows->since; }

struct cq_flows *cq_flows_new(const uint64_t seed[2], uint32_t now)
{
    const size_t line = 64, size = (size_t)CQ_FLOW_SETS * CQ_FLOW_WAYS * sizeof(struct place);
    struct cq_flows *flows = calloc(1, sizeof *flows);
    void *memory = calloc(1, size + line); /* pages that no flow is in cost nothing */
    if (flows == NULL || memory == NULL) {
        free(flows);
        free(memory);
        return NULL;
    }
    memcpy(flows->seed, seed, sizeof flows->seed);
    flows->since = now;
    flows->memory = memory;
    flows->sets = (void *)(((uintptr_t)memory + line - 1) & ~(uintptr_t)(line - 1));
    return flows;
}

void cq_flows_free(struct cq_flows *flows)
{
    if (flows == NULL)
        return;
    free(flows->memory);
    free(flows);
}
