/*
 * Which AEAD implementation serves a suite on this machine.
 */
#include "cq_aead.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

/* Sets of instructions that back ends need. */
enum { CPU_AES = 1, CPU_AES_AVX = 2, CPU_VAES256 = 4, CPU_VAES512 = 8, CPU_AVX512_IFMA = 16 };

/* The fastest first. */
static const struct {
    const struct cq_aead_ops *ops;
    unsigned needs;
} backends[] = {
#if defined(__x86_64__)
    {&cq_aead_vaes512_aes_256_gcm, CPU_VAES512},
    {&cq_aead_vaes256_aes_256_gcm, CPU_VAES256},
    {&cq_aead_aesni_aes_256_gcm, CPU_AES_AVX},
    {&cq_aead_avx512_chacha20_poly1305, CPU_AVX512_IFMA},
#elif defined(__aarch64__)
    {&cq_aead_armv8_aes_256_gcm, CPU_AES},
#endif
    {&cq_aead_evp_aes_256_gcm, 0},
    {&cq_aead_evp_chacha20_poly1305, 0},
};

#if defined(__x86_64__)
/* The register sets that the operating system saves: XCR0, Intel's Software Developer's Manual, volume 1, 13.3. */
__attribute__((target("xsave"))) static uint64_t saved_registers(void) { return _xgetbv(0); }

static unsigned cpu_sets(void)
{
    const unsigned aes = bit_AES | bit_PCLMUL | bit_SSSE3, avx = bit_AVX | bit_OSXSAVE;
    const unsigned avx2 = bit_AVX2 | bit_BMI2, vaes = bit_VAES | bit_VPCLMULQDQ;
    const unsigned avx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    const uint64_t ymm = 0x06, zmm = 0xe6;
    unsigned eax, ebx, ecx, edx, sets = 0;

    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        return 0;
    const bool has_aes = (ecx & aes) == aes;
    if (has_aes)
        sets |= CPU_AES;
    if ((ecx & avx) != avx || (saved_registers() & ymm) != ymm)
        return sets;
    if (has_aes)
        sets |= CPU_AES_AVX;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (ebx & avx2) != avx2)
        return sets;
    const bool has_vaes = has_aes && (ecx & vaes) == vaes;
    if (has_vaes)
        sets |= CPU_VAES256;
    if ((ebx & avx512) != avx512 || (saved_registers() & zmm) != zmm)
        return sets;
    if (has_vaes)
        sets |= CPU_VAES512;
    if ((ebx & bit_AVX512IFMA) != 0)
        sets |= CPU_AVX512_IFMA;
    return sets;
}
#elif defined(__aarch64__)
static unsigned cpu_sets(void)
{
    const unsigned long wanted = 1ul << 3 | 1ul << 4; /* HWCAP_AES | HWCAP_PMULL of <asm/hwcap.h> */

    return (getauxval(AT_HWCAP) & wanted) == wanted ? CPU_AES : 0;
}
#else
static unsigned cpu_sets(void) { return 0; }
#endif

/* GCM is only fast, and only free of secret-dependent table look-ups, where the CPU multiplies without carry too. */
int cq_aead_cpu_has_aes(void) { return (cpu_sets() & CPU_AES) != 0; }

const struct cq_aead_ops *cq_aead_backends(uint8_t suite, unsigned index)
{
    const unsigned sets = cpu_sets();

    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (backends[i].ops->suite == suite && (backends[i].needs & sets) == backends[i].needs && index-- == 0)
            return backends[i].ops;
    return NULL;
}

int cq_aead_tags_equal(const uint8_t a[CQ_TAG_SIZE], const uint8_t b[CQ_TAG_SIZE])
{
    uint64_t x[2], y[2];

    memcpy(x, a, sizeof x);
    memcpy(y, b, sizeof y);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

/* ---- the choice ---- */

static pthread_once_t choose_once = PTHREAD_ONCE_INIT;
static const struct cq_aead_ops *aes_256_gcm, *chacha20_poly1305;

/* The first back end of a suite whose name begins with this word; any will do for an empty one. */
static const struct cq_aead_ops *named(uint8_t suite, const char *word)
{
    const struct cq_aead_ops *ops;
    size_t n = strlen(word);

    for (unsigned i = 0; (ops = cq_aead_backends(suite, i)) != NULL; i++)
        if (n == 0 || (strncmp(ops->name, word, n) == 0 && ops->name[n] == '-'))
            break;
    return ops;
}

static void choose(void)
{
    const char *word = getenv("CRYPRQ_AEAD_BACKEND");

    aes_256_gcm = named(CQ_SUITE_AES_256_GCM, word != NULL ? word : "");
    chacha20_poly1305 = named(CQ_SUITE_CHACHA20_POLY1305, word != NULL ? word : "");
    /* What is a back end of one suite alone says nothing about the other. */
    if (aes_256_gcm == NULL && chacha20_poly1305 != NULL)
        aes_256_gcm = named(CQ_SUITE_AES_256_GCM, "");
    else if (chacha20_poly1305 == NULL && aes_256_gcm != NULL)
        chacha20_poly1305 = named(CQ_SUITE_CHACHA20_POLY1305, "");
}

const struct cq_aead_ops *cq_aead_select(uint8_t suite)
{
    (void)pthread_once(&choose_once, choose);
    if (suite == CQ_SUITE_AES_256_GCM)
        return aes_256_gcm;
    return suite == CQ_SUITE_CHACHA20_POLY1305 ? chacha20_poly1305 : NULL;
}

/* ---- keys ---- */

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
