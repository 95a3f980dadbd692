/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where the monitor's log goes: standard error, the journal behind it, the host's log daemon, or a file. Whoever takes
 * the lines may stop to do so, and clients of the network can cause lines: one that is not taken at once is lost,
 * counted, and told of later. Only a regular file's writes may wait, for its file system.
 *
 * Beside the level and the sink of log.h this is the only global state, for the same reason.
 */
#ifndef BULKHEAD_MONITOR_STARTUP_LOG_TARGET_H
#define BULKHEAD_MONITOR_STARTUP_LOG_TARGET_H

#include "common/base/error.h"

/*
 * From here on the log goes where --log-to says: "stderr", "syslog", a path, or NULL for the default, which is standard
 * error and, from log_target_detach() on, syslog. With journal standard error takes lines with a priority before them.
 * 0 or -errno.
 */
int log_target_open(const char *to, bool journal, struct error *err);

/* The start failed: whoever waits for it is told on standard error, too, wherever the log goes. */
void log_target_tell_failure(const char *text);

/* A daemon is about to leave its terminal. */
void log_target_detach(void);

#endif
