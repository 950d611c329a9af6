#include "cq_answer.h"
#include "cq_io.h"

#define ALL_INTERVAL_NS 1000000u /* 1000 a second */
#define ALL_BURST 50u
#define HOST_INTERVAL_NS 1000000000u /* one a second */
#define HOST_BURST 6u

const char *const cq_answer_reasons[CQ_ICMP_REASONS] = {
    [CQ_ICMP_TOO_BIG] = "too_big",
    [CQ_ICMP_NO_ROUTE] = "no_route",
    [CQ_ICMP_UNREACHABLE] = "unreachable",
};

const char *const cq_answer_results[CQ_ANSWER_RESULTS] = {
    [CQ_ANSWER_SENT] = "sent",
    [CQ_ANSWER_LIMITED] = "limited",
    [CQ_ANSWER_BARRED] = "barred",
    [CQ_ANSWER_FAILED] = "failed",
};

void cq_answer_init(struct cq_answers *a, int tun, bool vnet_hdr)
{
    a->tun = tun;
    a->vnet_hdr = vnet_hdr;
}

/* ---- token buckets: one number each, the time when it is full again (the generic cell rate algorithm) ---- */

static bool has_token(uint64_t full_ns, uint64_t now_ns, uint64_t interval_ns, unsigned burst)
{
    return full_ns <= now_ns + (burst - 1) * interval_ns;
}

static void take_token(uint64_t *full_ns, uint64_t now_ns, uint64_t interval_ns)
{
    *full_ns = (*full_ns > now_ns ? *full_ns : now_ns) + interval_ns;
}

/* The bucket of a packet's source. Senders that share one share its tokens: nobody gets more by being many. */
static uint64_t *bucket_of(struct cq_answers *a, const uint8_t *packet)
{
    uint64_t low = 0, high = 0;
    if (packet[0] >> 4 == 4) {
        low = cq_get32(packet + 12);
    } else {
        high = cq_get64(packet + 8);
        low = cq_get64(packet + 16);
    }
    const uint64_t mixed = (high * 0xff51afd7ed558ccdu + low) * 0x9e3779b97f4a7c15u;
    return &a->hosts_full_ns[mixed >> 56 & (CQ_ANSWER_HOSTS - 1)];
}

/* ---- an answer ---- */

static enum cq_answer_result try(struct cq_answers *a, enum cq_icmp_reason reason, const uint8_t *packet, size_t length,
                                 size_t mtu, uint64_t now_ns)
{
    uint64_t *all = &a->full_ns[reason], *host = reason == CQ_ICMP_TOO_BIG ? NULL : bucket_of(a, packet);
    if (!has_token(*all, now_ns, ALL_INTERVAL_NS, ALL_BURST) ||
        (host != NULL && !has_token(*host, now_ns, HOST_INTERVAL_NS, HOST_BURST)))
        return CQ_ANSWER_LIMITED;
    const size_t n = cq_icmp_answer(a->out, reason, packet, length, mtu);
    if (n == 0)
        return CQ_ANSWER_BARRED;
    take_token(all, now_ns, ALL_INTERVAL_NS);
    if (host != NULL)
        take_token(host, now_ns, HOST_INTERVAL_NS);
    return cq_io_tun_write(a->tun, a->vnet_hdr, a->out, n) == 0 ? CQ_ANSWER_SENT : CQ_ANSWER_FAILED;
}

void cq_answer_give(struct cq_answers *a, enum cq_icmp_reason reason, const uint8_t *packet, size_t length, size_t mtu,
                    uint64_t now_ns)
{
    cq_answer_count(a, reason, try(a, reason, packet, length, mtu, now_ns));
}

void cq_answer_count(struct cq_answers *a, enum cq_icmp_reason reason, enum cq_answer_result result)
{
    atomic_fetch_add_explicit(&a->counts[reason][result], 1, memory_order_relaxed);
}
