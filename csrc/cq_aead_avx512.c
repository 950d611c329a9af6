/*
 * ChaCha20-Poly1305 (RFC 8439) for x86-64 with AVX-512 (F, BW, DQ, VL, IFMA). A register holds the same row of the
 * states of four blocks, and up to 24 blocks are computed at once: a packet, and the block with the key of Poly1305.
 * Poly1305 itself is cq_poly1305_ifma.h. Constant time: branches and addresses depend on lengths only, and on whether a
 * tag is right.
 */
#include "cq_aead.h"
#include "cq_wipe.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include "cq_poly1305_ifma.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")))
#define FN POLY_FN

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

enum {
    BLOCK = 64, /* bytes of ChaCha20, and of a register */
    ROUNDS = 20,
    ROW_BLOCKS = 4, /* blocks whose rows share a register */
    GROUPS = 6,     /* of so many blocks, at once: 24 registers of 32 */
    RUN = GROUPS * ROW_BLOCKS,
};

struct state {
    _Alignas(64) uint8_t stream[RUN * BLOCK]; /* scratch: key stream of a record */
    struct poly_key poly;                     /* scratch */
    uint8_t secret[CQ_KEY_SIZE];
};

/* ---- ChaCha20 ---- */

FN __m512i load_row(const void *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128(p)); }

/* A step of a quarter round, RFC 8439, section 2.1, in all groups: x += y; z = (z ^ x) <<< bits. */
#define STEP(x, y, z, bits)                                                                                            \
    do {                                                                                                               \
        UNROLL                                                                                                         \
        for (unsigned g = 0; g < groups; g++)                                                                          \
            x[g] = _mm512_add_epi32(x[g], y[g]);                                                                       \
        UNROLL                                                                                                         \
        for (unsigned g = 0; g < groups; g++)                                                                          \
            z[g] = _mm512_xor_si512(z[g], x[g]);                                                                       \
        UNROLL                                                                                                         \
        for (unsigned g = 0; g < groups; g++)                                                                          \
            z[g] = _mm512_rol_epi32(z[g], bits);                                                                       \
    } while (0)

#define TURN(x, order)                                                                                                 \
    do {                                                                                                               \
        UNROLL                                                                                                         \
        for (unsigned g = 0; g < groups; g++)                                                                          \
            x[g] = _mm512_shuffle_epi32(x[g], order);                                                                  \
    } while (0)

#define ROUND(a, b, c, d)                                                                                              \
    do {                                                                                                               \
        STEP(a, b, d, 16);                                                                                             \
        STEP(c, d, b, 12);                                                                                             \
        STEP(a, b, d, 8);                                                                                              \
        STEP(c, d, b, 7);                                                                                              \
    } while (0)

/* Key stream from a block on, in `groups` (a constant) times four blocks. */
FN void stream_groups(struct state *s, __m128i counter_nonce, unsigned groups)
{
    static const _Alignas(16) char constant[] = "expand 32-byte k"; /* and a zero that nobody reads */
    const __m512i a0 = load_row(constant), b0 = load_row(s->secret), c0 = load_row(s->secret + 16);
    const __m512i d0 = _mm512_add_epi32(_mm512_broadcast_i32x4(counter_nonce),
                                        _mm512_set_epi32(0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0));
    const __m512i four = _mm512_broadcast_i32x4(_mm_cvtsi32_si128(ROW_BLOCKS));
    __m512i a[GROUPS], b[GROUPS], c[GROUPS], d[GROUPS], next = d0;

    UNROLL
    for (unsigned g = 0; g < groups; g++) {
        a[g] = a0;
        b[g] = b0;
        c[g] = c0;
        d[g] = next;
        next = _mm512_add_epi32(next, four);
    }
    for (unsigned i = 0; i < ROUNDS; i += 2) {
        ROUND(a, b, c, d);
        /* From columns to diagonals, and back. Row b stands still: it is the last to be ready. */
        TURN(a, _MM_PERM_CBAD);
        TURN(d, _MM_PERM_BADC);
        TURN(c, _MM_PERM_ADCB);
        ROUND(a, b, c, d);
        TURN(a, _MM_PERM_ADCB);
        TURN(d, _MM_PERM_BADC);
        TURN(c, _MM_PERM_CBAD);
    }
    next = d0;
    UNROLL
    for (unsigned g = 0; g < groups; g++) {
        a[g] = _mm512_add_epi32(a[g], a0);
        b[g] = _mm512_add_epi32(b[g], b0);
        c[g] = _mm512_add_epi32(c[g], c0);
        d[g] = _mm512_add_epi32(d[g], next);
        next = _mm512_add_epi32(next, four);
        /* From rows to blocks. */
        __m512i ab01 = _mm512_shuffle_i32x4(a[g], b[g], 0x44), ab23 = _mm512_shuffle_i32x4(a[g], b[g], 0xee);
        __m512i cd01 = _mm512_shuffle_i32x4(c[g], d[g], 0x44), cd23 = _mm512_shuffle_i32x4(c[g], d[g], 0xee);
        uint8_t *out = s->stream + g * ROW_BLOCKS * BLOCK;
        _mm512_store_si512(out, _mm512_shuffle_i32x4(ab01, cd01, 0x88));
        _mm512_store_si512(out + BLOCK, _mm512_shuffle_i32x4(ab01, cd01, 0xdd));
        _mm512_store_si512(out + 2 * BLOCK, _mm512_shuffle_i32x4(ab23, cd23, 0x88));
        _mm512_store_si512(out + 3 * BLOCK, _mm512_shuffle_i32x4(ab23, cd23, 0xdd));
    }
}

/* At least so many blocks of key stream, at most RUN, from block number `counter` on. */
TARGET static void stream(struct state *s, const uint8_t nonce[CQ_IV_SIZE], uint32_t counter, size_t blocks)
{
    uint32_t words[4] = {counter};
    memcpy(words + 1, nonce, CQ_IV_SIZE);
    const __m128i row = _mm_loadu_si128((const __m128i *)words);

    switch ((blocks + ROW_BLOCKS - 1) / ROW_BLOCKS) {
    case 1: stream_groups(s, row, 1); break;
    case 2: stream_groups(s, row, 2); break;
    case 3: stream_groups(s, row, 3); break;
    case 4: stream_groups(s, row, 4); break;
    case 5: stream_groups(s, row, 5); break;
    default: stream_groups(s, row, 6); break;
    }
}

/* ---- records ---- */

/* A register's first n bytes; all of them, if it has fewer. */
FN __mmask64 first(size_t n) { return _cvtu64_mask64(_bzhi_u64(UINT64_MAX, (unsigned)(n < BLOCK ? n : BLOCK))); }

/* The additional data in the last lane of the sums: 16 bytes in a record, but any length will do. */
FN struct poly_numbers hash_aad(const struct poly_key *key, const uint8_t *aad, size_t n)
{
    const __m512i zero = _mm512_setzero_si512(), last = poly_ends(POLY_LANES - 1, POLY_LANES);
    struct poly_numbers sums = poly_zero();

    while (n != 0) {
        const size_t size = n < POLY_BLOCK ? n : POLY_BLOCK;
        __m128i block = _mm_maskz_loadu_epi8((__mmask16)first(size), aad);
        sums = poly_add(sums, poly_blocks(zero, _mm512_inserti32x4(zero, block, 3), last));
        aad += size;
        n -= size;
        if (n != 0) {
            struct poly_factors r = poly_powers(key, 1);
            r = poly_factors(poly_first(r.r));
            sums = poly_multiply(sums, &r);
        }
    }
    return sums;
}

/* The text of a record on its way. */
struct run {
    const uint8_t *in, *stream;
    uint8_t *out;
    bool sealing; /* a constant */
};

/* Encrypts or decrypts the next n bytes, at most a chunk, and returns their ciphertext to be hashed. */
FN struct poly_numbers crypt_chunk(struct run *run, size_t n, __m512i ends)
{
    __m512i ciphertext[2];

    for (unsigned i = 0; i < 2; i++) {
        const __mmask64 in_text = first(n < i * BLOCK ? 0 : n - i * BLOCK);
        const __m512i text = _mm512_maskz_loadu_epi8(in_text, run->in + i * BLOCK);
        const __m512i result = _mm512_xor_si512(text, _mm512_load_si512(run->stream + i * BLOCK));
        _mm512_mask_storeu_epi8(run->out + i * BLOCK, in_text, result);
        ciphertext[i] = run->sealing ? _mm512_maskz_mov_epi8(in_text, result) : text;
    }
    run->in += POLY_CHUNK;
    run->stream += POLY_CHUNK;
    run->out += POLY_CHUNK;
    return poly_blocks(ciphertext[0], ciphertext[1], ends);
}

/* Encrypts or decrypts a record and computes its tag; `sealing` is a constant. */
FN void crypt(struct state *s, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len, const uint8_t *in,
              size_t n, uint8_t *out, bool sealing, uint8_t tag[CQ_TAG_SIZE])
{
    const __m512i all_ends = poly_ends(0, POLY_LANES);
    struct run run = {.in = in, .out = out, .stream = s->stream + BLOCK, .sealing = sealing};
    size_t left = n, ready; /* bytes of key stream */
    uint32_t counter = 1;

    /* Block 0 has the key of Poly1305. A packet's key stream is computed along with it, a longer text's by itself. */
    ready = n <= (RUN - 1) * BLOCK ? n : 0;
    stream(s, nonce, 0, 1 + (ready + BLOCK - 1) / BLOCK);
    const struct poly_steps steps = poly_init(&s->poly, s->stream);
    struct poly_numbers sums = hash_aad(&s->poly, aad, aad_len);
    for (;;) {
        for (; ready >= 2 * POLY_CHUNK; ready -= 2 * POLY_CHUNK, left -= 2 * POLY_CHUNK) {
            const struct poly_numbers chunk = crypt_chunk(&run, POLY_CHUNK, all_ends);
            sums = poly_add_chunks(sums, &steps, chunk, crypt_chunk(&run, POLY_CHUNK, all_ends));
        }
        if (ready >= POLY_CHUNK) {
            sums = poly_add_chunk(sums, &steps, crypt_chunk(&run, POLY_CHUNK, all_ends));
            ready -= POLY_CHUNK;
            left -= POLY_CHUNK;
        }
        if (ready == left)
            break;
        ready = left < RUN * BLOCK ? left : RUN * BLOCK;
        stream(s, nonce, counter, (ready + BLOCK - 1) / BLOCK);
        counter += RUN;
        run.stream = s->stream;
    }
    /* The last chunk: the rest of the text, and the lengths in a block of their own. */
    unsigned blocks = (unsigned)(left + POLY_BLOCK - 1) / POLY_BLOCK;
    struct poly_numbers last = crypt_chunk(&run, left, poly_ends(0, blocks));
    if (blocks == POLY_LANES) {
        sums = poly_add_chunk(sums, &steps, last);
        last = poly_zero();
        blocks = 0;
    }
    const __mmask8 lane = _mm512_cmpeq_epi64_mask(POLY_ORDER, _mm512_set1_epi64(blocks));
    struct poly_numbers lengths =
        poly_split(_mm512_maskz_set1_epi64(lane, (long long)aad_len), _mm512_maskz_set1_epi64(lane, (long long)n));
    lengths.limb[2] = _mm512_or_si512(lengths.limb[2], poly_ends(blocks, blocks + 1));
    poly_finish(&s->poly, sums, poly_add(last, lengths), blocks + 1, tag);
}

TARGET static int seal(struct cq_aead_key *key, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len,
                       const uint8_t *in, size_t n, uint8_t *out)
{
    if (n > INT_MAX || aad_len > INT_MAX) /* as with EVP; the cipher would allow 2^38 - 64 bytes */
        return CQ_E_ARGUMENT;
    crypt(key->state, nonce, aad, aad_len, in, n, out, true, out + n);
    return CQ_OK;
}

TARGET static int open(struct cq_aead_key *key, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len,
                       const uint8_t *in, size_t n, uint8_t *out)
{
    uint8_t tag[CQ_TAG_SIZE];

    if (n > INT_MAX || aad_len > INT_MAX)
        return CQ_E_ARGUMENT;
    crypt(key->state, nonce, aad, aad_len, in, n, out, false, tag);
    if (!cq_aead_tags_equal(tag, in + n)) {
        /* What was decrypted before the tag was known to be wrong goes nowhere; nor does the right tag. */
        cq_wipe(out, n);
        cq_wipe(tag, sizeof tag);
        return CQ_E_AUTH;
    }
    return CQ_OK;
}

/* ---- keys ---- */

static int init(struct cq_aead_key *key, const uint8_t secret[CQ_KEY_SIZE])
{
    struct state *s = aligned_alloc(_Alignof(struct state), sizeof *s);

    if (s == NULL)
        return CQ_E_MEMORY;
    memset(s, 0, sizeof *s);
    memcpy(s->secret, secret, sizeof s->secret);
    key->state = s;
    return CQ_OK;
}

static void wipe(struct cq_aead_key *key)
{
    cq_wipe_free(key->state, sizeof(struct state));
    key->state = NULL;
}

const struct cq_aead_ops cq_aead_avx512_chacha20_poly1305 = {
    .name = "avx512-chacha20-poly1305",
    .suite = CQ_SUITE_CHACHA20_POLY1305,
    .init = init,
    .seal = seal,
    .open = open,
    .wipe = wipe,
};

#endif
