/*
 * The tx worker: TUN to UDP. A packet's way, which is also the order of this file:
 *
 *   1. read    The TUN queue is read until it is empty: one burst. A read brings a packet, or a super-packet of a flow.
 *   2. look up The destination names a peer, the peer its active epoch. A super-packet is split, and what is too large
 *              for the peer cut to fragments. The sender of what has no way, or does not fit, is answered.
 *   3. gather  Packets gather in a run, one for each peer of the burst; small ones share a record.
 *   4. seal    A record is sealed from where its packets lie to the end of the run.
 *   5. send    A run is records of equal size, back to back, the last perhaps shorter: one UDP_SEGMENT send. It goes
 *              when it is full, when another peer needs its place, or at the end of the burst; nothing ever waits for
 *              later packets.
 *
 * The worker takes no lock, but where a peer takes fewer lanes than there are workers. TUN queue, send lane, runs and buffers are its own. The table cannot change while it is
 * announced: from a burst on until the worker sleeps, or begins a burst and finds a newer one. A peer's endpoint is
 * behind a sequence lock; counters, flags and events are atomics.
 */
#include "cq_tx.h"
#include "cq_answer.h"
#include "cq_fragment.h"
#include "cq_io.h"
#include "cq_mss.h"
#include "cq_send.h"
#include "cq_split.h"
#include "cq_wipe.h"

#include <errno.h>
#include <stdlib.h>

#define TUN_READ_MAX 65536u /* a super-packet has at most 65,535 bytes */
#define BURST_READS 64      /* before runs are sent in any case, though the TUN never runs dry: so the table can go */
#define RUNS 8              /* peers that one burst can address without extra sends */
#define PAD_MAX 256         /* zeros that a record may get to keep its run in one send, which costs more than they do */
#define KEYLESS_NS 1000000000u /* a second: what connects again in it loses packets, and no sender gives up for them */
#define UNREADABLE_MAX 100     /* reads in a row that give no packet, until the TUN counts as broken */

struct run {
    struct cq_slot *slot; /* NULL: free */
    uint64_t age;
    size_t mtu; /* of the peer, as it was when the run began: what a record carries at most */
    uint8_t *wire;
    size_t length;
    size_t segment;          /* size of every record but the last */
    unsigned count;          /* sealed records */
    bool ended;              /* the last one is short: nothing may follow */
    bool probe;              /* its only record asks what the path carries */
    uint64_t packets, bytes; /* of the inner packets in it */
    struct cq_load loads[CQ_SEND_RECORDS_MAX];
    /* the open record: small packets that are not sealed yet */
    uint8_t *open;
    size_t open_length;
    unsigned open_packets;
    bool open_transport, open_vouched; /* holds TCP/UDP packets, and of which kind */
};

struct cq_tx {
    struct cq_worker worker;
    int tun;
    struct cq_sender sender;
    unsigned records_max; /* in one send */
    unsigned unreadable;
    uint64_t ticks;
    struct cq_vnet vnet;
    struct cq_answers answers;
    uint8_t *packet;
    struct run runs[RUNS];
};

/* What a stage calls of a later one. */
static void handle(struct cq_tx *tx, size_t n);
static void send_notices(struct cq_tx *tx);
static struct run *run_for(struct cq_tx *tx, struct cq_slot *slot);
static void add_packet(struct cq_tx *tx, struct run *run, const uint8_t *packet, size_t n, bool transport,
                       bool vouched);
static void close_record(struct cq_tx *tx, struct run *run, bool more);
static void seal(struct cq_tx *tx, struct run *run, const uint8_t *payload, size_t n, bool vouched, unsigned packets,
                 size_t bytes);
static void send_run(struct cq_tx *tx, struct run *run);
static void flush_run(struct cq_tx *tx, struct run *run);
static void flush_all(struct cq_tx *tx);

/* ---- 1. read ---- */

static ssize_t read_tun(struct cq_tx *tx)
{
    return cq_io_tun_read(tx->tun, tx->worker.shared->options.vnet_hdr, &tx->vnet, tx->packet, TUN_READ_MAX);
}

/* Sends the n bytes that were read and what else the TUN has. Returns what the last read did. */
static ssize_t burst(struct cq_tx *tx, ssize_t n, bool notices)
{
    cq_worker_begin(&tx->worker);
    cq_send_begin(&tx->sender, cq_io_now_ns());
    if (notices)
        send_notices(tx);
    for (int reads = 1; n > 0; reads++) {
        handle(tx, (size_t)n);
        tx->unreadable = 0;
        /* Where a send had to wait, what is in the TUN's queue may wait there, and this table may go. */
        if (reads == BURST_READS || tx->sender.patient_until_ns != 0)
            break;
        n = read_tun(tx);
    }
    flush_all(tx);
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
        } else if (n == 0 && !cq_io_linger(linger_until)) {
            cq_worker_rest(&tx->worker);
            rc = cq_io_wait(&tx->tun, 1, tx->worker.wake, -1);
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

static void no_route(struct cq_tx *tx, const struct cq_split *split)
{
    cq_worker_drop(&tx->worker, CQ_DROP_TX_NO_ROUTE, split->count);
    cq_answer_give(&tx->answers, CQ_ICMP_NO_ROUTE, tx->packet, split->length, 0, tx->sender.now_ns);
}

static void no_key(struct cq_tx *tx, const struct cq_peer *peer, const struct cq_split *split)
{
    cq_worker_drop(&tx->worker, CQ_DROP_TX_NO_KEY, split->count);
    if (tx->sender.now_ns < atomic_load_explicit(&peer->keyless_ns, memory_order_relaxed) + KEYLESS_NS)
        cq_answer_count(&tx->answers, CQ_ICMP_UNREACHABLE, CQ_ANSWER_LIMITED);
    else
        cq_answer_give(&tx->answers, CQ_ICMP_UNREACHABLE, tx->packet, split->length, 0, tx->sender.now_ns);
}

/* A peer that is taken for gone, and has not been heard since. */
static bool is_lost(const struct cq_peer *peer)
{
    const uint64_t lost_ns = atomic_load_explicit(&peer->lost_ns, memory_order_relaxed);
    return lost_ns != 0 && lost_ns == atomic_load_explicit(&peer->last_rx_ns, memory_order_relaxed);
}

/* A packet that every router may cut (RFC 791, 3.2), in pieces that the peer takes. */
static void add_fragments(struct cq_tx *tx, struct run *run, uint8_t *packet, size_t length)
{
    struct cq_fragment fragment;
    if (cq_fragment_init(&fragment, packet, length, run->mtu) != CQ_OK) {
        cq_worker_drop(&tx->worker, CQ_DROP_TX_MALFORMED, 1);
        return;
    }
    while (cq_fragment_next(&fragment, &packet, &length))
        add_packet(tx, run, packet, length, false, false);
}

/* What senders are told that a run's peer takes. None of IPv6 goes below its least MTU: where a path carries less in one
 * record, what is in between leaves in fragments of the record (cq_send_batch). */
static size_t told_for(const struct cq_tx *tx, const struct run *run, uint8_t version)
{
    const size_t own = tx->worker.shared->options.mtu, told = cq_worker_mtu_told(&tx->worker, run->slot->peer);
    const size_t least = version == 4 ? 0 : own < CQ_MTU_MIN6 ? own : CQ_MTU_MIN6;
    return told > least ? told : least;
}

/* What is larger than the peer takes is cut, where it may be, and so is TCP: nothing of it is lost until its sender has
 * heard that it does not fit. Whoever sends anything else that is to stay whole is told, and the packet is lost, unless it
 * is not known yet that it does not fit: then it leaves, and its record may be fragmented. *mtu becomes the largest
 * packet to send in one piece. False: nothing is left to send. */
static bool fit(struct cq_tx *tx, const struct run *run, size_t *mtu, struct cq_split *split)
{
    const bool whole = split->version == 6 || (tx->packet[6] & CQ_DONT_FRAGMENT) != 0;
    const size_t told = told_for(tx, run, split->version);
    const bool lost = whole && split->largest > told;
    if (lost)
        cq_answer_give(&tx->answers, CQ_ICMP_TOO_BIG, tx->packet, split->length, told, tx->sender.now_ns);
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

static void handle(struct cq_tx *tx, size_t n)
{
    const struct cq_table *table = tx->worker.table;
    struct cq_split split;
    uint8_t *packet = tx->packet;
    if (cq_split_init(&split, &tx->vnet, packet, n) != CQ_OK) {
        cq_worker_drop(&tx->worker, CQ_DROP_TX_MALFORMED, 1);
        return;
    }
    const struct cq_table_peer *peer =
        cq_table_peer_of(table, packet[0] >> 4 == 4 ? cq_route_lookup4(table->routes, packet + 16)
                                                    : cq_route_lookup6(table->routes, packet + 24));
    if (peer == NULL) {
        no_route(tx, &split);
        return;
    }
    struct cq_slot *slot = peer->active;
    if (slot == NULL) {
        no_key(tx, peer->peer, &split);
        return;
    }
    if (is_lost(slot->peer)) /* its packet leaves all the same: it may be what shows that the peer is back */
        cq_answer_give(&tx->answers, CQ_ICMP_UNREACHABLE, packet, split.length, 0, tx->sender.now_ns);
    struct run *run = run_for(tx, slot);
    if (split.syn)
        cq_mss_clamp(packet + split.l4_offset, cq_mss_of(split.version, cq_worker_mtu_told(&tx->worker, slot->peer)),
                     !split.vouched);
    size_t mtu = run->mtu;
    if (split.largest > mtu && !fit(tx, run, &mtu, &split))
        return;
    size_t length;
    while (cq_split_next(&split, &packet, &length)) {
        if (length <= mtu)
            add_packet(tx, run, packet, length, split.transport, split.vouched);
        else
            add_fragments(tx, run, packet, length);
    }
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
        for (unsigned n = 0; n < CQ_NOTICES_MAX && cq_notices_pop(&slot->notices, &notice); n++) {
            struct run *run = run_for(tx, slot);
            run->probe = notice.kind == CQ_NOTICE_PROBE;
            seal(tx, run, run->open, write_notice(&notice, run->open), false, 0, 0);
            flush_run(tx, run);
        }
    }
}

/* ---- 3. gather ---- */

static struct run *run_for(struct cq_tx *tx, struct cq_slot *slot)
{
    struct run *victim = &tx->runs[0];
    for (size_t i = 0; i < RUNS; i++) {
        struct run *r = &tx->runs[i];
        if (r->slot == slot) {
            r->age = ++tx->ticks;
            return r;
        }
        if (victim->slot != NULL && (r->slot == NULL || r->age < victim->age))
            victim = r;
    }
    if (victim->slot != NULL)
        flush_run(tx, victim);
    victim->slot = slot;
    victim->mtu = cq_worker_mtu(&tx->worker, slot->peer);
    victim->age = ++tx->ticks;
    return victim;
}

static void add_packet(struct cq_tx *tx, struct run *run, const uint8_t *packet, size_t n, bool transport, bool vouched)
{
    /* Two packets of more than half a record never share one: those are sealed straight from the TUN's buffer. */
    if (!tx->worker.shared->options.packing || n > run->mtu / 2) {
        close_record(tx, run, true);
        seal(tx, run, packet, n, vouched, 1, n);
        return;
    }
    if (run->open_length + n > run->mtu || (transport && run->open_transport && vouched != run->open_vouched))
        close_record(tx, run, true);
    memcpy(run->open + run->open_length, packet, n);
    run->open_length += n;
    run->open_packets++;
    if (transport) {
        run->open_transport = true;
        run->open_vouched = vouched;
    }
}

/* Seals the open record. more: others may follow in the run. */
static void close_record(struct cq_tx *tx, struct run *run, bool more)
{
    if (run->open_packets == 0)
        return;
    size_t n = run->open_length;
    /* Pad to the run's size, so that the run need not end here: a few zero bytes are cheaper than a system call. */
    size_t target = run->count > 0 && !run->ended ? run->segment - CQ_OVERHEAD : run->mtu;
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
    seal(tx, run, run->open, n, vouched, packets, bytes);
}

/* ---- 4. seal ---- */

static bool fits(const struct cq_tx *tx, const struct run *run, size_t size)
{
    return !run->ended && size <= run->segment && run->length + size <= CQ_SEND_MAX && run->count < tx->records_max;
}

/* On the lane of this worker, or on one of those that the peer takes, which workers then share. */
static int seal_on_lane(const struct cq_tx *tx, struct cq_epoch *epoch, bool vouched, const uint8_t *payload, size_t n,
                        uint8_t *out)
{
    const uint16_t flags = vouched ? CQ_FLAG_VOUCHED : 0;
    if (tx->worker.shared->options.workers <= epoch->tx_lanes)
        return cq_epoch_seal(epoch, (uint8_t)tx->worker.index, flags, payload, n, out);
    return cq_epoch_seal_shared(epoch, (uint8_t)(tx->worker.index % epoch->tx_lanes), flags, payload, n, out);
}

/* Seals one record to the end of the run, first sending the run if the record does not fit in. */
static void seal(struct cq_tx *tx, struct run *run, const uint8_t *payload, size_t n, bool vouched, unsigned packets,
                 size_t bytes)
{
    struct cq_epoch *epoch = run->slot->epoch;
    size_t size = n + CQ_OVERHEAD;
    if (run->count > 0 && !fits(tx, run, size))
        send_run(tx, run);
    int rc = tx->sender.now_ns >= epoch->expires_ns
                 ? CQ_E_LIMIT
                 : seal_on_lane(tx, epoch, vouched, payload, n, run->wire + run->length);
    if (rc == CQ_E_LIMIT) {
        cq_worker_raise_slot(&tx->worker, run->slot, CQ_EVENT_KEY_EXPIRED);
        cq_worker_drop(&tx->worker, CQ_DROP_TX_NO_KEY, packets);
        return;
    }
    if (rc != CQ_OK) {
        cq_worker_drop(&tx->worker, CQ_DROP_TX_CRYPTO, packets);
        return;
    }
    if (atomic_load_explicit(&epoch->soft_limit, memory_order_relaxed))
        cq_worker_raise_slot(&tx->worker, run->slot, CQ_EVENT_ROTATE_DUE);
    if (run->count == 0)
        run->segment = size;
    run->ended = size < run->segment;
    run->length += size;
    run->loads[run->count++] = (struct cq_load){packets, (uint32_t)bytes};
    run->packets += packets;
    run->bytes += bytes;
}

/* ---- 5. send ---- */

/* Sends what is sealed; the open record stays. */
static void send_run(struct cq_tx *tx, struct run *run)
{
    struct cq_peer *peer = run->slot->peer;
    struct cq_endpoint to;
    cq_endpoint_read(&peer->endpoint, &to);
    if (run->count > 0 && to.remote.family == 0) {
        cq_worker_drop(&tx->worker, CQ_DROP_TX_NO_ENDPOINT, run->packets);
    } else if (run->count > 0) {
        const struct cq_batch batch = {run->wire, run->length, run->segment, run->loads, run->probe};
        struct cq_lost lost = cq_send_batch(&tx->sender, peer, &batch);
        if (lost.refused)
            cq_worker_raise_peer(&tx->worker, peer, CQ_EVENT_RECORD_REFUSED);
        if (lost.records > 0)
            cq_worker_drop(&tx->worker, CQ_DROP_TX_SEND_ERROR, lost.packets);
        /* The times of attempts: a path that takes nothing any more is to be noticed like one that answers nothing. */
        atomic_store_explicit(&peer->last_tx_ns, tx->sender.now_ns, memory_order_relaxed);
        if (run->packets > 0)
            atomic_store_explicit(&peer->last_tx_data_ns, tx->sender.now_ns, memory_order_relaxed);
        if (run->packets > 0 && run->segment > CQ_RECORD_LARGE)
            atomic_store_explicit(&peer->path.last_large_ns, tx->sender.now_ns, memory_order_relaxed);
        atomic_fetch_add_explicit(&peer->tx_packets, run->packets - lost.packets, memory_order_relaxed);
        atomic_fetch_add_explicit(&peer->tx_bytes, run->bytes - lost.bytes, memory_order_relaxed);
    }
    run->length = 0;
    run->count = 0;
    run->segment = 0;
    run->ended = false;
    run->probe = false;
    run->packets = 0;
    run->bytes = 0;
}

/* Sends all that there is for a peer, and gives its run away. */
static void flush_run(struct cq_tx *tx, struct run *run)
{
    close_record(tx, run, false);
    send_run(tx, run);
    run->slot = NULL;
}

static void flush_all(struct cq_tx *tx)
{
    for (size_t i = 0; i < RUNS; i++)
        if (tx->runs[i].slot != NULL)
            flush_run(tx, &tx->runs[i]);
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
    tx->sender = (struct cq_sender){.segment = o->udp_segment, .stopping = &shared->stopping};
    for (size_t g = 0; g < o->groups; g++)
        tx->sender.sockets[g] = (struct cq_send_socket){
            .fd = cq_worker_udp(o, g, index),
            .family = o->families[g],
            .segment_refused = &shared->segment_refused[g],
        };
    cq_answer_init(&tx->answers, tx->tun, o->vnet_hdr);
    tx->records_max = cq_io_max_segments();
    if (tx->records_max > CQ_SEND_RECORDS_MAX)
        tx->records_max = CQ_SEND_RECORDS_MAX;
    tx->packet = aligned_alloc(64, TUN_READ_MAX);
    ok = ok && tx->packet != NULL;
    for (size_t i = 0; i < RUNS; i++) {
        tx->runs[i].wire = malloc(CQ_SEND_MAX);
        tx->runs[i].open = malloc(o->mtu);
        ok = ok && tx->runs[i].wire != NULL && tx->runs[i].open != NULL;
    }
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
    for (size_t i = 0; i < RUNS; i++) {
        free(tx->runs[i].wire);
        cq_wipe_free(tx->runs[i].open, tx->worker.shared->options.mtu); /* plaintext of users */
    }
    cq_wipe_free(tx->packet, TUN_READ_MAX);
    cq_wipe(tx->answers.out, sizeof tx->answers.out); /* quotes them */
    cq_worker_close(&tx->worker);
    free(tx);
}

struct cq_worker *cq_tx_worker(struct cq_tx *tx) { return &tx->worker; }

const struct cq_answers *cq_tx_answers(const struct cq_tx *tx) { return &tx->answers; }
