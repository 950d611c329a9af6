/* A function of liboqs 0.14 that liboqs-python 0.16 looks up when it is imported. Nothing else that it needs for ML-KEM
 * and ML-DSA has changed since 0.13: the functions, their arguments, and what it reads of OQS_KEM and OQS_SIG. */
#include <stdbool.h>
#include <stddef.h>

#include <oqs/oqs.h>

OQS_API bool OQS_SIG_supports_ctx_str(const char *name);

bool OQS_SIG_supports_ctx_str(const char *name)
{
    OQS_SIG *sig = OQS_SIG_new(name);
    const bool supported = sig != NULL && sig->sig_with_ctx_support;

    OQS_SIG_free(sig);
    return supported;
}
