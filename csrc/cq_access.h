/*
 * What a peer may reach: an immutable set of rules, each a network, a protocol and ports.
 *
 * Rules only allow, so their order says nothing, and those about one network become ranges that do not overlap. A look-up
 * searches for the smallest network around an address, and then its ranges and those of the networks around it.
 */
#ifndef CQ_ACCESS_H
#define CQ_ACCESS_H

#include <stdbool.h>

#include "cq_wire.h"

/* A protocol (0..255, or CQ_FLOW_UNREADABLE) and a port as one number; the port is 0 where there are none. */
static inline uint32_t cq_access_service(uint32_t protocol, uint16_t port) { return protocol << 16 | port; }

#define CQ_ACCESS_SERVICE_MAX 0x100ffffu

struct cq_access_rule {
    uint8_t family;       /* 4 or 6 */
    uint8_t prefix;       /* 0..32 or 0..128; host bits of addr are ignored */
    uint8_t addr[16];     /* network order; IPv4 uses the first 4 bytes */
    uint32_t first, last; /* services, both among them; at most CQ_ACCESS_SERVICE_MAX */
};

struct cq_access;

/* NULL when memory is short or a rule is out of range (then *error says which: CQ_E_MEMORY or CQ_E_ARGUMENT). No rule is
 * a valid set, which allows nothing. */
struct cq_access *cq_access_new(const struct cq_access_rule *rules, size_t count, int *error);
void cq_access_free(struct cq_access *access); /* NULL is fine */

/* Whether some rule has this destination and service. */
bool cq_access_allows(const struct cq_access *access, uint8_t family, const uint8_t *to, uint32_t service);

#endif
