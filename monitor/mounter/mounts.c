/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/mounter/mounts.h"

#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "monitor/mounter/fusermount.h"

struct mount *mounts_find(struct mount *mounts, uint64_t serial)
{
    while (mounts != NULL && mounts->serial != serial)
        mounts = mounts->next;
    return mounts;
}

const struct mount *mounts_find_user(const struct mount *mounts, const struct mount_point *point)
{
    for (const struct mount *m = mounts; m != NULL; m = m->next) {
        if (m->dev == point->dev || (m->below_dev == point->dev && m->below_ino == point->ino))
            return m;
    }
    return NULL;
}

/* The device alone does not tell: its number is used again as soon as the mount of another export is gone. */
static bool is_mount(const struct mount *mount, dev_t dev, const char *source)
{
    char own[MOUNTER_ID_MAX];

    fusermount_source(mount->id, own, sizeof(own));
    return mount->dev == dev && strcmp(own, source) == 0;
}

bool mounts_is_stray(const struct mount *mounts, const struct mount_row *row, const char *id)
{
    dev_t dev = makedev(row->dev_major, row->dev_minor);
    char source[MOUNTER_ID_MAX];

    fusermount_source(id, source, sizeof(source)); /* cut, as in the row */
    if (strcmp(row->type, FUSERMOUNT_TYPE) != 0 || !row->has_user_id || row->user_id != getuid() ||
        strcmp(row->source, source) != 0)
        return false;
    while (mounts != NULL && !is_mount(mounts, dev, source))
        mounts = mounts->next;
    return mounts == NULL;
}

void mounts_remove(struct mount **mounts, struct mount *mount)
{
    while (*mounts != mount)
        mounts = &(*mounts)->next;
    *mounts = mount->next;
    free(mount);
}
