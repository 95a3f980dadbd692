/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs fusermount3, the setuid helper of libfuse: the only way to mount without privilege. The command line is made
 * here from checked parts, the environment is empty but for what the helper needs, descriptors are /dev/null, a pipe
 * for its messages, and the socket over which it hands back the mounted /dev/fuse (its _FUSE_COMMFD protocol).
 *
 * It runs in the folder of the mount point (dir_fd, O_PATH) and is given a name, so that it goes where we have looked.
 *
 * All of this may hang as long as the file system of the mount point does: for a child of the mounter only, which has a
 * deadline.
 */
#ifndef BULKHEAD_MONITOR_MOUNTER_FUSERMOUNT_H
#define BULKHEAD_MONITOR_MOUNTER_FUSERMOUNT_H

#include "common/base/error.h"

/* The type that mountinfo shows for our mounts, and the beginning of their source. */
#define FUSERMOUNT_SUBTYPE "bulkhead"
#define FUSERMOUNT_TYPE    "fuse." FUSERMOUNT_SUBTYPE

/*
 * Mount on a name in a folder. id is part of the source that mount tables show. Gives the mounted /dev/fuse. 0 or
 * -errno with a text that tells what to do.
 */
int fusermount_mount(int dir_fd, const char *name, const char *id, bool allow_other, uint32_t max_read_bytes,
                     int *ret_fd, struct error *err);

/* Unmount; -EBUSY while in use unless lazy. */
int fusermount_unmount(int dir_fd, const char *name, bool lazy, struct error *err);

/* The source of the mount of an export: characters other than letters, digits, '-', '_' and '.' become '_'. */
void fusermount_source(const char *id, char *ret, size_t size);

/* What an operator should do about a message of fusermount3, as "; ..." to append; "" if there is nothing to say. */
const char *fusermount_hint(const char *message);

#endif
