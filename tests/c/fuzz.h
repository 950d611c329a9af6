/*
 * What the fuzzing of a part needs beside LLVMFuzzerTestOneInput: HOLDS, which an input must not break; blocks of memory
 * beyond whose end nothing can be read; and a program for those who have no libFuzzer.
 *
 * With -DCQ_LIBFUZZER (clang -fsanitize=fuzzer, make fuzz) libFuzzer's main makes the inputs. Otherwise `fuzz_NAME
 * [ROUNDS [SEED]]` makes them by seeded random changes to valid ones (`make_input`, which each file has), for gcc's
 * sanitizers, and `fuzz_NAME FILE...` takes the inputs of those files, which is how a finding is looked into.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HOLDS(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* What only the harness knows is no news about what is tested. */
#ifdef __clang__
#define UNGUIDED __attribute__((no_sanitize("coverage")))
#else
#define UNGUIDED
#endif

/*
 * A block of exactly so many bytes: to touch the first one beyond it ends the program. AddressSanitizer sees to that
 * for what is from the heap, and more. Without it, blocks end where a page begins that nobody may touch, which costs
 * nothing while a program runs.
 */
#if defined(__SANITIZE_ADDRESS__)
#define HEAP_IS_GUARDED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HEAP_IS_GUARDED
#endif
#endif

#ifdef HEAP_IS_GUARDED

static inline uint8_t *block_new(size_t n) { return malloc(n + (n == 0)); }
static inline void block_free(uint8_t *block) { free(block); }

#else

#include <sys/mman.h>

enum { BLOCKS = 1024, BLOCK_MAX = 1 << 17, BLOCK_PAGE = 4096 };

static struct {
    uint8_t *base; /* BLOCKS times BLOCK_MAX bytes and the page behind them */
    unsigned unused[BLOCKS], count;
} blocks;

UNGUIDED static inline void blocks_make(void)
{
    const size_t each = BLOCK_MAX + BLOCK_PAGE;
    void *base = mmap(NULL, BLOCKS * each, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    HOLDS(base != MAP_FAILED);
    blocks.base = base;
    for (; blocks.count < BLOCKS; blocks.count++) {
        blocks.unused[blocks.count] = blocks.count;
        HOLDS(mprotect(blocks.base + blocks.count * each + BLOCK_MAX, BLOCK_PAGE, PROT_NONE) == 0);
    }
}

UNGUIDED static inline uint8_t *block_new(size_t n)
{
    if (blocks.base == NULL)
        blocks_make();
    HOLDS(n <= BLOCK_MAX && blocks.count > 0);
    return blocks.base + blocks.unused[--blocks.count] * (size_t)(BLOCK_MAX + BLOCK_PAGE) + BLOCK_MAX - n;
}

/* One of no bytes begins where the page does. */
UNGUIDED static inline void block_free(const uint8_t *block)
{
    blocks.unused[blocks.count++] = (unsigned)((size_t)(block - blocks.base) / (BLOCK_MAX + BLOCK_PAGE));
}

#endif

#ifndef CQ_LIBFUZZER

enum { INPUT_MAX = 1 << 20 };

static uint64_t random_state = 1;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % below);
}

/* Writes one input, of at most INPUT_MAX bytes; its size. */
static size_t make_input(uint8_t *out);

static int take_files(int count, char **names, uint8_t *input)
{
    for (int i = 0; i < count; i++) {
        FILE *file = fopen(names[i], "rb");
        if (file == NULL)
            return perror(names[i]), 1;
        size_t n = fread(input, 1, INPUT_MAX, file);
        (void)fclose(file);
        (void)LLVMFuzzerTestOneInput(input, n);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static uint8_t input[INPUT_MAX];
    char *end = NULL;
    unsigned long rounds = argc > 1 ? strtoul(argv[1], &end, 0) : 4000;
    if (argc > 1 && *end != '\0')
        return take_files(argc - 1, argv + 1, input);
    if (argc > 2)
        random_state = strtoull(argv[2], NULL, 0);
    for (unsigned long round = 0; round < rounds; round++)
        (void)LLVMFuzzerTestOneInput(input, make_input(input));
    printf("%-24s ok: %lu inputs\n", __BASE_FILE__, rounds);
    return 0;
}

#endif
#endif
