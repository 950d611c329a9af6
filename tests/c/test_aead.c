/*
 * What the AEAD back ends promise beyond published vectors (tests/test_aead.py has those): one key in both directions,
 * in place, forgeries, and nothing written past the end.
 */
#include <stdbool.h>

#include "check.h"
#include "cq_aead.h"

static const uint8_t suites[] = {CQ_SUITE_AES_256_GCM, CQ_SUITE_CHACHA20_POLY1305};

enum { SIZE = 1500, GUARD = 8 };

struct scene {
    struct cq_aead_key key;
    uint8_t secret[CQ_KEY_SIZE], nonce[CQ_IV_SIZE], aad[CQ_HEADER_SIZE];
    uint8_t plain[SIZE], sealed[SIZE + CQ_TAG_SIZE + GUARD], opened[SIZE + CQ_TAG_SIZE + GUARD];
};

static void scene_init(struct scene *s, uint8_t suite)
{
    memset(s, 0, sizeof *s);
    check_random_bytes(s->secret, sizeof s->secret);
    check_random_bytes(s->nonce, sizeof s->nonce);
    check_random_bytes(s->aad, sizeof s->aad);
    check_random_bytes(s->plain, sizeof s->plain);
    REQUIRE(cq_aead_init(&s->key, suite, s->secret) == CQ_OK);
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
    for (unsigned i = 0; i < sizeof suites; i++) {
        struct scene s;

        scene_init(&s, suites[i]);
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

static void test_every_changed_bit_is_refused_and_leaves_zeros(void)
{
    enum { N = 61 };

    for (unsigned i = 0; i < sizeof suites; i++) {
        struct scene s;

        scene_init(&s, suites[i]);
        CHECK_EQUAL(seal(&s, s.plain, N, s.sealed), CQ_OK);
        for (unsigned bit = 0; bit < 8 * (N + CQ_TAG_SIZE); bit++) {
            s.sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
            check_forged(&s, N);
            s.sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        for (unsigned bit = 0; bit < 8 * CQ_HEADER_SIZE; bit++) {
            s.aad[bit / 8] ^= (uint8_t)(1 << bit % 8);
            check_forged(&s, N);
            s.aad[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        for (unsigned bit = 0; bit < 8 * CQ_IV_SIZE; bit++) {
            s.nonce[bit / 8] ^= (uint8_t)(1 << bit % 8);
            check_forged(&s, N);
            s.nonce[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        CHECK_EQUAL(open(&s, s.sealed, N, s.opened), CQ_OK);
        CHECK(memcmp(s.opened, s.plain, N) == 0);
        cq_aead_wipe(&s.key);
    }
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
    RUN(test_select_and_wipe);
    return check_done();
}
