/*
 * AES-256-GCM for x86-64 with VAES, VPCLMULQDQ and AVX-512 (F, BW, DQ, VL): four blocks a register, sixteen in flight,
 * masked loads and stores for what is not a whole register.
 */
#include "cq_gcm.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define GCM_TARGET __attribute__((target("aes,pclmul,vaes,vpclmulqdq,avx512f,avx512bw,avx512dq,avx512vl,bmi2")))
#define GCM_FN GCM_TARGET __attribute__((always_inline)) static inline

#define GCM_OPAQUE(v) __asm__("" : "+v"(v))

typedef __m512i V;
enum { LANES = 4, WIDTH = 8, SPAN = 3, HASH_FROM = 3 };
#define RELOAD(p) (void)(p)

GCM_FN V v_zero(void) { return _mm512_setzero_si512(); }
GCM_FN V v_block(uint64_t lo, uint64_t hi)
{
    return _mm512_zextsi128_si512(_mm_set_epi64x((long long)hi, (long long)lo));
}
GCM_FN uint64_t v_low64(V a) { return (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(a)); }
GCM_FN V v_spread(V a) { return _mm512_broadcast_i32x4(_mm512_castsi512_si128(a)); }
GCM_FN V v_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
GCM_FN void v_store(uint8_t *p, V a) { _mm512_storeu_si512(p, a); }
GCM_FN V v_load_block(const uint8_t *p) { return _mm512_zextsi128_si512(_mm_loadu_si128((const __m128i *)p)); }
GCM_FN void v_store_block(uint8_t *p, V a) { _mm_storeu_si128((__m128i *)p, _mm512_castsi512_si128(a)); }

/* The processor neither reads nor writes, nor faults on, bytes whose mask bit is clear. */
GCM_FN __mmask64 first(size_t n) { return _cvtu64_mask64(_bzhi_u64(UINT64_MAX, (unsigned)n)); }
GCM_FN V v_load_part(const uint8_t *p, size_t n) { return _mm512_maskz_loadu_epi8(first(n), p); }
GCM_FN void v_store_part(uint8_t *p, size_t n, V a) { _mm512_mask_storeu_epi8(p, first(n), a); }
GCM_FN V v_keep(V a, size_t n) { return _mm512_maskz_mov_epi8(first(n), a); }

GCM_FN V v_xor(V a, V b) { return _mm512_xor_si512(a, b); }
GCM_FN V v_xor3(V a, V b, V c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
GCM_FN V v_reverse(V a)
{
    const __m128i order = _mm_set_epi64x(0x0001020304050607, 0x08090a0b0c0d0e0f);
    a = _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(order));
    GCM_OPAQUE(a); /* once: clang would shuffle anew for each product, just the half that it needs */
    return a;
}
GCM_FN V v_swap(V a) { return _mm512_shuffle_epi32(a, _MM_PERM_BADC); }
GCM_FN V v_count(V a, V b) { return _mm512_add_epi32(a, b); }
#define V_INDEX _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0)

GCM_FN V v_start(V a, V key) { return v_xor(a, key); }
GCM_FN V v_round(V a, V before, V key) { return (void)before, _mm512_aesenc_epi128(a, key); }
GCM_FN V v_finish(V a, V before, V key) { return (void)before, _mm512_aesenclast_epi128(a, key); }

GCM_FN V v_ll(V a, V b) { return _mm512_clmulepi64_epi128(a, b, 0x00); }
GCM_FN V v_hh(V a, V b) { return _mm512_clmulepi64_epi128(a, b, 0x11); }
GCM_FN V v_fold(V a)
{
    __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    return _mm512_zextsi128_si512(_mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}

#include "cq_gcm_template.h"

const struct cq_aead_ops cq_aead_vaes512_aes_256_gcm = {
    .name = "vaes512-aes-256-gcm",
    .suite = CQ_SUITE_AES_256_GCM,
    .init = init,
    .seal = seal,
    .open = open,
    .wipe = wipe,
};

#endif
