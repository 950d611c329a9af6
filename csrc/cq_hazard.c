#include "cq_hazard.h"

#include <stdlib.h>

bool cq_hazard_init(struct cq_hazards *h, size_t readers)
{
    h->places = aligned_alloc(64, readers * sizeof *h->places);
    h->count = h->places == NULL ? 0 : readers;
    for (size_t i = 0; i < h->count; i++)
        atomic_init(&h->places[i].held, NULL);
    return h->places != NULL;
}

void cq_hazard_free(struct cq_hazards *h)
{
    free(h->places);
    h->places = NULL;
    h->count = 0;
}

void cq_hazard_announce(struct cq_hazards *h, size_t reader, void *object)
{
    atomic_store(&h->places[reader].held, object); /* ordered before the reader's next load of the pointer */
}

void cq_hazard_withdraw(struct cq_hazards *h, size_t reader)
{
    atomic_store_explicit(&h->places[reader].held, NULL, memory_order_release);
}

void *cq_hazard_announced(struct cq_hazards *h, size_t reader) { return atomic_load(&h->places[reader].held); }
