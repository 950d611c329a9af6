/*
 * The data keys of one epoch (one root of the key schedule, both directions) and how one record is sealed or opened.
 *
 * A send lane belongs to one worker, so sealing takes no lock, unless a peer takes fewer lanes than there are workers,
 * which then share them. A receive lane has its own mutex, contended only when
 * GRO hands a lane's records to another worker; it covers the replay window and the key's scratch state.
 */
#ifndef CQ_EPOCH_H
#define CQ_EPOCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "cq_aead.h"
#include "cq_replay.h"

struct cq_limits {
    uint64_t records_soft, records_hard; /* under one key */
    uint64_t blocks_soft, blocks_hard;   /* of 16 bytes, under one key; header and payload count, rounded up */
    uint64_t forged_soft, forged_hard;   /* records that do not open, of all lanes, which have an equal share each */
};

/* Most epochs of a gateway with many peers carry a few signs of life and nothing else, and what a back end makes of a
 * key takes kilobytes (rounds, powers for the hash). So the first records of a lane have it made for themselves, which
 * takes microseconds; a lane that goes on keeps it. Beyond the signs of life of the default interval of rotations. */
#define CQ_LANE_RESTS_FOR 64u

struct cq_lane_key {
    struct cq_aead_key made; /* empty while the lane rests */
    uint8_t secret[CQ_KEY_SIZE];
    uint32_t uses; /* up to CQ_LANE_RESTS_FOR */
};

struct cq_lane_tx {
    _Alignas(64) struct cq_lane_key key;
    uint8_t iv[CQ_IV_SIZE];
    pthread_mutex_t lock;     /* for cq_epoch_seal_shared alone */
    _Atomic uint64_t counter; /* of the next record; written by the lane's worker, read by anyone */
    _Atomic uint64_t blocks;
};

struct cq_lane_rx {
    _Alignas(64) pthread_mutex_t lock;
    struct cq_lane_key key;
    uint8_t iv[CQ_IV_SIZE];
    _Atomic uint64_t records; /* opened */
    _Atomic uint64_t blocks;
    _Atomic uint64_t forged; /* records whose tag did not verify */
    struct cq_replay window;
};

struct cq_epoch_params {
    uint32_t rx_index; /* what the peer writes into records for us */
    uint32_t tx_index; /* what we write into records for the peer */
    uint32_t number;   /* n of root_n */
    uint8_t suite;
    uint8_t tx_lanes, rx_lanes; /* 1..CQ_LANES_MAX */
    const uint8_t *tx_secrets;  /* tx_lanes * CQ_LANE_SECRET_SIZE */
    const uint8_t *rx_secrets;  /* rx_lanes * CQ_LANE_SECRET_SIZE */
    uint64_t expires_ns;        /* CLOCK_BOOTTIME; from then on nothing is sealed or opened */
    struct cq_limits limits;    /* hard limits are clamped to the protocol's, and to the suite's */
};

struct cq_epoch {
    uint32_t rx_index, tx_index, number;
    uint8_t suite, tx_lanes, rx_lanes;
    uint64_t expires_ns;
    struct cq_limits limits;
    _Atomic bool soft_limit; /* set once when any lane, sending or receiving, passes a soft limit */
    _Atomic bool attacked;   /* and this one when it was that of forged records */
    struct cq_lane_tx *tx;
    struct cq_lane_rx *rx;
};

/* The fixed limits of the protocol (cq_wire.h). */
struct cq_limits cq_epoch_default_limits(void);

/* Allocates and keys an epoch; the caller still owns and wipes the secrets. NULL on failure; *error, which may be NULL,
 * says why: CQ_E_ARGUMENT (an index of 0, an unknown suite, no or too many lanes, a hard limit of 0), CQ_E_MEMORY,
 * CQ_E_CRYPTO. */
struct cq_epoch *cq_epoch_new(const struct cq_epoch_params *params, int *error);

/* Wipes every key, window and counter, then frees. NULL is fine. Nobody may be using the epoch. */
void cq_epoch_free(struct cq_epoch *epoch);

/* Seals one record: payload (n bytes) to out (n + CQ_OVERHEAD bytes). payload may be out + CQ_HEADER_SIZE, and may not
 * overlap out otherwise. flags go into the header as they are. CQ_E_LIMIT at a hard limit and CQ_E_ARGUMENT for a lane
 * or length out of range (then nothing was written and the counter did not move), CQ_E_CRYPTO (it did). */
int cq_epoch_seal(struct cq_epoch *epoch, uint8_t lane, uint16_t flags, const uint8_t *payload, size_t n, uint8_t *out);

/* The same where several workers use the lane. */
int cq_epoch_seal_shared(struct cq_epoch *epoch, uint8_t lane, uint16_t flags, const uint8_t *payload, size_t n,
                         uint8_t *out);

/* Whether so many records of the lane have failed to open that it opens none any more. */
bool cq_epoch_is_worn(const struct cq_epoch *epoch, uint8_t lane);

/* Records that were opened, of all lanes; *lost gets those that the counters say were sent before the last of them and
 * have not arrived. */
uint64_t cq_epoch_arrived(struct cq_epoch *epoch, uint64_t *lost);

/* Opens one record in place. header is the record's parsed header; type, flags and index were checked by the caller;
 * the plaintext of len - CQ_OVERHEAD bytes replaces the ciphertext at record + CQ_HEADER_SIZE.
 * *newest is set to whether the counter became the highest of its lane.
 * CQ_E_MALFORMED (lane or length), CQ_E_LIMIT (counter >= records_hard, no blocks left, or forged_hard), CQ_E_REPLAY,
 * CQ_E_AUTH, CQ_E_CRYPTO: the window did not move and the payload must not be used. */
int cq_epoch_open(struct cq_epoch *epoch, const struct cq_header *header, uint8_t *record, size_t len, bool *newest);

#endif
