/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Looking at a path that is to be mounted on, without asking a server anything: an O_PATH descriptor crosses into a
 * mount without a request, and statx(2) with AT_STATX_DONT_SYNC answers from what the kernel knows. Only when the
 * descriptor turns out to be no FUSE mount is the file looked at as usual.
 */
#ifndef BULKHEAD_MONITOR_MOUNTER_MOUNT_POINT_H
#define BULKHEAD_MONITOR_MOUNTER_MOUNT_POINT_H

#include <limits.h>
#include <sys/types.h>

#include "common/base/error.h"
#include "monitor/mounter/mounter-protocol.h"

struct mount_point {
    int parent_fd; /* O_PATH, the directory */
    int fd;        /* O_PATH, what the name leads to now */
    char name[NAME_MAX + 1];
    char path[MOUNTER_PATH_MAX]; /* absolute, the directory's symbolic links resolved */
    dev_t dev;                   /* of what fd is: a file system, or a mount */
    ino_t ino;
    uint64_t mount_id;
    mode_t mode;
    bool is_mount_root;
};

/* Find the directory and open the name in it. The last component may not be a symbolic link. 0 or -errno. */
int mount_point_open(const char *path, struct mount_point *ret_point, struct error *err);
void mount_point_done(struct mount_point *point);

/* Open the name again: after something was mounted or unmounted there. */
int mount_point_refresh(struct mount_point *point, struct error *err);

/* Whether it may be mounted on: a regular file that this account may write to. 0 or -errno. */
int mount_point_check(const struct mount_point *point, struct error *err);

/*
 * Whether the server of the FUSE mount that point leads to is gone ("Transport endpoint is not connected"). Asked in a
 * child, since a server that does not answer would hang the asker; no answer within timeout_ms counts as alive.
 */
bool mount_point_is_dead(const struct mount_point *point, unsigned timeout_ms);

#endif
