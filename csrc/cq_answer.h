/*
 * The answers that a tx worker gives to packets that go no further: whether one is due, how many may be given, and what
 * became of it. They go into the worker's own TUN queue, so that the kernel takes them to the sender, be it this host or
 * one that it forwards for.
 *
 * The limits are Linux's own (icmp_msgs_per_sec and icmp_msgs_burst; icmp_ratelimit and its burst): a token bucket for
 * all and, since there may be very many senders, one for each of CQ_ANSWER_HOSTS sets of them. As in Linux, only the first
 * holds for CQ_ICMP_TOO_BIG, which a sender needs for each of its destinations; and each reason has a first of its own.
 */
#ifndef CQ_ANSWER_H
#define CQ_ANSWER_H

#include <stdatomic.h>

#include "cq_icmp.h"

#define CQ_ANSWER_HOSTS 256u /* a power of two */

enum cq_answer_result {
    CQ_ANSWER_SENT,
    CQ_ANSWER_LIMITED, /* by the rate, or since it is too early to say that there is no way */
    CQ_ANSWER_BARRED,  /* nobody may answer such a packet */
    CQ_ANSWER_FAILED,  /* the TUN took no packet */
    CQ_ANSWER_RESULTS
};

extern const char *const cq_answer_reasons[CQ_ICMP_REASONS];
extern const char *const cq_answer_results[CQ_ANSWER_RESULTS];

struct cq_answers {
    int tun;
    bool vnet_hdr;
    uint64_t full_ns[CQ_ICMP_REASONS]; /* when the bucket will be full again, if nothing is taken from it */
    uint64_t hosts_full_ns[CQ_ANSWER_HOSTS];
    _Atomic uint64_t counts[CQ_ICMP_REASONS][CQ_ANSWER_RESULTS];
    uint8_t out[CQ_ICMP_MAX6];
};

/* Takes zeroed memory. The descriptor stays the caller's. */
void cq_answer_init(struct cq_answers *a, int tun, bool vnet_hdr);

/* Answers a packet if that is due; the arguments are those of cq_icmp_answer, and the time. */
void cq_answer_give(struct cq_answers *a, enum cq_icmp_reason reason, const uint8_t *packet, size_t length, size_t mtu,
                    uint64_t now_ns);

/* Counts what became of an answer, or that none was given. */
void cq_answer_count(struct cq_answers *a, enum cq_icmp_reason reason, enum cq_answer_result result);

#endif
