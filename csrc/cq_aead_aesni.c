/*
 * AES-256-GCM for x86-64 with AES-NI, PCLMULQDQ and AVX, whose instructions have three operands: one block a register,
 * eight in flight. CPUs with the first two only are left to libcrypto.
 */
#include "cq_gcm.h"

#if defined(__x86_64__)
#include "cq_gcm_x86.h"

#define GCM_TARGET __attribute__((target("aes,pclmul,avx")))
#define GCM_FN GCM_TARGET __attribute__((always_inline)) static inline
#define GCM_OPAQUE(v) __asm__("" : "+x"(v))

typedef __m128i V;
enum { LANES = 1, WIDTH = 8, SPAN = 12, HASH_FROM = 3 };
#define RELOAD(p) __asm__("" : "+r"(p))

GCM_FN V v_zero(void) { return _mm_setzero_si128(); }
GCM_FN V v_block(uint64_t lo, uint64_t hi) { return _mm_set_epi64x((long long)hi, (long long)lo); }
GCM_FN uint64_t v_low64(V a) { return (uint64_t)_mm_cvtsi128_si64(a); }
GCM_FN V v_spread(V a) { return a; }
GCM_FN V v_load(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }
GCM_FN void v_store(uint8_t *p, V a) { _mm_storeu_si128((__m128i *)p, a); }
GCM_FN V v_load_block(const uint8_t *p) { return v_load(p); }
GCM_FN void v_store_block(uint8_t *p, V a) { v_store(p, a); }
GCM_FN V v_load_part(const uint8_t *p, size_t n) { return gcm_x86_load_part(p, n); }
GCM_FN void v_store_part(uint8_t *p, size_t n, V a) { gcm_x86_store_part(p, n, a); }
GCM_FN V v_keep(V a, size_t n) { return _mm_and_si128(a, v_load(gcm_x86_mask + 32 - n)); }

GCM_FN V v_xor(V a, V b) { return _mm_xor_si128(a, b); }
GCM_FN V v_xor3(V a, V b, V c) { return v_xor(v_xor(a, b), c); }
GCM_FN V v_reverse(V a)
{
    a = _mm_shuffle_epi8(a, _mm_set_epi64x(0x0001020304050607, 0x08090a0b0c0d0e0f));
    GCM_OPAQUE(a); /* once: clang would shuffle anew for each product, just the half that it needs */
    return a;
}
GCM_FN V v_swap(V a) { return _mm_shuffle_epi32(a, _MM_SHUFFLE(1, 0, 3, 2)); }
GCM_FN V v_count(V a, V b) { return _mm_add_epi32(a, b); }
#define V_INDEX _mm_setzero_si128()

GCM_FN V v_start(V a, V key) { return v_xor(a, key); }
GCM_FN V v_round(V a, V before, V key) { return (void)before, _mm_aesenc_si128(a, key); }
GCM_FN V v_finish(V a, V before, V key) { return (void)before, _mm_aesenclast_si128(a, key); }

GCM_FN V v_ll(V a, V b) { return _mm_clmulepi64_si128(a, b, 0x00); }
GCM_FN V v_hh(V a, V b) { return _mm_clmulepi64_si128(a, b, 0x11); }
GCM_FN V v_fold(V a) { return a; }

#include "cq_gcm_template.h"

const struct cq_aead_ops cq_aead_aesni_aes_256_gcm = {
    .name = "aesni-aes-256-gcm",
    .suite = CQ_SUITE_AES_256_GCM,
    .init = init,
    .seal = seal,
    .open = open,
    .wipe = wipe,
};

#endif
