/*
 * What all AEAD back ends of this CPU promise beyond published vectors (tests/plane/test_aead.py has those): one key in both
 * directions, in place, forgeries, and nothing written past the end. test_aead_kernels.c compares them with libcrypto.
 */
#include <limits.h>
#include <stdbool.h>

#include "check.h"
#include "cq_aead.h"

static const uint8_t suites[] = {CQ_SUITE_AES_256_GCM, CQ_SUITE_CHACHA20_POLY1305};

/* Runs the body once for each back end of each suite. */
#define FOR_EACH_BACKEND(ops)                                                                                          \
    for (unsigned suite_ = 0; suite_ < sizeof suites; suite_++)                                                        \
        for (unsigned index_ = 0; (ops = cq_aead_backends(suites[suite_], index_)) != NULL; index_++)

enum { SIZE = 1500, GUARD = 8 };

struct scene {
    struct cq_aead_key key;
    uint8_t secret[CQ_KEY_SIZE], nonce[CQ_IV_SIZE], aad[CQ_HEADER_SIZE];
    uint8_t plain[SIZE], sealed[SIZE + CQ_TAG_SIZE + GUARD], opened[SIZE + CQ_TAG_SIZE + GUARD];
};

static void scene_init(struct scene *s, const struct cq_aead_ops *ops)
{
    memset(s, 0, sizeof *s);
    check_random_bytes(s->secret, sizeof s->secret);
    check_random_bytes(s->nonce, sizeof s->nonce);
    check_random_bytes(s->aad, sizeof s->aad);
    check_random_bytes(s->plain, sizeof s->plain);
    REQUIRE(ops->init(&s->key, s->secret) == CQ_OK);
    s->key.ops = ops;
}

static int seal(struct scene *s, const uint8_t *in, size_t n, uint8_t *out)
{
    return s->key.ops->seal(&s->key, s->nonce, s->aad, sizeof s->aad, in, n, out);
}

static int open(struct scene *s, const uint8_t *in, size_t n, uint8_t *out)
{
    return s->key.ops->open(&s->key, s->nonce, s->aad, sizeof s->aad, in, n, out);
}

static bool guard_intact(const uint8_t *p)
{
    static const uint8_t guard[GUARD] = {0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5};
    return memcmp(p, guard, GUARD) == 0;
}

static void test_every_length_out_of_place_and_in_place(void)
{
    const struct cq_aead_ops *ops;

    FOR_EACH_BACKEND(ops) {
        struct scene s;

        scene_init(&s, ops);
        for (size_t n = 0; n <= SIZE; n += n < 300 ? 1 : 37) {
            memset(s.sealed, 0xa5, sizeof s.sealed);
            memset(s.opened, 0xa5, sizeof s.opened);
            CHECK_EQUAL(seal(&s, s.plain, n, s.sealed), CQ_OK);
            CHECK(guard_intact(s.sealed + n + CQ_TAG_SIZE));
            /* The same key object turns from sealing to opening and back. */
            CHECK_EQUAL(open(&s, s.sealed, n, s.opened), CQ_OK);
            CHECK(memcmp(s.opened, s.plain, n) == 0);
            CHECK(guard_intact(s.opened + n));
            CHECK_EQUAL(seal(&s, s.opened, n, s.opened), CQ_OK);
            CHECK(memcmp(s.opened, s.sealed, n + CQ_TAG_SIZE) == 0);
            CHECK_EQUAL(open(&s, s.opened, n, s.opened), CQ_OK);
            CHECK(memcmp(s.opened, s.plain, n) == 0);
        }
        cq_aead_wipe(&s.key);
    }
}

static void check_forged(struct scene *s, size_t n)
{
    static const uint8_t zero[SIZE];

    memset(s->opened, 0xa5, sizeof s->opened);
    CHECK_EQUAL(open(s, s->sealed, n, s->opened), CQ_E_AUTH);
    CHECK(memcmp(s->opened, zero, n) == 0);
    CHECK(guard_intact(s->opened + n));
}

static void check_every_bit_forged(struct scene *s, uint8_t *p, size_t size, size_t n)
{
    for (size_t bit = 0; bit < 8 * size; bit++) {
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        check_forged(s, n);
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void test_every_changed_bit_is_refused_and_leaves_zeros(void)
{
    static const size_t sizes[] = {0, 61, 400}; /* nothing, some blocks, some groups of blocks and more */
    const struct cq_aead_ops *ops;

    FOR_EACH_BACKEND(ops) {
        for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const size_t n = sizes[i];
            struct scene s;

            scene_init(&s, ops);
            CHECK_EQUAL(seal(&s, s.plain, n, s.sealed), CQ_OK);
            check_every_bit_forged(&s, s.sealed, n + CQ_TAG_SIZE, n);
            check_every_bit_forged(&s, s.aad, sizeof s.aad, n);
            check_every_bit_forged(&s, s.nonce, sizeof s.nonce, n);
            CHECK_EQUAL(open(&s, s.sealed, n, s.opened), CQ_OK);
            CHECK(memcmp(s.opened, s.plain, n) == 0);
            /* In place too, a forgery leaves nothing of the text. */
            s.sealed[n] ^= 1;
            CHECK_EQUAL(open(&s, s.sealed, n, s.sealed), CQ_E_AUTH);
            for (size_t at = 0; at < n; at++)
                CHECK_EQUAL(s.sealed[at], 0);
            cq_aead_wipe(&s.key);
        }
    }
}

static void test_sizes_beyond_int_are_refused(void)
{
    const struct cq_aead_ops *ops;

    FOR_EACH_BACKEND(ops) {
        const size_t huge = (size_t)INT_MAX + 1;
        struct scene s;

        scene_init(&s, ops);
        CHECK_EQUAL(seal(&s, s.plain, huge, s.sealed), CQ_E_ARGUMENT);
        CHECK_EQUAL(open(&s, s.sealed, huge, s.opened), CQ_E_ARGUMENT);
        CHECK_EQUAL(ops->seal(&s.key, s.nonce, s.aad, huge, s.plain, 1, s.sealed), CQ_E_ARGUMENT);
        CHECK_EQUAL(ops->open(&s.key, s.nonce, s.aad, huge, s.sealed, 1, s.opened), CQ_E_ARGUMENT);
        cq_aead_wipe(&s.key);
    }
}

static void test_backends_are_distinct_and_end(void)
{
    for (unsigned suite = 0; suite < 256; suite++) {
        const struct cq_aead_ops *ops;
        unsigned count = 0;

        for (; (ops = cq_aead_backends((uint8_t)suite, count)) != NULL; count++) {
            CHECK_EQUAL(ops->suite, suite);
            for (unsigned before = 0; before < count; before++)
                CHECK(strcmp(ops->name, cq_aead_backends((uint8_t)suite, before)->name) != 0);
        }
        CHECK(cq_aead_backends((uint8_t)suite, count + 1) == NULL);
        CHECK((count != 0) == (suite == CQ_SUITE_AES_256_GCM || suite == CQ_SUITE_CHACHA20_POLY1305));
    }
    CHECK(cq_aead_cpu_has_aes() || cq_aead_backends(CQ_SUITE_AES_256_GCM, 0) == &cq_aead_evp_aes_256_gcm);
}

static void test_select_and_wipe(void)
{
    struct cq_aead_key key = {0};
    const uint8_t secret[CQ_KEY_SIZE] = {0};

    for (unsigned suite = 0; suite < 256; suite++) {
        const struct cq_aead_ops *ops = cq_aead_select((uint8_t)suite);
        CHECK((ops != NULL) == (suite == CQ_SUITE_AES_256_GCM || suite == CQ_SUITE_CHACHA20_POLY1305));
        if (ops != NULL)
            CHECK_EQUAL(ops->suite, suite);
    }
    CHECK_EQUAL(cq_aead_init(&key, 3, secret), CQ_E_ARGUMENT);
    cq_aead_wipe(&key);
    CHECK_EQUAL(cq_aead_init(&key, CQ_SUITE_AES_256_GCM, secret), CQ_OK);
    cq_aead_wipe(&key);
    cq_aead_wipe(&key);
    CHECK(key.ops == NULL && key.state == NULL);
}

int main(void)
{
    RUN(test_every_length_out_of_place_and_in_place);
    RUN(test_every_changed_bit_is_refused_and_leaves_zeros);
    RUN(test_sizes_beyond_int_are_refused);
    RUN(test_backends_are_distinct_and_end);
    RUN(test_select_and_wipe);
    return check_done();
}
