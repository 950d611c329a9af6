/*
 * AES-256-GCM for aarch64 with the AES and PMULL instructions of the ARMv8 cryptographic extension: one block a
 * register, eight in flight.
 */
#include "cq_gcm.h"

#if defined(__aarch64__)
/* Clang's attribute wants another name, and its header up to version 15 hides what the whole file is not built for. */
#if defined(__clang__)
#if !defined(__ARM_FEATURE_AES)
#define __ARM_FEATURE_AES 1
#endif
#define GCM_TARGET __attribute__((target("aes")))
#else
#define GCM_TARGET __attribute__((target("+crypto")))
#endif
#include <arm_neon.h>

#define GCM_FN GCM_TARGET __attribute__((always_inline)) static inline
#define GCM_OPAQUE(v) __asm__("" : "+w"(v))

typedef uint8x16_t V;
enum { LANES = 1, WIDTH = 8, SPAN = 12, HASH_FROM = 3 };
#define RELOAD(p) (void)(p)

GCM_FN V v_zero(void) { return vdupq_n_u8(0); }
GCM_FN V v_block(uint64_t lo, uint64_t hi)
{
    return vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(lo), vcreate_u64(hi)));
}
GCM_FN uint64_t v_low64(V a) { return vgetq_lane_u64(vreinterpretq_u64_u8(a), 0); }
GCM_FN V v_spread(V a) { return a; }
GCM_FN V v_load(const uint8_t *p) { return vld1q_u8(p); }
GCM_FN void v_store(uint8_t *p, V a) { vst1q_u8(p, a); }
GCM_FN V v_load_block(const uint8_t *p) { return v_load(p); }
GCM_FN void v_store_block(uint8_t *p, V a) { v_store(p, a); }

GCM_FN V v_xor(V a, V b) { return veorq_u8(a, b); }
GCM_FN V v_xor3(V a, V b, V c) { return v_xor(v_xor(a, b), c); }
GCM_FN V v_swap(V a) { return vextq_u8(a, a, 8); }
GCM_FN V v_reverse(V a) { return v_swap(vrev64q_u8(a)); }
GCM_FN V v_count(V a, V b) { return vreinterpretq_u8_u32(vaddq_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b))); }
#define V_INDEX vdupq_n_u8(0)

GCM_FN V v_load_part(const uint8_t *p, size_t n)
{
    if (n == GCM_BLOCK)
        return v_load(p);
    struct gcm_halves b = gcm_load_partial(p, n);
    return v_block(b.lo, b.hi);
}
GCM_FN void v_store_part(uint8_t *p, size_t n, V a)
{
    if (n == GCM_BLOCK)
        v_store(p, a);
    else
        gcm_store_partial(p, n, (struct gcm_halves){v_low64(a), v_low64(v_swap(a))});
}
GCM_FN V v_keep(V a, size_t n)
{
    const V index = v_block(0x0706050403020100u, 0x0f0e0d0c0b0a0908u);
    return vandq_u8(a, vcltq_u8(index, vdupq_n_u8((uint8_t)n)));
}

/* AESE adds the key first, and then substitutes and shifts. */
GCM_FN V v_start(V a, V key) { return (void)key, a; }
GCM_FN V v_round(V a, V before, V key) { return (void)key, vaesmcq_u8(vaeseq_u8(a, before)); }
GCM_FN V v_finish(V a, V before, V key) { return v_xor(vaeseq_u8(a, before), key); }

GCM_FN V v_ll(V a, V b)
{
    poly64_t x = (poly64_t)v_low64(a), y = (poly64_t)v_low64(b);
    return vreinterpretq_u8_p128(vmull_p64(x, y));
}
GCM_FN V v_hh(V a, V b)
{
    return vreinterpretq_u8_p128(vmull_high_p64(vreinterpretq_p64_u8(a), vreinterpretq_p64_u8(b)));
}
GCM_FN V v_fold(V a) { return a; }

#include "cq_gcm_template.h"

const struct cq_aead_ops cq_aead_armv8_aes_256_gcm = {
    .name = "armv8-aes-256-gcm",
    .suite = CQ_SUITE_AES_256_GCM,
    .init = init,
    .seal = seal,
    .open = open,
    .wipe = wipe,
};

#endif
