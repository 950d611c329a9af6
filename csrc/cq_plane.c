#define _GNU_SOURCE
#include "cq_plane.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- life ---- */

static bool options_valid(const struct cq_worker_options *o)
{
    return o->workers >= 1 && o->workers <= CQ_LANES_MAX && o->groups >= 1 && o->groups <= CQ_GROUPS_MAX &&
           (!o->lane_ports || o->dial_group < o->groups) && o->mtu >= CQ_MTU_MIN && o->mtu <= CQ_MTU_MAX &&
           o->busy_poll_ns <= CQ_BUSY_POLL_US_MAX * (uint64_t)1000;
}

/* 0 or an errno. */
static int plane_fill(struct cq_plane *plane, const struct cq_worker_options *options)
{
    const size_t workers = options->workers;
    int rc = cq_worker_shared_init(&plane->shared, options);
    if (rc != 0)
        return -rc;
    plane->tx = calloc(workers, sizeof *plane->tx);
    plane->rx = calloc(workers + 1, sizeof *plane->rx);
    plane->threads = calloc(2 * workers, sizeof *plane->threads);
    if (plane->tx == NULL || plane->rx == NULL || plane->threads == NULL)
        return ENOMEM;
    for (size_t i = 0; i < workers; i++)
        if ((plane->tx[i] = cq_tx_new(&plane->shared, i)) == NULL)
            return errno != 0 ? errno : ENOMEM;
    plane->shared.notice_fd = cq_tx_worker(plane->tx[0])->wake;
    for (size_t i = 0; i <= workers; i++)
        if ((plane->rx[i] = cq_rx_new(&plane->shared, i)) == NULL)
            return errno != 0 ? errno : ENOMEM;
    return 0;
}

struct cq_plane *cq_plane_new(const struct cq_worker_options *options)
{
    if (!options_valid(options)) {
        errno = EINVAL;
        return NULL;
    }
    struct cq_plane *plane = calloc(1, sizeof *plane);
    if (plane == NULL)
        return NULL;
    int error = plane_fill(plane, options);
    if (error != 0) {
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
    for (size_t i = plane->threads_running; rc == 0 && i < 2 * plane->shared.options.workers; i++) {
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
    atomic_store(&plane->shared.stopping, true);
    for (size_t i = 0; i < plane->threads_running; i++)
        cq_worker_wake(i % 2 == 0 ? cq_tx_worker(plane->tx[i / 2]) : cq_rx_worker(plane->rx[i / 2]));
    for (size_t i = 0; i < plane->threads_running; i++)
        pthread_join(plane->threads[i], NULL);
    plane->threads_running = 0;
}

void cq_plane_free(struct cq_plane *plane)
{
    if (plane == NULL)
        return;
    cq_plane_stop(plane);
    for (size_t i = 0; plane->tx != NULL && i < plane->shared.options.workers; i++)
        cq_tx_free(plane->tx[i]);
    for (size_t i = 0; plane->rx != NULL && i <= plane->shared.options.workers; i++)
        cq_rx_free(plane->rx[i]);
    cq_worker_shared_free(&plane->shared);
    free(plane->tx);
    free(plane->rx);
    free(plane->threads);
    free(plane);
}

/* ---- for the control thread ---- */

static int send_without_packet(struct cq_plane *plane, uint32_t rx_index, enum cq_notice_kind kind)
{
    struct cq_slot *slot = cq_table_find(atomic_load(&plane->shared.tables.current), rx_index);
    if (slot == NULL)
        return CQ_E_ARGUMENT;
    /* Where there is no room, what waits there are records of that epoch as well. */
    (void)cq_worker_notify(&plane->shared, slot, (struct cq_notice){.kind = kind});
    return CQ_OK;
}

int cq_plane_send_empty(struct cq_plane *plane, uint32_t rx_index)
{
    return send_without_packet(plane, rx_index, CQ_NOTICE_EMPTY);
}

int cq_plane_send_ping(struct cq_plane *plane, uint32_t rx_index)
{
    return send_without_packet(plane, rx_index, CQ_NOTICE_PING);
}

int cq_plane_send_probe(struct cq_plane *plane, uint32_t rx_index, uint64_t token, uint32_t size)
{
    struct cq_slot *slot = cq_table_find(atomic_load(&plane->shared.tables.current), rx_index);
    if (slot == NULL || token == 0 || (token & CQ_PROBE_ACKED) != 0 ||
        size < CQ_OVERHEAD + CQ_MESSAGE_HEADER_SIZE + CQ_PATH_PROBE_LENGTH ||
        size > plane->shared.options.mtu + CQ_OVERHEAD)
        return CQ_E_ARGUMENT;
    cq_path_await(&slot->peer->path, token, size);
    (void)cq_worker_notify(&plane->shared, slot,
                           (struct cq_notice){.kind = CQ_NOTICE_PROBE, .size = size, .token = token});
    return CQ_OK;
}

void cq_plane_sockets_replaced(struct cq_plane *plane)
{
    uint32_t next = atomic_load(&plane->shared.sockets_generation) + 1;
    atomic_store(&plane->shared.sockets_generation, next != 0 ? next : 1);
    for (size_t i = 0; i < plane->shared.options.workers; i++)
        cq_worker_wake(cq_rx_worker(plane->rx[i]));
}

size_t cq_plane_events(struct cq_plane *plane, struct cq_plane_event *events, size_t max)
{
    struct cq_table *table = atomic_load(&plane->shared.tables.current);
    struct cq_slot *s;
    size_t n = 0;
    cq_table_reclaim(&plane->shared.tables);
    for (size_t at = 0; n < max && (s = cq_table_next(table, &at)) != NULL;) {
        uint32_t flags = cq_worker_take_events(&s->events);
        if (flags != 0)
            events[n++] = (struct cq_plane_event){s->peer->handle, s->epoch->rx_index, flags};
    }
    for (uint32_t i = 0; i < table->peer_count && n < max; i++) {
        const struct cq_table_peer *p = cq_table_peer_of(table, i);
        uint32_t flags = p != NULL ? cq_worker_take_events(&p->peer->events) : 0;
        if (flags != 0)
            events[n++] = (struct cq_plane_event){i, 0, flags};
    }
    return n;
}

void cq_plane_clear_event_fd(struct cq_plane *plane)
{
    uint64_t count;
    ssize_t n = read(plane->shared.event_fd, &count, sizeof count);
    (void)n; /* EAGAIN: it was clear */
}

const struct cq_ring_entry *cq_plane_ring_peek(struct cq_plane *plane, size_t worker)
{
    return cq_ring_peek(cq_rx_ring(plane->rx[worker]));
}

void cq_plane_ring_pop(struct cq_plane *plane, size_t worker) { cq_ring_pop(cq_rx_ring(plane->rx[worker])); }

void cq_plane_inject(struct cq_plane *plane, uint8_t *data, size_t length, const struct cq_endpoint *from)
{
    cq_rx_inject(plane->rx[plane->shared.options.workers], data, length, from);
}

uint64_t cq_plane_drop_count(struct cq_plane *plane, enum cq_drop drop)
{
    const size_t workers = plane->shared.options.workers;
    uint64_t sum = 0;
    for (size_t i = 0; i < workers; i++)
        sum += atomic_load_explicit(&cq_tx_worker(plane->tx[i])->drops[drop], memory_order_relaxed);
    for (size_t i = 0; i <= workers; i++)
        sum += atomic_load_explicit(&cq_rx_worker(plane->rx[i])->drops[drop], memory_order_relaxed);
    return sum;
}

uint64_t cq_plane_marks_of_queues(struct cq_plane *plane)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < plane->shared.options.workers; i++)
        sum += atomic_load_explicit(&cq_tx_worker(plane->tx[i])->marks, memory_order_relaxed);
    return sum;
}

uint64_t cq_plane_marks_of_paths(struct cq_plane *plane)
{
    uint64_t sum = 0;
    for (size_t i = 0; i <= plane->shared.options.workers; i++)
        sum += atomic_load_explicit(&cq_rx_worker(plane->rx[i])->marks, memory_order_relaxed);
    return sum;
}

uint64_t cq_plane_answer_count(struct cq_plane *plane, enum cq_icmp_reason reason, enum cq_answer_result result)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < plane->shared.options.workers; i++)
        sum += atomic_load_explicit(&cq_tx_answers(plane->tx[i])->counts[reason][result], memory_order_relaxed);
    return sum;
}
