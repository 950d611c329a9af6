/*
 * Poly1305 of cq_poly1305_ifma.h where random records hardly ever come: sums at the modulus and just below, keys and
 * blocks that make every limb as large as it gets. Vectors of RFC 8439 (A.3), and libcrypto's Poly1305.
 */
#define _DEFAULT_SOURCE 1

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "check.h"
#include "cq_aead.h"

#if defined(__x86_64__)
#include "cq_poly1305_ifma.h"

enum { KEY = 32, BLOCKS = 70 };

/* The tag of whole blocks, with chunks taken one by one or in pairs. */
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2"))) static void
poly1305(const uint8_t key[KEY], const uint8_t *data, unsigned blocks, int pairs, uint8_t tag[CQ_TAG_SIZE])
{
    struct poly_key k = {0};
    const struct poly_steps steps = poly_init(&k, key);
    struct poly_numbers sums = poly_zero(), chunk[2];
    unsigned in_chunk, chunks = 0;

    for (;; blocks -= in_chunk, data += in_chunk * POLY_BLOCK) {
        uint8_t padded[POLY_CHUNK] = {0};
        in_chunk = blocks < POLY_LANES ? blocks : POLY_LANES;
        memcpy(padded, data, (size_t)in_chunk * POLY_BLOCK);
        chunk[chunks] = poly_blocks(_mm512_loadu_si512(padded), _mm512_loadu_si512(padded + POLY_CHUNK / 2),
                                    poly_ends(0, in_chunk));
        if (blocks <= POLY_LANES)
            break;
        chunks++;
        if (!pairs) {
            sums = poly_add_chunk(sums, &steps, chunk[0]);
            chunks = 0;
        } else if (chunks == 2) {
            sums = poly_add_chunks(sums, &steps, chunk[0], chunk[1]);
            chunks = 0;
        }
    }
    if (chunks == 1) {
        sums = poly_add_chunk(sums, &steps, chunk[0]);
        chunk[0] = chunk[1];
    }
    poly_finish(&k, sums, chunk[0], blocks, tag);
}

static void check_tag(const uint8_t key[KEY], const uint8_t *data, unsigned blocks, const uint8_t want[CQ_TAG_SIZE])
{
    uint8_t tag[CQ_TAG_SIZE];

    for (int pairs = 0; pairs < 2; pairs++) {
        poly1305(key, data, blocks, pairs, tag);
        CHECK(memcmp(tag, want, sizeof tag) == 0);
    }
}

static void test_vectors_of_rfc_8439_for_large_sums(void)
{
    static const struct {
        uint8_t r0, s; /* r is this; s is this in every byte */
        unsigned blocks;
        uint8_t data[4 * POLY_BLOCK], tag[CQ_TAG_SIZE];
    } vectors[] = {
#define FF15 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
#define FE14 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe
        {2, 0, 1, {0xff, FF15}, {3}},                                                                   /* 7 */
        {2, 0xff, 1, {2}, {3}},                                                                         /* 8 */
        {1, 0, 3, {0xff, FF15, 0xf0, FF15, 0x11}, {5}},                                                 /* 9 */
        {1, 0, 3, {0xff, FF15, 0xfb, FE14, 0xfe, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {0}}, /* 10 */
        {2, 0, 1, {0xfd, FF15}, {0xfa, FF15}},                                                          /* 11 */
    };

    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        uint8_t key[KEY] = {vectors[i].r0};
        memset(key + 16, vectors[i].s, 16);
        check_tag(key, vectors[i].data, vectors[i].blocks, vectors[i].tag);
    }
}

static void test_extreme_keys_and_blocks_agree_with_libcrypto(void)
{
    enum { FILLS = 4 };
    static uint8_t data[BLOCKS * POLY_BLOCK];
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "POLY1305", NULL);
    REQUIRE(mac != NULL);
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);
    REQUIRE(ctx != NULL);

    /* All bits, random ones, none, and all but the first: of the key, and of the blocks. */
    for (unsigned fill = 0; fill < FILLS * FILLS; fill++)
        for (unsigned blocks = 1; blocks <= BLOCKS; blocks++) {
            uint8_t key[KEY], want[CQ_TAG_SIZE];
            const unsigned of_key = fill % FILLS, of_data = fill / FILLS;
            size_t size;

            check_random_bytes(key, sizeof key);
            check_random_bytes(data, sizeof data);
            if (of_key != 1)
                memset(key, of_key == 2 ? 0 : 0xff, sizeof key);
            if (of_data != 1)
                memset(data, of_data == 2 ? 0 : 0xff, sizeof data);
            if (of_key == 3)
                key[0] = 0;
            if (of_data == 3)
                data[0] = 0xfb;
            REQUIRE(EVP_MAC_init(ctx, key, sizeof key, NULL) == 1);
            REQUIRE(EVP_MAC_update(ctx, data, (size_t)blocks * POLY_BLOCK) == 1);
            REQUIRE(EVP_MAC_final(ctx, want, &size, sizeof want) == 1);
            check_tag(key, data, blocks, want);
        }
    EVP_MAC_CTX_free(ctx);
    EVP_MAC_free(mac);
}

int main(void)
{
    if (cq_aead_backends(CQ_SUITE_CHACHA20_POLY1305, 0) == &cq_aead_avx512_chacha20_poly1305) {
        RUN(test_vectors_of_rfc_8439_for_large_sums);
        RUN(test_extreme_keys_and_blocks_agree_with_libcrypto);
    }
    return check_done();
}
#else
int main(void) { return check_done(); }
#endif
