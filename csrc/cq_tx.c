/*
 * The tx worker: TUN to UDP. A packet's way, which is also the order of this file:
 *
 *   1. read    The TUN queue is read until it is empty: one burst. A read brings a packet, or a super-packet of a flow.
 *   2. look up The destination names a peer, the peer its active epoch. A super-packet is split, and what is too large
 *              for the peer cut to fragments. The sender of what has no way, or does not fit, is answered.
 *   3. gather  Packets gather in a run, one for each peer of the burst; small ones share a record.
 *   4. seal    A record is sealed from where its packets lie to the end of the run.
 *   5. send    A run is records of equal size, back to back, the last perhaps shorter: one UDP_SEGMENT send, from a
 *              socket that its peer has for itself. It goes when it is full, when another peer needs its place, or at
 *              the end of the burst; nothing ever waits for later packets.
 *              What is for a peer that has just lost its key, or has none yet, stays until it has one (cq_stage.h).
 *   6. wait    Where that socket has no room, what is sealed is held, and further packets for the peer wait unsealed in
 *              a queue (cq_queue.h), until there is some; the other peers' go on.
 *
 * The worker takes no lock, but where a peer takes fewer lanes than there are workers. TUN queue, send lane, runs and
 * buffers are its own. The table cannot change while it is announced: from a burst on until the worker sleeps, or
 * begins a burst and finds a newer one. A peer's endpoint is behind a sequence lock; counters, flags and events are
 * atomics.
 */
#include "cq_tx.h"
#include "cq_answer.h"
#include "cq_fragment.h"
#include "cq_io.h"
#include "cq_mss.h"
#include "cq_run.h"
#include "cq_stage.h"
#include "cq_wipe.h"

#include <errno.h>
#include <stdlib.h>

#define TUN_READ_MAX CQ_QUEUE_BLOCK /* a super-packet has at most 65,535 bytes */
#define SERVE_BYTES 65536u          /* read from the TUN before what waits is looked at again */
#define SERVE_MAX 64u               /* packets for one peer before the next one's turn */
#define BURST_READS 64 /* before runs are sent in any case, though the TUN never runs dry: so the table can go */
#define KEYLESS_NS 1000000000u /* a second without a key: until then a peer is expected to connect, and packets stay */
#define STAGED_POLL_MS 10      /* between looks whether it has */
#define UNREADABLE_MAX 100     /* reads in a row that give no packet, until the TUN counts as broken */

struct cq_tx {
    struct cq_worker worker;
    int tun;
    unsigned unreadable;
    bool notices_left; /* some peer has notices, and no room for them */
    struct cq_vnet vnet;
    struct cq_answers answers;
    uint8_t *packet; /* a block of the runs' pool */
    struct cq_runs runs;
    struct cq_stage stage;
};

/* What a stage calls of a later one. */
static bool handle(struct cq_tx *tx, uint8_t *packet, size_t n, struct cq_run *turn, struct cq_waiting *waited);
static void send_notices(struct cq_tx *tx);
static void flush_all(struct cq_tx *tx);
static void keep(struct cq_tx *tx, struct cq_run *run, const struct cq_split *split, size_t mtu,
                 struct cq_waiting *waited);
static void put(struct cq_tx *tx, struct cq_run *run, const struct cq_split *split, struct cq_waiting *waited);
static struct cq_waiting *set_aside(struct cq_tx *tx, const struct cq_split *split);
static void begin(struct cq_tx *tx, bool notices);
static void serve(struct cq_tx *tx);
static int wait_for_room(struct cq_tx *tx);

/* ---- 1. read ---- */

static ssize_t read_tun(struct cq_tx *tx)
{
    return cq_io_tun_read(tx->tun, tx->worker.shared->options.vnet_hdr, &tx->vnet, tx->packet, TUN_READ_MAX);
}

/* Sends the n bytes that were read, if any, what else the TUN has, and what waits. Returns what the last read did. */
static ssize_t burst(struct cq_tx *tx, ssize_t n, bool notices)
{
    size_t unserved = 0;
    begin(tx, notices);
    for (int reads = 1; n > 0; reads++) {
        (void)handle(tx, tx->packet, (size_t)n, NULL, NULL);
        tx->unreadable = 0;
        unserved += (size_t)n;
        if (tx->runs.waiting && unserved >= SERVE_BYTES) {
            serve(tx);
            unserved = 0;
        }
        /* Where a send had to wait, what is in the TUN's queue may wait there, and this table may go. */
        if (reads == BURST_READS || tx->runs.sender.patient_until_ns != 0)
            break;
        n = read_tun(tx);
    }
    flush_all(tx);
    if (tx->runs.waiting)
        serve(tx);
    return n;
}

/* A read failed: 0 to go on, or -errno. A TUN that is down has nothing to read, as one that is idle; one that was deleted
 * says EBADFD. */
static int cannot_read(struct cq_tx *tx, int error)
{
    if (error != -EBADMSG && error != -EINVAL)
        return error;
    /* One packet that the kernel could not describe in a virtio_net_hdr (EINVAL), or that is shorter than one. */
    cq_worker_drop(&tx->worker, CQ_DROP_TX_MALFORMED, 1);
    return ++tx->unreadable < UNREADABLE_MAX ? 0 : error;
}

/* The flag is taken before the table is: an epoch that a notice is for is in any table acquired after. */
static bool take_notices(struct cq_tx *tx)
{
    _Atomic bool *wanted = &tx->worker.shared->notices_wanted;
    return tx->worker.index == 0 && atomic_load_explicit(wanted, memory_order_relaxed) &&
           atomic_exchange(wanted, false);
}

void *cq_tx_run(void *arg)
{
    struct cq_tx *tx = arg;
    struct cq_worker_shared *shared = tx->worker.shared;
    uint64_t linger_until = 0;
    int rc = 0;
    while (rc == 0 && !atomic_load(&shared->stopping)) {
        ssize_t n = read_tun(tx);
        bool notices = take_notices(tx);
        if (n > 0 || notices) {
            n = burst(tx, n, notices);
            linger_until = cq_io_now_ns() + shared->options.busy_poll_ns;
        } else if (n == 0 && tx->runs.waiting) {
            (void)burst(tx, 0, false);
            rc = wait_for_room(tx);
        } else if (n == 0 && !cq_io_linger(linger_until)) {
            cq_worker_rest(&tx->worker);
            rc = cq_io_wait(&tx->tun, 1, tx->worker.wake, tx->stage.used > 0 ? STAGED_POLL_MS : -1);
            if (rc == 0 && tx->stage.used > 0)
                (void)burst(tx, 0, false);
        }
        if (n < 0)
            rc = cannot_read(tx, (int)n);
    }
    cq_worker_rest(&tx->worker);
    if (rc != 0)
        cq_worker_fail(&tx->worker, "reading the TUN device", -rc);
    return NULL;
}

/* ---- 2. look up, and split ---- */

static void no_route(struct cq_tx *tx, const uint8_t *packet, const struct cq_split *split)
{
    cq_worker_drop(&tx->worker, CQ_DROP_TX_NO_ROUTE, split->count);
    cq_answer_give(&tx->answers, CQ_ICMP_NO_ROUTE, packet, split->length, 0, tx->runs.sender.now_ns);
}

/* A packet for a peer that has no key to send under. It is lost, unless the peer may be about to have one. True if it is
 * the caller's still. */
static bool no_key(struct cq_tx *tx, const struct cq_peer *peer, const uint8_t *packet, const struct cq_split *split,
                   struct cq_waiting *waited)
{
    const uint64_t now_ns = tx->runs.sender.now_ns;
    const bool soon = now_ns < atomic_load_explicit(&peer->keyless_ns, memory_order_relaxed) + KEYLESS_NS;
    if (soon && cq_stage_has_room(&tx->stage, peer, split->length)) {
        struct cq_waiting *p = waited != NULL ? waited : set_aside(tx, split);
        if (p != NULL) {
            cq_stage_put(&tx->stage, peer, peer->handle, p, now_ns);
            return waited == NULL;
        }
    }
    cq_worker_drop(&tx->worker, CQ_DROP_TX_NO_KEY, split->count);
    if (soon)
        cq_answer_count(&tx->answers, CQ_ICMP_UNREACHABLE, CQ_ANSWER_LIMITED);
    else
        cq_answer_give(&tx->answers, CQ_ICMP_UNREACHABLE, packet, split->length, 0, now_ns);
    return true;
}

/* A peer that is taken for gone, and has not been heard since. */
static bool is_lost(const struct cq_peer *peer)
{
    const uint64_t lost_ns = atomic_load_explicit(&peer->lost_ns, memory_order_relaxed);
    return lost_ns != 0 && lost_ns == atomic_load_explicit(&peer->last_rx_ns, memory_order_relaxed);
}

/* A packet that every router may cut (RFC 791, 3.2), in pieces that the peer takes. */
static void add_fragments(struct cq_tx *tx, struct cq_run *run, uint8_t *packet, size_t length)
{
    struct cq_fragment fragment;
    if (cq_fragment_init(&fragment, packet, length, run->mtu) != CQ_OK) {
        cq_worker_drop(&tx->worker, CQ_DROP_TX_MALFORMED, 1);
        return;
    }
    while (cq_fragment_next(&fragment, &packet, &length))
        cq_run_add(&tx->runs, run, packet, length, false, false);
}

/* What senders are told that a run's peer takes. None of IPv6 goes below its least MTU: where a path carries less in one
 * record, what is in between leaves in fragments of the record (cq_send_batch). */
static size_t told_for(const struct cq_tx *tx, const struct cq_run *run, uint8_t version)
{
    const size_t own = tx->worker.shared->options.mtu, told = cq_worker_mtu_told(&tx->worker, run->slot->peer);
    const size_t least = version == 4 ? 0 : own < CQ_MTU_MIN6 ? own : CQ_MTU_MIN6;
    return told > least ? told : least;
}

/* What is larger than the peer takes is cut, where it may be, and so is TCP: nothing of it is lost until its sender has
 * heard that it does not fit. Whoever sends anything else that is to stay whole is told, and the packet is lost, unless it
 * is not known yet that it does not fit: then it leaves, and its record may be fragmented. *mtu becomes the largest
 * packet to send in one piece. False: nothing is left to send. */
static bool fit(struct cq_tx *tx, const struct cq_run *run, const uint8_t *packet, size_t *mtu, struct cq_split *split)
{
    const bool whole = split->version == 6 || (packet[6] & CQ_DONT_FRAGMENT) != 0;
    const size_t told = told_for(tx, run, split->version);
    const bool lost = whole && split->largest > told;
    if (lost)
        cq_answer_give(&tx->answers, CQ_ICMP_TOO_BIG, packet, split->length, told, tx->runs.sender.now_ns);
    if (cq_split_narrow(split, run->mtu))
        return true;
    if (lost)
        cq_worker_drop(&tx->worker, CQ_DROP_TX_TOO_BIG, split->count);
    else if (whole)
        *mtu = told;
    else
        cq_split_complete(split);
    return !lost;
}

/* The traffic class of a record's own header: what is to be seen of those inside, beside what all records have. */
static uint8_t outer_class(const struct cq_tx *tx, const struct cq_peer *peer, uint8_t inner)
{
    const struct cq_worker_options *o = &tx->worker.shared->options;
    const unsigned ecn = atomic_load_explicit(&peer->ecn, memory_order_relaxed) ? CQ_CLASS_ECN : 0;
    return (uint8_t)(o->class | (inner & (ecn | (o->dscp_inherit ? CQ_CLASS_DSCP : 0))));
}

/* Seals what is left of a packet, in pieces of at most mtu bytes, as long as there is room. True if that was all. */
static bool forward(struct cq_tx *tx, struct cq_run *run, struct cq_split *split, size_t mtu)
{
    uint8_t *packet;
    size_t length;
    cq_run_set_class(&tx->runs, run, outer_class(tx, run->slot->peer, split->class));
    while (!run->full && cq_split_next(split, &packet, &length)) {
        if (length <= mtu)
            cq_run_add(&tx->runs, run, packet, length, split->transport, split->vouched);
        else
            add_fragments(tx, run, packet, length);
    }
    return cq_split_left(split) == 0;
}

/* A packet of n bytes, from the TUN, or one that has waited: then it is its run's turn. False if it waits now. */
static bool handle(struct cq_tx *tx, uint8_t *packet, size_t n, struct cq_run *turn, struct cq_waiting *waited)
{
    const struct cq_table *table = tx->worker.table;
    struct cq_split split;
    if (cq_split_init(&split, waited != NULL ? &waited->vnet : &tx->vnet, packet, n) != CQ_OK) {
        cq_worker_drop(&tx->worker, CQ_DROP_TX_MALFORMED, 1);
        return true;
    }
    const struct cq_table_peer *peer =
        cq_table_peer_of(table, packet[0] >> 4 == 4 ? cq_route_lookup4(table->routes, packet + 16)
                                                    : cq_route_lookup6(table->routes, packet + 24));
    if (peer == NULL) {
        no_route(tx, packet, &split);
        return true;
    }
    struct cq_slot *slot = peer->active;
    if (slot == NULL)
        return no_key(tx, peer->peer, packet, &split, waited);
    if (is_lost(slot->peer) && waited == NULL) /* it leaves all the same, and may be what shows that the peer is back */
        cq_answer_give(&tx->answers, CQ_ICMP_UNREACHABLE, packet, split.length, 0, tx->runs.sender.now_ns);
    struct cq_run *run = cq_run_for(&tx->runs, slot);
    if (run != turn && cq_run_waits(run)) {
        put(tx, run, &split, waited);
        return false;
    }
    if (split.syn)
        cq_mss_clamp(packet + split.l4_offset, cq_mss_of(split.version, cq_worker_mtu_told(&tx->worker, slot->peer)),
                     !split.vouched);
    size_t mtu = run->mtu;
    if (split.largest > mtu && !fit(tx, run, packet, &mtu, &split))
        return true;
    if (forward(tx, run, &split, mtu))
        return true;
    keep(tx, run, &split, mtu, waited);
    return false;
}

/* The payload of a notice's record, at most as large as one packet. Returns its length. */
static size_t write_notice(const struct cq_notice *notice, uint8_t *payload)
{
    if (notice->kind == CQ_NOTICE_EMPTY)
        return 0;
    if (notice->kind == CQ_NOTICE_PING) {
        payload[0] = CQ_MESSAGE_PING;
        cq_put16(payload + 1, 0);
        return CQ_MESSAGE_HEADER_SIZE;
    }
    const bool probe = notice->kind == CQ_NOTICE_PROBE;
    const uint16_t length = probe ? CQ_PATH_PROBE_LENGTH : CQ_PATH_ACK_LENGTH;
    payload[0] = probe ? CQ_MESSAGE_PATH_PROBE : CQ_MESSAGE_PATH_ACK;
    cq_put16(payload + 1, length);
    cq_put64(payload + CQ_MESSAGE_HEADER_SIZE, notice->token);
    if (!probe) {
        cq_put16(payload + CQ_MESSAGE_HEADER_SIZE + 8, (uint16_t)notice->size);
        return CQ_MESSAGE_HEADER_SIZE + length;
    }
    const size_t n = notice->size - CQ_OVERHEAD, head = CQ_MESSAGE_HEADER_SIZE + length;
    memset(payload + head, 0, n - head);
    return n;
}

/* What the control thread and receivers have asked for, each record by itself: a probe in a run of another size would
 * be cut to that, or end it. */
static void send_notices(struct cq_tx *tx)
{
    struct cq_notice notice;
    struct cq_slot *slot;
    for (size_t at = 0; (slot = cq_table_next(tx->worker.table, &at)) != NULL;) {
        struct cq_run *run = cq_run_of(&tx->runs, slot->peer);
        for (unsigned n = 0; n < CQ_NOTICES_MAX && !(run != NULL && run->full); n++) {
            if (!cq_notices_pop(&slot->notices, &notice))
                break;
            run = cq_run_for(&tx->runs, slot);
            cq_run_flush(&tx->runs, run); /* a probe is by itself */
            run->slot = slot;
            cq_run_set_class(&tx->runs, run, outer_class(tx, slot->peer, 0));
            run->ready.probe = notice.kind == CQ_NOTICE_PROBE;
            if (run->ready.probe)
                cq_path_left(&slot->peer->path, notice.token, tx->runs.sender.now_ns);
            cq_run_seal(&tx->runs, run, run->open, write_notice(&notice, run->open), false, 0, 0);
            cq_run_flush(&tx->runs, run);
        }
        tx->notices_left = tx->notices_left || (run != NULL && run->full);
    }
}

static void flush_all(struct cq_tx *tx)
{
    for (size_t i = 0; i < CQ_RUNS; i++)
        if (tx->runs.runs[i].slot != NULL)
            cq_run_flush(&tx->runs, &tx->runs.runs[i]);
}

/* ---- 6. wait ---- */

static void count_queue(struct cq_tx *tx)
{
    struct cq_queue_pool *pool = &tx->runs.pool;
    if (pool->late > 0)
        cq_worker_drop(&tx->worker, CQ_DROP_TX_QUEUE_LATE, pool->late);
    if (pool->full > 0)
        cq_worker_drop(&tx->worker, CQ_DROP_TX_QUEUE_FULL, pool->full);
    if (pool->marked > 0)
        cq_worker_mark(&tx->worker, pool->marked);
    pool->late = pool->full = pool->marked = 0;
}

/* The packet that was read, as something that waits. NULL when memory is short. */
static struct cq_waiting *set_aside(struct cq_tx *tx, const struct cq_split *split)
{
    if (tx->vnet.gso_type == CQ_GSO_NONE && !split->vouched)
        tx->vnet.flags = 0; /* its checksum is complete by now */
    return cq_waiting_new(&tx->runs.pool, &tx->packet, split->length, &tx->vnet, split->count, false);
}

/* A packet, from the TUN or one that waited elsewhere, waits for the run's turn. */
static void put(struct cq_tx *tx, struct cq_run *run, const struct cq_split *split, struct cq_waiting *waited)
{
    if (waited == NULL)
        waited = set_aside(tx, split);
    if (run->queue == NULL)
        run->queue = cq_queue_new(&tx->runs.pool);
    if (waited == NULL || run->queue == NULL) {
        cq_worker_drop(&tx->worker, CQ_DROP_TX_QUEUE_FULL, split->count);
        cq_waiting_free(&tx->runs.pool, waited);
        return;
    }
    const uint8_t *packet = cq_waiting_data(waited);
    cq_queue_put(run->queue, cq_queue_flow(&tx->runs.pool, packet, split->transport ? split->l4_offset : 0), waited,
                 tx->runs.sender.now_ns);
    count_queue(tx);
}

/* What is left of a packet is the next that the run seals. */
static void keep(struct cq_tx *tx, struct cq_run *run, const struct cq_split *split, size_t mtu,
                 struct cq_waiting *waited)
{
    if (waited == NULL) /* where it is: the split goes on there */
        waited = cq_waiting_new(&tx->runs.pool, &tx->packet, split->length, &tx->vnet, split->count, true);
    if (waited == NULL)
        cq_worker_drop(&tx->worker, CQ_DROP_TX_QUEUE_FULL, cq_split_left(split));
    run->rest = (struct cq_rest){waited, *split, mtu};
}

/* Sends for one peer as much as there is room for. */
static void serve_run(struct cq_tx *tx, struct cq_run *run)
{
    if (!cq_run_resume(&tx->runs, run))
        return;
    struct cq_slot *slot = cq_table_peer_of(tx->worker.table, run->handle)->active;
    const bool keyed = slot != NULL;
    if (keyed)
        (void)cq_run_for(&tx->runs, slot);
    if (run->rest.packet != NULL) {
        if (keyed && !forward(tx, run, &run->rest.split, run->rest.mtu))
            return;
        if (!keyed)
            cq_worker_drop(&tx->worker, CQ_DROP_TX_NO_KEY, cq_split_left(&run->rest.split));
        cq_waiting_free(&tx->runs.pool, run->rest.packet);
        run->rest.packet = NULL;
    }
    for (unsigned n = 0; n < SERVE_MAX && !run->full && cq_queue_length(run->queue) > 0; n++) {
        struct cq_waiting *p = cq_queue_take(run->queue, tx->runs.sender.now_ns);
        if (p == NULL)
            break;
        if (handle(tx, cq_waiting_data(p), p->length, run, p))
            cq_waiting_free(&tx->runs.pool, p);
    }
    cq_run_flush(&tx->runs, run);
}

/* What waits goes as far as there is room, each peer in its turn. */
static void serve(struct cq_tx *tx)
{
    bool room = false;
    tx->runs.sender.now_ns = cq_io_now_ns();
    for (size_t i = 0; i < CQ_RUNS; i++) {
        if (tx->runs.runs[i].peer == NULL || !cq_run_waits(&tx->runs.runs[i]))
            continue;
        serve_run(tx, &tx->runs.runs[i]);
        room = room || !tx->runs.runs[i].full;
    }
    count_queue(tx);
    if (tx->notices_left && room) {
        tx->notices_left = false;
        send_notices(tx);
    }
    tx->runs.waiting = false;
    for (size_t i = 0; i < CQ_RUNS; i++)
        tx->runs.waiting = tx->runs.waiting || (tx->runs.runs[i].peer != NULL && cq_run_waits(&tx->runs.runs[i]));
}

/* What was kept for a peer leaves when it has a key. A peer that is gone, or has none for long, is waited for no more. */
static void send_staged(struct cq_tx *tx, struct cq_staged *of)
{
    const uint64_t now_ns = tx->runs.sender.now_ns;
    const struct cq_peer *whose = of->peer; /* a route that has changed may have something put there for another */
    const struct cq_table_peer *peer = cq_table_peer_of(tx->worker.table, of->handle);
    const bool there = peer != NULL && peer->peer == of->peer, keyed = there && peer->active != NULL;
    while (of->first != NULL && of->peer == whose && (keyed || !there || cq_stage_is_late(of, now_ns))) {
        struct cq_waiting *p = cq_stage_take(&tx->stage, of);
        if (keyed && !handle(tx, cq_waiting_data(p), p->length, NULL, p))
            continue; /* it waits for room now */
        if (!keyed) {
            cq_worker_drop(&tx->worker, CQ_DROP_TX_NO_KEY, p->packets);
            cq_answer_give(&tx->answers, CQ_ICMP_UNREACHABLE, cq_waiting_data(p), p->length, 0, now_ns);
        }
        cq_waiting_free(&tx->runs.pool, p);
    }
}

/* A burst begins, with the newest table, in which the peer of what waits may not be any more. */
static void begin(struct cq_tx *tx, bool notices)
{
    cq_worker_begin(&tx->worker);
    cq_send_begin(&tx->runs.sender, cq_io_now_ns());
    const struct cq_table *table = tx->worker.table;
    for (size_t i = 0; tx->runs.waiting && i < CQ_RUNS; i++) {
        struct cq_run *run = &tx->runs.runs[i];
        if (run->peer == NULL)
            continue;
        const struct cq_table_peer *peer = cq_table_peer_of(table, run->handle);
        if (peer == NULL || peer->peer != run->peer)
            cq_run_give_up(&tx->runs, run);
    }
    if (notices)
        send_notices(tx);
    for (size_t i = 0; tx->stage.used > 0 && i < CQ_STAGE_PEERS; i++)
        if (tx->stage.peers[i].peer != NULL)
            send_staged(tx, &tx->stage.peers[i]);
}

/* Sleeps until there is room in a socket that is full, or something in the TUN. 0 or -errno. */
static int wait_for_room(struct cq_tx *tx)
{
    int full[CQ_RUNS];
    unsigned count = 0;
    for (size_t i = 0; i < CQ_RUNS; i++) {
        struct cq_run *run = &tx->runs.runs[i];
        if (run->peer == NULL || !cq_run_waits(run))
            continue;
        if (!run->full)
            return 0;
        full[count++] = cq_run_socket(&tx->runs, run, run->number)->fd;
    }
    if (count == 0)
        return 0;
    cq_worker_rest(&tx->worker);
    return cq_io_wait_for_room(tx->tun, tx->worker.wake, full, count, -1);
}

/* ---- life ---- */

struct cq_tx *cq_tx_new(struct cq_worker_shared *shared, size_t index)
{
    const struct cq_worker_options *o = &shared->options;
    struct cq_tx *tx = calloc(1, sizeof *tx);
    if (tx == NULL)
        return NULL;
    bool ok = cq_worker_init(&tx->worker, shared, index, index);
    tx->tun = o->tun_fds[index];
    ok = cq_runs_init(&tx->runs, &tx->worker) && ok;
    cq_answer_init(&tx->answers, tx->tun, o->vnet_hdr);
    tx->packet = cq_queue_block(&tx->runs.pool);
    ok = ok && tx->packet != NULL;
    if (!ok) {
        cq_tx_free(tx);
        return NULL;
    }
    return tx;
}

void cq_tx_free(struct cq_tx *tx)
{
    if (tx == NULL)
        return;
    cq_stage_free(&tx->stage, &tx->runs.pool);
    cq_queue_give_block(&tx->runs.pool, tx->packet);
    cq_runs_free(&tx->runs, tx->worker.shared->options.mtu);
    cq_wipe(tx->answers.out, sizeof tx->answers.out); /* quotes them */
    cq_worker_close(&tx->worker);
    free(tx);
}

struct cq_worker *cq_tx_worker(struct cq_tx *tx) { return &tx->worker; }

const struct cq_answers *cq_tx_answers(const struct cq_tx *tx) { return &tx->answers; }
