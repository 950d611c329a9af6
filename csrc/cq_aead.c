/*
 * Which AEAD implementation serves a suite on this machine, and the wiping of secrets.
 */
#define _DEFAULT_SOURCE 1 /* explicit_bzero under -std=c11 */

#include "cq_aead.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

const struct cq_aead_ops *cq_aead_select(uint8_t suite)
{
    switch (suite) {
    case CQ_SUITE_AES_256_GCM:
        return &cq_aead_evp_aes_256_gcm;
    case CQ_SUITE_CHACHA20_POLY1305:
        return &cq_aead_evp_chacha20_poly1305;
    default:
        return NULL;
    }
}

/* GCM is only fast, and only free of secret-dependent table look-ups, where the CPU multiplies without carry too. */
int cq_aead_cpu_has_aes(void)
{
#if defined(__x86_64__)
    const unsigned wanted = bit_AES | bit_PCLMUL | bit_SSSE3;
    unsigned eax, ebx, ecx, edx;

    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & wanted) == wanted;
#elif defined(__aarch64__)
    const unsigned long wanted = 1ul << 3 | 1ul << 4; /* HWCAP_AES | HWCAP_PMULL of <asm/hwcap.h> */

    return (getauxval(AT_HWCAP) & wanted) == wanted;
#else
    return 0;
#endif
}

int cq_aead_init(struct cq_aead_key *key, uint8_t suite, const uint8_t secret[CQ_KEY_SIZE])
{
    const struct cq_aead_ops *ops = cq_aead_select(suite);

    key->ops = NULL;
    key->state = NULL;
    if (ops == NULL)
        return CQ_E_ARGUMENT;
    int rc = ops->init(key, secret);
    if (rc == CQ_OK)
        key->ops = ops;
    return rc;
}

void cq_aead_wipe(struct cq_aead_key *key)
{
    if (key->ops != NULL)
        key->ops->wipe(key);
    key->ops = NULL;
    key->state = NULL;
}

void cq_wipe(void *p, size_t n)
{
    if (n != 0)
        explicit_bzero(p, n);
}
