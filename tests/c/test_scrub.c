/*
 * Scrubbing: no register that a called function may change keeps its value, nor does the stack below the caller, as far
 * down as any back end of this CPU writes to it.
 *
 * The stack's part runs in a thread whose stack is a buffer of the test's, so that it can be painted before and read
 * after. It is left out under sanitizers, which lay frames out as they like.
 */
#define _DEFAULT_SOURCE 1

#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "cq_aead.h"
#include "cq_scrub.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

/* ---- registers ---- */

enum { REGISTERS = 32, REGISTER_SIZE = 64 };

static _Alignas(64) uint8_t before[REGISTERS][REGISTER_SIZE], after[REGISTERS][REGISTER_SIZE];

#define EACH_8(f, a) f(a, 0) f(a, 1) f(a, 2) f(a, 3) f(a, 4) f(a, 5) f(a, 6) f(a, 7)
#define EACH_16(f) EACH_8(f, ) f(, 8) f(, 9) f(1, 0) f(1, 1) f(1, 2) f(1, 3) f(1, 4) f(1, 5)
#define LAST_16(f) f(1, 6) f(1, 7) f(1, 8) f(1, 9) EACH_8(f, 2) f(2, 8) f(2, 9) f(3, 0) f(3, 1)

/* In one function each, and without clobbers: the compiler has no say between the load, the call and the store. */
#if defined(__x86_64__)
#define LOAD_ZMM(a, b) "vmovdqa64 64*" #a #b "(%0), %%zmm" #a #b "\n\t"
#define STORE_ZMM(a, b) "vmovdqa64 %%zmm" #a #b ", 64*" #a #b "(%0)\n\t"
#define LOAD_YMM(a, b) "vmovdqa 64*" #a #b "(%0), %%ymm" #a #b "\n\t"
#define STORE_YMM(a, b) "vmovdqa %%ymm" #a #b ", 64*" #a #b "(%0)\n\t"
#define LOAD_XMM(a, b) "movdqa 64*" #a #b "(%0), %%xmm" #a #b "\n\t"
#define STORE_XMM(a, b) "movdqa %%xmm" #a #b ", 64*" #a #b "(%0)\n\t"

static void load_scrub_store(void (*scrub)(void))
{
    if (__builtin_cpu_supports("avx512f")) {
        __asm__ volatile(EACH_16(LOAD_ZMM) LAST_16(LOAD_ZMM)::"r"(before) : "memory");
        scrub();
        __asm__ volatile(EACH_16(STORE_ZMM) LAST_16(STORE_ZMM)::"r"(after) : "memory");
    } else if (__builtin_cpu_supports("avx")) {
        __asm__ volatile(EACH_16(LOAD_YMM)::"r"(before) : "memory");
        scrub();
        __asm__ volatile(EACH_16(STORE_YMM)::"r"(after) : "memory");
    } else {
        __asm__ volatile(EACH_16(LOAD_XMM)::"r"(before) : "memory");
        scrub();
        __asm__ volatile(EACH_16(STORE_XMM)::"r"(after) : "memory");
    }
}
#elif defined(__aarch64__)
#define LOAD_V(a, b) "ldr q" #a #b ", [%0, #64*" #a #b "]\n\t"
#define STORE_V(a, b) "str q" #a #b ", [%0, #64*" #a #b "]\n\t"
static void load_scrub_store(void (*scrub)(void))
{
    /* The caller's halves of v8 to v15 are given back at the end. */
    __asm__ volatile(EACH_16(LOAD_V) LAST_16(LOAD_V)::"r"(before)
                     : "memory", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15");
    scrub();
    __asm__ volatile(EACH_16(STORE_V) LAST_16(STORE_V)::"r"(after) : "memory");
}
#else
static void load_scrub_store(void (*scrub)(void)) { (void)scrub; }
#endif

static void check_registers(void (*scrub)(void))
{
    check_random_bytes(before[0], sizeof before);
    memset(after, 0, sizeof after);
    load_scrub_store(scrub);
    for (unsigned i = 0; i < REGISTERS; i++)
        for (unsigned at = 0; at < REGISTER_SIZE; at++) {
#if defined(__aarch64__)
            if (i >= 8 && i <= 15 && at < 8) /* callee-saved */
                continue;
#endif
            CHECK_EQUAL(after[i][at], 0);
        }
}

static void test_registers(void)
{
    check_registers(cq_scrub);
    check_registers(cq_scrub_deep);
}

/* ---- the stack ---- */

enum { STACK = 1 << 20, PAINT = 0xa5, DATA_MAX = 65535 };

static uint8_t *stack;
static uint8_t secret[CQ_KEY_SIZE], nonce[CQ_IV_SIZE], aad[CQ_HEADER_SIZE];
static uint8_t plain[DATA_MAX], sealed[DATA_MAX + CQ_TAG_SIZE];
static const struct cq_aead_ops *ops;
static const uint8_t *frame; /* of the function in the place of a worker's loop */
static bool scrubbing;

static __attribute__((noinline)) void work(void)
{
    static const size_t sizes[] = {0, 1, 15, 16, 100, 1420, 1500, 9000, DATA_MAX};
    struct cq_aead_key key = {.ops = ops};

    if (ops->init(&key, secret) != CQ_OK)
        return;
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const size_t n = sizes[i];
        if (ops->seal(&key, nonce, aad, sizeof aad, plain, n, sealed) != CQ_OK ||
            ops->open(&key, nonce, aad, sizeof aad, sealed, n, sealed) != CQ_OK)
            return;
        sealed[n] ^= 1; /* and once as a forgery */
        (void)ops->open(&key, nonce, aad, sizeof aad, sealed, n, sealed);
    }
    ops->wipe(&key);
}

static void *worker(void *arg)
{
    (void)arg;
    frame = __builtin_frame_address(0);
    work();
    if (scrubbing)
        cq_scrub();
    return NULL;
}

static void run_painted(void)
{
    pthread_attr_t attr;
    pthread_t thread;

    memset(stack, PAINT, STACK);
    REQUIRE(pthread_attr_init(&attr) == 0);
    REQUIRE(pthread_attr_setstack(&attr, stack, STACK) == 0);
    REQUIRE(pthread_create(&thread, &attr, worker, NULL) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    (void)pthread_attr_destroy(&attr);
}

/* Bytes below the worker's frame that were written to. */
static size_t depth(void)
{
    const uint8_t *lowest = stack;

    while (lowest < frame && *lowest == PAINT)
        lowest++;
    return (size_t)(frame - lowest);
}

/* Bytes in the scrubbed part that are neither paint nor zero. Not right below the frame: there lie that of cq_scrub and
 * those of what the thread calls to end. */
static size_t left_over(void)
{
    enum { OWN = 512 };
    size_t count = 0;

    for (const uint8_t *p = frame - CQ_SCRUB_SIZE + 64; p < frame - OWN; p++)
        count += *p != 0;
    return count;
}

static void test_stack(void)
{
    static const uint8_t suites[] = {CQ_SUITE_AES_256_GCM, CQ_SUITE_CHACHA20_POLY1305};

    stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(stack != MAP_FAILED);
    check_random_bytes(secret, sizeof secret);
    for (unsigned s = 0; s < sizeof suites; s++)
        for (unsigned i = 0; (ops = cq_aead_backends(suites[s], i)) != NULL; i++) {
            scrubbing = false;
            run_painted();
            size_t used = depth();
            if (!CHECK(used <= CQ_SCRUB_SIZE))
                fprintf(stderr, "    %s writes %zu bytes below the worker\n", ops->name, used);
            CHECK(left_over() != 0); /* so that the next check can fail */
            scrubbing = true;
            run_painted();
            CHECK_EQUAL(left_over(), 0);
        }
    (void)munmap(stack, STACK);
}

int main(void)
{
    RUN(test_registers);
#if !defined(SANITIZED)
    RUN(test_stack);
#else
    (void)test_stack;
#endif
    return check_done();
}
