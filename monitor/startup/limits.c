/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The limits that the monitor raises for itself and its workers; what a worker then gives up is in the table of roles.
 */
#include "monitor/startup/limits.h"

#include <errno.h>
#include <limits.h>
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

/* With fewer, one part after the other would fail of itself, the mounter first. */
#define DESCRIPTORS_MIN 64

unsigned limits_descriptors(void)
{
    struct rlimit limit = { .rlim_cur = DESCRIPTORS_MIN }; /* getrlimit() of what there is does not fail */

    getrlimit(RLIMIT_NOFILE, &limit);
    return (unsigned)MIN(limit.rlim_cur, INT_MAX);
}

static int check_descriptors(struct error *err)
{
    unsigned limit = limits_descriptors();

    if (limit >= DESCRIPTORS_MIN)
        return 0;
    return error_set(err, -EMFILE, "the limit of descriptors is %u, and at least %d are needed (LimitNOFILE=, ulimit -n)",
                     limit, DESCRIPTORS_MIN);
}

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
    return check_descriptors(err);
}
