/*
 * What the line-protocol programs share: one command a line on stdin, one answer a line on stdout. Words are separated
 * by one space; bytes are lower-case hex, and "-" stands for none. A line that does not parse ends the program with
 * status 2, so that a broken test cannot pass.
 */
#ifndef LINES_H
#define LINES_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cq_wire.h"

#define LINES_WORDS_MAX 16
#define LINES_BYTES_MAX (CQ_DATAGRAM_MAX + 1024u)

struct bytes {
    size_t n;
    uint8_t *p; /* malloc'ed to the exact size, so that ASan sees a read or write past it; lines_free */
};

static void lines_bad(const char *why)
{
    fprintf(stderr, "bad command: %s\n", why);
    exit(2);
}

/* Splits a line in place; returns the number of words. */
static inline int lines_split(char *line, char *words[LINES_WORDS_MAX])
{
    int n = 0;

    line[strcspn(line, "\n")] = 0;
    for (char *word = strtok(line, " "); word != NULL; word = strtok(NULL, " ")) {
        if (n == LINES_WORDS_MAX)
            lines_bad("too many words");
        words[n++] = word;
    }
    return n;
}

static inline uint64_t lines_number(const char *word)
{
    char *end;

    errno = 0;
    uint64_t v = strtoull(word, &end, 10);
    if (*word < '0' || *word > '9' || *end != 0 || errno != 0)
        lines_bad(word);
    return v;
}

static inline struct bytes lines_alloc(size_t n)
{
    struct bytes b = {.n = n, .p = malloc(n != 0 ? n : 1)};

    if (b.p == NULL)
        lines_bad("out of memory");
    return b;
}

static inline unsigned lines_nibble(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c != 0 ? strchr(digits, c) : NULL;

    if (at == NULL)
        lines_bad("not hex");
    return (unsigned)(at - digits);
}

static inline struct bytes lines_bytes(const char *hex)
{
    size_t digits = strcmp(hex, "-") == 0 ? 0 : strlen(hex);

    if (digits % 2 != 0 || digits / 2 > LINES_BYTES_MAX)
        lines_bad("length of a hex word");
    struct bytes b = lines_alloc(digits / 2);
    for (size_t i = 0; i < b.n; i++)
        b.p[i] = (uint8_t)(lines_nibble(hex[2 * i]) << 4 | lines_nibble(hex[2 * i + 1]));
    return b;
}

static inline void lines_free(struct bytes b) { free(b.p); }

static inline void lines_print(const uint8_t *p, size_t n)
{
    static char hex[2 * LINES_BYTES_MAX + 1];

    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = "0123456789abcdef"[p[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[p[i] & 15];
    }
    hex[2 * n] = 0;
    fputs(n != 0 ? hex : "-", stdout);
}

static inline const char *lines_error(int rc)
{
    switch (rc) {
    case CQ_E_ARGUMENT: return "argument";
    case CQ_E_MEMORY: return "memory";
    case CQ_E_CRYPTO: return "crypto";
    case CQ_E_AUTH: return "auth";
    case CQ_E_REPLAY: return "replay";
    case CQ_E_LIMIT: return "limit";
    case CQ_E_MALFORMED: return "malformed";
    default: return "unknown";
    }
}

#endif
