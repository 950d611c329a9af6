/*
 * A worker and the tables: what it uses is freed only when its stack and registers are scrubbed, be it that it sleeps,
 * or that it goes on without ever sleeping.
 *
 * cq_scrub is wrapped: it looks whether a table that the worker is leaving could be freed already.
 */
#include <string.h>

#include "check.h"
#include "cq_worker.h"

enum { INDEX = 7 };

static struct cq_worker_shared shared;
static struct cq_worker worker;
static uint32_t peer;
static unsigned scrubs;
static size_t live_at_scrub;

void __real_cq_scrub(void);
void __wrap_cq_scrub(void);

void __wrap_cq_scrub(void)
{
    __real_cq_scrub();
    scrubs++;
    cq_table_reclaim(&shared.tables);
    live_at_scrub = shared.tables.live_epochs;
}

static void set_up(void)
{
    static const int fds[1] = {-1};
    const struct cq_worker_options options = {.workers = 1, .tun_fds = fds, .groups = 1, .udp_fds = fds, .mtu = 1420};

    memset(&worker, 0, sizeof worker);
    REQUIRE(cq_worker_shared_init(&shared, &options) == 0);
    REQUIRE(cq_worker_init(&worker, &shared, 0, 0));
    REQUIRE(cq_table_add_peer(&shared.tables, &peer) == CQ_OK);
}

static void tear_down(void)
{
    cq_worker_close(&worker);
    cq_worker_shared_free(&shared);
}

static void install(void)
{
    uint8_t secret[CQ_LANE_SECRET_SIZE];
    const struct cq_epoch_params params = {
        .rx_index = INDEX,
        .tx_index = INDEX,
        .suite = CQ_SUITE_AES_256_GCM,
        .tx_lanes = 1,
        .rx_lanes = 1,
        .tx_secrets = secret,
        .rx_secrets = secret,
        .expires_ns = UINT64_MAX,
        .limits = cq_epoch_default_limits(),
    };

    check_random_bytes(secret, sizeof secret);
    scrubs = 0;
    struct cq_epoch *epoch = cq_epoch_new(&params, NULL);
    REQUIRE(epoch != NULL);
    CHECK_EQUAL(scrubs, 1); /* of the key schedules */
    REQUIRE(cq_table_install(&shared.tables, peer, epoch) == CQ_OK);
    scrubs = 0;
}

static void remove_epoch(void)
{
    CHECK_EQUAL(cq_table_remove(&shared.tables, INDEX), CQ_OK);
    cq_table_reclaim(&shared.tables);
    CHECK_EQUAL(shared.tables.live_epochs, 1); /* the worker may still use it */
}

/* It never sleeps: the next batch leaves the old table, scrubbed. */
static void test_busy_worker(void)
{
    set_up();
    install();
    cq_worker_begin(&worker);
    CHECK(cq_table_find(worker.table, INDEX) != NULL);
    cq_worker_begin(&worker);
    CHECK_EQUAL(scrubs, 0); /* nothing has changed, so a batch costs nothing more */
    remove_epoch();
    CHECK_EQUAL(scrubs, 0);
    cq_worker_begin(&worker);
    CHECK_EQUAL(scrubs, 1);
    CHECK_EQUAL(live_at_scrub, 1);
    CHECK(cq_table_find(worker.table, INDEX) == NULL);
    cq_table_reclaim(&shared.tables);
    CHECK_EQUAL(shared.tables.live_epochs, 0);
    cq_worker_rest(&worker);
    tear_down();
}

static void test_resting_worker(void)
{
    set_up();
    install();
    cq_worker_begin(&worker);
    remove_epoch();
    cq_worker_rest(&worker);
    CHECK_EQUAL(scrubs, 1);
    CHECK_EQUAL(live_at_scrub, 1);
    CHECK(worker.table == NULL);
    cq_table_reclaim(&shared.tables);
    CHECK_EQUAL(shared.tables.live_epochs, 0);
    cq_worker_rest(&worker); /* it has used nothing since */
    CHECK_EQUAL(scrubs, 1);
    tear_down();
}

int main(void)
{
    RUN(test_busy_worker);
    RUN(test_resting_worker);
    return check_done();
}
