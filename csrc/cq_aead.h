/*
 * AEAD back ends: one table of functions per implementation, chosen once for a suite.
 *
 * A key object belongs to one caller at a time: the back ends keep scratch state in it. Sealing and opening may be
 * out of place or exactly in place (out == in); any other overlap is an error of the caller.
 */
#ifndef CQ_AEAD_H
#define CQ_AEAD_H

#include "cq_wire.h"

struct cq_aead_key;

struct cq_aead_ops {
    const char *name; /* "evp-aes-256-gcm", for status and tests */
    uint8_t suite;    /* enum cq_suite */
    int (*init)(struct cq_aead_key *key, const uint8_t secret[CQ_KEY_SIZE]);
    /* out receives n + CQ_TAG_SIZE bytes. */
    int (*seal)(struct cq_aead_key *key, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len,
                const uint8_t *in, size_t n, uint8_t *out);
    /* in holds n + CQ_TAG_SIZE bytes, out receives n. On CQ_E_AUTH out is zeroed. */
    int (*open)(struct cq_aead_key *key, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len,
                const uint8_t *in, size_t n, uint8_t *out);
    void (*wipe)(struct cq_aead_key *key);
};

struct cq_aead_key {
    const struct cq_aead_ops *ops;
    void *state; /* owned by the back end; wiped and freed by ops->wipe */
};

/* The back ends: one table per implementation. Calling one on a CPU that lacks its instructions ends the process. */
extern const struct cq_aead_ops cq_aead_evp_aes_256_gcm;       /* cq_aead_evp.c, libcrypto's EVP */
extern const struct cq_aead_ops cq_aead_evp_chacha20_poly1305; /* likewise */
#if defined(__x86_64__)
extern const struct cq_aead_ops cq_aead_vaes512_aes_256_gcm;      /* cq_aead_vaes512.c: VAES, VPCLMULQDQ, AVX-512 */
extern const struct cq_aead_ops cq_aead_vaes256_aes_256_gcm;      /* cq_aead_vaes256.c: VAES, VPCLMULQDQ, AVX2 */
extern const struct cq_aead_ops cq_aead_aesni_aes_256_gcm;        /* cq_aead_aesni.c: AES-NI, PCLMULQDQ, AVX */
extern const struct cq_aead_ops cq_aead_avx512_chacha20_poly1305; /* cq_aead_avx512.c: AVX-512 with IFMA */
#elif defined(__aarch64__)
extern const struct cq_aead_ops cq_aead_armv8_aes_256_gcm; /* cq_aead_armv8.c: AES and PMULL of ARMv8 */
#endif

/* The back ends that this CPU can run for a suite, the fastest first; NULL from the end of the list on. */
const struct cq_aead_ops *cq_aead_backends(uint8_t suite, unsigned index);

/* The back end for a suite: the fastest of this CPU. The environment variable CRYPRQ_AEAD_BACKEND, read at the first
 * call, names another by the first word of its name: "evp" in both suites, "aesni" in one, which leaves the other as it
 * is. NULL for an unknown suite, and if the variable names none of this CPU's back ends: no other is taken silently. */
const struct cq_aead_ops *cq_aead_select(uint8_t suite);

/* Whether the CPU has AES and carry-less multiplication, which is what "auto" goes by. */
int cq_aead_cpu_has_aes(void);

/* Keys a zeroed or wiped key object for both directions; the caller still owns and wipes the secret. CQ_E_ARGUMENT when
 * cq_aead_select has no back end, CQ_E_CRYPTO when libcrypto has no such cipher, CQ_E_MEMORY; then the object is
 * empty. */
int cq_aead_init(struct cq_aead_key *key, uint8_t suite, const uint8_t secret[CQ_KEY_SIZE]);
void cq_aead_wipe(struct cq_aead_key *key); /* safe on a zeroed or wiped key */

/* Whether two tags are equal; the time does not depend on where they differ. What it returns is the only thing that a
 * secret decides and everybody may know: it is a function by itself so that `make ct` can tell it from all else. */
int cq_aead_tags_equal(const uint8_t a[CQ_TAG_SIZE], const uint8_t b[CQ_TAG_SIZE]);

#endif
