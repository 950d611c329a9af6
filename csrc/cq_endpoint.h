/*
 * Where a peer is, and how the workers that send there, those that hear it move and the control thread share that.
 */
#ifndef CQ_ENDPOINT_H
#define CQ_ENDPOINT_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A UDP address; IPv4 is kept IPv4-mapped, so that one comparison serves both families. */
struct cq_address {
    uint8_t host[16];
    uint32_t scope; /* interface index for link-local addresses, else 0 */
    uint16_t port;
    uint8_t family; /* 4, 6, or 0 for none */
    uint8_t reserved;
};

/* Which local address datagrams to a peer leave from. */
enum cq_source {
    CQ_SOURCE_KERNEL = 0,    /* the kernel's choice, always: we dialled, and may roam */
    CQ_SOURCE_PINNED = 1,    /* the one that the peer's datagrams come to */
    CQ_SOURCE_FORGOTTEN = 2, /* that one was refused: the kernel's choice until the peer uses another path */
};

#define CQ_GROUPS_MAX 9u /* of UDP sockets: 8 to listen at, and one to dial from */

/* Where a peer is: its address, and what it knows us by, the local address and the port of a socket group. */
struct cq_endpoint {
    struct cq_address remote;
    uint8_t local[16];    /* also kept when forgotten, so that the next datagram to it does not pin it again */
    uint32_t local_scope; /* interface index, only for a link-local source */
    uint16_t source;      /* enum cq_source */
    uint16_t group;       /* of the socket that its datagrams come in by, which those to it leave by */
};

static_assert(sizeof(struct cq_endpoint) == 48, "endpoints are copied in 64-bit words");

#define CQ_ENDPOINT_WORDS (sizeof(struct cq_endpoint) / 8)

/* An endpoint that one thread replaces while others read it: a sequence lock whose words are atomics. */
struct cq_shared_endpoint {
    pthread_mutex_t writer;
    _Atomic uint32_t sequence; /* odd while a writer is at work */
    _Atomic uint64_t words[CQ_ENDPOINT_WORDS];
};

/* worker: what it holds, and a number that each replacement changes. */
uint32_t cq_endpoint_read(struct cq_shared_endpoint *shared, struct cq_endpoint *out);
void cq_endpoint_write(struct cq_shared_endpoint *shared, const struct cq_endpoint *value);
/* worker: writes if it still holds what was read. Gives up, too, while another writer is at work: what made the worker
 * write, a record or a refused send, comes again. True if it wrote. */
bool cq_endpoint_replace(struct cq_shared_endpoint *shared, const struct cq_endpoint *read,
                         const struct cq_endpoint *value);

/* Where a peer is that was known to be at one endpoint and has now been heard from another. True if that is news. */
bool cq_endpoint_follow(const struct cq_endpoint *known, const struct cq_endpoint *heard, struct cq_endpoint *next);

/* Whether it has gone elsewhere: to another address, or to another of ours, with which the path is another one. */
bool cq_endpoint_moved(const struct cq_endpoint *before, const struct cq_endpoint *now);

/* Whether what was heard differs from what is known by the peer's port at most: it came from one more socket there. */
bool cq_endpoint_beside(const struct cq_endpoint *known, const struct cq_endpoint *heard);

#endif
