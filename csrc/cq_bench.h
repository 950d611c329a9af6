/*
 * What the parts of the data plane cost on this machine: timed loops for `cryprq bench` and bench/. A node never calls
 * them.
 */
#ifndef CQ_BENCH_H
#define CQ_BENCH_H

#include "cq_aead.h"

enum cq_bench_op {
    CQ_BENCH_SEAL,     /* one record of size bytes */
    CQ_BENCH_OPEN,     /* likewise */
    CQ_BENCH_REPLAY,   /* check and advance, in order */
    CQ_BENCH_ROUTE4,   /* a look-up among size prefixes, addresses at random */
    CQ_BENCH_ROUTE6,   /* likewise */
    CQ_BENCH_SPLIT,    /* one packet of size bytes out of a TCP super-packet */
    CQ_BENCH_COALESCE, /* one vouched packet of size bytes into a TCP super-packet */
};

/* Runs an operation at least count times and sets *ns to nanoseconds per operation. ops is the back end of SEAL and
 * OPEN, else unused. CQ_E_ARGUMENT for a size that the operation cannot have, CQ_E_MEMORY, CQ_E_CRYPTO. */
int cq_bench_run(enum cq_bench_op op, const struct cq_aead_ops *ops, size_t size, unsigned count, double *ns);

#endif
