#define _GNU_SOURCE
#include "cq_plane.h"
#include "cq_io.h"
#include "cq_send.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

const struct cq_drop_name cq_plane_drop_names[CQ_DROP_COUNT] = {
    [CQ_DROP_TX_MALFORMED] = {"tx", "malformed"},
    [CQ_DROP_TX_NO_ROUTE] = {"tx", "no_route"},
    [CQ_DROP_TX_NO_KEY] = {"tx", "no_key"},
    [CQ_DROP_TX_NO_ENDPOINT] = {"tx", "no_endpoint"},
    [CQ_DROP_TX_TOO_BIG] = {"tx", "too_big"},
    [CQ_DROP_TX_SEND_ERROR] = {"tx", "send_error"},
    [CQ_DROP_TX_CRYPTO] = {"tx", "crypto"},
    [CQ_DROP_RX_SHORT] = {"rx", "short"},
    [CQ_DROP_RX_HEADER] = {"rx", "bad_header"},
    [CQ_DROP_RX_UNKNOWN_INDEX] = {"rx", "unknown_index"},
    [CQ_DROP_RX_REPLAY] = {"rx", "replay"},
    [CQ_DROP_RX_AUTH] = {"rx", "auth"},
    [CQ_DROP_RX_KEY_LIMIT] = {"rx", "no_key"},
    [CQ_DROP_RX_MALFORMED] = {"rx", "malformed"},
    [CQ_DROP_RX_SOURCE] = {"rx", "source_not_allowed"},
    [CQ_DROP_RX_TUN_WRITE] = {"rx", "tun_write"},
    [CQ_DROP_RX_TRUNCATED] = {"rx", "truncated"},
    [CQ_DROP_RX_CONTROL_QUEUE] = {"rx", "control_queue"},
};

/* ---- life ---- */

struct cq_plane *cq_plane_new(const struct cq_plane_options *options)
{
    const size_t workers = options->workers;
    if (workers < 1 || workers > CQ_LANES_MAX || options->mtu < 576 || options->mtu > CQ_SEND_MAX - CQ_OVERHEAD) {
        errno = EINVAL;
        return NULL;
    }
    struct cq_plane *plane = calloc(1, sizeof *plane);
    if (plane == NULL)
        return NULL;
    plane->options = *options;
    plane->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (plane->options.max_segments == 0)
        plane->options.max_segments = cq_io_max_segments();
    if (plane->options.max_segments > CQ_SEND_RECORDS_MAX)
        plane->options.max_segments = CQ_SEND_RECORDS_MAX;

    int *fds = calloc(2 * workers, sizeof *fds);
    plane->tx = calloc(workers, sizeof *plane->tx);
    plane->rx = calloc(workers + 1, sizeof *plane->rx);
    plane->threads = calloc(2 * workers, sizeof *plane->threads);
    plane->options.tun_fds = fds; /* our own copies: the caller's arrays may go away */
    plane->options.udp_fds = fds != NULL ? fds + workers : NULL;
    bool ok = plane->event_fd >= 0 && fds != NULL && plane->tx != NULL && plane->rx != NULL && plane->threads != NULL &&
              cq_table_init(&plane->tables, 2 * workers + 1) == CQ_OK;
    if (ok) {
        memcpy(fds, options->tun_fds, workers * sizeof *fds);
        memcpy(fds + workers, options->udp_fds, workers * sizeof *fds);
    }
    for (size_t i = 0; ok && i < workers; i++)
        ok = (plane->tx[i] = cq_tx_new(plane, i)) != NULL && (plane->rx[i] = cq_rx_new(plane, i)) != NULL;
    if (ok)
        ok = (plane->rx[workers] = cq_rx_new(plane, workers)) != NULL;
    if (!ok) {
        int error = errno ? errno : ENOMEM;
        cq_plane_free(plane);
        errno = error;
        return NULL;
    }
    return plane;
}

int cq_plane_start(struct cq_plane *plane)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* threads inherit it: signals are the control thread's */
    int rc = 0;
    for (size_t i = plane->threads_running; rc == 0 && i < 2 * plane->options.workers; i++) {
        size_t worker = i / 2;
        char name[16];
        rc = i % 2 == 0 ? pthread_create(&plane->threads[i], NULL, cq_tx_run, plane->tx[worker])
                        : pthread_create(&plane->threads[i], NULL, cq_rx_run, plane->rx[worker]);
        if (rc == 0) {
            plane->threads_running = i + 1;
            snprintf(name, sizeof name, "cryprq-%s%u", i % 2 == 0 ? "tx" : "rx", (unsigned)worker);
            pthread_setname_np(plane->threads[i], name);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        cq_plane_stop(plane);
    return -rc;
}

void cq_plane_stop(struct cq_plane *plane)
{
    atomic_store(&plane->stopping, true);
    for (size_t i = 0; i < plane->threads_running; i++) {
        if (i % 2 == 0)
            cq_tx_wake(plane->tx[i / 2]);
        else
            cq_rx_wake(plane->rx[i / 2]);
    }
    for (size_t i = 0; i < plane->threads_running; i++)
        pthread_join(plane->threads[i], NULL);
    plane->threads_running = 0;
}

void cq_plane_free(struct cq_plane *plane)
{
    if (plane == NULL)
        return;
    cq_plane_stop(plane);
    for (size_t i = 0; plane->tx != NULL && i < plane->options.workers; i++)
        cq_tx_free(plane->tx[i]);
    for (size_t i = 0; plane->rx != NULL && i <= plane->options.workers; i++)
        cq_rx_free(plane->rx[i]);
    cq_table_destroy(&plane->tables);
    if (plane->event_fd >= 0)
        close(plane->event_fd);
    free((void *)(uintptr_t)plane->options.tun_fds);
    free(plane->tx);
    free(plane->rx);
    free(plane->threads);
    free(plane);
}

/* ---- from the workers ---- */

void cq_plane_fail(struct cq_plane *plane, const char *what, int error)
{
    int none = 0;
    if (atomic_compare_exchange_strong(&plane->failure, &none, error ? error : EIO))
        atomic_store(&plane->failure_what, what);
    cq_io_wake(plane->event_fd);
}

/* Bits that are raised as long as their cause lasts, per record: they stay set, so that each is told once. The others
 * are cleared when they are told. */
#define STICKY (CQ_EVENT_ROTATE_DUE | CQ_EVENT_KEY_EXPIRED)
#define TOLD_SHIFT 16

static void raise_event(struct cq_plane *plane, _Atomic uint32_t *flags, uint32_t event)
{
    /* Only a bit that is never cleared may be looked at first. For the others a plain load could be early: it sees the
     * bit of the event before, while the control thread clears that and reads what is older than this event. */
    if ((event & STICKY) != 0 && (atomic_load_explicit(flags, memory_order_relaxed) & event) != 0)
        return;
    if ((atomic_fetch_or(flags, event) & event) == 0)
        cq_io_wake(plane->event_fd);
}

void cq_plane_raise_slot(struct cq_plane *plane, struct cq_slot *slot, uint32_t event)
{
    raise_event(plane, &slot->events, event);
}

void cq_plane_raise_peer(struct cq_plane *plane, struct cq_peer *peer, uint32_t event)
{
    raise_event(plane, &peer->events, event);
}

/* ---- for the control thread ---- */

int cq_plane_send_empty(struct cq_plane *plane, uint32_t rx_index)
{
    struct cq_slot *slot = cq_table_find(atomic_load(&plane->tables.current), rx_index);
    if (slot == NULL)
        return CQ_E_ARGUMENT;
    atomic_store(&slot->empty_wanted, true);
    atomic_store(&plane->empties_wanted, true);
    cq_tx_wake(plane->tx[0]);
    return CQ_OK;
}

static uint32_t take(_Atomic uint32_t *flags)
{
    uint32_t seen = atomic_load(flags);
    uint32_t news = seen & 0xffff & ~(seen >> TOLD_SHIFT);
    if (news == 0)
        return 0;
    if (news & STICKY)
        atomic_fetch_or(flags, (news & STICKY) << TOLD_SHIFT);
    if (news & ~(uint32_t)STICKY)
        atomic_fetch_and(flags, ~(news & ~(uint32_t)STICKY));
    return news;
}

size_t cq_plane_events(struct cq_plane *plane, struct cq_plane_event *events, size_t max)
{
    struct cq_table *table = atomic_load(&plane->tables.current);
    size_t n = 0;
    cq_table_reclaim(&plane->tables);
    for (size_t i = 0; i < table->slot_count && n < max; i++) {
        struct cq_slot *s = table->slots[i];
        uint32_t flags = take(&s->events);
        if (flags != 0)
            events[n++] = (struct cq_plane_event){s->peer->handle, s->epoch->rx_index, flags};
    }
    for (size_t i = 0; i < table->peer_count && n < max; i++) {
        uint32_t flags = table->peers[i].peer != NULL ? take(&table->peers[i].peer->events) : 0;
        if (flags != 0)
            events[n++] = (struct cq_plane_event){(uint32_t)i, 0, flags};
    }
    return n;
}

void cq_plane_clear_event_fd(struct cq_plane *plane)
{
    uint64_t count;
    ssize_t n = read(plane->event_fd, &count, sizeof count);
    (void)n; /* EAGAIN: it was clear */
}

const struct cq_ring_entry *cq_plane_ring_peek(struct cq_plane *plane, size_t worker)
{
    struct cq_ring *ring = cq_rx_ring(plane->rx[worker]);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (atomic_load_explicit(&ring->head, memory_order_acquire) == tail)
        return NULL;
    return &ring->entries[tail % CQ_RING_ENTRIES];
}

void cq_plane_ring_pop(struct cq_plane *plane, size_t worker)
{
    struct cq_ring *ring = cq_rx_ring(plane->rx[worker]);
    atomic_fetch_add_explicit(&ring->tail, 1, memory_order_release);
}

void cq_plane_inject(struct cq_plane *plane, uint8_t *data, size_t length, const struct cq_endpoint *from)
{
    cq_rx_inject(plane->rx[plane->options.workers], data, length, from);
}

uint64_t cq_plane_drop_count(struct cq_plane *plane, enum cq_drop drop)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < plane->options.workers; i++)
        sum += atomic_load_explicit(&cq_tx_drops(plane->tx[i])->count[drop], memory_order_relaxed);
    for (size_t i = 0; i <= plane->options.workers; i++)
        sum += atomic_load_explicit(&cq_rx_drops(plane->rx[i])->count[drop], memory_order_relaxed);
    return sum;
}
