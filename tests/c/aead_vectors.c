/*
 * The AEAD back ends, driven by lines:
 *
 *   seal SUITE KEY NONCE AAD PLAINTEXT        answers the ciphertext and tag
 *   open SUITE KEY NONCE AAD SEALED           answers the plaintext, or FAIL
 *
 * Each command runs twice, out of place and in place, and the two must agree. A failed open must leave zeros.
 */
#define _POSIX_C_SOURCE 200809L /* getline */

#include "cq_aead.h"
#include "lines.h"

static int run(struct cq_aead_key *key, int sealing, struct bytes nonce, struct bytes aad, const uint8_t *in,
               size_t n, uint8_t *out)
{
    return sealing ? key->ops->seal(key, nonce.p, aad.p, aad.n, in, n, out)
                   : key->ops->open(key, nonce.p, aad.p, aad.n, in, n, out);
}

static void command(char *line)
{
    char *words[LINES_WORDS_MAX];

    if (lines_split(line, words) != 6)
        lines_bad("six words are wanted");
    int sealing = strcmp(words[0], "seal") == 0;
    if (!sealing && strcmp(words[0], "open") != 0)
        lines_bad(words[0]);
    struct bytes secret = lines_bytes(words[2]), nonce = lines_bytes(words[3]), aad = lines_bytes(words[4]);
    struct bytes in = lines_bytes(words[5]);
    if (secret.n != CQ_KEY_SIZE || nonce.n != CQ_IV_SIZE || (!sealing && in.n < CQ_TAG_SIZE))
        lines_bad("length");

    size_t n = sealing ? in.n : in.n - CQ_TAG_SIZE;
    size_t out_size = sealing ? in.n + CQ_TAG_SIZE : n;
    struct bytes out = lines_alloc(out_size), place = lines_alloc(n + CQ_TAG_SIZE);
    struct cq_aead_key key = {0};
    if (cq_aead_init(&key, (uint8_t)lines_number(words[1]), secret.p) != CQ_OK)
        lines_bad("suite");
    memcpy(place.p, in.p, in.n);
    int rc = run(&key, sealing, nonce, aad, in.p, n, out.p);
    int again = run(&key, sealing, nonce, aad, place.p, n, place.p);
    if (again != rc || memcmp(place.p, out.p, out_size) != 0)
        lines_bad("in place and out of place differ");
    if (rc == CQ_OK)
        lines_print(out.p, out_size);
    else
        fputs(rc == CQ_E_AUTH ? "FAIL" : lines_error(rc), stdout);
    for (size_t i = 0; rc == CQ_E_AUTH && i < n; i++)
        if (out.p[i] != 0)
            lines_bad("unverified plaintext was left behind");
    putchar('\n');
    cq_aead_wipe(&key);
    lines_free(secret), lines_free(nonce), lines_free(aad), lines_free(in), lines_free(out), lines_free(place);
}

int main(void)
{
    char *line = NULL;
    size_t size = 0;

    while (getline(&line, &size, stdin) > 0)
        command(line);
    free(line);
    return 0;
}
