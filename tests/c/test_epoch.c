/*
 * Epochs where they meet other threads, and at the edges of their arguments and limits. What a record means is
 * compared with a Python twin in tests/plane/test_record.py.
 */
#include "check.h"
#include "cq_epoch.h"

static uint8_t secrets[2][CQ_LANES_MAX * CQ_LANE_SECRET_SIZE];

/* An epoch that talks to itself: both directions have the same secrets. */
static struct cq_epoch_params loop_params(void)
{
    return (struct cq_epoch_params){.rx_index = 0x01020304,
                                    .tx_index = 0x01020304,
                                    .suite = CQ_SUITE_AES_256_GCM,
                                    .tx_lanes = 2,
                                    .rx_lanes = 2,
                                    .tx_secrets = secrets[0],
                                    .rx_secrets = secrets[0],
                                    .limits = cq_epoch_default_limits()};
}

static int open_record(struct cq_epoch *epoch, uint8_t *record, size_t len, bool *newest)
{
    struct cq_header header = cq_wire_read_header(record);
    return cq_epoch_open(epoch, &header, record, len, newest);
}

/* ---- arguments ---- */

static void test_bad_parameters_are_refused(void)
{
    struct cq_epoch_params bad[11];
    int error;

    for (unsigned i = 0; i < 11; i++)
        bad[i] = loop_params();
    bad[0].rx_index = 0;
    bad[1].tx_index = 0;
    bad[2].suite = 3;
    bad[3].tx_lanes = 0;
    bad[4].rx_lanes = 0;
    bad[5].tx_lanes = CQ_LANES_MAX + 1;
    bad[6].rx_lanes = CQ_LANES_MAX + 1;
    bad[7].tx_secrets = NULL;
    bad[8].limits.records_hard = 0;
    bad[9].limits.blocks_hard = 0;
    bad[10].limits.forged_hard = 0;
    for (unsigned i = 0; i < 11; i++) {
        error = CQ_OK;
        CHECK(cq_epoch_new(&bad[i], &error) == NULL);
        CHECK_EQUAL(error, CQ_E_ARGUMENT);
    }
    cq_epoch_free(NULL);
}

static void test_lanes_and_lengths_out_of_range(void)
{
    static uint8_t record[CQ_DATAGRAM_MAX + 1], payload[CQ_DATAGRAM_MAX];
    const struct cq_epoch_params params = loop_params();
    struct cq_epoch *epoch = cq_epoch_new(&params, NULL);
    size_t most = CQ_DATAGRAM_MAX - CQ_OVERHEAD;
    bool newest = true;

    REQUIRE(epoch != NULL);
    CHECK_EQUAL(cq_epoch_seal(epoch, 2, 0, payload, 1, record), CQ_E_ARGUMENT);
    CHECK_EQUAL(cq_epoch_seal(epoch, 0, 0, payload, most + 1, record), CQ_E_ARGUMENT);
    CHECK_EQUAL(epoch->tx[0].counter, 0);
    CHECK_EQUAL(cq_epoch_seal(epoch, 0, 0, payload, most, record), CQ_OK);
    CHECK_EQUAL(open_record(epoch, record, CQ_DATAGRAM_MAX + 1, &newest), CQ_E_MALFORMED);
    CHECK_EQUAL(open_record(epoch, record, CQ_OVERHEAD - 1, &newest), CQ_E_MALFORMED);
    CHECK(!newest);
    CHECK_EQUAL(open_record(epoch, record, CQ_DATAGRAM_MAX, &newest), CQ_OK);
    CHECK(newest);
    CHECK_EQUAL(cq_epoch_seal(epoch, 0, 0, NULL, 0, record), CQ_OK);
    record[1] = 2;
    CHECK_EQUAL(open_record(epoch, record, CQ_OVERHEAD, &newest), CQ_E_MALFORMED);
    CHECK(!newest);
    record[1] = 0;
    CHECK_EQUAL(open_record(epoch, record, CQ_OVERHEAD, &newest), CQ_OK);
    cq_epoch_free(epoch);
}

/* ---- limits ---- */

static void test_hard_limits_are_clamped_to_the_protocol(void)
{
    struct cq_epoch_params params = loop_params();

    params.limits = (struct cq_limits){UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    struct cq_epoch *epoch = cq_epoch_new(&params, NULL);
    REQUIRE(epoch != NULL);
    CHECK_EQUAL(epoch->limits.records_hard, CQ_RECORDS_HARD);
    CHECK_EQUAL(epoch->limits.records_soft, CQ_RECORDS_HARD);
    CHECK_EQUAL(epoch->limits.blocks_hard, CQ_BLOCKS_HARD);
    CHECK_EQUAL(epoch->limits.blocks_soft, CQ_BLOCKS_HARD);
    CHECK_EQUAL(epoch->limits.forged_hard, CQ_FORGED_HARD_AES_256_GCM / 2); /* two lanes */
    CHECK_EQUAL(epoch->limits.forged_soft, CQ_FORGED_HARD_AES_256_GCM / 4);

    /* The last counter is sealed and opened, and no other after it. */
    uint8_t record[CQ_OVERHEAD];
    bool newest;
    epoch->tx[1].counter = CQ_RECORDS_HARD - 1;
    CHECK_EQUAL(cq_epoch_seal(epoch, 1, 0, NULL, 0, record), CQ_OK);
    CHECK_EQUAL(cq_wire_read_header(record).counter, CQ_RECORDS_HARD - 1);
    CHECK_EQUAL(cq_epoch_seal(epoch, 1, 0, NULL, 0, record), CQ_E_LIMIT);
    CHECK_EQUAL(epoch->tx[1].counter, CQ_RECORDS_HARD);
    CHECK_EQUAL(open_record(epoch, record, sizeof record, &newest), CQ_OK);
    CHECK(newest && epoch->soft_limit);
    cq_epoch_free(epoch);
}

static void test_forged_records_are_counted_to_the_last(void)
{
    struct cq_epoch_params params = loop_params();
    params.suite = CQ_SUITE_CHACHA20_POLY1305;
    params.rx_lanes = 1;
    struct cq_epoch *epoch = cq_epoch_new(&params, NULL);
    uint8_t good[CQ_OVERHEAD], record[CQ_OVERHEAD];
    bool newest;

    REQUIRE(epoch != NULL);
    CHECK_EQUAL(epoch->limits.forged_hard, CQ_FORGED_HARD_CHACHA20_POLY1305);
    CHECK_EQUAL(cq_epoch_seal(epoch, 0, 0, NULL, 0, good), CQ_OK);
    epoch->rx[0].forged = CQ_FORGED_HARD_CHACHA20_POLY1305 - 1;
    CHECK(!epoch->attacked && !cq_epoch_is_worn(epoch, 0));
    memcpy(record, good, sizeof record);
    record[CQ_OVERHEAD - 1] ^= 1;
    CHECK_EQUAL(open_record(epoch, record, sizeof record, &newest), CQ_E_AUTH);
    CHECK(epoch->attacked && epoch->soft_limit && cq_epoch_is_worn(epoch, 0));
    CHECK_EQUAL(open_record(epoch, good, sizeof good, &newest), CQ_E_LIMIT);
    cq_epoch_free(epoch);
}

/* ---- threads ---- */

enum { RECORDS = 4000, PAYLOAD = 64, THREADS = 3 };

static uint8_t records[THREADS][RECORDS][PAYLOAD + CQ_OVERHEAD];

struct opener {
    struct cq_epoch *epoch;
    unsigned id;
    uint8_t opened[RECORDS];
    unsigned other;
};

static void *open_all(void *arg)
{
    struct opener *o = arg;

    for (unsigned i = 0; i < RECORDS; i++) {
        /* Each thread goes its own way through the same records, within the window. */
        unsigned at = o->id == 1 ? i ^ 7 : i;
        bool newest;
        int rc = open_record(o->epoch, records[o->id][at], sizeof records[o->id][at], &newest);
        o->opened[at] = rc == CQ_OK;
        o->other += rc != CQ_OK && rc != CQ_E_REPLAY;
    }
    return NULL;
}

static void test_each_record_opens_once_whoever_is_first(void)
{
    static struct opener openers[THREADS];
    const struct cq_epoch_params params = loop_params();
    struct cq_epoch *epoch = cq_epoch_new(&params, NULL);
    uint8_t payload[PAYLOAD];
    pthread_t threads[THREADS];

    REQUIRE(epoch != NULL);
    check_random_bytes(payload, sizeof payload);
    for (unsigned i = 0; i < RECORDS; i++) {
        CHECK_EQUAL(cq_epoch_seal(epoch, 1, CQ_FLAG_VOUCHED, payload, PAYLOAD, records[0][i]), CQ_OK);
        for (unsigned t = 1; t < THREADS; t++)
            memcpy(records[t][i], records[0][i], sizeof records[0][i]);
    }
    for (unsigned t = 0; t < THREADS; t++) {
        openers[t] = (struct opener){.epoch = epoch, .id = t};
        REQUIRE(pthread_create(&threads[t], NULL, open_all, &openers[t]) == 0);
    }
    for (unsigned t = 0; t < THREADS; t++)
        REQUIRE(pthread_join(threads[t], NULL) == 0);
    for (unsigned i = 0; i < RECORDS; i++) {
        unsigned times = 0;
        for (unsigned t = 0; t < THREADS; t++) {
            times += openers[t].opened[i];
            if (openers[t].opened[i])
                CHECK(memcmp(records[t][i] + CQ_HEADER_SIZE, payload, PAYLOAD) == 0);
        }
        CHECK_EQUAL(times, 1);
    }
    for (unsigned t = 0; t < THREADS; t++)
        CHECK_EQUAL(openers[t].other, 0);
    CHECK_EQUAL(epoch->rx[1].records, RECORDS);
    CHECK_EQUAL(epoch->rx[1].blocks, RECORDS * (PAYLOAD / 16 + 1));
    cq_epoch_free(epoch);
}

/* ---- lanes that rest ---- */

static void test_lane_has_its_key_made_once_it_has_carried_some_records(void)
{
    static const uint8_t suites[] = {CQ_SUITE_AES_256_GCM, CQ_SUITE_CHACHA20_POLY1305};
    struct cq_epoch_params params = loop_params();

    for (unsigned i = 0; i < 2; i++) {
        params.suite = suites[i];
        struct cq_epoch *epoch = cq_epoch_new(&params, NULL);
        REQUIRE(epoch != NULL);
        for (unsigned n = 0; n < 2 * CQ_LANE_RESTS_FOR; n++) {
            uint8_t record[CQ_OVERHEAD + 4], payload[4] = {1, 2, 3, (uint8_t)n};
            bool newest;
            CHECK_EQUAL(epoch->tx[1].key.made.state != NULL, n > CQ_LANE_RESTS_FOR);
            CHECK_EQUAL(epoch->rx[1].key.made.state != NULL, n > CQ_LANE_RESTS_FOR);
            CHECK_EQUAL(cq_epoch_seal(epoch, 1, 0, payload, sizeof payload, record), CQ_OK);
            CHECK_EQUAL(open_record(epoch, record, sizeof record, &newest), CQ_OK);
            CHECK(memcmp(record + CQ_HEADER_SIZE, payload, sizeof payload) == 0);
        }
        CHECK(epoch->tx[0].key.made.state == NULL && epoch->rx[0].key.made.state == NULL);
        cq_epoch_free(epoch);
    }
}

int main(void)
{
    check_random_bytes(secrets[0], sizeof secrets);
    RUN(test_bad_parameters_are_refused);
    RUN(test_lanes_and_lengths_out_of_range);
    RUN(test_hard_limits_are_clamped_to_the_protocol);
    RUN(test_forged_records_are_counted_to_the_last);
    RUN(test_each_record_opens_once_whoever_is_first);
    RUN(test_lane_has_its_key_made_once_it_has_carried_some_records);
    return check_done();
}
