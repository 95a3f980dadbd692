/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The environment: three things that a service manager says in it are understood, the protocols of sd_listen_fds(3),
 * sd_notify(3) and of JOURNAL_STREAM (systemd.exec(5)). They are read once, then all of it is cleared: nobody who can
 * set a variable may steer the monitor, its libraries, or a worker.
 */
#ifndef BULKHEAD_MONITOR_STARTUP_ENVIRONMENT_H
#define BULKHEAD_MONITOR_STARTUP_ENVIRONMENT_H

#include "monitor/startup/options.h"

#define ENVIRONMENT_LISTEN_MAX 256 /* sockets that are passed in */

struct environment {
    unsigned listen_count;    /* descriptors from 3 on that were passed to this process */
    const char *listen_names; /* theirs, with colons between; NULL: they have none */
    const char *notify_path;  /* NULL: nobody wants to be notified */
    const char *journal;      /* "device:inode" of the journal's stream; NULL: none */
};

/* Before anything else; what is malformed, although it is meant for us, is -EINVAL. 0 or -errno. */
int environment_take(struct environment *ret, struct error *err);

/*
 * Descriptors that options give by name are given by their number from here on; one that nobody passed or that two have
 * is -EBADF. Those that no option uses are told of, since whoever connects to them waits in vain.
 */
int environment_name_descriptors(const struct environment *environment, struct startup_options *options,
                                 struct error *err);

/*
 * Tell the service manager something (sd_notify(3)), if it wants to know. Where its queue is full that is tried so many
 * times, 100 ms apart at most; nothing waits for it longer.
 */
void environment_notify(const struct environment *environment, const char *state, unsigned tries);

/* Whether descriptor fd is connected to the journal, which takes lines with priorities. */
bool environment_is_journal(const struct environment *environment, int fd);

#endif
