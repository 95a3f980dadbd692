/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is mounted where, from /proc/self/mountinfo (proc_pid_mountinfo(5)). Reading it asks no file system anything, so
 * it is safe for mounts that we serve ourselves and for those whose server is gone.
 */
#ifndef BULKHEAD_MONITOR_MOUNTER_MOUNT_TABLE_H
#define BULKHEAD_MONITOR_MOUNTER_MOUNT_TABLE_H

#include "common/base/error.h"
#include "monitor/mounter/mounter-protocol.h"

#define MOUNT_TABLE_BYTES_MAX (64u << 20)
#define MOUNT_TYPE_MAX        64

struct mount_row {
    uint64_t id;
    uint64_t parent_id;
    unsigned dev_major, dev_minor;
    char path[MOUNTER_PATH_MAX]; /* unescaped */
    char type[MOUNT_TYPE_MAX];
    char source[MOUNTER_ID_MAX]; /* cut */
    bool has_user_id;            /* a FUSE mount's user_id= */
    uint32_t user_id;
};

/* Parse one line without its newline. False if it does not have the documented form. */
bool mount_row_parse(const char *line, struct mount_row *ret_row);

/* Read a mountinfo file into a NUL-terminated buffer that the caller frees. 0 or -errno. */
int mount_table_read(const char *path, char **ret_table, struct error *err);

/* The next row that has the documented form, *at being where to look; false at the end. */
bool mount_table_next(const char **at, struct mount_row *ret_row);

/* The row with this mount id; false if there is none. table is not changed. */
bool mount_table_find(const char *table, uint64_t id, struct mount_row *ret_row);

/* Whether some mount sits on top of the root of the mount with this id. */
bool mount_table_is_covered(const char *table, const struct mount_row *row);

#endif
