/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs fusermount3, the setuid helper of libfuse: the only way to mount without privilege. The command line is made
 * here from checked parts, the environment is empty but for what the helper needs, descriptors are /dev/null, a pipe
 * for its messages, and the socket over which it hands back the mounted /dev/fuse (its _FUSE_COMMFD protocol).
 */
#ifndef BULKHEAD_MONITOR_MOUNTER_FUSERMOUNT_H
#define BULKHEAD_MONITOR_MOUNTER_FUSERMOUNT_H

#include "common/base/error.h"

/* The type that mountinfo shows for our mounts. */
#define FUSERMOUNT_SUBTYPE "bulkhead"
#define FUSERMOUNT_TYPE    "fuse." FUSERMOUNT_SUBTYPE

/* How long one run may take before it is killed. */
#define FUSERMOUNT_TIMEOUT_MS 10000

/*
 * Mount on the absolute path. id is the source shown in mount tables; other characters than letters, digits, '-', '_'
 * and '.' in it are shown as '_'. Gives the mounted /dev/fuse. 0 or -errno with a text that tells what to do.
 */
int fusermount_mount(const char *path, const char *id, bool allow_other, uint32_t max_read_bytes, int *ret_fd,
                     struct error *err);

/* Unmount; -EBUSY while in use unless lazy. */
int fusermount_unmount(const char *path, bool lazy, struct error *err);

/* What an operator should do about a message of fusermount3, as "; ..." to append; "" if there is nothing to say. */
const char *fusermount_hint(const char *message);

#endif
