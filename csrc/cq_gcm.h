/*
 * What all AES-256-GCM kernels share: the key schedule and partial blocks (FIPS 197; NIST SP
 * 800-38D). The kernel itself is cq_gcm_template.h, compiled once per instruction set.
 */
#ifndef CQ_GCM_H
#define CQ_GCM_H

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>

#include "cq_aead.h"
#include "cq_wipe.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernels are written for little-endian machines"
#endif

enum {
    GCM_BLOCK = 16,    /* bytes */
    GCM_ROUNDS = 14,   /* of AES-256 */
    GCM_KEY_WORDS = 8, /* 32 bits each */
    GCM_SCHEDULE_WORDS = 4 * (GCM_ROUNDS + 1),
};

/* The field's polynomial, x^128 + x^7 + x^2 + x + 1, in GHASH's order of bits: its upper half, without x^0. */
#define GCM_POLYNOMIAL 0xc200000000000000u

/* Loops over the vectors of a group, whose counts are constants, must leave neither a loop nor an array behind. And
 * clang would move all products of a group to before its rounds, or after them, where registers are too few: GCM_HERE
 * keeps a vector's rounds in their place. */
#if defined(__clang__)
#define GCM_UNROLL _Pragma("clang loop unroll(full)")
#define GCM_HERE(v) GCM_OPAQUE(v)
#else
#define GCM_UNROLL _Pragma("GCC unroll 32")
#define GCM_HERE(v) (void)(v)
#endif

/* Hides from the compiler how the value of an integer or a pointer came about. */
#define GCM_OPAQUE_WORD(n) __asm__("" : "+r"(n))

/* A block in general registers, in memory order: lo is its first 8 bytes. */
struct gcm_halves {
    uint64_t lo, hi;
};

static inline uint64_t gcm_load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t gcm_load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The first n bytes of a block, n < 16, and zeros after them. Reads no other byte: loads overlap instead. */
static inline struct gcm_halves gcm_load_partial(const uint8_t *p, size_t n)
{
    struct gcm_halves b = {0, 0};

    if (n >= 8) {
        b.lo = gcm_load64(p);
        b.hi = gcm_load64(p + n - 8) >> 1 >> (127 - 8 * n); /* in two steps: by 64 when n is 8 */
    } else if (n >= 4) {
        b.lo = gcm_load32(p) | (uint64_t)gcm_load32(p + n - 4) << (8 * n - 32);
    } else if (n != 0) {
        b.lo = p[0] | (uint64_t)p[n / 2] << n / 2 * 8 | (uint64_t)p[n - 1] << (n - 1) * 8;
    }
    return b;
}

/* Writes the first n bytes of a block, n < 16, and no other. */
static inline void gcm_store_partial(uint8_t *p, size_t n, struct gcm_halves b)
{
    if (n >= 8) {
        uint64_t end = b.lo >> (8 * n - 64) | b.hi << 1 << (127 - 8 * n);
        memcpy(p, &b.lo, 8);
        memcpy(p + n - 8, &end, 8);
    } else if (n >= 4) {
        uint64_t end = b.lo >> (8 * n - 32);
        memcpy(p, &b.lo, 4); /* the first bytes of a little-endian word */
        memcpy(p + n - 4, &end, 4);
    } else if (n != 0) {
        p[0] = (uint8_t)b.lo;
        p[n / 2] = (uint8_t)(b.lo >> n / 2 * 8);
        p[n - 1] = (uint8_t)(b.lo >> (n - 1) * 8);
    }
}

#endif
