/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The account that the monitor runs as. It must never be root: what the monitor opens and whom it starts is decided by
 * QMP clients.
 */
#ifndef BULKHEAD_MONITOR_STARTUP_ACCOUNT_H
#define BULKHEAD_MONITOR_STARTUP_ACCOUNT_H

#include "common/base/error.h"

/*
 * Become user for good: groups, ids, no capability left, no way back. user may be NULL, if we are not root. 0 or -errno:
 * the process must end.
 */
int account_become(const char *user, struct error *err);

#endif
