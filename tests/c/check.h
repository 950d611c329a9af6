/*
 * A test harness in one header: CHECK a condition, RUN a function, and end main with `return check_done();`.
 *
 * A failed check is reported and counted, and the test goes on, so that one run shows all there is. REQUIRE is for
 * what the rest of a test cannot do without. Random input comes from check_random, which is the same in every run.
 */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static unsigned check_count, check_failures;

#define CHECK(condition) check_that((condition) != 0, #condition, __FILE__, __LINE__)

#define CHECK_EQUAL(got, wanted) check_equal((int64_t)(got), (int64_t)(wanted), #got " == " #wanted, __FILE__, __LINE__)

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!CHECK(condition))                                                                                         \
            exit(1);                                                                                                   \
    } while (0)

#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        unsigned before_ = check_failures;                                                                             \
        test();                                                                                                        \
        if (check_failures != before_)                                                                                 \
            fprintf(stderr, "FAILED %s\n", #test);                                                                     \
    } while (0)

static inline int check_that(int good, const char *text, const char *file, int line)
{
    check_count++;
    if (!good && check_failures++ < 20) /* a broken loop should not fill the screen */
        fprintf(stderr, "%s:%d: %s\n", file, line, text);
    return good;
}

static inline int check_equal(int64_t got, int64_t wanted, const char *text, const char *file, int line)
{
    int good = check_that(got == wanted, text, file, line);

    if (!good && check_failures <= 20)
        fprintf(stderr, "    got %" PRId64 ", wanted %" PRId64 "\n", got, wanted);
    return good;
}

/* SplitMix64: deterministic, and good enough to draw test cases from. */
static inline uint64_t check_random(void)
{
    static uint64_t state = 20250101;
    uint64_t z = state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline void check_random_bytes(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)check_random();
}

static inline int check_done(void)
{
    const char *name = __BASE_FILE__;

    printf("%-24s %s: %u checks, %u failed\n", name, check_failures ? "FAILED" : "ok", check_count, check_failures);
    return check_failures != 0;
}

#endif
