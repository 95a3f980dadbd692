/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The limits that the monitor raises for itself and its workers; what a worker then gives up is in the table of roles.
 */
#include "monitor/startup/limits.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

static const struct {
    int resource;
    bool lift; /* ask for no limit first, which only root gets */
    const char *what;
} raised[] = {
    { RLIMIT_NOFILE, false, "descriptors" },
    { RLIMIT_MEMLOCK, true, "locked memory" },
};

int limits_raise(struct error *err)
{
    static const struct rlimit none = { RLIM_INFINITY, RLIM_INFINITY };

    for (unsigned i = 0; i < ARRAY_SIZE(raised); i++) {
        struct rlimit limit;

        if (raised[i].lift && setrlimit(raised[i].resource, &none) == 0)
            continue;
        if (getrlimit(raised[i].resource, &limit) < 0)
            return error_set(err, -errno, "cannot get the limit of %s: %s", raised[i].what, strerror(errno));
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(raised[i].resource, &limit) < 0)
            return error_set(err, -errno, "cannot raise the limit of %s: %s", raised[i].what, strerror(errno));
    }
    return 0;
}
