/*
 * Hazard pointers: how readers that take no lock keep what they read from being freed (Michael, 2004).
 *
 * The writer replaces an object as a whole by storing another pointer, and looks at what is announced before it frees
 * the old one. A reader loads the pointer, announces it in a place of its own, and loads it again: only if it is still the
 * same was the announcement in time for the writer to see, and the object may be used until it is withdrawn.
 */
#ifndef CQ_HAZARD_H
#define CQ_HAZARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct cq_hazard {
    _Alignas(64) _Atomic(void *) held;
};

struct cq_hazards {
    struct cq_hazard *places; /* one for each reader */
    size_t count;
};

bool cq_hazard_init(struct cq_hazards *h, size_t readers); /* false: no memory */
void cq_hazard_free(struct cq_hazards *h);                 /* no reader may be left; also after a failed init */

void cq_hazard_announce(struct cq_hazards *h, size_t reader, void *object); /* reader */
void cq_hazard_withdraw(struct cq_hazards *h, size_t reader);               /* reader */

/* writer: what a reader has announced last; NULL for nothing. It may still use that, if it was in time, and it was not if
 * the object had been freed before. */
void *cq_hazard_announced(struct cq_hazards *h, size_t reader);

#endif
