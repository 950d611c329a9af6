/*
 * Partial blocks in SSE registers, for the x86-64 kernels without masked loads and stores.
 */
#ifndef CQ_GCM_X86_H
#define CQ_GCM_X86_H

#include <immintrin.h>

#include "cq_gcm.h"

/* The first n bytes of a block, n <= 16, and zeros. */
static inline __m128i gcm_x86_load_part(const uint8_t *p, size_t n)
{
    if (n == GCM_BLOCK)
        return _mm_loadu_si128((const __m128i *)p);
    struct gcm_halves b = gcm_load_partial(p, n);
    return _mm_set_epi64x((long long)b.hi, (long long)b.lo);
}

/* Stores the first n bytes, n <= 16. */
static inline void gcm_x86_store_part(uint8_t *p, size_t n, __m128i a)
{
    if (n == GCM_BLOCK) {
        _mm_storeu_si128((__m128i *)p, a);
    } else {
        uint64_t lo = (uint64_t)_mm_cvtsi128_si64(a), hi = (uint64_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(a, a));
        gcm_store_partial(p, n, (struct gcm_halves){lo, hi});
    }
}

/* 32 bytes of ones and then zeros: from 32 - n on, it begins with n ones. */
static const _Alignas(64) uint8_t gcm_x86_mask[64] = {
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
};

#endif
