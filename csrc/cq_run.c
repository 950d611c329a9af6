#include "cq_run.h"
#include "cq_twin.h"
#include "cq_wipe.h"

#include <stdlib.h>

#define PAD_MAX 256 /* zeros that a record may get to keep its run in one send, which costs more than they do */

/* ---- whose ---- */

struct cq_run *cq_run_of(struct cq_runs *all, const struct cq_peer *peer)
{
    for (size_t i = 0; i < CQ_RUNS; i++)
        if (all->runs[i].peer == peer)
            return &all->runs[i];
    return NULL;
}

/* The run whose peer can do without it best: with none, else with nothing that waits, and longest out of use. */
static struct cq_run *victim(struct cq_runs *all)
{
    struct cq_run *best = &all->runs[0];
    for (size_t i = 0; i < CQ_RUNS; i++) {
        struct cq_run *r = &all->runs[i];
        if (r->peer == NULL)
            return r;
        if (cq_run_waits(r) != cq_run_waits(best) ? cq_run_waits(best) : r->age < best->age)
            best = r;
    }
    return best;
}

struct cq_run *cq_run_for(struct cq_runs *all, struct cq_slot *slot)
{
    struct cq_run *run = cq_run_of(all, slot->peer);
    if (run == NULL) {
        run = victim(all);
        if (run->slot != NULL)
            cq_run_flush(all, run);
        if (cq_run_waits(run))
            cq_run_give_up(all, run);
    }
    if (run->slot != slot) {
        if (run->slot != NULL)
            cq_run_flush(all, run);
        run->peer = slot->peer;
        run->handle = slot->peer->handle;
        run->slot = slot;
        run->mtu = cq_worker_mtu(all->worker, slot->peer);
    }
    run->age = ++all->ticks;
    return run;
}

/* ---- gather ---- */

static void close_record(struct cq_runs *all, struct cq_run *run, bool more);
static void send_run(struct cq_runs *all, struct cq_run *run);

void cq_run_set_class(struct cq_runs *all, struct cq_run *run, uint8_t class)
{
    if (class == run->class)
        return;
    close_record(all, run, false);
    run->class = class;
}

void cq_run_add(struct cq_runs *all, struct cq_run *run, const uint8_t *packet, size_t n, bool transport, bool vouched)
{
    /* Two packets of more than half a record never share one: those are sealed straight from the TUN's buffer. */
    if (!all->worker->shared->options.packing || n > run->mtu / 2) {
        close_record(all, run, true);
        cq_run_seal(all, run, packet, n, vouched, 1, n);
        return;
    }
    if (run->open_length + n > run->mtu || (transport && run->open_transport && vouched != run->open_vouched))
        close_record(all, run, true);
    memcpy(run->open + run->open_length, packet, n);
    run->open_length += n;
    run->open_packets++;
    if (transport) {
        run->open_transport = true;
        run->open_vouched = vouched;
    }
}

/* Seals the open record. more: others may follow in the run. */
static void close_record(struct cq_runs *all, struct cq_run *run, bool more)
{
    if (run->open_packets == 0)
        return;
    size_t n = run->open_length;
    /* Pad to the run's size, so that the run need not end here: a few zero bytes are cheaper than a system call. */
    const struct cq_records *r = &run->ready;
    size_t target = r->count > 0 && !r->ended ? r->segment - CQ_OVERHEAD : run->mtu;
    if (more && run->open_packets > 1 && n < target && target - n <= PAD_MAX) {
        memset(run->open + n, 0, target - n);
        n = target;
    }
    unsigned packets = run->open_packets;
    size_t bytes = run->open_length;
    run->open_packets = 0;
    run->open_length = 0;
    bool vouched = run->open_transport && run->open_vouched;
    run->open_transport = false;
    cq_run_seal(all, run, run->open, n, vouched, packets, bytes);
}

/* ---- seal ---- */

/* On the lane of this worker, or on one of those that the peer takes, which workers then share. */
static int seal_on_lane(const struct cq_runs *all, struct cq_epoch *epoch, bool vouched, const uint8_t *payload,
                        size_t n, uint8_t *out)
{
    const uint16_t flags = vouched ? CQ_FLAG_VOUCHED : 0;
    const size_t worker = all->worker->index;
    if (all->worker->shared->options.workers <= epoch->tx_lanes)
        return cq_epoch_seal(epoch, (uint8_t)worker, flags, payload, n, out);
    return cq_epoch_seal_shared(epoch, (uint8_t)(worker % epoch->tx_lanes), flags, payload, n, out);
}

static bool fits(const struct cq_runs *all, const struct cq_run *run, size_t size)
{
    const struct cq_records *r = &run->ready;
    return !r->ended && r->class == run->class && size <= r->segment && r->length + size <= CQ_SEND_MAX &&
           r->count < all->records_max;
}

void cq_run_seal(struct cq_runs *all, struct cq_run *run, const uint8_t *payload, size_t n, bool vouched,
                 unsigned packets, size_t bytes)
{
    struct cq_epoch *epoch = run->slot->epoch;
    struct cq_records *r = &run->ready;
    size_t size = n + CQ_OVERHEAD;
    if (r->count > 0 && !fits(all, run, size))
        send_run(all, run);
    if (r->count > 0 && !fits(all, run, size)) { /* there is no room for even one more send */
        cq_worker_drop(all->worker, CQ_DROP_TX_QUEUE_FULL, packets);
        return;
    }
    int rc = all->sender.now_ns >= epoch->expires_ns
                 ? CQ_E_LIMIT
                 : seal_on_lane(all, epoch, vouched, payload, n, r->wire + r->length);
    if (rc == CQ_E_LIMIT) {
        cq_worker_raise_slot(all->worker, run->slot, CQ_EVENT_KEY_EXPIRED);
        cq_worker_drop(all->worker, CQ_DROP_TX_NO_KEY, packets);
        return;
    }
    if (rc != CQ_OK) {
        cq_worker_drop(all->worker, CQ_DROP_TX_CRYPTO, packets);
        return;
    }
    if (atomic_load_explicit(&epoch->soft_limit, memory_order_relaxed))
        cq_worker_raise_slot(all->worker, run->slot, CQ_EVENT_ROTATE_DUE);
    if (r->count == 0) {
        r->segment = size;
        r->class = run->class;
    }
    r->ended = size < r->segment;
    r->length += size;
    r->loads[r->count++] = (struct cq_load){packets, (uint32_t)bytes};
    r->packets += packets;
    r->bytes += bytes;
}

/* ---- send ---- */

static void clear(struct cq_records *r)
{
    r->length = 0;
    r->count = 0;
    r->segment = 0;
    r->ended = false;
    r->probe = false;
    r->packets = 0;
    r->bytes = 0;
}

/* Only the last `count` records are left. */
static void keep_last(struct cq_records *r, unsigned count)
{
    const unsigned gone = r->count - count;
    const size_t offset = gone * r->segment;
    memmove(r->wire, r->wire + offset, r->length - offset);
    memmove(r->loads, r->loads + gone, count * sizeof *r->loads);
    r->length -= offset;
    r->count = count;
    r->packets = r->bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        r->packets += r->loads[i].packets;
        r->bytes += r->loads[i].bytes;
    }
}

struct cq_send_socket *cq_run_socket(struct cq_runs *all, struct cq_run *run, uint32_t number)
{
    const uint32_t now = atomic_load_explicit(&all->worker->shared->sockets_generation, memory_order_acquire);
    if (run->generation != now || run->number != number) {
        cq_twin_close(run->own.fd);
        run->own = all->shared[number];
        run->own.fd = cq_twin_open(all->shared[number].fd);
        run->generation = now;
        run->number = number;
    }
    return run->own.fd >= 0 ? &run->own : &all->shared[number];
}

/* Which of the worker's sockets what is for a peer leaves by: that of the group which the peer was heard in, or the one
 * whose port is the worker's own. */
static uint32_t outlet(const struct cq_runs *all, const struct cq_peer *peer, const struct cq_endpoint *to)
{
    const struct cq_worker_options *o = &all->worker->shared->options;
    const bool apart = cq_worker_has_port(o, all->worker->index) && to->group == o->dial_group &&
                       atomic_load_explicit(&peer->lanes_apart, memory_order_relaxed);
    return apart ? (uint32_t)o->groups : to->group;
}

/* False if some are left, since the socket has no room. */
static bool send_records(struct cq_runs *all, struct cq_run *run, struct cq_records *r)
{
    struct cq_peer *peer = cq_table_peer_of(all->worker->table, run->handle)->peer;
    struct cq_endpoint to;
    cq_endpoint_read(&peer->endpoint, &to);
    if (to.remote.family == 0) {
        cq_worker_drop(all->worker, CQ_DROP_TX_NO_ENDPOINT, r->packets);
        clear(r);
        return true;
    }
    const uint64_t packets = r->packets, bytes = r->bytes, now_ns = all->sender.now_ns;
    const struct cq_batch batch = {r->wire, r->length, r->segment, r->loads, r->probe, r->class};
    struct cq_lost lost = cq_send_batch(&all->sender, cq_run_socket(all, run, outlet(all, peer, &to)), peer, &batch);
    if (lost.refused)
        cq_worker_raise_peer(all->worker, peer, CQ_EVENT_RECORD_REFUSED);
    if (lost.records > 0)
        cq_worker_drop(all->worker, CQ_DROP_TX_SEND_ERROR, lost.packets);
    /* The times of attempts: a path that takes nothing any more is to be noticed like one that answers nothing. */
    atomic_store_explicit(&peer->last_tx_ns, now_ns, memory_order_relaxed);
    if (packets > 0)
        atomic_store_explicit(&peer->last_tx_data_ns, now_ns, memory_order_relaxed);
    if (packets > 0 && r->segment > CQ_RECORD_LARGE)
        atomic_store_explicit(&peer->path.last_large_ns, now_ns, memory_order_relaxed);
    if (lost.waiting > 0)
        keep_last(r, lost.waiting);
    else
        clear(r);
    atomic_fetch_add_explicit(&peer->tx_packets, packets - r->packets - lost.packets, memory_order_relaxed);
    atomic_fetch_add_explicit(&peer->tx_bytes, bytes - r->bytes - lost.bytes, memory_order_relaxed);
    return lost.waiting == 0;
}

/* Sends what is sealed, or holds it where there is no room; the open record stays. */
static void send_run(struct cq_runs *all, struct cq_run *run)
{
    if (run->full || run->ready.count == 0 || send_records(all, run, &run->ready))
        return;
    const struct cq_records other = run->held;
    run->held = run->ready;
    run->ready = other;
    run->full = all->waiting = true;
}

void cq_run_flush(struct cq_runs *all, struct cq_run *run)
{
    close_record(all, run, false);
    send_run(all, run);
    run->slot = NULL;
}

bool cq_run_resume(struct cq_runs *all, struct cq_run *run)
{
    run->full = run->full && !send_records(all, run, &run->held);
    return !run->full;
}

/* ---- wait ---- */

void cq_run_give_up(struct cq_runs *all, struct cq_run *run)
{
    uint64_t packets = run->ready.packets + run->held.packets;
    if (run->rest.packet != NULL)
        packets += cq_split_left(&run->rest.split);
    cq_worker_drop(all->worker, CQ_DROP_TX_QUEUE_FULL, packets + cq_queue_packets(run->queue));
    clear(&run->ready);
    clear(&run->held);
    cq_waiting_free(&all->pool, run->rest.packet);
    run->rest.packet = NULL;
    cq_queue_free(run->queue);
    run->queue = NULL;
    run->full = false;
    run->peer = NULL;
    run->slot = NULL;
    run->generation = 0;
}

/* ---- life ---- */

bool cq_runs_init(struct cq_runs *all, struct cq_worker *worker)
{
    struct cq_worker_shared *shared = worker->shared;
    const struct cq_worker_options *o = &shared->options;
    bool ok = true;
    all->worker = worker;
    for (size_t s = 0; s < o->groups + cq_worker_has_port(o, worker->index); s++) {
        const size_t group = s < o->groups ? s : o->dial_group;
        all->shared[s] = (struct cq_send_socket){
            .fd = cq_worker_udp(o, s, worker->index),
            .family = o->families[group],
            .segment_refused = &shared->segment_refused[group],
        };
    }
    all->pool.seed = cq_io_random();
    all->sender = (struct cq_sender){.segment = o->udp_segment, .stopping = &shared->stopping, .lane = worker->index};
    all->records_max = cq_io_max_segments();
    if (all->records_max > CQ_SEND_RECORDS_MAX)
        all->records_max = CQ_SEND_RECORDS_MAX;
    for (size_t i = 0; i < CQ_RUNS; i++) {
        struct cq_run *run = &all->runs[i];
        run->own.fd = -1;
        run->ready.wire = malloc(CQ_SEND_MAX);
        run->held.wire = malloc(CQ_SEND_MAX);
        run->open = malloc(o->mtu);
        ok = ok && run->ready.wire != NULL && run->held.wire != NULL && run->open != NULL;
    }
    return ok;
}

void cq_runs_free(struct cq_runs *all, size_t mtu)
{
    for (size_t i = 0; i < CQ_RUNS; i++) {
        struct cq_run *run = &all->runs[i];
        free(run->ready.wire);
        free(run->held.wire);
        cq_wipe_free(run->open, mtu); /* plaintext of users */
        cq_waiting_free(&all->pool, run->rest.packet);
        cq_queue_free(run->queue);
        cq_twin_close(run->own.fd);
    }
    cq_queue_pool_free(&all->pool);
}
