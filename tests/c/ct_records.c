/*
 * Keys records and epochs with secrets that valgrind takes for undefined: memcheck then reports each branch and each
 * address that depends on one (A. Langley, ctgrind, 2010).
 *
 *   valgrind --error-exitcode=1 ct_records BACKEND      (tests/plane/test_constant_time.py)
 *
 * Secret are key, IV and nonce, and the plaintext when it is sealed; public are lengths, headers, ciphertexts and tags.
 * Whether a tag is right is the one thing that a secret decides and that becomes public: cq_aead_tags_equal is wrapped.
 * Exit status 2: this CPU, or valgrind's idea of it, has no such back end.
 */
#include <string.h>

#include <valgrind/memcheck.h>

#include "check.h"
#include "cq_epoch.h"

enum { ROOM = 9000 };

static uint8_t secret[CQ_LANE_SECRET_SIZE], nonce[CQ_IV_SIZE], aad[64];
static uint8_t plain[ROOM], sealed[ROOM + CQ_OVERHEAD], opened[ROOM];
/* Every way through a kernel: parts of blocks, vectors and groups, spans, counters beyond the kept ones. */
static const size_t sizes[] = {0,  1,  3,   4,   7,   8,   9,   15,  16,   17,   31,   32,  33,
                               63, 64, 100, 127, 128, 129, 300, 512, 1400, 1420, 2100, ROOM};

int __real_cq_aead_tags_equal(const uint8_t *a, const uint8_t *b);
int __wrap_cq_aead_tags_equal(const uint8_t *a, const uint8_t *b);

int __wrap_cq_aead_tags_equal(const uint8_t *a, const uint8_t *b)
{
    int equal = __real_cq_aead_tags_equal(a, b);

    VALGRIND_MAKE_MEM_DEFINED(&equal, sizeof equal);
    return equal;
}

static void make_secret(void *p, size_t n) { VALGRIND_MAKE_MEM_UNDEFINED(p, n); }
static void make_public(void *p, size_t n) { VALGRIND_MAKE_MEM_DEFINED(p, n); }

static void run_records(const struct cq_aead_ops *ops)
{
    struct cq_aead_key key = {.ops = ops};

    make_secret(secret, sizeof secret);
    make_secret(nonce, sizeof nonce);
    REQUIRE(ops->init(&key, secret) == CQ_OK);
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t aad_len = 0; aad_len <= sizeof aad; aad_len += aad_len < 17 ? 8 : 47) {
            const size_t n = sizes[i];
            make_secret(plain, sizeof plain);
            CHECK_EQUAL(ops->seal(&key, nonce, aad, aad_len, plain, n, sealed), CQ_OK);
            make_public(sealed, n + CQ_TAG_SIZE);
            CHECK_EQUAL(ops->open(&key, nonce, aad, aad_len, sealed, n, opened), CQ_OK);
            sealed[n] ^= 1;
            CHECK_EQUAL(ops->open(&key, nonce, aad, aad_len, sealed, n, opened), CQ_E_AUTH);
        }
    ops->wipe(&key);
}

/* The nonce from the IV, and what becomes of the lanes' secrets; with the back end that CRYPRQ_AEAD_BACKEND names. */
static void run_epoch(uint8_t suite)
{
    const struct cq_epoch_params params = {
        .rx_index = 1,
        .tx_index = 1,
        .suite = suite,
        .tx_lanes = 1,
        .rx_lanes = 1,
        .tx_secrets = secret,
        .rx_secrets = secret,
        .limits = cq_epoch_default_limits(),
    };
    bool newest;

    make_secret(secret, sizeof secret);
    struct cq_epoch *epoch = cq_epoch_new(&params, NULL);
    REQUIRE(epoch != NULL);
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const size_t n = sizes[i];
        make_secret(plain, sizeof plain);
        CHECK_EQUAL(cq_epoch_seal(epoch, 0, 0, plain, n, sealed), CQ_OK);
        make_public(sealed, n + CQ_OVERHEAD);
        const struct cq_header header = cq_wire_read_header(sealed);
        CHECK_EQUAL(cq_epoch_open(epoch, &header, sealed, n + CQ_OVERHEAD, &newest), CQ_OK);
    }
    cq_epoch_free(epoch);
}

int main(int argc, char **argv)
{
    static const uint8_t suites[] = {CQ_SUITE_AES_256_GCM, CQ_SUITE_CHACHA20_POLY1305};
    const struct cq_aead_ops *ops;

    for (unsigned s = 0; argc == 2 && s < sizeof suites; s++)
        for (unsigned i = 0; (ops = cq_aead_backends(suites[s], i)) != NULL; i++)
            if (strcmp(ops->name, argv[1]) == 0) {
                run_records(ops);
                run_epoch(suites[s]);
                return check_done();
            }
    return 2;
}
