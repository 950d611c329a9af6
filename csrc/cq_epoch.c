/*
 * One epoch of data keys: allocate and key it, seal a record, open a record, wipe it.
 *
 * The clock is the caller's: it compares expires_ns once per batch and calls neither seal nor open after it.
 */
#include "cq_epoch.h"
#include "cq_scrub.h"
#include "cq_wipe.h"

#include <stdlib.h>

struct cq_limits cq_epoch_default_limits(void)
{
    return (struct cq_limits){.records_soft = CQ_RECORDS_SOFT,
                              .records_hard = CQ_RECORDS_HARD,
                              .blocks_soft = CQ_BLOCKS_SOFT,
                              .blocks_hard = CQ_BLOCKS_HARD,
                              .forged_soft = UINT64_MAX,
                              .forged_hard = UINT64_MAX};
}

/* ---- life of an epoch ---- */

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t forged_most(uint8_t suite)
{
    return suite == CQ_SUITE_AES_256_GCM ? CQ_FORGED_HARD_AES_256_GCM : CQ_FORGED_HARD_CHACHA20_POLY1305;
}

/* A lane's share of a limit for all of them, which are as many keys: at least one. */
static uint64_t share(uint64_t limit, unsigned lanes) { return limit < lanes ? 1 : limit / lanes; }

/* A soft limit above its hard limit would never ask for a rotation. */
static struct cq_limits clamp(struct cq_limits l, uint8_t suite, unsigned rx_lanes)
{
    l.forged_hard = share(smaller(l.forged_hard, forged_most(suite)), rx_lanes);
    l.forged_soft = smaller(share(l.forged_soft, rx_lanes), l.forged_hard / 2);
    l.records_hard = smaller(l.records_hard, CQ_RECORDS_HARD);
    l.blocks_hard = smaller(l.blocks_hard, CQ_BLOCKS_HARD);
    l.records_soft = smaller(l.records_soft, l.records_hard);
    l.blocks_soft = smaller(l.blocks_soft, l.blocks_hard);
    return l;
}

/* Zeroed and aligned to cache lines, so that two workers' lanes never share one. */
static void *lanes_new(size_t count, size_t size)
{
    void *lanes = aligned_alloc(64, count * size);

    if (lanes != NULL)
        memset(lanes, 0, count * size);
    return lanes;
}

/* Makes the key, unless it is there. CQ_OK, or why not. */
static int lane_key_wake(struct cq_lane_key *key, uint8_t suite)
{
    return key->made.ops != NULL ? CQ_OK : cq_aead_init(&key->made, suite, key->secret);
}

/* After a record: lets the made key go again while the lane has had few. */
static void lane_key_rest(struct cq_lane_key *key)
{
    if (key->uses >= CQ_LANE_RESTS_FOR)
        return;
    key->uses++;
    cq_aead_wipe(&key->made);
    cq_scrub(); /* of its making */
}

/* The key is made once here, so that one that cannot be made is noticed now. */
static int lane_key_init(struct cq_lane_key *key, uint8_t suite, const uint8_t *secret)
{
    memcpy(key->secret, secret, CQ_KEY_SIZE);
    int rc = lane_key_wake(key, suite);
    cq_aead_wipe(&key->made);
    return rc;
}

static int tx_init(struct cq_lane_tx *tx, uint8_t suite, const uint8_t *secret)
{
    memcpy(tx->iv, secret + CQ_KEY_SIZE, CQ_IV_SIZE);
    return lane_key_init(&tx->key, suite, secret);
}

static int rx_init(struct cq_lane_rx *rx, uint8_t suite, const uint8_t *secret)
{
    memcpy(rx->iv, secret + CQ_KEY_SIZE, CQ_IV_SIZE);
    cq_replay_init(&rx->window);
    return lane_key_init(&rx->key, suite, secret);
}

/* tx_lanes and rx_lanes count up as lanes come to life: cq_epoch_free takes down exactly those. */
static int epoch_fill(struct cq_epoch *epoch, const struct cq_epoch_params *p)
{
    int rc = CQ_OK;

    epoch->tx = lanes_new(p->tx_lanes, sizeof *epoch->tx);
    epoch->rx = lanes_new(p->rx_lanes, sizeof *epoch->rx);
    if (epoch->tx == NULL || epoch->rx == NULL)
        return CQ_E_MEMORY;
    while (rc == CQ_OK && epoch->tx_lanes < p->tx_lanes) {
        unsigned i = epoch->tx_lanes;
        if (pthread_mutex_init(&epoch->tx[i].lock, NULL) != 0)
            return CQ_E_MEMORY;
        epoch->tx_lanes++;
        rc = tx_init(&epoch->tx[i], p->suite, p->tx_secrets + i * CQ_LANE_SECRET_SIZE);
    }
    while (rc == CQ_OK && epoch->rx_lanes < p->rx_lanes) {
        unsigned i = epoch->rx_lanes;
        if (pthread_mutex_init(&epoch->rx[i].lock, NULL) != 0)
            return CQ_E_MEMORY;
        epoch->rx_lanes++;
        rc = rx_init(&epoch->rx[i], p->suite, p->rx_secrets + i * CQ_LANE_SECRET_SIZE);
    }
    return rc;
}

static bool params_valid(const struct cq_epoch_params *p)
{
    return p->rx_index != 0 && p->tx_index != 0 && cq_aead_select(p->suite) != NULL && p->tx_lanes >= 1 &&
           p->tx_lanes <= CQ_LANES_MAX && p->rx_lanes >= 1 && p->rx_lanes <= CQ_LANES_MAX && p->tx_secrets != NULL &&
           p->rx_secrets != NULL && p->limits.records_hard != 0 && p->limits.blocks_hard != 0 &&
           p->limits.forged_hard != 0;
}

struct cq_epoch *cq_epoch_new(const struct cq_epoch_params *params, int *error)
{
    struct cq_epoch *epoch = NULL;
    int rc = CQ_E_ARGUMENT;

    if (params_valid(params)) {
        epoch = calloc(1, sizeof *epoch);
        rc = CQ_E_MEMORY;
    }
    if (epoch != NULL) {
        epoch->rx_index = params->rx_index;
        epoch->tx_index = params->tx_index;
        epoch->number = params->number;
        epoch->suite = params->suite;
        epoch->expires_ns = params->expires_ns;
        epoch->limits = clamp(params->limits, params->suite, params->rx_lanes);
        rc = epoch_fill(epoch, params);
        cq_scrub(); /* of the key schedules */
    }
    if (rc != CQ_OK) {
        cq_epoch_free(epoch);
        epoch = NULL;
    }
    if (error != NULL)
        *error = rc;
    return epoch;
}

void cq_epoch_free(struct cq_epoch *epoch)
{
    if (epoch == NULL)
        return;
    for (unsigned i = 0; i < epoch->tx_lanes; i++) {
        cq_aead_wipe(&epoch->tx[i].key.made);
        (void)pthread_mutex_destroy(&epoch->tx[i].lock);
    }
    for (unsigned i = 0; i < epoch->rx_lanes; i++) {
        cq_aead_wipe(&epoch->rx[i].key.made);
        (void)pthread_mutex_destroy(&epoch->rx[i].lock);
    }
    cq_wipe_free(epoch->tx, epoch->tx_lanes * sizeof *epoch->tx);
    cq_wipe_free(epoch->rx, epoch->rx_lanes * sizeof *epoch->rx);
    cq_wipe_free(epoch, sizeof *epoch);
}

/* ---- records ---- */

/* iv XOR (0^4 || counter), as TLS 1.3 does (RFC 8446, section 5.3). */
static void nonce_derive(uint8_t nonce[CQ_IV_SIZE], const uint8_t iv[CQ_IV_SIZE], uint64_t counter)
{
    memcpy(nonce, iv, CQ_IV_SIZE);
    cq_put64(nonce + 4, cq_get64(iv + 4) ^ counter);
}

/* What a record uses up of its key: the payload, and one block for the header. GCM authenticates the additional data
 * with the same hash key as the ciphertext, so the bounds behind RFC 9001, appendix B, count it as well. */
static uint64_t blocks_of(size_t payload) { return (payload + 15) / 16 + 1; }

/* Read before written: the flag lies beside fields that every worker reads, and would bounce between their caches. */
static void note_usage(struct cq_epoch *epoch, uint64_t records, uint64_t blocks)
{
    if ((records >= epoch->limits.records_soft || blocks >= epoch->limits.blocks_soft) &&
        !atomic_load_explicit(&epoch->soft_limit, memory_order_relaxed))
        atomic_store_explicit(&epoch->soft_limit, true, memory_order_relaxed);
}

int cq_epoch_seal(struct cq_epoch *epoch, uint8_t lane, uint16_t flags, const uint8_t *payload, size_t n, uint8_t *out)
{
    if (lane >= epoch->tx_lanes || n > CQ_DATAGRAM_MAX - CQ_OVERHEAD)
        return CQ_E_ARGUMENT;
    struct cq_lane_tx *tx = &epoch->tx[lane];
    uint64_t counter = atomic_load_explicit(&tx->counter, memory_order_relaxed);
    uint64_t blocks = atomic_load_explicit(&tx->blocks, memory_order_relaxed) + blocks_of(n);
    if (counter >= epoch->limits.records_hard || blocks > epoch->limits.blocks_hard)
        return CQ_E_LIMIT;

    /* The counter is spent before the cipher runs: whatever happens next, its nonce is never used again. There is one
     * writer, so a plain store does. */
    atomic_store_explicit(&tx->counter, counter + 1, memory_order_relaxed);
    atomic_store_explicit(&tx->blocks, blocks, memory_order_relaxed);
    note_usage(epoch, counter + 1, blocks);

    const struct cq_header header = {
        .type = CQ_RECORD_TYPE, .lane = lane, .flags = flags, .index = epoch->tx_index, .counter = counter};
    uint8_t nonce[CQ_IV_SIZE];
    cq_wire_write_header(out, &header);
    nonce_derive(nonce, tx->iv, counter);
    int rc = lane_key_wake(&tx->key, epoch->suite) != CQ_OK
                 ? CQ_E_CRYPTO
                 : tx->key.made.ops->seal(&tx->key.made, nonce, out, CQ_HEADER_SIZE, payload, n, out + CQ_HEADER_SIZE);
    lane_key_rest(&tx->key);
    return rc;
}

int cq_epoch_seal_shared(struct cq_epoch *epoch, uint8_t lane, uint16_t flags, const uint8_t *payload, size_t n,
                         uint8_t *out)
{
    if (lane >= epoch->tx_lanes)
        return CQ_E_ARGUMENT;
    (void)pthread_mutex_lock(&epoch->tx[lane].lock);
    int rc = cq_epoch_seal(epoch, lane, flags, payload, n, out);
    (void)pthread_mutex_unlock(&epoch->tx[lane].lock);
    return rc;
}

/* One more record that somebody else has made, or that was damaged on its way. */
static void note_forged(struct cq_epoch *epoch, struct cq_lane_rx *rx)
{
    const uint64_t forged = atomic_load_explicit(&rx->forged, memory_order_relaxed) + 1;
    atomic_store_explicit(&rx->forged, forged, memory_order_relaxed);
    if (forged >= epoch->limits.forged_soft && !atomic_load_explicit(&epoch->attacked, memory_order_relaxed)) {
        atomic_store_explicit(&epoch->soft_limit, true, memory_order_relaxed);
        atomic_store_explicit(&epoch->attacked, true, memory_order_relaxed);
    }
}

bool cq_epoch_is_worn(const struct cq_epoch *epoch, uint8_t lane)
{
    return atomic_load_explicit(&epoch->rx[lane].forged, memory_order_relaxed) >= epoch->limits.forged_hard;
}

/* With the lane's lock held. The window is looked at first because that is cheap, and moves last because until the tag
 * has verified the counter is anybody's. */
static int open_locked(struct cq_epoch *epoch, struct cq_lane_rx *rx, uint64_t counter, uint8_t *record, size_t n,
                       bool *newest)
{
    const struct cq_limits *limits = &epoch->limits;
    uint64_t blocks = atomic_load_explicit(&rx->blocks, memory_order_relaxed) + blocks_of(n);
    uint8_t nonce[CQ_IV_SIZE];
    uint8_t *payload = record + CQ_HEADER_SIZE;

    int rc = cq_replay_check(&rx->window, counter);
    if (rc != CQ_OK)
        return rc;
    if (blocks > limits->blocks_hard || atomic_load_explicit(&rx->forged, memory_order_relaxed) >= limits->forged_hard)
        return CQ_E_LIMIT;
    nonce_derive(nonce, rx->iv, counter);
    if (lane_key_wake(&rx->key, epoch->suite) != CQ_OK)
        return CQ_E_CRYPTO;
    rc = rx->key.made.ops->open(&rx->key.made, nonce, record, CQ_HEADER_SIZE, payload, n, payload);
    lane_key_rest(&rx->key);
    if (rc == CQ_E_AUTH)
        note_forged(epoch, rx);
    if (rc != CQ_OK)
        return rc;
    bool highest = counter >= rx->window.next;
    rc = cq_replay_advance(&rx->window, counter);
    if (rc != CQ_OK)
        return rc;
    *newest = highest;
    atomic_store_explicit(&rx->blocks, blocks, memory_order_relaxed);
    atomic_store_explicit(&rx->records, atomic_load_explicit(&rx->records, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    return CQ_OK;
}

int cq_epoch_open(struct cq_epoch *epoch, const struct cq_header *header, uint8_t *record, size_t len, bool *newest)
{
    *newest = false;
    if (header->lane >= epoch->rx_lanes || len < CQ_OVERHEAD || len > CQ_DATAGRAM_MAX)
        return CQ_E_MALFORMED;
    if (header->counter >= epoch->limits.records_hard)
        return CQ_E_LIMIT;
    struct cq_lane_rx *rx = &epoch->rx[header->lane];

    (void)pthread_mutex_lock(&rx->lock);
    int rc = open_locked(epoch, rx, header->counter, record, len - CQ_OVERHEAD, newest);
    uint64_t blocks = atomic_load_explicit(&rx->blocks, memory_order_relaxed);
    (void)pthread_mutex_unlock(&rx->lock);

    /* The sender's counter says how far the key is used up; what was lost on the way counts too. */
    if (rc == CQ_OK)
        note_usage(epoch, header->counter + 1, blocks);
    return rc;
}

uint64_t cq_epoch_arrived(struct cq_epoch *epoch, uint64_t *lost)
{
    uint64_t arrived = 0, sent = 0;
    for (unsigned lane = 0; lane < epoch->rx_lanes; lane++) {
        struct cq_lane_rx *rx = &epoch->rx[lane];
        (void)pthread_mutex_lock(&rx->lock);
        arrived += atomic_load_explicit(&rx->records, memory_order_relaxed);
        sent += rx->window.next;
        (void)pthread_mutex_unlock(&rx->lock);
    }
    *lost = sent - arrived;
    return arrived;
}
