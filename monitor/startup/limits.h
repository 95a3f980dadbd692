/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BULKHEAD_MONITOR_STARTUP_LIMITS_H
#define BULKHEAD_MONITOR_STARTUP_LIMITS_H

#include "common/base/error.h"

/*
 * As many descriptors, and as much locked memory, as the process may have. The kernel counts the rings of all workers
 * of an account together as locked memory: at the usual 8 MiB, about a hundred exports have io_uring. Run before the account changes:
 * root may lift the limit on locked memory altogether. 0 or -errno.
 */
int limits_raise(struct error *err);

/* How many descriptors the process may have; whoever keeps many takes a share of them. A worker starts with as many. */
unsigned limits_descriptors(void);

#endif
