#define _DEFAULT_SOURCE 1 /* explicit_bzero under -std=c11 */
#include "cq_wipe.h"

#include <stdlib.h>
#include <string.h>

void cq_wipe(void *p, size_t n)
{
    if (n != 0)
        explicit_bzero(p, n);
}

void cq_wipe_free(void *p, size_t n)
{
    if (p != NULL)
        cq_wipe(p, n);
    free(p);
}
