/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The mounter's children. Each mount and unmount is one, the leader of a process group to which its fusermount3
 * belongs. One that has not finished by its deadline is killed and given up: whoever asked hears so, and nobody waits
 * for it. It may hang in the kernel for as long as the file system does; when its group is gone at last, what it has
 * mounted is swept away.
 */
#ifndef BULKHEAD_MONITOR_MOUNTER_JOBS_H
#define BULKHEAD_MONITOR_MOUNTER_JOBS_H

#include <poll.h>

#include "monitor/mounter/operation.h"

#define JOBS_MAX        96u                          /* children at work */
#define JOBS_MOUNTS_MAX 48u                          /* of these, mounts */
#define JOBS_OTHERS_MAX (JOBS_MAX - JOBS_MOUNTS_MAX) /* unmounts and sweeps; neither take the others' room */
#define JOBS_LOST_MAX   64u                          /* that were given up and still hang: no more mounts then */

struct job;

struct mounter {
    int control_fd;
    struct mount *mounts;
    unsigned mount_count;
    uint64_t last_serial;
    struct job *jobs; /* at work */
    struct job *lost; /* given up */
    bool ended;       /* the monitor is gone */
    uint64_t ended_ns;
    uint64_t stuck_ns; /* then: until when something has to come of what is under way */
};

/* In mounter.c: answer a request. fds, reply->devices of them, stay the caller's. */
void mounter_answer(struct mounter *mounter, uint64_t cookie, struct mounter_reply *reply, const int *fds);

/* Start the child of a mount. 0, or -errno and no answer will come. */
int jobs_mount(struct mounter *mounter, const struct mounter_mount *request, struct error *err);

/* For poll: fill fds, in the order of jobs; how many. And how long until something is due. */
unsigned jobs_watch(const struct mounter *mounter, struct pollfd fds[JOBS_MAX]);
int jobs_timeout_ms(const struct mounter *mounter);

/* What children say. */
void jobs_hear(struct mounter *mounter, const struct pollfd *fds, unsigned count);

/* Give up what is overdue, start unmounts and sweeps. */
void jobs_turn(struct mounter *mounter);

/* Nobody needs this mount, by the cookie of its request, or any mount that is being made: they have little time left.
 */
void jobs_cancel(struct mounter *mounter, uint64_t cookie);
void jobs_begin_end(struct mounter *mounter);

/* At the end: nothing is at work, or hangs for less than a moment. */
bool jobs_are_done(const struct mounter *mounter);

/* Free what is left. */
void jobs_forget(struct mounter *mounter);

#endif
