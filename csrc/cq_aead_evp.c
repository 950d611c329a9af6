/*
 * AEAD back ends on libcrypto's EVP interface (OpenSSL 3.0 and later): AES-256-GCM (NIST SP 800-38D) and
 * ChaCha20-Poly1305 (RFC 8439), 96-bit nonces, 128-bit tags.
 *
 * The cipher is fetched once per process and the context keyed once per key; a record then costs one init that sets
 * direction and nonce (and, to open, the tag), one update for the additional data, one for the payload, and the
 * final. Both ciphers run the same key schedule in both directions, so one context serves both.
 */
#include "cq_aead.h"
#include "cq_wipe.h"

#include <limits.h>
#include <pthread.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>

/* Fetched at the first key and kept for the life of the process. */
static pthread_once_t fetch_once = PTHREAD_ONCE_INIT;
static EVP_CIPHER *aes_256_gcm;
static EVP_CIPHER *chacha20_poly1305;

static void fetch(void)
{
    aes_256_gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    chacha20_poly1305 = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
}

static int init(struct cq_aead_key *key, const EVP_CIPHER *cipher, const uint8_t *secret)
{
    if (cipher == NULL)
        return CQ_E_CRYPTO;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (ctx == NULL)
        return CQ_E_MEMORY;
    /* 96-bit nonces are the default of both ciphers. */
    if (!EVP_CipherInit_ex2(ctx, cipher, secret, NULL, 1, NULL)) {
        EVP_CIPHER_CTX_free(ctx);
        ERR_clear_error();
        return CQ_E_CRYPTO;
    }
    key->state = ctx;
    return CQ_OK;
}

static int aes_256_gcm_init(struct cq_aead_key *key, const uint8_t secret[CQ_KEY_SIZE])
{
    (void)pthread_once(&fetch_once, fetch);
    return init(key, aes_256_gcm, secret);
}

static int chacha20_poly1305_init(struct cq_aead_key *key, const uint8_t secret[CQ_KEY_SIZE])
{
    (void)pthread_once(&fetch_once, fetch);
    return init(key, chacha20_poly1305, secret);
}

/* The two updates that seal and open share; the init before them has set the direction. An update is left out when
 * there is nothing to do, since in EVP a NULL or empty input has meanings of its own. */
static int run(EVP_CIPHER_CTX *ctx, const uint8_t *aad, size_t aad_len, const uint8_t *in, size_t n, uint8_t *out)
{
    int len = 0;

    if (aad_len != 0 && !EVP_CipherUpdate(ctx, NULL, &len, aad, (int)aad_len))
        return CQ_E_CRYPTO;
    if (n != 0 && (!EVP_CipherUpdate(ctx, out, &len, in, (int)n) || (size_t)len != n))
        return CQ_E_CRYPTO;
    return CQ_OK;
}

/* A failure must not leave entries in this thread's error queue for an unrelated reader of it. */
static int failed(int error)
{
    ERR_clear_error();
    return error;
}

static int evp_seal(struct cq_aead_key *key, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len,
                    const uint8_t *in, size_t n, uint8_t *out)
{
    EVP_CIPHER_CTX *ctx = key->state;
    OSSL_PARAM tag[] = {OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, out + n, CQ_TAG_SIZE), OSSL_PARAM_END};
    uint8_t rest[CQ_TAG_SIZE]; /* both are stream ciphers: the final has no bytes left to give */
    int len = 0;

    if (n > INT_MAX || aad_len > INT_MAX)
        return CQ_E_ARGUMENT;
    if (!EVP_CipherInit_ex2(ctx, NULL, NULL, nonce, 1, NULL) || run(ctx, aad, aad_len, in, n, out) != CQ_OK ||
        !EVP_CipherFinal_ex(ctx, rest, &len) || len != 0 || !EVP_CIPHER_CTX_get_params(ctx, tag))
        return failed(CQ_E_CRYPTO);
    return CQ_OK;
}

static int evp_open(struct cq_aead_key *key, const uint8_t nonce[CQ_IV_SIZE], const uint8_t *aad, size_t aad_len,
                    const uint8_t *in, size_t n, uint8_t *out)
{
    EVP_CIPHER_CTX *ctx = key->state;
    /* The tag goes in with the nonce, which saves a call per record. It is only read. */
    uint8_t *given = (uint8_t *)(uintptr_t)(in + n);
    OSSL_PARAM tag[] = {OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, given, CQ_TAG_SIZE), OSSL_PARAM_END};
    uint8_t rest[CQ_TAG_SIZE];
    int len = 0;

    if (n > INT_MAX || aad_len > INT_MAX)
        return CQ_E_ARGUMENT;
    if (!EVP_CipherInit_ex2(ctx, NULL, NULL, nonce, 0, tag) || run(ctx, aad, aad_len, in, n, out) != CQ_OK)
        return failed(CQ_E_CRYPTO);
    /* libcrypto compares the tags in constant time here. */
    if (!EVP_CipherFinal_ex(ctx, rest, &len)) {
        /* What was decrypted before the tag was known to be wrong goes nowhere. */
        cq_wipe(out, n);
        return failed(CQ_E_AUTH);
    }
    return len == 0 ? CQ_OK : CQ_E_CRYPTO;
}

/* libcrypto's providers clear the key schedule when they free it (OPENSSL_clear_free); test_epoch_wipe.c looks. */
static void evp_wipe(struct cq_aead_key *key)
{
    EVP_CIPHER_CTX_free(key->state);
    key->state = NULL;
}

const struct cq_aead_ops cq_aead_evp_aes_256_gcm = {
    .name = "evp-aes-256-gcm",
    .suite = CQ_SUITE_AES_256_GCM,
    .init = aes_256_gcm_init,
    .seal = evp_seal,
    .open = evp_open,
    .wipe = evp_wipe,
};

const struct cq_aead_ops cq_aead_evp_chacha20_poly1305 = {
    .name = "evp-chacha20-poly1305",
    .suite = CQ_SUITE_CHACHA20_POLY1305,
    .init = chacha20_poly1305_init,
    .seal = evp_seal,
    .open = evp_open,
    .wipe = evp_wipe,
};
