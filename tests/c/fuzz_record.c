/*
 * Fuzzing of records: what a receiver does with each that comes, in whatever order, whole or changed on the way.
 *
 * Byte 0 of an input: bit 0 chooses the suite. Then steps: a control byte, and what it takes of the bytes that follow.
 *
 *   bit 0     a record of anybody: u8 length, bytes. Else the peer's own record:
 *   bits 1, 2 its counter: one more than the last, u16 before the highest, u64, or one that was sent before (u8)
 *   bit 3     u8 length: the payload is as many of the bytes that follow
 *   bit 4     it is changed: u16 where, u8 by what
 *   bit 5     the next lane, which the peer may not have announced
 *
 * Whatever the input: a record opens if and only if the peer sealed it, nobody changed it, its counter is in the window
 * and below the limit, and it has not been opened before; then its payload is what was sealed. Otherwise the window has
 * not moved. A list of what was opened says the same as the bitmap.
 */
#define _GNU_SOURCE
#include "check.h"
#include "cq_epoch.h"
#include "fuzz.h"

enum { LANES = 2, OPENED_MAX = 4096, PAYLOAD_MAX = 255 };

static struct {
    uint64_t opened[OPENED_MAX];
    unsigned count;
    uint64_t next; /* highest + 1 */
} lanes[LANES];

static struct cq_epoch *ends[2]; /* the peer's, ours */

/* Bytes of the input, zeros when there are no more. */
static struct {
    const uint8_t *at;
    size_t left;
} input;

UNGUIDED static uint8_t u8(void)
{
    if (input.left == 0)
        return 0;
    input.left--;
    return *input.at++;
}

UNGUIDED static uint16_t u16(void) { return (uint16_t)(u8() << 8 | u8()); }

UNGUIDED static uint64_t u64(void)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | u8();
    return v;
}

static struct cq_epoch *epoch_new(uint8_t suite, uint32_t rx_index, uint32_t tx_index, uint8_t tx_lanes)
{
    static const uint8_t secrets[64 * CQ_LANE_SECRET_SIZE] = {1, 2, 3};
    const struct cq_epoch_params p = {.rx_index = rx_index,
                                      .tx_index = tx_index,
                                      .suite = suite,
                                      .tx_lanes = tx_lanes,
                                      .rx_lanes = LANES,
                                      .tx_secrets = secrets,
                                      .rx_secrets = secrets,
                                      .expires_ns = UINT64_MAX,
                                      .limits = cq_epoch_default_limits()};
    struct cq_epoch *epoch = cq_epoch_new(&p, NULL);
    REQUIRE(epoch != NULL);
    return epoch;
}

UNGUIDED static bool was_opened(unsigned lane, uint64_t counter)
{
    for (unsigned i = 0; i < lanes[lane].count; i++)
        if (lanes[lane].opened[i] == counter)
            return true;
    return false;
}

/* What docs/protocol.md says must become of the peer's record. */
UNGUIDED static int expected(unsigned lane, uint64_t counter, bool changed)
{
    if (lane >= LANES)
        return CQ_E_MALFORMED;
    if (counter >= CQ_RECORDS_HARD)
        return CQ_E_LIMIT;
    if (was_opened(lane, counter) || (counter < lanes[lane].next && lanes[lane].next - counter > CQ_REPLAY_WINDOW))
        return CQ_E_REPLAY;
    return changed ? CQ_E_AUTH : CQ_OK;
}

/* In a block of exactly its size, as it lies in a batch; header fields that a receiver looks at first are as they are. */
static int open_copy(const uint8_t *record, size_t n, uint8_t *payload, bool *newest)
{
    uint8_t *block = memcpy(block_new(n), record, n), header[CQ_HEADER_SIZE] = {0};
    memcpy(header, record, n < sizeof header ? n : sizeof header);
    const struct cq_header h = cq_wire_read_header(header);
    int rc = cq_epoch_open(ends[1], &h, block, n, newest);
    if (rc == CQ_OK)
        memcpy(payload, block + CQ_HEADER_SIZE, n - CQ_OVERHEAD);
    block_free(block);
    return rc;
}

static uint64_t counter_of(uint8_t control, unsigned lane)
{
    uint64_t next = lane < LANES ? lanes[lane].next : 0;
    uint16_t back;
    switch (control >> 1 & 3) {
    case 0: return next;
    case 1: back = u16(); return back < next ? next - back : 0;
    case 2: return u64();
    default: return lane < LANES && lanes[lane].count > 0 ? lanes[lane].opened[u8() % lanes[lane].count] : 0;
    }
}

static void anybody(void)
{
    uint8_t record[PAYLOAD_MAX], payload[PAYLOAD_MAX];
    bool newest;
    size_t n = u8();
    for (size_t i = 0; i < n; i++)
        record[i] = u8();
    HOLDS(open_copy(record, n, payload, &newest) != CQ_OK);
}

static void peers(uint8_t control)
{
    uint8_t sent[PAYLOAD_MAX], got[PAYLOAD_MAX], record[PAYLOAD_MAX + CQ_OVERHEAD];
    unsigned lane = control & 32 ? LANES : control >> 6 & 1;
    uint64_t counter = counter_of(control, lane);
    size_t n = control & 8 ? u8() : 0;
    bool newest = false, changed = false;
    for (size_t i = 0; i < n; i++)
        sent[i] = u8();
    struct cq_lane_tx *tx = &ends[0]->tx[lane];
    atomic_store(&tx->counter, counter);
    atomic_store(&tx->blocks, 0);
    int rc = cq_epoch_seal(ends[0], (uint8_t)lane, 0, sent, n, record);
    HOLDS(rc == (counter < CQ_RECORDS_HARD ? CQ_OK : CQ_E_LIMIT));
    if (rc != CQ_OK)
        return;
    if (control & 16) {
        size_t where = u16() % (n + CQ_OVERHEAD);
        uint8_t by = u8();
        record[where] ^= by;
        changed = by != 0;
    }
    const struct cq_header h = cq_wire_read_header(record); /* a change may have made another lane or counter of it */
    int wanted = expected(h.lane, h.counter, changed);
    uint64_t before = h.lane < LANES ? ends[1]->rx[h.lane].window.next : 0;
    rc = open_copy(record, n + CQ_OVERHEAD, got, &newest);
    HOLDS(rc == wanted);
    if (rc != CQ_OK) {
        HOLDS(h.lane >= LANES || ends[1]->rx[h.lane].window.next == before);
        return;
    }
    HOLDS(memcmp(got, sent, n) == 0 && newest == (counter >= lanes[lane].next));
    lanes[lane].opened[lanes[lane].count++] = counter;
    if (newest)
        lanes[lane].next = counter + 1;
    HOLDS(ends[1]->rx[lane].window.next == lanes[lane].next);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct cq_epoch *suites[2][2];
    if (size == 0)
        return 0;
    unsigned suite = data[0] & 1;
    if (suites[suite][0] == NULL) {
        suites[suite][0] = epoch_new((uint8_t)(CQ_SUITE_AES_256_GCM + suite), 2, 1, LANES + 1);
        suites[suite][1] = epoch_new((uint8_t)(CQ_SUITE_AES_256_GCM + suite), 1, 2, LANES);
    }
    memcpy(ends, suites[suite], sizeof ends);
    for (unsigned i = 0; i < LANES; i++) {
        lanes[i].count = 0;
        lanes[i].next = 0;
        cq_replay_init(&ends[1]->rx[i].window);
        atomic_store(&ends[1]->rx[i].blocks, 0);
    }
    input.at = data + 1;
    input.left = size - 1;
    for (unsigned steps = 0; input.left > 0 && steps < OPENED_MAX; steps++) {
        uint8_t control = u8();
        if (control & 1)
            anybody();
        else
            peers(control);
    }
    return 0;
}

#ifndef CQ_LIBFUZZER

static size_t make_input(uint8_t *out)
{
    static const uint8_t kinds[] = {0, 0, 8, 2, 2, 6, 6, 4, 16, 24, 32, 64, 66, 1};
    size_t n = 0;
    out[n++] = (uint8_t)draw(2);
    for (uint32_t steps = 1 + draw(200); steps > 0; steps--) {
        uint8_t control = kinds[draw(sizeof kinds)];
        out[n++] = control;
        if ((control & 7) == 4) { /* a counter far ahead, but seldom so far that nothing comes after it */
            memset(out + n, 0, 8);
            cq_put32(out + n + 4, draw(16) == 0 ? UINT32_MAX : draw(1u << 20));
            n += 8;
        }
        for (uint32_t more = draw(12); more > 0; more--)
            out[n++] = (uint8_t)draw(256);
    }
    return n;
}

#endif
