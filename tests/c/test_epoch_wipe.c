/*
 * No key, IV or window bit is in memory that an epoch hands back to the allocator.
 *
 * free() is wrapped, for csrc/ by the linker and for libcrypto by CRYPTO_set_mem_functions: every block is searched
 * for the secrets just before it is freed. libcrypto's key schedules begin with the raw key, so a search for 8 bytes
 * of it finds them.
 */
#define _DEFAULT_SOURCE 1

#include <malloc.h>

#include <openssl/crypto.h>

#include "check.h"
#include "cq_epoch.h"
#include "cq_wipe.h"

enum { LANES = 3, PIECE = 8, BLOCKS_MAX = 1 << 16 };

static uint8_t secrets[2][LANES][CQ_LANE_SECRET_SIZE];
static unsigned frees, leaks, searching;
static void *blocks[BLOCKS_MAX]; /* libcrypto's live ones, among the first blocks_used */
static unsigned blocks_used;

void __real_free(void *p);
void __wrap_free(void *p);

static bool holds(const uint8_t *block, size_t n, const uint8_t *piece)
{
    for (const uint8_t *at = block; at != NULL && n - (size_t)(at - block) >= PIECE; at++) {
        at = memchr(at, piece[0], n - (size_t)(at - block) - PIECE + 1);
        if (at == NULL)
            return false;
        if (memcmp(at, piece, PIECE) == 0)
            return true;
    }
    return false;
}

static bool holds_secret(const uint8_t *block, size_t n)
{
    for (unsigned d = 0; d < 2; d++)
        for (unsigned lane = 0; lane < LANES; lane++)
            for (unsigned at = 0; at + PIECE <= CQ_LANE_SECRET_SIZE; at += 4)
                if (n >= PIECE && holds(block, n, secrets[d][lane] + at))
                    return true;
    return false;
}

void __wrap_free(void *p)
{
    if (p != NULL && searching) {
        frees++;
        leaks += holds_secret(p, malloc_usable_size(p));
    }
    __real_free(p);
}

static void *crypto_malloc(size_t n, const char *file, int line)
{
    (void)file, (void)line;
    void *p = n != 0 ? calloc(1, n) : NULL; /* zeroed, so that what is found was put there */
    unsigned i = 0;
    while (i < blocks_used && blocks[i] != NULL)
        i++;
    if (i == BLOCKS_MAX)
        abort();
    blocks[i] = p;
    blocks_used = i < blocks_used ? blocks_used : i + 1;
    return p;
}

static void crypto_free(void *p, const char *file, int line)
{
    (void)file, (void)line;
    for (unsigned i = 0; p != NULL && i < blocks_used; i++)
        if (blocks[i] == p)
            blocks[i] = NULL;
    __wrap_free(p);
}

/* Never grows in place, so that what realloc would leave behind is searched too. */
static void *crypto_realloc(void *p, size_t n, const char *file, int line)
{
    size_t had = p != NULL ? malloc_usable_size(p) : 0;
    void *bigger = n != 0 ? crypto_malloc(n, file, line) : NULL;

    if (bigger != NULL && p != NULL)
        memcpy(bigger, p, had < n ? had : n);
    if (bigger != NULL || n == 0)
        crypto_free(p, file, line);
    return bigger;
}

static unsigned live_blocks_with_secrets(void)
{
    unsigned found = 0;

    for (unsigned i = 0; i < blocks_used; i++)
        found += blocks[i] != NULL && holds_secret(blocks[i], malloc_usable_size(blocks[i]));
    return found;
}

/* So many records that a lane does not rest any more, one way. */
static void wake(struct cq_epoch *from, struct cq_epoch *to)
{
    uint8_t record[CQ_OVERHEAD + 100], payload[100] = {0};
    bool newest;

    for (unsigned n = 0; n <= CQ_LANE_RESTS_FOR; n++)
        for (uint8_t lane = 0; lane < LANES; lane++) {
            CHECK_EQUAL(cq_epoch_seal(from, lane, 0, payload, sizeof payload, record), CQ_OK);
            struct cq_header header = cq_wire_read_header(record);
            CHECK_EQUAL(cq_epoch_open(to, &header, record, sizeof record, &newest), CQ_OK);
        }
}

/* A key of our own back ends is one block of malloc's, and one of libcrypto's a tree of blocks that it tracks. */
static bool key_holds_secret(const struct cq_aead_key *key)
{
    if (strncmp(key->ops->name, "evp-", 4) == 0)
        return live_blocks_with_secrets() >= 4 * LANES; /* both ends, both directions */
    return holds_secret(key->state, malloc_usable_size(key->state));
}

/* One end: sends with secrets[end], receives with the other. */
static struct cq_epoch *new_epoch(uint8_t suite, unsigned end)
{
    const struct cq_epoch_params params = {.rx_index = 1,
                                           .tx_index = 1,
                                           .suite = suite,
                                           .tx_lanes = LANES,
                                           .rx_lanes = LANES,
                                           .tx_secrets = secrets[end][0],
                                           .rx_secrets = secrets[!end][0],
                                           .limits = cq_epoch_default_limits()};
    struct cq_epoch *epoch = cq_epoch_new(&params, NULL);

    REQUIRE(epoch != NULL);
    return epoch;
}

static void test_search_finds_what_is_not_wiped(void)
{
    uint8_t *block = malloc(100);

    REQUIRE(block != NULL);
    memset(block, 0, 100);
    memcpy(block + 92, secrets[1][2] + 4, PIECE);
    leaks = 0;
    searching = 1;
    __wrap_free(block);
    searching = 0;
    CHECK_EQUAL(leaks, 1);
}

static const uint8_t suites[] = {CQ_SUITE_AES_256_GCM, CQ_SUITE_CHACHA20_POLY1305};

/* While the lanes rest, each record has its key made and wiped. */
static void test_resting_lanes_leave_nothing(void)
{
    for (unsigned i = 0; i < 2; i++) {
        leaks = frees = 0;
        searching = 1;
        struct cq_epoch *near = new_epoch(suites[i], 0), *far = new_epoch(suites[i], 1);
        wake(near, far);
        searching = 0;
        CHECK(frees >= 2 * LANES * CQ_LANE_RESTS_FOR);
        CHECK_EQUAL(leaks, 0);
        cq_epoch_free(near);
        cq_epoch_free(far);
    }
}

static void test_free_leaves_nothing(void)
{
    for (unsigned i = 0; i < 2; i++) {
        struct cq_epoch *near = new_epoch(suites[i], 0), *far = new_epoch(suites[i], 1);

        wake(near, far);
        wake(far, near);
        /* The search is worth something only if the secrets are there to be found while the keys live. */
        CHECK(holds_secret((uint8_t *)near->tx, sizeof *near->tx));
        CHECK(holds_secret((uint8_t *)far->rx, sizeof *far->rx));
        for (unsigned lane = 0; lane < LANES; lane++) {
            CHECK(key_holds_secret(&near->tx[lane].key.made) && key_holds_secret(&near->rx[lane].key.made));
            CHECK(key_holds_secret(&far->tx[lane].key.made) && key_holds_secret(&far->rx[lane].key.made));
        }
        leaks = frees = 0;
        searching = 1;
        cq_epoch_free(near);
        cq_epoch_free(far);
        searching = 0;
        CHECK(frees >= 2 * (3 + 2 * LANES));
        CHECK_EQUAL(leaks, 0);
        CHECK_EQUAL(live_blocks_with_secrets(), 0);
    }
}

static void test_failed_setup_leaves_nothing(void)
{
    struct cq_epoch_params params = {.rx_index = 1,
                                     .tx_index = 1,
                                     .suite = 9,
                                     .tx_lanes = 1,
                                     .rx_lanes = 1,
                                     .tx_secrets = secrets[0][0],
                                     .rx_secrets = secrets[1][0],
                                     .limits = cq_epoch_default_limits()};
    int error = CQ_OK;

    leaks = frees = 0;
    searching = 1;
    CHECK(cq_epoch_new(&params, &error) == NULL);
    searching = 0;
    CHECK_EQUAL(error, CQ_E_ARGUMENT);
    CHECK_EQUAL(leaks, 0);
}

static void test_wipe_zeroes_exactly(void)
{
    uint8_t p[64];

    memset(p, 0xff, sizeof p);
    cq_wipe(p + 1, 62);
    for (unsigned i = 0; i < 64; i++)
        CHECK_EQUAL(p[i], i == 0 || i == 63 ? 0xff : 0);
    cq_wipe(NULL, 0);
}

int main(void)
{
    /* First of all: libcrypto refuses it after its first allocation. */
    REQUIRE(CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free));
    check_random_bytes(secrets[0][0], sizeof secrets);
    RUN(test_search_finds_what_is_not_wiped);
    RUN(test_resting_lanes_leave_nothing);
    RUN(test_free_leaves_nothing);
    RUN(test_failed_setup_leaves_nothing);
    RUN(test_wipe_zeroes_exactly);
    return check_done();
}
