/* SPDX-License-Identifier: BSD-2-Clause */
/* Additions to the text of an error that say what is in the way. Each returns err's code. */
#ifndef BULKHEAD_MONITOR_OPENER_REASON_H
#define BULKHEAD_MONITOR_OPENER_REASON_H

#include "monitor/graph/locks.h"
#include "monitor/opener/opener-protocol.h"

/* After -EACCES: the first folder on the way to path that the account may not pass through. */
int reason_add_folder(const char *path, struct error *err);

/* After -EACCES of what path_fd (O_PATH) stands for: whose it is; or that it can be read. write: it was to be written.
 */
int reason_add_file(int path_fd, bool write, struct error *err);

/* After a conflict of locks on fd: a process that holds one, if it is one that the account may look at. */
int reason_add_lock_holder(int fd, struct error *err);

#endif
