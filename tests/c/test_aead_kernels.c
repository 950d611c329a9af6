/*
 * Every back end of this CPU against libcrypto's: all lengths up to several groups, spans and counter bytes (see
 * cq_gcm_template.h) or runs of key stream (cq_aead_avx512.c), all alignments, all short additional data, long texts,
 * and memory that ends or begins at a page which may not be touched.
 */
#define _DEFAULT_SOURCE 1 /* MAP_ANONYMOUS */

#include <stdbool.h>
#include <sys/mman.h>

#include "check.h"
#include "cq_aead.h"

enum { LENGTHS = 4096, LONG = 65535, AAD = 64, ALIGNMENTS = 64, ROOM = LONG + CQ_TAG_SIZE + ALIGNMENTS, PAGE = 4096 };

static const uint8_t suites[] = {CQ_SUITE_AES_256_GCM, CQ_SUITE_CHACHA20_POLY1305};

static struct cq_aead_key oracle, key;
static uint8_t nonce[CQ_IV_SIZE], aad[AAD], plain[LONG];
static _Alignas(64) uint8_t want[ROOM], sealed[ROOM], opened[ROOM];

static void new_keys(const struct cq_aead_ops *ops)
{
    uint8_t secret[CQ_KEY_SIZE];

    check_random_bytes(secret, sizeof secret);
    check_random_bytes(nonce, sizeof nonce);
    oracle.ops = ops->suite == CQ_SUITE_AES_256_GCM ? &cq_aead_evp_aes_256_gcm : &cq_aead_evp_chacha20_poly1305;
    key.ops = ops;
    REQUIRE(oracle.ops->init(&oracle, secret) == CQ_OK);
    REQUIRE(ops->init(&key, secret) == CQ_OK);
}

static void wipe_keys(void)
{
    cq_aead_wipe(&oracle);
    cq_aead_wipe(&key);
}

/* Both directions, out of place and in place, with the sealed record at one offset in memory and the text at another.
 * The bytes on both sides of the output stay what they were. */
static void check_record(size_t n, size_t aad_len, size_t at_sealed, size_t at_opened)
{
    uint8_t *s = sealed + 1 + at_sealed, *o = opened + 1 + at_opened;

    CHECK_EQUAL(oracle.ops->seal(&oracle, nonce, aad, aad_len, plain, n, want), CQ_OK);
    memcpy(o, plain, n);
    s[-1] = s[n + CQ_TAG_SIZE] = 0xa5;
    CHECK_EQUAL(key.ops->seal(&key, nonce, aad, aad_len, o, n, s), CQ_OK);
    CHECK(memcmp(s, want, n + CQ_TAG_SIZE) == 0);
    CHECK(s[-1] == 0xa5 && s[n + CQ_TAG_SIZE] == 0xa5);
    memset(o, 0, n);
    o[-1] = o[n] = 0xa5;
    CHECK_EQUAL(key.ops->open(&key, nonce, aad, aad_len, s, n, o), CQ_OK);
    CHECK(memcmp(o, plain, n) == 0);
    CHECK(o[-1] == 0xa5 && o[n] == 0xa5);
    CHECK_EQUAL(key.ops->open(&key, nonce, aad, aad_len, s, n, s), CQ_OK);
    CHECK(memcmp(s, plain, n) == 0);
    CHECK_EQUAL(key.ops->seal(&key, nonce, aad, aad_len, s, n, s), CQ_OK);
    CHECK(memcmp(s, want, n + CQ_TAG_SIZE) == 0);
    CHECK(s[-1] == 0xa5 && s[n + CQ_TAG_SIZE] == 0xa5);
}

static void every_length(void)
{
    for (size_t n = 0; n <= LENGTHS; n++)
        check_record(n, CQ_HEADER_SIZE, n % ALIGNMENTS, n * 7 % ALIGNMENTS);
}

static void every_alignment(void)
{
    static const size_t sizes[] = {77, 1420};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t at = 0; at < ALIGNMENTS; at++) {
            check_record(sizes[i], CQ_HEADER_SIZE, at, 0);
            check_record(sizes[i], CQ_HEADER_SIZE, 0, at);
            check_record(sizes[i], CQ_HEADER_SIZE, at, at);
        }
}

static void every_aad_length(void)
{
    static const size_t sizes[] = {0, 1, 64, 333, 1500, 1600};

    for (size_t aad_len = 0; aad_len <= AAD; aad_len++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            check_record(sizes[i], aad_len, 0, 0);
}

static void long_texts(void)
{
    static const size_t sizes[] = {8192, 9001, 16383, 32768, 65503, LONG};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_record(sizes[i], CQ_HEADER_SIZE, i, 3 * i);
}

/* Of a nonce of random bytes, only the counter after it may change. */
static void extreme_nonces(void)
{
    for (unsigned byte = 0; byte < 256; byte += 255) {
        memset(nonce, (int)byte, sizeof nonce);
        for (size_t n = 3900; n <= 4300; n += 50)
            check_record(n, CQ_HEADER_SIZE, 0, 0);
    }
}

/* n bytes that end, or begin, where a page that may not be touched begins or ends. */
struct fenced {
    uint8_t *map, *begin, *end; /* the usable part */
};

static struct fenced fenced_new(size_t pages)
{
    uint8_t *map = mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    REQUIRE(map != MAP_FAILED);
    REQUIRE(mprotect(map + PAGE, pages * PAGE, PROT_READ | PROT_WRITE) == 0);
    return (struct fenced){.map = map, .begin = map + PAGE, .end = map + (pages + 1) * PAGE};
}

static uint8_t *place(struct fenced f, size_t n, bool at_end) { return at_end ? f.end - n : f.begin; }

static void nothing_beyond_the_buffers(void)
{
    enum { PAGES = 1, INPUTS = 5 };
    struct fenced f[INPUTS];

    for (unsigned i = 0; i < INPUTS; i++)
        f[i] = fenced_new(PAGES);
    for (unsigned side = 0; side < 2; side++)
        for (size_t n = 0; n <= 1700; n += n < 600 ? 1 : 13) {
            const bool at_end = side == 0;
            const size_t aad_len = n % (AAD + 1);
            uint8_t *text = place(f[0], n, at_end), *record = place(f[1], n + CQ_TAG_SIZE, at_end);
            uint8_t *data = place(f[2], aad_len, at_end), *iv = place(f[3], CQ_IV_SIZE, at_end);
            uint8_t *result = place(f[4], n, at_end);

            memcpy(text, plain, n);
            memcpy(data, aad, aad_len);
            memcpy(iv, nonce, CQ_IV_SIZE);
            CHECK_EQUAL(key.ops->seal(&key, iv, data, aad_len, text, n, record), CQ_OK);
            CHECK_EQUAL(key.ops->open(&key, iv, data, aad_len, record, n, result), CQ_OK);
            CHECK(memcmp(result, plain, n) == 0);
        }
    for (unsigned i = 0; i < INPUTS; i++)
        REQUIRE(munmap(f[i].map, (PAGES + 2) * PAGE) == 0);
}

static void state_is_aligned(void) { CHECK(key.ops == oracle.ops || (uintptr_t)key.state % 64 == 0); }

/* Runs a check with fresh keys for each back end, and says which one failed. */
static void with_each_backend(void (*check)(void))
{
    const struct cq_aead_ops *ops;

    for (size_t suite = 0; suite < sizeof suites; suite++)
        for (unsigned i = 0; (ops = cq_aead_backends(suites[suite], i)) != NULL; i++) {
            unsigned before = check_failures;

            new_keys(ops);
            check();
            wipe_keys();
            CHECK(key.ops == NULL && key.state == NULL);
            if (check_failures != before)
                fprintf(stderr, "    in %s\n", ops->name);
        }
}

static void test_every_length(void) { with_each_backend(every_length); }
static void test_every_alignment(void) { with_each_backend(every_alignment); }
static void test_every_aad_length(void) { with_each_backend(every_aad_length); }
static void test_long_texts(void) { with_each_backend(long_texts); }
static void test_extreme_nonces(void) { with_each_backend(extreme_nonces); }
static void test_nothing_beyond_the_buffers(void) { with_each_backend(nothing_beyond_the_buffers); }
static void test_state_is_aligned_and_wiped(void) { with_each_backend(state_is_aligned); }

int main(void)
{
    check_random_bytes(aad, sizeof aad);
    check_random_bytes(plain, sizeof plain);
    RUN(test_every_length);
    RUN(test_every_alignment);
    RUN(test_every_aad_length);
    RUN(test_long_texts);
    RUN(test_extreme_nonces);
    RUN(test_nothing_beyond_the_buffers);
    RUN(test_state_is_aligned_and_wiped);
    return check_done();
}
