#include "cq_scrub.h"
#include "cq_wipe.h"

#include <stdint.h>

/* ---- registers ---- */

#if defined(__x86_64__)
/* System V's calling convention: the called function may change all vector registers, and these. */
#define CLEAR_GENERAL()                                                                                                \
    __asm__ volatile("xorl %%eax, %%eax\n\txorl %%ecx, %%ecx\n\txorl %%edx, %%edx\n\t"                                 \
                     "xorl %%esi, %%esi\n\txorl %%edi, %%edi\n\txorl %%r8d, %%r8d\n\t"                                 \
                     "xorl %%r9d, %%r9d\n\txorl %%r10d, %%r10d\n\txorl %%r11d, %%r11d" ::                              \
                         : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc")

#define LOW_CLOBBERS                                                                                                   \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",         \
        "xmm13", "xmm14", "xmm15"
#define HIGH_CLOBBERS                                                                                                  \
    "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27",        \
        "xmm28", "xmm29", "xmm30", "xmm31"

#define CLEAR_SSE(n) "pxor %%xmm" #n ", %%xmm" #n "\n\t"
#define CLEAR_ZMM(n) "vpxorq %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n\t"
#define FIRST_16(clear)                                                                                                \
    clear(0) clear(1) clear(2) clear(3) clear(4) clear(5) clear(6) clear(7) clear(8) clear(9) clear(10) clear(11)      \
        clear(12) clear(13) clear(14) clear(15)
#define SECOND_16(clear)                                                                                               \
    clear(16) clear(17) clear(18) clear(19) clear(20) clear(21) clear(22) clear(23) clear(24) clear(25) clear(26)      \
        clear(27) clear(28) clear(29) clear(30) clear(31)

__attribute__((target("avx512f"))) static void clear_vectors_avx512(void)
{
    __asm__ volatile(SECOND_16(CLEAR_ZMM) "vzeroall" ::: LOW_CLOBBERS, HIGH_CLOBBERS);
}

__attribute__((target("avx"))) static void clear_vectors_avx(void) { __asm__ volatile("vzeroall" ::: LOW_CLOBBERS); }

static void clear_vectors_sse(void) { __asm__ volatile(FIRST_16(CLEAR_SSE)::: LOW_CLOBBERS); }

/* By what the CPU has, and not by which back end ran: libcrypto chooses for itself. */
static void clear_registers(void)
{
    if (__builtin_cpu_supports("avx512f"))
        clear_vectors_avx512();
    else if (__builtin_cpu_supports("avx"))
        clear_vectors_avx();
    else
        clear_vectors_sse();
    CLEAR_GENERAL();
}

#elif defined(__aarch64__)
/* AAPCS64: of v8 to v15, the lower halves are the caller's. Clobbered, they are saved around this, and the upper halves
 * are zero after it. */
#define CLEAR_V(n) "movi v" #n ".2d, #0\n\t"
static void clear_registers(void)
{
    __asm__ volatile(CLEAR_V(0) CLEAR_V(1) CLEAR_V(2) CLEAR_V(3) CLEAR_V(4) CLEAR_V(5) CLEAR_V(6) CLEAR_V(7) CLEAR_V(8)
                         CLEAR_V(9) CLEAR_V(10) CLEAR_V(11) CLEAR_V(12) CLEAR_V(13) CLEAR_V(14) CLEAR_V(15) CLEAR_V(16)
                             CLEAR_V(17) CLEAR_V(18) CLEAR_V(19) CLEAR_V(20) CLEAR_V(21) CLEAR_V(22) CLEAR_V(23)
                                 CLEAR_V(24) CLEAR_V(25) CLEAR_V(26) CLEAR_V(27) CLEAR_V(28) CLEAR_V(29) CLEAR_V(30)
                                     CLEAR_V(31)::
                                         : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",
                                           "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22",
                                           "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
    __asm__ volatile("mov x0, xzr\n\tmov x1, xzr\n\tmov x2, xzr\n\tmov x3, xzr\n\tmov x4, xzr\n\tmov x5, xzr\n\t"
                     "mov x6, xzr\n\tmov x7, xzr\n\tmov x8, xzr\n\tmov x9, xzr\n\tmov x10, xzr\n\tmov x11, xzr\n\t"
                     "mov x12, xzr\n\tmov x13, xzr\n\tmov x14, xzr\n\tmov x15, xzr\n\tmov x16, xzr\n\tmov x17, xzr" ::
                         : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13",
                           "x14", "x15", "x16", "x17");
}

#else
static void clear_registers(void) {} /* such machines have no back end but libcrypto's */
#endif

/* ---- the stack ---- */

/* Never inlined: the room has to lie where the functions that were called before had theirs. */
__attribute__((noinline)) void cq_scrub(void)
{
    uint8_t room[CQ_SCRUB_SIZE];

    cq_wipe(room, sizeof room);
    clear_registers();
}

__attribute__((noinline)) void cq_scrub_deep(void)
{
    uint8_t room[CQ_SCRUB_DEEP_SIZE];

    cq_wipe(room, sizeof room);
    clear_registers();
}
