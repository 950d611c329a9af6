#include "cq_worker.h"
#include "cq_io.h"
#include "cq_scrub.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- what all workers share ---- */

int cq_worker_shared_init(struct cq_worker_shared *shared, const struct cq_worker_options *options)
{
    const size_t workers = options->workers, sockets = workers * (options->groups + options->lane_ports);
    memset(shared, 0, sizeof *shared);
    shared->options = *options;
    shared->options.tun_fds = shared->options.udp_fds = NULL;
    shared->notice_fd = -1;
    shared->sockets_generation = 1;
    shared->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (shared->event_fd < 0)
        return -errno;
    int *fds = calloc(workers + sockets, sizeof *fds); /* our own copies: the caller's arrays may go away */
    if (fds == NULL)
        return -ENOMEM;
    memcpy(fds, options->tun_fds, workers * sizeof *fds);
    memcpy(fds + workers, options->udp_fds, sockets * sizeof *fds);
    shared->options.tun_fds = fds;
    shared->options.udp_fds = fds + workers;
    return cq_table_init(&shared->tables, 2 * workers + 1) == CQ_OK ? 0 : -ENOMEM;
}

void cq_worker_shared_free(struct cq_worker_shared *shared)
{
    cq_table_destroy(&shared->tables);
    if (shared->event_fd >= 0)
        close(shared->event_fd);
    free((void *)(uintptr_t)shared->options.tun_fds);
}

/* ---- events ---- */

/* Bits that are raised as long as their cause lasts, per record: they stay set, so that each is told once. The others
 * are cleared when they are told. */
#define STICKY ((uint32_t)(CQ_EVENT_ROTATE_DUE | CQ_EVENT_KEY_EXPIRED | CQ_EVENT_FORGED))
#define TOLD_SHIFT 16

static void raise_event(struct cq_worker *w, _Atomic uint32_t *flags, uint32_t event)
{
    /* Only a bit that is never cleared may be looked at first. For the others a plain load could be early: it sees the
     * bit of the event before, while the control thread clears that and reads what is older than this event. */
    if ((event & STICKY) != 0 && (atomic_load_explicit(flags, memory_order_relaxed) & event) != 0)
        return;
    if ((atomic_fetch_or(flags, event) & event) == 0)
        cq_io_wake(w->shared->event_fd);
}

bool cq_worker_notify(struct cq_worker_shared *shared, struct cq_slot *slot, struct cq_notice notice)
{
    if (!cq_notices_push(&slot->notices, notice))
        return false;
    if (!atomic_exchange(&shared->notices_wanted, true))
        cq_io_wake(shared->notice_fd);
    return true;
}

void cq_worker_raise_slot(struct cq_worker *w, struct cq_slot *slot, enum cq_event event)
{
    raise_event(w, &slot->events, event);
}

void cq_worker_raise_peer(struct cq_worker *w, struct cq_peer *peer, enum cq_event event)
{
    raise_event(w, &peer->events, event);
}

uint32_t cq_worker_take_events(_Atomic uint32_t *flags)
{
    uint32_t seen = atomic_load(flags);
    uint32_t news = seen & 0xffff & ~(seen >> TOLD_SHIFT);
    if (news == 0)
        return 0;
    if (news & STICKY)
        atomic_fetch_or(flags, (news & STICKY) << TOLD_SHIFT);
    if (news & ~STICKY)
        atomic_fetch_and(flags, ~(news & ~STICKY));
    return news;
}

/* ---- one worker ---- */

bool cq_worker_init(struct cq_worker *w, struct cq_worker_shared *shared, size_t index, size_t hazard)
{
    w->shared = shared;
    w->index = index;
    w->hazard = hazard;
    w->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return w->wake >= 0;
}

void cq_worker_close(struct cq_worker *w)
{
    if (w->wake >= 0)
        close(w->wake);
}

void cq_worker_wake(struct cq_worker *w) { cq_io_wake(w->wake); }

void cq_worker_begin(struct cq_worker *w)
{
    if (w->table != NULL && !cq_table_is_current(&w->shared->tables, w->table))
        cq_worker_rest(w);
    if (w->table == NULL)
        w->table = cq_table_acquire(&w->shared->tables, w->hazard);
}

void cq_worker_rest(struct cq_worker *w)
{
    if (w->table == NULL)
        return;
    cq_scrub(); /* first: a table that nobody announces is freed, and nothing of its keys may be left then */
    cq_table_release(&w->shared->tables, w->hazard);
    w->table = NULL;
}

void cq_worker_fail(struct cq_worker *w, const char *what, int error)
{
    struct cq_worker_shared *shared = w->shared;
    int none = 0;
    if (atomic_compare_exchange_strong(&shared->failure, &none, error ? error : EIO))
        atomic_store(&shared->failure_what, what);
    cq_io_wake(shared->event_fd);
}
