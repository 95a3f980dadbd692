/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Going to the background, and the pid file. The process that was started waits for the daemon to serve and exits with
 * the result of its start; error texts reach the terminal, because the daemon leaves it only then.
 */
#ifndef BULKHEAD_MONITOR_STARTUP_DAEMON_H
#define BULKHEAD_MONITOR_STARTUP_DAEMON_H

#include <sys/types.h>

#include "common/base/error.h"

/* Returns in the daemon, with the descriptor to report to; the process that was started waits, and exits in here. */
int daemon_fork(int *ret_report_fd, struct error *err);

/* It serves: leave the terminal, log to syslog unless told otherwise, let the process that was started exit with 0. *report_fd is closed. */
int daemon_detach(int *report_fd, struct error *err);

struct pidfile {
    int fd; /* -1: none */
    char *path;
    dev_t dev;
    ino_t ino;
};

/*
 * Write our pid; the file stays locked, so that a second daemon with the same one is refused. A stale file is
 * overwritten. 0 or -errno.
 */
int pidfile_write(const char *path, struct pidfile *ret, struct error *err);

/* Remove the file, if it is still ours. */
void pidfile_remove(struct pidfile *pidfile);

#endif
