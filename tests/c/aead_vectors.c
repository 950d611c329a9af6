/*
 * The AEAD back ends, driven by lines:
 *
 *   backends SUITE                            answers the names of those that this CPU has, the fastest first
 *   selected SUITE                            answers the name of the one in use, or "none"
 *   seal BACKEND KEY NONCE AAD PLAINTEXT      answers the ciphertext and tag
 *   open BACKEND KEY NONCE AAD SEALED         answers the plaintext, or FAIL
 *
 * The last two run twice, out of place and in place, and the results must agree. A failed open must leave zeros.
 */
#define _POSIX_C_SOURCE 200809L /* getline */

#include "cq_aead.h"
#include "lines.h"

static int run(struct cq_aead_key *key, int sealing, struct bytes nonce, struct bytes aad, const uint8_t *in, size_t n,
               uint8_t *out)
{
    return sealing ? key->ops->seal(key, nonce.p, aad.p, aad.n, in, n, out)
                   : key->ops->open(key, nonce.p, aad.p, aad.n, in, n, out);
}

static void command_backends(uint8_t suite)
{
    const struct cq_aead_ops *ops;

    for (unsigned i = 0; (ops = cq_aead_backends(suite, i)) != NULL; i++)
        printf("%s%s", i != 0 ? " " : "", ops->name);
}

static const struct cq_aead_ops *find_backend(const char *name)
{
    const struct cq_aead_ops *ops;

    for (uint8_t suite = CQ_SUITE_AES_256_GCM; suite <= CQ_SUITE_CHACHA20_POLY1305; suite++)
        for (unsigned i = 0; (ops = cq_aead_backends(suite, i)) != NULL; i++)
            if (strcmp(ops->name, name) == 0)
                return ops;
    lines_bad(name);
    return NULL;
}

static void command_crypt(int sealing, char **words)
{
    struct bytes secret = lines_bytes(words[2]), nonce = lines_bytes(words[3]), aad = lines_bytes(words[4]);
    struct bytes in = lines_bytes(words[5]);
    if (secret.n != CQ_KEY_SIZE || nonce.n != CQ_IV_SIZE || (!sealing && in.n < CQ_TAG_SIZE))
        lines_bad("length");

    size_t n = sealing ? in.n : in.n - CQ_TAG_SIZE;
    size_t out_size = sealing ? in.n + CQ_TAG_SIZE : n;
    struct bytes out = lines_alloc(out_size), place = lines_alloc(n + CQ_TAG_SIZE);
    struct cq_aead_key key = {.ops = find_backend(words[1])};
    if (key.ops->init(&key, secret.p) != CQ_OK)
        lines_bad("key");
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
    cq_aead_wipe(&key);
    lines_free(secret), lines_free(nonce), lines_free(aad), lines_free(in), lines_free(out), lines_free(place);
}

static void command(char *line)
{
    char *words[LINES_WORDS_MAX];
    int n = lines_split(line, words);

    if (n == 2 && strcmp(words[0], "backends") == 0) {
        command_backends((uint8_t)lines_number(words[1]));
    } else if (n == 2 && strcmp(words[0], "selected") == 0) {
        const struct cq_aead_ops *ops = cq_aead_select((uint8_t)lines_number(words[1]));
        fputs(ops != NULL ? ops->name : "none", stdout);
    } else if (n == 6 && (strcmp(words[0], "seal") == 0 || strcmp(words[0], "open") == 0)) {
        command_crypt(words[0][0] == 's', words);
    } else {
        lines_bad("verb, or number of words");
    }
    putchar('\n');
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
