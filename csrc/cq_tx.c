/*
 * The tx worker: TUN to UDP. A packet's way, which is also the order of this file:
 *
 *   1. read    The TUN queue is read until it is empty: one burst. A read brings a packet, or a super-packet of a flow.
 *   2. look up The destination names a peer, the peer its active epoch. A super-packet is split.
 *   3. gather  Packets gather in a run, one for each peer of the burst; small ones share a record.
 *   4. seal    A record is sealed from where its packets lie to the end of the run.
 *   5. send    A run is records of equal size, back to back, the last perhaps shorter: one UDP_SEGMENT send. It goes
 *              when it is full, when another peer needs its place, or at the end of the burst; nothing ever waits for
 *              later packets.
 *
 * The worker takes no lock. TUN queue, send lane, runs and buffers are its own. The table cannot change while it is
 * announced, which it is for one burst. A peer's endpoint is behind a sequence lock; counters, flags and events are
 * atomics.
 */
#include "cq_tx.h"
#include "cq_io.h"
#include "cq_send.h"
#include "cq_split.h"
#include "cq_wipe.h"

#include <errno.h>
#include <stdlib.h>

#define TUN_READ_MAX 65536u /* a super-packet has at most 65,535 bytes */
#define BURST_READS 64      /* before runs are sent in any case, though the TUN never runs dry: so the table can go */
#define RUNS 8              /* peers that one burst can address without extra sends */
#define PAD_MAX 256         /* zeros that a record may get to keep its run in one send, which costs more than they do */
#define UNREADABLE_MAX 100  /* reads in a row that give no packet, until the TUN counts as broken */

struct run {
    struct cq_slot *slot; /* NULL: free */
    uint64_t age;
    uint8_t *wire;
    size_t length;
    size_t segment;          /* size of every record but the last */
    unsigned count;          /* sealed records */
    bool ended;              /* the last one is short: nothing may follow */
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
    size_t payload_max;
    unsigned unreadable;
    uint64_t ticks;
    struct cq_vnet vnet;
    uint8_t *packet;
    struct run runs[RUNS];
};

/* What a stage calls of a later one. */
static void handle(struct cq_tx *tx, size_t n);
static void send_wanted(struct cq_tx *tx);
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
static ssize_t burst(struct cq_tx *tx, ssize_t n, bool wanted)
{
    cq_worker_begin(&tx->worker);
    cq_send_begin(&tx->sender, cq_io_now_ns());
    if (wanted)
        send_wanted(tx);
    for (int reads = 1; n > 0; reads++) {
        handle(tx, (size_t)n);
        tx->unreadable = 0;
        /* Where a send had to wait, what is in the TUN's queue may wait there, and this table may go. */
        if (reads == BURST_READS || tx->sender.patient_until_ns != 0)
            break;
        n = read_tun(tx);
    }
    flush_all(tx);
    cq_worker_end(&tx->worker);
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

/* The flag is taken before the table is: an epoch that something is wanted of is in any table acquired after. */
static bool take_wanted(struct cq_tx *tx)
{
    _Atomic bool *wanted = &tx->worker.shared->anything_wanted;
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
        bool wanted = take_wanted(tx);
        if (n > 0 || wanted) {
            n = burst(tx, n, wanted);
            linger_until = cq_io_now_ns() + shared->options.busy_poll_ns;
        } else if (n == 0 && !cq_io_linger(linger_until)) {
            rc = cq_io_wait(tx->tun, tx->worker.wake, -1);
        }
        if (n < 0)
            rc = cannot_read(tx, (int)n);
    }
    if (rc != 0)
        cq_worker_fail(&tx->worker, "reading the TUN device", -rc);
    return NULL;
}

/* ---- 2. look up, and split ---- */

static void handle(struct cq_tx *tx, size_t n)
{
    const struct cq_table *table = tx->worker.table;
    struct cq_split split;
    uint8_t *packet = tx->packet;
    if (cq_split_init(&split, &tx->vnet, packet, n) != CQ_OK) {
        cq_worker_drop(&tx->worker, CQ_DROP_TX_MALFORMED, 1);
        return;
    }
    uint32_t handle = packet[0] >> 4 == 4 ? cq_route_lookup4(table->routes->table, packet + 16)
                                          : cq_route_lookup6(table->routes->table, packet + 24);
    if (handle >= table->peer_count || table->peers[handle].peer == NULL) {
        cq_worker_drop(&tx->worker, CQ_DROP_TX_NO_ROUTE, split.count);
        return;
    }
    struct cq_slot *slot = table->peers[handle].active;
    if (slot == NULL || tx->worker.index >= slot->epoch->tx_lanes) {
        cq_worker_drop(&tx->worker, CQ_DROP_TX_NO_KEY, split.count);
        return;
    }
    struct run *run = run_for(tx, slot);
    size_t length;
    while (cq_split_next(&split, &packet, &length)) {
        if (length > tx->payload_max) {
            cq_worker_drop(&tx->worker, CQ_DROP_TX_TOO_BIG, 1);
            continue;
        }
        add_packet(tx, run, packet, length, split.transport, split.vouched);
    }
}

static void send_one(struct cq_tx *tx, struct cq_slot *slot, const uint8_t *payload, size_t n)
{
    struct run *run = run_for(tx, slot);
    close_record(tx, run, true);
    seal(tx, run, payload, n, false, 0, 0);
    flush_run(tx, run);
}

/* The records without packets that were asked for, each by itself. */
static void send_wanted(struct cq_tx *tx)
{
    static const uint8_t ping[CQ_MESSAGE_HEADER_SIZE] = {CQ_MESSAGE_PING};
    for (size_t i = 0; i < tx->worker.table->slot_count; i++) {
        struct cq_slot *slot = tx->worker.table->slots[i];
        if (atomic_load_explicit(&slot->wanted, memory_order_relaxed) == 0)
            continue;
        const uint32_t wanted = atomic_exchange(&slot->wanted, 0);
        if (wanted & CQ_WANTED_EMPTY)
            send_one(tx, slot, ping, 0);
        if (wanted & CQ_WANTED_PING)
            send_one(tx, slot, ping, sizeof ping);
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
    victim->age = ++tx->ticks;
    return victim;
}

static void add_packet(struct cq_tx *tx, struct run *run, const uint8_t *packet, size_t n, bool transport, bool vouched)
{
    /* Two packets of more than half a record never share one: those are sealed straight from the TUN's buffer. */
    if (!tx->worker.shared->options.packing || n > tx->payload_max / 2) {
        close_record(tx, run, true);
        seal(tx, run, packet, n, vouched, 1, n);
        return;
    }
    if (run->open_length + n > tx->payload_max || (transport && run->open_transport && vouched != run->open_vouched))
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
    size_t target = run->count > 0 && !run->ended ? run->segment - CQ_OVERHEAD : tx->payload_max;
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
                 : cq_epoch_seal(epoch, (uint8_t)tx->worker.index, vouched ? CQ_FLAG_VOUCHED : 0, payload, n,
                                 run->wire + run->length);
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
        const struct cq_batch batch = {run->wire, run->length, run->segment, run->loads};
        struct cq_lost lost = cq_send_batch(&tx->sender, peer, &batch);
        if (lost.records > 0)
            cq_worker_drop(&tx->worker, CQ_DROP_TX_SEND_ERROR, lost.packets);
        /* The times of attempts: a path that takes nothing any more is to be noticed like one that answers nothing. */
        atomic_store_explicit(&peer->last_tx_ns, tx->sender.now_ns, memory_order_relaxed);
        if (run->packets > 0)
            atomic_store_explicit(&peer->last_tx_data_ns, tx->sender.now_ns, memory_order_relaxed);
        atomic_fetch_add_explicit(&peer->tx_packets, run->packets - lost.packets, memory_order_relaxed);
        atomic_fetch_add_explicit(&peer->tx_bytes, run->bytes - lost.bytes, memory_order_relaxed);
    }
    run->length = 0;
    run->count = 0;
    run->segment = 0;
    run->ended = false;
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
    tx->sender = (struct cq_sender){
        .fd = o->udp_fds[index],
        .family = o->family,
        .segment = o->udp_segment,
        .segment_refused = &shared->segment_refused,
        .stopping = &shared->stopping,
    };
    tx->records_max = cq_io_max_segments();
    if (tx->records_max > CQ_SEND_RECORDS_MAX)
        tx->records_max = CQ_SEND_RECORDS_MAX;
    tx->payload_max = o->mtu;
    tx->packet = aligned_alloc(64, TUN_READ_MAX);
    ok = ok && tx->packet != NULL;
    for (size_t i = 0; i < RUNS; i++) {
        tx->runs[i].wire = malloc(CQ_SEND_MAX);
        tx->runs[i].open = malloc(tx->payload_max);
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
        cq_wipe_free(tx->runs[i].open, tx->payload_max); /* plaintext of users */
    }
    cq_wipe_free(tx->packet, TUN_READ_MAX);
    cq_worker_close(&tx->worker);
    free(tx);
}

struct cq_worker *cq_tx_worker(struct cq_tx *tx) { return &tx->worker; }
