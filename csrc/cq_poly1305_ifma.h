/*
 * Poly1305 (RFC 8439, section 2.5) with AVX-512 and its 52-bit multiplication (IFMA), eight blocks at a time.
 *
 * A number modulo 2^130 - 5 has three limbs of 44, 44 and 42 bits, with some room above. Each of the eight lanes of a
 * vector holds one number. The lanes are eight interleaved sums: they are multiplied by r^8, and a chunk of eight blocks
 * is added. At the end each lane is multiplied by the power of r that it lacks, and all are added up.
 *
 * Constant time: there is neither a branch nor an address that depends on anything but lengths.
 */
#ifndef CQ_POLY1305_IFMA_H
#define CQ_POLY1305_IFMA_H

#include <immintrin.h>

#include "cq_aead.h"

#define POLY_FN                                                                                                        \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2"), always_inline)) static inline

enum {
    POLY_BLOCK = 16, /* bytes */
    POLY_LANES = 8,
    POLY_CHUNK = POLY_LANES * POLY_BLOCK,
    POLY_POWERS = 2 * POLY_LANES,
};

#define POLY_MASK44 0xfffffffffffu
#define POLY_MASK42 0x3ffffffffffu

/* Eight numbers. */
struct poly_numbers {
    __m512i limb[3];
};

/* Eight numbers to multiply by: with limbs 1 and 2 times 20, since 2^132 is 4 * 5 modulo 2^130 - 5. */
struct poly_factors {
    struct poly_numbers r;
    __m512i times20[3]; /* the first is not used */
};

/* What a record needs of its one-time key. */
struct poly_key {
    _Alignas(64) uint64_t powers[3][POLY_POWERS + POLY_LANES]; /* each limb of r^16 down to r^1, and zeros */
    uint64_t s[2];
};

POLY_FN struct poly_numbers poly_zero(void)
{
    const __m512i zero = _mm512_setzero_si512();
    return (struct poly_numbers){{zero, zero, zero}};
}

POLY_FN __m512i poly_times20(__m512i a) { return _mm512_add_epi64(_mm512_slli_epi64(a, 4), _mm512_slli_epi64(a, 2)); }

POLY_FN struct poly_factors poly_factors(struct poly_numbers r)
{
    return (struct poly_factors){r, {r.limb[0], poly_times20(r.limb[1]), poly_times20(r.limb[2])}};
}

/* A sum of products: what is below 2^52 of each, and what is above. */
struct poly_products {
    __m512i lo[3], hi[3];
};

POLY_FN struct poly_products poly_no_products(void)
{
    const __m512i zero = _mm512_setzero_si512();
    return (struct poly_products){{zero, zero, zero}, {zero, zero, zero}};
}

POLY_FN void poly_multiply_add(struct poly_products *p, struct poly_numbers a, const struct poly_factors *f)
{
    const __m512i factor[3][3] = {
        {f->r.limb[0], f->r.limb[1], f->r.limb[2]},
        {f->times20[2], f->r.limb[0], f->r.limb[1]},
        {f->times20[1], f->times20[2], f->r.limb[0]},
    };

    for (unsigned i = 0; i < 3; i++)
        for (unsigned j = 0; j < 3; j++) {
            p->lo[j] = _mm512_madd52lo_epu64(p->lo[j], a.limb[i], factor[i][j]);
            p->hi[j] = _mm512_madd52hi_epu64(p->hi[j], a.limb[i], factor[i][j]);
        }
}

/* Brings the limbs back to their sizes, but for a few bits. An upper part counts 2^52, 2^8 times the next limb. */
POLY_FN struct poly_numbers poly_carry(struct poly_products p)
{
    const __m512i mask44 = _mm512_set1_epi64(POLY_MASK44), mask42 = _mm512_set1_epi64(POLY_MASK42);
    __m512i a = _mm512_add_epi64(p.lo[0], _mm512_slli_epi64(poly_times20(p.hi[2]), 8));
    __m512i b = _mm512_add_epi64(p.lo[1], _mm512_slli_epi64(p.hi[0], 8));
    __m512i c = _mm512_add_epi64(p.lo[2], _mm512_slli_epi64(p.hi[1], 8));
    __m512i over = _mm512_srli_epi64(c, 42);

    over = _mm512_add_epi64(over, _mm512_slli_epi64(over, 2)); /* 2^130 is 5 */
    return (struct poly_numbers){{
        _mm512_add_epi64(_mm512_and_si512(a, mask44), over),
        _mm512_add_epi64(_mm512_and_si512(b, mask44), _mm512_srli_epi64(a, 44)),
        _mm512_add_epi64(_mm512_and_si512(c, mask42), _mm512_srli_epi64(b, 44)),
    }};
}

POLY_FN struct poly_numbers poly_multiply(struct poly_numbers a, const struct poly_factors *f)
{
    struct poly_products p = poly_no_products();

    poly_multiply_add(&p, a, f);
    return poly_carry(p);
}

/* The numbers whose halves are in two vectors, below 2^128. */
POLY_FN struct poly_numbers poly_split(__m512i lo, __m512i hi)
{
    const __m512i mask44 = _mm512_set1_epi64(POLY_MASK44);

    return (struct poly_numbers){{
        _mm512_and_si512(lo, mask44),
        _mm512_and_si512(_mm512_or_si512(_mm512_srli_epi64(lo, 44), _mm512_slli_epi64(hi, 20)), mask44),
        _mm512_srli_epi64(hi, 24),
    }};
}

/* A chunk as numbers: its blocks, and 2^128 above those that are there (poly_ends). Unpacking leaves the lanes in this
 * order of blocks. */
#define POLY_ORDER _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0)
POLY_FN struct poly_numbers poly_blocks(__m512i first, __m512i second, __m512i ends)
{
    struct poly_numbers m = poly_split(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));

    m.limb[2] = _mm512_or_si512(m.limb[2], ends);
    return m;
}

/* 2^128 in the lanes of blocks from `from` to before `to`. */
POLY_FN __m512i poly_ends(unsigned from, unsigned to)
{
    const __mmask8 in = _mm512_cmpge_epu64_mask(POLY_ORDER, _mm512_set1_epi64(from)) &
                        _mm512_cmplt_epu64_mask(POLY_ORDER, _mm512_set1_epi64(to));
    return _mm512_maskz_set1_epi64(in, 1ll << (128 - 88));
}

POLY_FN struct poly_numbers poly_add(struct poly_numbers a, struct poly_numbers b)
{
    for (unsigned i = 0; i < 3; i++)
        a.limb[i] = _mm512_add_epi64(a.limb[i], b.limb[i]);
    return a;
}

/* Lanes from a where the mask is set, else from b. */
POLY_FN struct poly_numbers poly_choose(__mmask8 mask, struct poly_numbers a, struct poly_numbers b)
{
    for (unsigned i = 0; i < 3; i++)
        a.limb[i] = _mm512_mask_mov_epi64(b.limb[i], mask, a.limb[i]);
    return a;
}

/* The first lane in every lane. */
POLY_FN struct poly_numbers poly_first(struct poly_numbers a)
{
    for (unsigned i = 0; i < 3; i++)
        a.limb[i] = _mm512_broadcastq_epi64(_mm512_castsi512_si128(a.limb[i]));
    return a;
}

/* r^8 and r^16. */
struct poly_steps {
    struct poly_factors one, two;
};

/* Takes the 32 bytes of a one-time key. */
POLY_FN struct poly_steps poly_init(struct poly_key *key, const uint8_t *bytes)
{
    uint64_t r[2];

    memcpy(r, bytes, sizeof r);
    memcpy(key->s, bytes + sizeof r, sizeof key->s);
    struct poly_numbers r1 = poly_split(_mm512_set1_epi64((long long)(r[0] & 0x0ffffffc0fffffffu)),
                                        _mm512_set1_epi64((long long)(r[1] & 0x0ffffffc0ffffffcu)));
    /* r^2, r^1 and again; then r^4 to r^1 and again; then r^8 to r^1; then r^16 to r^9 */
    struct poly_factors f = poly_factors(r1);
    struct poly_numbers next = poly_multiply(r1, &f);
    struct poly_numbers powers = poly_choose(0x55, next, r1);
    f = poly_factors(next);
    next = poly_multiply(powers, &f);
    powers = poly_choose(0x33, next, powers);
    f = poly_factors(poly_first(next));
    next = poly_multiply(powers, &f);
    powers = poly_choose(0x0f, next, powers);
    f = poly_factors(poly_first(next));
    next = poly_multiply(powers, &f);
    for (unsigned i = 0; i < 3; i++) {
        _mm512_store_si512(key->powers[i], next.limb[i]);
        _mm512_store_si512(key->powers[i] + POLY_LANES, powers.limb[i]);
    }
    return (struct poly_steps){f, poly_factors(poly_first(next))};
}

/* Adds a chunk to the sums. */
POLY_FN struct poly_numbers poly_add_chunk(struct poly_numbers sums, const struct poly_steps *steps,
                                           struct poly_numbers chunk)
{
    return poly_add(poly_multiply(sums, &steps->one), chunk);
}

/* Adds two chunks, in not much more time than one: the sums wait for one multiplication only. */
POLY_FN struct poly_numbers poly_add_chunks(struct poly_numbers sums, const struct poly_steps *steps,
                                            struct poly_numbers chunk, struct poly_numbers next)
{
    struct poly_products p = poly_no_products();

    poly_multiply_add(&p, chunk, &steps->one);
    poly_multiply_add(&p, sums, &steps->two);
    return poly_add(poly_carry(p), next);
}

/* The factors of eight blocks in POLY_ORDER, of which the first lacks r^power, the next r^(power - 1) and so on. */
POLY_FN struct poly_factors poly_powers(const struct poly_key *key, unsigned power)
{
    struct poly_numbers r;

    for (unsigned i = 0; i < 3; i++)
        r.limb[i] = _mm512_permutexvar_epi64(POLY_ORDER, _mm512_loadu_si512(key->powers[i] + POLY_POWERS - power));
    return poly_factors(r);
}

/* The tag: sums that still lack r^(blocks + 8) to r^(blocks + 1), and a last chunk with so many blocks, 1 to 8. */
POLY_FN void poly_finish(const struct poly_key *key, struct poly_numbers sums, struct poly_numbers last,
                         unsigned blocks, uint8_t tag[CQ_TAG_SIZE])
{
    const struct poly_factors f = poly_powers(key, POLY_LANES + blocks), g = poly_powers(key, blocks);
    struct poly_products p = poly_no_products();

    poly_multiply_add(&p, sums, &f);
    poly_multiply_add(&p, last, &g);
    struct poly_numbers total = poly_carry(p);
    uint64_t a = (uint64_t)_mm512_reduce_add_epi64(total.limb[0]);
    uint64_t b = (uint64_t)_mm512_reduce_add_epi64(total.limb[1]) + (a >> 44);
    uint64_t c = (uint64_t)_mm512_reduce_add_epi64(total.limb[2]) + (b >> 44);
    a = (a & POLY_MASK44) + (c >> 42) * 5;
    b = (b & POLY_MASK44) + (a >> 44);
    c = (c & POLY_MASK42) + (b >> 44);
    a &= POLY_MASK44;
    b &= POLY_MASK44;
    /* Less the modulus, if it is that or more: then adding 5 carries into bit 130. */
    uint64_t d = a + 5, e = b + (d >> 44), g2 = c + (e >> 44), take = 0 - (g2 >> 42);
    a = (a & ~take) | (d & POLY_MASK44 & take);
    b = (b & ~take) | (e & POLY_MASK44 & take);
    c = (c & ~take) | (g2 & POLY_MASK42 & take);
    uint64_t lo = a | b << 44, hi = b >> 20 | c << 24;
    lo += key->s[0];
    hi += key->s[1] + (lo < key->s[0]);
    memcpy(tag, &lo, 8);
    memcpy(tag + 8, &hi, 8);
}

#endif
