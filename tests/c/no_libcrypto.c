/*
 * In place of csrc/cq_aead_evp.c, for programs of another architecture that there is no libcrypto for.
 */
#include "cq_aead.h"

static int init(struct cq_aead_key *key, const uint8_t secret[CQ_KEY_SIZE])
{
    (void)key, (void)secret;
    return CQ_E_CRYPTO;
}

const struct cq_aead_ops cq_aead_evp_aes_256_gcm = {
    .name = "evp-aes-256-gcm",
    .suite = CQ_SUITE_AES_256_GCM,
    .init = init,
};

const struct cq_aead_ops cq_aead_evp_chacha20_poly1305 = {
    .name = "evp-chacha20-poly1305",
    .suite = CQ_SUITE_CHACHA20_POLY1305,
    .init = init,
};
