#include "cq_guard.h"

#include <string.h>

#define TCP_ENDS (CQ_TCP_SYN | CQ_TCP_FIN | CQ_TCP_RST)
#define FOREVER UINT32_MAX
#define SENT UINT64_MAX /* in the place of a serial: a flow that this side sends in */

/* For so many seconds a data plane that has just begun takes connections of TCP over in their middle, if the port of this
 * side is one that Linux gives to who connects, and the other is none: a node that is restarted cuts nobody off. */
#define TAKE_OVER_SECS 120u
#define CLIENT_PORTS 32768u

/* ---- what has just been seen ---- */

static struct cq_guard_seen *seen_place(struct cq_guard *g, const struct cq_flow_key *key)
{
    uint64_t h = key->words[0] ^ key->words[1] ^ (key->words[2] ^ key->words[3]) * 3 ^ key->words[4] * 5;
    h *= UINT64_C(0x9e3779b97f4a7c15);
    return &g->seen[h >> 58];
}

static bool is_seen(const struct cq_guard *g, const struct cq_guard_seen *seen, const struct cq_flow_key *key,
                    uint64_t serial, uint32_t peer, uint8_t flags)
{
    return seen->serial == serial && seen->peer == (uint16_t)peer && g->now <= seen->until &&
           (seen->any_flags || (flags & TCP_ENDS) == 0) && cq_flow_same(&seen->key, key);
}

static void see(struct cq_guard_seen *seen, const struct cq_flow_key *key, uint64_t serial, uint32_t peer,
                uint32_t until, bool any_flags)
{
    *seen = (struct cq_guard_seen){
        .key = *key, .serial = serial, .until = until, .peer = (uint16_t)peer, .any_flags = any_flags};
}

/* Where addresses and ports of an ordinary packet of TCP or UDP are, and how many bytes: one with options, extension
 * headers or fragments is none, nor is a segment that begins or ends a connection. */
static const uint8_t *ordinary_ends(const uint8_t *p, size_t n, size_t *size)
{
    const bool four = p[0] == 0x45;
    const size_t transport = four ? 20 : 40;
    const uint8_t protocol = four ? p[9] : p[6];
    const bool tcp = protocol == CQ_PROTOCOL_TCP;
    if ((!four && p[0] >> 4 != 6) || (!tcp && protocol != CQ_PROTOCOL_UDP) || n < transport + (tcp ? 20 : 8) ||
        (four && (cq_get16(p + 6) & 0x3fff) != 0) || (tcp && (p[transport + CQ_TCP_FLAGS] & TCP_ENDS) != 0))
        return NULL;
    *size = four ? 12 : 36;
    return p + transport + 4 - *size;
}

static bool is_last(const struct cq_guard *g, uint64_t serial, uint32_t peer, const uint8_t *p, size_t n)
{
    const struct cq_guard_last *last = &g->last;
    size_t size;
    if (last->serial != serial || last->peer != (uint16_t)peer || g->now > last->until || last->version != p[0] >> 4)
        return false;
    const uint8_t *ends = ordinary_ends(p, n, &size);
    return ends != NULL && last->protocol == p[last->version == 4 ? 9 : 6] && memcmp(last->ends, ends, size) == 0;
}

static void set_last(struct cq_guard *g, const struct cq_guard_seen *seen, const uint8_t *p, size_t n)
{
    size_t size;
    const uint8_t *ends = ordinary_ends(p, n, &size);
    if (ends == NULL)
        return;
    g->last = (struct cq_guard_last){.version = p[0] >> 4,
                                     .protocol = p[p[0] >> 4 == 4 ? 9 : 6],
                                     .peer = seen->peer,
                                     .until = seen->until,
                                     .serial = seen->serial};
    memcpy(g->last.ends, ends, size);
}

/* ---- kinds of flows ---- */

static bool is_ours(enum cq_flow_kind kind) { return kind >= CQ_FLOW_TCP_BEGUN && kind <= CQ_FLOW_ANSWERED; }

static bool opens(const struct cq_flow_packet *f)
{
    return f->protocol == CQ_PROTOCOL_TCP && (f->flags & (CQ_TCP_SYN | CQ_TCP_ACK)) == CQ_TCP_SYN;
}

static bool is_icmp(const struct cq_flow_packet *f)
{
    return f->protocol == (f->version == 4 ? CQ_PROTOCOL_ICMP : CQ_PROTOCOL_ICMP6);
}

static bool asks_echo(const struct cq_flow_packet *f) { return is_icmp(f) && f->type == (f->version == 4 ? 8 : 128); }

static bool answers_echo(const struct cq_flow_packet *f)
{
    return is_icmp(f) && f->type == (f->version == 4 ? 0 : 129);
}

/* What a flow of TCP is after a segment of either side. */
static enum cq_flow_kind tcp_next(enum cq_flow_kind kind, uint8_t flags)
{
    if ((flags & (CQ_TCP_FIN | CQ_TCP_RST)) != 0)
        return CQ_FLOW_TCP_CLOSING;
    return kind == CQ_FLOW_TCP_CLOSING ? kind : CQ_FLOW_TCP_OPEN;
}

/* ---- in ---- */

static bool allows(const struct cq_rules *rules, const struct cq_flow_packet *f)
{
    const uint16_t port = cq_flow_has_ports(f) ? f->destination : 0;
    return cq_access_allows(rules->access, f->version, f->to, cq_access_service(f->protocol, port));
}

/* An ICMP error about a packet of this side to that peer's network: of a flow that it has begun, or an answer in one that
 * the peer may begin. Any router on the way may say it, to nobody but who has sent the packet. */
static bool is_about_flow(struct cq_guard *g, const struct cq_rules *rules, const struct cq_route_table *routes,
                          uint32_t peer, const struct cq_flow_packet *error)
{
    struct cq_flow_packet q, reverse;
    struct cq_flow_key key;
    if (!cq_flow_read_quoted(&q, error->quoted, error->quoted_length) || q.version != error->version ||
        q.part == CQ_FLOW_LATER || memcmp(q.from, error->to, q.version == 4 ? 4 : 16) != 0 ||
        (q.version == 4 ? cq_route_lookup4(routes, q.to) : cq_route_lookup6(routes, q.to)) != peer)
        return false;
    cq_flow_key(&key, &q, true);
    if (is_ours(cq_flows_find(g->flows, &key, g->now)))
        return true;
    reverse = q;
    reverse.to = q.from;
    reverse.destination = q.source;
    return !is_icmp(&q) && allows(rules, &reverse);
}

/* Whether it is of a flow that this side has begun, which it keeps alive. */
static bool answers(struct cq_guard *g, uint32_t peer, const struct cq_flow_packet *f, const struct cq_flow_key *key)
{
    if (f->protocol == CQ_FLOW_UNREADABLE || opens(f) || (is_icmp(f) && !answers_echo(f)))
        return false;
    const enum cq_flow_kind kind = cq_flows_find(g->flows, key, g->now);
    if (!is_ours(kind))
        return false;
    const bool tcp = f->protocol == CQ_PROTOCOL_TCP;
    cq_flows_put(g->flows, key, g->now, peer, tcp ? tcp_next(kind, f->flags) : CQ_FLOW_ANSWERED);
    return true;
}

/* A rule has let it in: what this side sends in the flow is an answer, and the flow not one of its own. Where headers
 * tell a question from an answer, that need not be remembered. */
static void hear(struct cq_guard *g, uint32_t peer, const struct cq_flow_key *key)
{
    const enum cq_flow_kind kind = cq_flows_find(g->flows, key, g->now);
    cq_flows_put(g->flows, key, g->now, peer, is_ours(kind) ? CQ_FLOW_ANSWERED : CQ_FLOW_HEARD);
}

static void refuse(struct cq_guard_refusal *refusal, const struct cq_flow_packet *f)
{
    *refusal = (struct cq_guard_refusal){
        .protocol = f->protocol, .family = f->version, .port = cq_flow_has_ports(f) ? f->destination : 0};
    memcpy(refusal->to, f->to, f->version == 4 ? 4 : 16);
}

/* Goes by what the first fragment was. Without that, only who may send anything may send it. */
static bool admits_later(struct cq_guard *g, const struct cq_rules *rules, uint32_t peer, struct cq_flow_packet *f)
{
    struct cq_flow_key key;
    cq_flow_key_fragments(&key, f);
    if (cq_flows_find(g->flows, &key, g->now) == CQ_FLOW_FRAGMENTS) {
        cq_flows_put(g->flows, &key, g->now, peer, CQ_FLOW_FRAGMENTS);
        return true;
    }
    f->protocol = CQ_FLOW_UNREADABLE;
    return allows(rules, f);
}

/* A packet of which nothing was seen in this second. */
static bool judge(struct cq_guard *g, const struct cq_rules *rules, const struct cq_route_table *routes, uint32_t peer,
                  const struct cq_flow_packet *f, const struct cq_flow_key *key, struct cq_guard_seen *seen)
{
    const bool tcp = f->protocol == CQ_PROTOCOL_TCP, allowed = allows(rules, f);
    const bool stateless = tcp || is_icmp(f) || f->protocol == CQ_FLOW_UNREADABLE;
    if (allowed) {
        if (!stateless)
            hear(g, peer, key);
        see(seen, key, rules->serial, peer, stateless ? FOREVER : g->now, true);
        return true;
    }
    if (answers(g, peer, f, key)) {
        if (!is_icmp(f)) /* the key does not tell an answer from a question */
            see(seen, key, rules->serial, peer, g->now, false);
        return true;
    }
    return f->quoted != NULL && is_about_flow(g, rules, routes, peer, f);
}

bool cq_guard_admits(struct cq_guard *g, const struct cq_rules *rules, const struct cq_route_table *routes,
                     uint32_t peer, const uint8_t *p, size_t n, struct cq_guard_refusal *refusal)
{
    struct cq_flow_packet f;
    struct cq_flow_key key;
    bool admitted;
    if (is_last(g, rules->serial, peer, p, n))
        return true;
    cq_flow_read(&f, p, n);
    if (f.part == CQ_FLOW_LATER) {
        admitted = admits_later(g, rules, peer, &f);
    } else {
        cq_flow_key(&key, &f, false);
        struct cq_guard_seen *seen = seen_place(g, &key);
        admitted =
            is_seen(g, seen, &key, rules->serial, peer, f.flags) || judge(g, rules, routes, peer, &f, &key, seen);
        if (is_seen(g, seen, &key, rules->serial, peer, f.flags))
            set_last(g, seen, p, n);
    }
    if (!admitted) {
        refuse(refusal, &f);
    } else if (f.part == CQ_FLOW_FIRST) {
        cq_flow_key_fragments(&key, &f);
        cq_flows_put(g->flows, &key, g->now, peer, CQ_FLOW_FRAGMENTS);
    }
    return admitted;
}

/* ---- out ---- */

static bool takes_over(const struct cq_guard *g, const struct cq_flow_packet *f)
{
    return cq_flows_age(g->flows, g->now) < TAKE_OVER_SECS && (f->flags & TCP_ENDS) == 0 && f->source >= CLIENT_PORTS &&
           f->destination < CLIENT_PORTS;
}

/* What a flow is after a packet of this side; CQ_FLOW_NONE: it is not one to be remembered. */
static enum cq_flow_kind after_sent(const struct cq_guard *g, bool guarded, const struct cq_flow_packet *f,
                                    enum cq_flow_kind kind)
{
    if (f->protocol != CQ_PROTOCOL_TCP)
        return kind != CQ_FLOW_NONE ? kind : CQ_FLOW_BEGUN;
    if (opens(f)) /* without rules nobody sees the answer */
        return guarded ? CQ_FLOW_TCP_BEGUN : CQ_FLOW_TCP_OPEN;
    if (kind == CQ_FLOW_NONE)
        return takes_over(g, f) ? CQ_FLOW_TCP_OPEN : CQ_FLOW_NONE;
    return tcp_next(kind, f->flags);
}

void cq_guard_sends(struct cq_guard *g, bool guarded, uint32_t peer, const uint8_t *p, size_t n)
{
    struct cq_flow_packet f;
    struct cq_flow_key key;
    if (is_last(g, SENT, peer, p, n))
        return;
    cq_flow_read(&f, p, n);
    if (f.protocol == CQ_FLOW_UNREADABLE || f.part == CQ_FLOW_LATER || (is_icmp(&f) && !asks_echo(&f)))
        return;
    if (!guarded && !opens(&f))
        return;
    cq_flow_key(&key, &f, true);
    struct cq_guard_seen *seen = seen_place(g, &key);
    if (is_seen(g, seen, &key, SENT, peer, f.flags)) {
        set_last(g, seen, p, n);
        return;
    }
    const enum cq_flow_kind kind = after_sent(g, guarded, &f, cq_flows_find(g->flows, &key, g->now));
    if (kind == CQ_FLOW_NONE)
        return;
    cq_flows_put(g->flows, &key, g->now, peer, kind);
    see(seen, &key, SENT, peer, g->now, false);
}
