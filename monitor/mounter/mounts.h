/* SPDX-License-Identifier: BSD-2-Clause */
/* What the mounter has mounted and has to unmount. Plain memory: nothing here asks a file system anything. */
#ifndef BULKHEAD_MONITOR_MOUNTER_MOUNTS_H
#define BULKHEAD_MONITOR_MOUNTER_MOUNTS_H

#include <sys/types.h>

#include "monitor/mounter/mount-point.h"
#include "monitor/mounter/mount-table.h"
#include "monitor/mounter/mounter-protocol.h"

struct mount {
    struct mount *next;
    uint64_t serial; /* the monitor's name for it */
    uint64_t mount_id;
    dev_t dev;       /* of the mounted file system */
    dev_t below_dev; /* of the file that it hides */
    ino_t below_ino;
    char id[MOUNTER_ID_MAX];
    /* How it goes. */
    bool asked; /* by a request that waits for its answer */
    bool lazy;
    uint64_t cookie;
    bool unwanted;     /* nobody needs it any more: detached again and again until it is gone */
    bool at_work;      /* a child is at it */
    uint64_t retry_ns; /* not before */
};

/* By the serial; NULL. */
struct mount *mounts_find(struct mount *mounts, uint64_t serial);

/* The mount that point leads to, or that hides it; NULL. */
const struct mount *mounts_find_user(const struct mount *mounts, const struct mount_point *point);

/*
 * Whether a row of the mount table is a mount of this account for the export id that is none of these: one that came to
 * be without our hearing of it.
 */
bool mounts_is_stray(const struct mount *mounts, const struct mount_row *row, const char *id);

/* Take it out and free it. */
void mounts_remove(struct mount **mounts, struct mount *mount);

#endif
