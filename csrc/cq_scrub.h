/*
 * Overwriting what a computation with secrets leaves where no variable has it any more: in registers, which compilers
 * spill, and in the part of the stack that its functions have given back.
 */
#ifndef CQ_SCRUB_H
#define CQ_SCRUB_H

/* How far below a worker's frame sealing and opening write, whichever back end runs, libcrypto's own functions and the
 * dynamic linker's included. tests/c/test_scrub.c measures that it is enough. */
#define CQ_SCRUB_SIZE 8192u

/* Likewise below the frame from which Python calls the libraries that agree on keys, sign and derive: they were seen to
 * use 10 KiB. It is scrubbed some thirty times in a handshake, at a microsecond and a half. tests/plane/test_residue.py
 * and tests/unit/test_wiped_secrets.py search for what is left. */
#define CQ_SCRUB_DEEP_SIZE (64u * 1024u)

/* Each overwrites so many bytes of the stack below the caller's frame, and all registers that a called function may
 * change. It has to be called from no deeper than what it is to clean up after was. */
void cq_scrub(void);
void cq_scrub_deep(void);

#endif
