/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a child of the mounter does: one mount, one unmount, or one sweep. It may hang on any path, and is given up
 * then. It knows the mounts as they were at its fork, and speaks with the mounter over a SOCK_SEQPACKET socketpair:
 *
 *   mount:    child -> CLAIM; mounter -> VERDICT; again after it has cleaned up;
 *             child -> RESULT with the devices; mounter -> VERDICT when it has them
 *   others:   child -> RESULT
 *
 * If nobody takes the result of a mount (the mounter was killed), the child undoes it.
 */
#ifndef BULKHEAD_MONITOR_MOUNTER_OPERATION_H
#define BULKHEAD_MONITOR_MOUNTER_OPERATION_H

#include "monitor/mounter/mounts.h"

/* Mounts of the same source as one that is to be made, which were there before. */
#define OPERATION_KNOWN_MAX 8

enum operation_type {
    OPERATION_CLAIM = 1,
    OPERATION_VERDICT,
    OPERATION_RESULT,
};

/* May this file be mounted on? Another child may be at it. */
struct operation_claim {
    uint32_t type;
    uint64_t dev;
    uint64_t ino;
    char path[MOUNTER_PATH_MAX]; /* without symbolic links */
};

struct operation_verdict {
    uint32_t type;
    int32_t code;
    char text[MOUNTER_TEXT_MAX];
};

struct operation_result {
    uint32_t type;
    struct mounter_reply reply; /* without header and mount */
    uint64_t mount_id;
    uint64_t dev;
};

/* Strays of an export before a mount. */
struct operation_known {
    unsigned count;
    dev_t devs[OPERATION_KNOWN_MAX];
};

/* Look them up; in the mounter itself, since reading the mount table asks no file system. */
void operation_look(const struct mount *mounts, const char *id, struct operation_known *ret_known);

/* In the child; they return when all has been said. */
void operation_mount(const struct mount *mounts, const struct mounter_mount *request, int fd);
void operation_unmount(const struct mount *mount, bool lazy, int fd);

/* Detach what a child that was given up has mounted all the same. */
void operation_sweep(const struct mount *mounts, const char *id, const struct operation_known *known, int fd);

/* One message with its descriptors. 0 or -errno. */
int operation_send(int fd, const void *message, size_t len_bytes, const int *fds, unsigned fd_count);

#endif
