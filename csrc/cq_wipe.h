/*
 * Overwriting what is secret, keys and users' plaintext, before its memory is given back.
 */
#ifndef CQ_WIPE_H
#define CQ_WIPE_H

#include <stddef.h>

/* Overwrites n bytes so that the compiler cannot leave it out. */
void cq_wipe(void *p, size_t n);

/* Wipes the n bytes of a block of the heap, and frees it. NULL is fine. */
void cq_wipe_free(void *p, size_t n);

#endif
