/*
 * Each allocation and each eventfd of an epoch, of a change of tables and of a plane fails once: what was being made is
 * not there, what it had taken has been given back, what was there before has not changed, and a later try succeeds.
 *
 * The linker wraps the functions for csrc/ and these tests; libcrypto's own memory is not among them.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "cq_plane.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
void __real_free(void *p);
int __real_eventfd(unsigned count, int flags);
int __real_close(int fd);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);
void __wrap_free(void *p);
int __wrap_eventfd(unsigned count, int flags);
int __wrap_close(int fd);

static long live;          /* blocks and descriptors */
static bool armed;         /* one is going to be refused, */
static unsigned long left; /* after so many */

static bool refused(int error)
{
    if (!armed || left-- != 0)
        return false;
    armed = false;
    errno = error;
    return true;
}

static void *counted(void *p)
{
    live += p != NULL;
    return p;
}

void *__wrap_malloc(size_t n) { return refused(ENOMEM) ? NULL : counted(__real_malloc(n)); }

void *__wrap_calloc(size_t count, size_t n) { return refused(ENOMEM) ? NULL : counted(__real_calloc(count, n)); }

void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    return refused(ENOMEM) ? NULL : counted(__real_aligned_alloc(alignment, n));
}

void __wrap_free(void *p)
{
    live -= p != NULL;
    __real_free(p);
}

int __wrap_eventfd(unsigned count, int flags)
{
    int fd = refused(EMFILE) ? -1 : __real_eventfd(count, flags);
    live += fd >= 0;
    return fd;
}

int __wrap_close(int fd)
{
    live--;
    return __real_close(fd);
}

/* Tries until nothing is refused any more, and returns how often something was. attempt() says whether it succeeded. */
static unsigned long every_shortage(bool (*attempt)(void))
{
    for (unsigned long n = 0;; n++) {
        const long before = live;
        left = n;
        armed = true;
        bool succeeded = attempt();
        REQUIRE(succeeded == armed);
        armed = false;
        if (succeeded)
            return n;
        CHECK_EQUAL(live, before);
    }
}

static const uint8_t secrets[2 * CQ_LANE_SECRET_SIZE];

static struct cq_epoch_params params_of(uint32_t rx_index, uint8_t suite)
{
    return (struct cq_epoch_params){.rx_index = rx_index,
                                    .tx_index = 1,
                                    .suite = suite,
                                    .tx_lanes = 2,
                                    .rx_lanes = 2,
                                    .tx_secrets = secrets,
                                    .rx_secrets = secrets,
                                    .limits = cq_epoch_default_limits()};
}

/* ---- an epoch ---- */

static uint8_t suite;
static struct cq_epoch *epoch;

static bool make_epoch(void)
{
    const struct cq_epoch_params params = params_of(7, suite);
    int error;
    epoch = cq_epoch_new(&params, &error);
    CHECK_EQUAL(error, epoch != NULL ? CQ_OK : CQ_E_MEMORY);
    return epoch != NULL;
}

static void test_epoch(void)
{
    static const uint8_t suites[] = {CQ_SUITE_AES_256_GCM, CQ_SUITE_CHACHA20_POLY1305};
    for (unsigned i = 0; i < 2; i++) {
        const long before = live;
        suite = suites[i];
        /* The epoch and its lanes, and, where the back end is our own, each lane's key. */
        const bool own = strncmp(cq_aead_select(suite)->name, "evp-", 4) != 0;
        CHECK_EQUAL(every_shortage(make_epoch), own ? 7 : 3);
        cq_epoch_free(epoch);
        CHECK_EQUAL(live, before);
    }
}

/* ---- tables ---- */

static struct cq_tables tables;
static uint32_t handle;

static bool init(void)
{
    bool good = cq_table_init(&tables, 2) == CQ_OK;
    if (!good)
        cq_table_destroy(&tables);
    return good;
}

/* A change that fails leaves the very table that was there. */
static bool is_change(struct cq_table *before, int rc)
{
    CHECK(rc == CQ_OK || rc == CQ_E_MEMORY);
    CHECK((atomic_load(&tables.current) == before) == (rc != CQ_OK));
    CHECK_EQUAL(tables.live_epochs, atomic_load(&tables.current)->slot_count);
    return rc == CQ_OK;
}

static bool add_peer(void)
{
    struct cq_table *before = atomic_load(&tables.current);
    return is_change(before, cq_table_add_peer(&tables, &handle));
}

static bool set_routes(void)
{
    static const struct cq_route_entry entries[] = {{.family = 4, .prefix = 8}, {.family = 6, .prefix = 8}};
    struct cq_table *before = atomic_load(&tables.current);
    return is_change(before, cq_table_set_routes(&tables, entries, 2));
}

static bool change_routes(void)
{
    static const struct cq_route_entry changes[] = {{.family = 4, .prefix = 8, .value = CQ_ROUTE_NONE},
                                                    {.family = 6, .prefix = 16, .value = 0}};
    struct cq_table *before = atomic_load(&tables.current);
    const uint8_t in_it[16] = {0};
    bool good = is_change(before, cq_table_change_routes(&tables, changes, 2));
    CHECK_EQUAL(cq_route_lookup4(atomic_load(&tables.current)->routes, in_it), good ? CQ_ROUTE_NONE : 0);
    return good;
}

static bool install(void)
{
    struct cq_table *before = atomic_load(&tables.current);
    return is_change(before, cq_table_install(&tables, handle, epoch));
}

static bool activate(void)
{
    struct cq_table *before = atomic_load(&tables.current);
    return is_change(before, cq_table_activate(&tables, 7));
}

static bool promote(void)
{
    struct cq_table *before = atomic_load(&tables.current);
    return is_change(before, cq_table_promote(&tables, 7));
}

static bool remove_epoch(void)
{
    struct cq_table *before = atomic_load(&tables.current);
    return is_change(before, cq_table_remove(&tables, 7));
}

static const struct cq_access_rule rule = {.family = 4, .last = 99};

static bool set_permits(void)
{
    int error;
    struct cq_table *before = atomic_load(&tables.current);
    struct cq_permit *permit = cq_table_make_permit(&tables, &rule, 1, &error);
    const struct cq_table_permit change = {handle, permit};
    const bool done = permit != NULL && is_change(before, cq_table_set_permits(&tables, &change, 1, permit));
    cq_table_drop_permit(permit);
    CHECK(done || error == CQ_E_MEMORY || permit != NULL);
    return done;
}

static bool remove_peer(void)
{
    struct cq_table *before = atomic_load(&tables.current);
    return is_change(before, cq_table_remove_peer(&tables, handle));
}

static void test_table(void)
{
    const long before = live;
    CHECK(every_shortage(init) > 3);
    CHECK(every_shortage(add_peer) > 3);
    CHECK(every_shortage(set_routes) > 3);
    CHECK(every_shortage(change_routes) > 3);
    suite = CQ_SUITE_AES_256_GCM;
    REQUIRE(make_epoch());
    CHECK(every_shortage(install) > 3); /* until it is installed, the epoch is the caller's */
    CHECK(every_shortage(activate) > 3);
    CHECK(every_shortage(promote) > 3);
    CHECK(every_shortage(remove_epoch) > 3);
    REQUIRE(make_epoch());
    REQUIRE(install());
    CHECK(every_shortage(set_permits) > 9);
    CHECK(every_shortage(remove_peer) > 3);
    cq_table_destroy(&tables);
    CHECK_EQUAL(live, before);
}

/* ---- a plane ---- */

static struct cq_worker_options options;
static struct cq_plane *plane;

static bool make_plane(void)
{
    plane = cq_plane_new(&options);
    CHECK(plane != NULL || errno == ENOMEM || errno == EMFILE);
    return plane != NULL;
}

static void test_plane(void)
{
    static const int fds[] = {-1, -1, -1, -1};
    for (unsigned gro = 0; gro < 2; gro++) {
        const long before = live;
        options = (struct cq_worker_options){
            .workers = 2, .tun_fds = fds, .groups = 2, .udp_fds = fds, .families = {2, 2}, .mtu = 1420, .udp_gro = gro};
        CHECK(every_shortage(make_plane) > 60); /* two workers each way, and one more for what is injected */
        cq_plane_free(plane);
        CHECK_EQUAL(live, before);
    }
}

int main(void)
{
    RUN(test_epoch);
    RUN(test_table);
    RUN(test_plane);
    return check_done();
}
